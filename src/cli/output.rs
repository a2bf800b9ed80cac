//! Tables for people, JSON for programs.

use std::io::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;

use super::exit::Failure;

/// Writes `value` to stdout as indented JSON.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(std::io::Error::from)?;
    writeln!(stdout)?;
    Ok(())
}

/// Writes a line to stdout.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Writes a line to stderr. That it cannot be written changes nothing.
pub fn note(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// An empty table with these column heads.
pub fn table<'a>(heads: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads.into_iter().map(str::to_uppercase));
    table
}

/// Writes `table` to stdout.
pub fn print(table: &Table) -> Result<(), Failure> {
    line(table.trim_fmt())
}

/// A table of JSON objects: a column for each plain member, in the order of `first`, then by name.
pub fn table_of(rows: &[Value], first: &[&str]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for name in first {
        if rows.iter().any(|row| row.get(name).is_some()) {
            names.push(name);
        }
    }
    for (name, value) in rows.iter().filter_map(Value::as_object).flatten() {
        let plain = !value.is_object() && !value.is_array();
        if plain && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut table = table(names.iter().copied());
    for row in rows {
        table.add_row(names.iter().map(|name| row.get(name).map(cell).unwrap_or_default()));
    }
    table
}

/// A JSON value in few words.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
