//! The options of a table: which there are, what a table of which nothing is said has, and how
//! they are written. Most mean nothing here and are kept to be shown again.

use crate::cql::schema::Schema;

/// How the value of an option is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `'text'`
    Text,
    /// A number or a boolean, without quotes.
    Plain,
}

/// The options whose value is one word: name, form, default, as in Cassandra 4.1.
const SIMPLE: &[(&str, Form, &str)] = &[
    ("additional_write_policy", Form::Text, "99p"),
    ("bloom_filter_fp_chance", Form::Plain, "0.01"),
    ("cdc", Form::Plain, "false"),
    ("comment", Form::Text, ""),
    ("crc_check_chance", Form::Plain, "1.0"),
    ("default_time_to_live", Form::Plain, "0"),
    ("gc_grace_seconds", Form::Plain, "864000"),
    ("max_index_interval", Form::Plain, "2048"),
    ("memtable_flush_period_in_ms", Form::Plain, "0"),
    ("min_index_interval", Form::Plain, "128"),
    ("read_repair", Form::Text, "BLOCKING"),
    ("speculative_retry", Form::Text, "99p"),
];

/// The options whose value is a map, with their defaults.
const MAPS: &[(&str, &[(&str, &str)])] = &[
    ("caching", &[("keys", "ALL"), ("rows_per_partition", "NONE")]),
    (
        "compaction",
        &[
            ("class", "org.apache.cassandra.db.compaction.SizeTieredCompactionStrategy"),
            ("max_threshold", "32"),
            ("min_threshold", "4"),
        ],
    ),
    (
        "compression",
        &[
            ("chunk_length_in_kb", "16"),
            ("class", "org.apache.cassandra.io.compress.LZ4Compressor"),
        ],
    ),
    ("extensions", &[]),
];

/// The value of the option `name`, as it was given or by default; empty for an option that there
/// is not.
#[must_use]
pub fn simple(schema: &Schema, name: &str) -> String {
    let known = SIMPLE.iter().find(|(own, ..)| *own == name);
    let default = known.map_or("", |(.., default)| default);
    if name == "default_time_to_live" {
        return schema.default_ttl_s.to_string();
    }
    match (schema.options.get(name), known) {
        // What is shown without quotes must be readable without them.
        (Some(given), Some((_, Form::Plain, _))) if !reads_plain(given) => default.to_owned(),
        (Some(given), _) => given.clone(),
        (None, _) => default.to_owned(),
    }
}

/// True of an option whose value is a number or a boolean.
#[must_use]
pub fn is_plain(name: &str) -> bool {
    SIMPLE.iter().any(|(own, form, _)| *own == name && *form == Form::Plain)
}

/// True of a value that is a number or a boolean.
#[must_use]
pub fn reads_plain(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The pairs of the option `name`, as they were given or by default.
#[must_use]
pub fn pairs<'a>(schema: &'a Schema, name: &str) -> Vec<(&'a str, &'a str)> {
    if let Some(given) = schema.map_options.get(name) {
        return given.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    }
    let known = MAPS.iter().find(|(own, _)| *own == name);
    known.map(|(_, pairs)| pairs.to_vec()).unwrap_or_default()
}

/// Text as a CQL literal.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Every option as it stands after `WITH`, in order by name.
pub(super) fn all(schema: &Schema) -> Vec<String> {
    let mut out: Vec<(&str, String)> = Vec::with_capacity(SIMPLE.len() + MAPS.len());
    for (name, form, _) in SIMPLE {
        let value = simple(schema, name);
        let shown = match form {
            Form::Text => literal(&value),
            Form::Plain => value,
        };
        out.push((name, format!("{name} = {shown}")));
    }
    for (name, _) in MAPS {
        out.push((name, format!("{name} = {}", map(&pairs(schema, name)))));
    }
    // Options of later releases, which this one keeps if they are given.
    for (name, value) in &schema.options {
        if !SIMPLE.iter().any(|(own, ..)| own == name) {
            let shown = if reads_plain(value) { value.clone() } else { literal(value) };
            out.push((name, format!("{name} = {shown}")));
        }
    }
    out.sort_by(|a, b| a.0.cmp(b.0));
    out.into_iter().map(|(_, text)| text).collect()
}

/// `{'key': 'value', …}`
pub(super) fn map(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}: {}", literal(key), literal(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}
