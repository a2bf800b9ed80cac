//! Pages of rows in the form that was asked for.

use super::table::{self, Cell, Look, Paint};
use crate::client::{CqlColumn, CqlPage};
use crate::cql::types::CqlType;
use crate::cql::{json, value};

/// The form of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Columns for people.
    #[default]
    Aligned,
    /// A line for each value.
    Expanded,
    /// A JSON object on each line.
    Json,
    /// CSV with a head.
    Csv,
}

/// Shows the pages of one result, one after the other.
#[derive(Debug, Default)]
pub struct Renderer {
    widths: Option<Vec<usize>>,
    rows: usize,
    pages: usize,
}

fn cell(column: &CqlColumn, bytes: Option<&[u8]>) -> Cell {
    let Some(bytes) = bytes else { return Cell::new("null", Look::Null) };
    let look = match column.kind.thawed() {
        CqlType::Tinyint
        | CqlType::Smallint
        | CqlType::Int
        | CqlType::Bigint
        | CqlType::Counter
        | CqlType::Varint
        | CqlType::Decimal
        | CqlType::Float
        | CqlType::Double => Look::Number,
        _ => Look::Text,
    };
    Cell::new(&value::text(&column.kind, bytes), look)
}

impl Renderer {
    /// The next page as text. `again`: with a head of its own, as after a pause.
    pub fn page(&mut self, page: &CqlPage, form: Form, paint: Paint, again: bool) -> String {
        let first = self.pages == 0;
        self.pages += 1;
        let names: Vec<String> = page.columns.iter().map(|column| column.name.clone()).collect();
        let before = self.rows;
        self.rows += page.rows.len();
        match form {
            Form::Json => return lines(page),
            Form::Csv => return csv(page, &names, first),
            Form::Aligned | Form::Expanded => {}
        }
        let cells: Vec<Vec<Cell>> = page
            .rows
            .iter()
            .map(|row| page.columns.iter().zip(row).map(|(c, v)| cell(c, v.as_deref())).collect())
            .collect();
        if form == Form::Expanded {
            return table::expanded(&names, &cells, before + 1, paint);
        }
        if first || again {
            let widths = self.widths.insert(table::widths(&names, &cells));
            let head = table::head(&names, widths, paint);
            return head + &table::body(&cells, widths, paint);
        }
        table::body(&cells, self.widths.as_deref().unwrap_or_default(), paint)
    }

    /// What stands below all pages.
    #[must_use]
    pub fn end(&self, form: Form) -> String {
        match form {
            Form::Json | Form::Csv => String::new(),
            Form::Expanded | Form::Aligned => {
                let gap = if form == Form::Aligned { "\n" } else { "" };
                format!("{gap}({} row{})\n", self.rows, if self.rows == 1 { "" } else { "s" })
            }
        }
    }
}

fn lines(page: &CqlPage) -> String {
    let mut out = String::new();
    for row in &page.rows {
        let pairs = page.columns.iter().zip(row);
        let columns =
            pairs.map(|(column, bytes)| (column.name.as_str(), &column.kind, bytes.as_deref()));
        out.push_str(&json::row(json::Form::Plain, columns));
        out.push('\n');
    }
    out
}

fn csv(page: &CqlPage, names: &[String], head: bool) -> String {
    let mut out = csv::Writer::from_writer(Vec::new());
    // Into memory: nothing can fail.
    if head {
        drop(out.write_record(names));
    }
    for row in &page.rows {
        let fields = page.columns.iter().zip(row).map(|(column, bytes)| {
            bytes.as_deref().map_or_else(String::new, |bytes| value::text(&column.kind, bytes))
        });
        drop(out.write_record(fields));
    }
    String::from_utf8_lossy(&out.into_inner().unwrap_or_default()).into_owned()
}

/// The result of a DESCRIBE: statements as they are, names in columns.
#[must_use]
pub fn described(pages: &[CqlPage], in_use: bool, width: usize) -> String {
    let Some(columns) = pages.first().map(|page| &page.columns) else { return String::new() };
    let place = |name: &str| columns.iter().position(|column| column.name == name);
    let texts = |at: usize| {
        let rows = pages.iter().flat_map(|page| &page.rows);
        rows.map(move |row| {
            let bytes = row.get(at).and_then(Option::as_deref).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        })
    };
    if let Some(at) = place("create_statement") {
        let all: Vec<String> = texts(at).collect();
        return format!("{}\n", all.join("\n\n"));
    }
    if let (Some(keyspace), Some(name), Some(kind)) =
        (place("keyspace_name"), place("name"), place("type"))
    {
        let alone = in_use || texts(kind).all(|kind| kind == "keyspace");
        let all: Vec<(String, String)> = texts(keyspace).zip(texts(name)).collect();
        if alone {
            let names: Vec<String> = all.into_iter().map(|(_, name)| name).collect();
            return table::in_columns(&names, width);
        }
        let mut out = String::new();
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            let names: Vec<String> = group.iter().map(|(_, name)| name.clone()).collect();
            let gap = if out.is_empty() { "" } else { "\n" };
            out.push_str(&format!("{gap}Keyspace {}\n", group[0].0));
            out.push_str(&table::in_columns(&names, width));
        }
        return out;
    }
    let mut renderer = Renderer::default();
    let plain = Paint(false);
    pages.iter().map(|page| renderer.page(page, Form::Expanded, plain, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> CqlPage {
        let column = |name: &str, kind| CqlColumn { name: name.to_owned(), kind };
        CqlPage {
            columns: vec![column("k", CqlType::Int), column("v", CqlType::Text)],
            rows: vec![
                vec![Some(7i32.to_be_bytes().to_vec()), Some(b"a, \"b\"".to_vec())],
                vec![Some(8i32.to_be_bytes().to_vec()), None],
            ],
            ..CqlPage::default()
        }
    }

    #[test]
    fn each_form_shows_the_same_rows() {
        let show = |form| {
            let mut renderer = Renderer::default();
            let pages = renderer.page(&page(), form, Paint(false), false);
            pages + &renderer.end(form)
        };
        assert_eq!(
            show(Form::Aligned),
            " k | v\n---+--------\n 7 | a, \"b\"\n 8 |   null\n\n(2 rows)\n"
        );
        assert!(show(Form::Expanded).ends_with(" v | null\n\n(2 rows)\n"));
        assert_eq!(show(Form::Json), "{\"k\":7,\"v\":\"a, \\\"b\\\"\"}\n{\"k\":8,\"v\":null}\n");
        assert_eq!(show(Form::Csv), "k,v\n7,\"a, \"\"b\"\"\"\n8,\n");
    }

    #[test]
    fn further_pages_have_a_head_only_after_a_pause() {
        let mut renderer = Renderer::default();
        renderer.page(&page(), Form::Aligned, Paint(false), false);
        assert!(!renderer.page(&page(), Form::Aligned, Paint(false), false).contains("---"));
        assert!(renderer.page(&page(), Form::Aligned, Paint(false), true).contains("---"));
        assert_eq!(renderer.end(Form::Aligned), "\n(6 rows)\n");
        let mut renderer = Renderer::default();
        renderer.page(&page(), Form::Csv, Paint(false), false);
        assert!(!renderer.page(&page(), Form::Csv, Paint(false), false).contains("k,v"));
    }
}
