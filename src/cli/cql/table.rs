//! Rows as text for people: aligned columns, or a line for each value.

use unicode_width::UnicodeWidthStr as _;

/// A value as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Its text, without control characters.
    pub text: String,
    /// What it is.
    pub look: Look,
}

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Left, plain.
    Text,
    /// To the right, as numbers are.
    Number,
    /// No value.
    Null,
}

impl Cell {
    /// A cell without what could move a terminal's cursor.
    #[must_use]
    pub fn new(text: &str, look: Look) -> Self {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
        Self { text: out, look }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// `text` in the colour of this code.
    #[must_use]
    pub fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn cell(self, cell: &Cell, text: &str) -> String {
        match cell.look {
            Look::Text => self.with("33", text),
            Look::Number => self.with("32", text),
            Look::Null => self.with("31", text),
        }
    }
}

/// Widths of columns that hold all of `rows`.
#[must_use]
pub fn widths(names: &[String], rows: &[Vec<Cell>]) -> Vec<usize> {
    let mut widths: Vec<usize> = names.iter().map(|name| name.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    widths
}

/// The names of the columns, and a line below.
#[must_use]
pub fn head(names: &[String], widths: &[usize], paint: Paint) -> String {
    let cells: Vec<String> = names
        .iter()
        .zip(widths)
        .map(|(name, width)| {
            let gap = width.saturating_sub(name.width());
            format!(" {}{} ", paint.with("1;35", name), " ".repeat(gap))
        })
        .collect();
    let lines: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    format!("{}\n{}\n", cells.join("|").trim_end_matches(' '), lines.join("+"))
}

/// Rows below a head of these widths.
#[must_use]
pub fn body(rows: &[Vec<Cell>], widths: &[usize], paint: Paint) -> String {
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| {
                let gap = " ".repeat(width.saturating_sub(cell.width()));
                let text = paint.cell(cell, &cell.text);
                match cell.look {
                    Look::Text => format!(" {text}{gap} "),
                    Look::Number | Look::Null => format!(" {gap}{text} "),
                }
            })
            .collect();
        out.push_str(cells.join("|").trim_end_matches(' '));
        out.push('\n');
    }
    out
}

/// Each row as lines of name and value. `first`: the number of the first one.
#[must_use]
pub fn expanded(names: &[String], rows: &[Vec<Cell>], first: usize, paint: Paint) -> String {
    let wide = names.iter().map(|name| name.width()).max().unwrap_or(0);
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let value = row.iter().map(Cell::width).max().unwrap_or(0);
        out.push_str(&format!("@ Row {}\n", first + at));
        out.push_str(&format!("{}+{}\n", "-".repeat(wide + 2), "-".repeat(value + 2)));
        for (name, cell) in names.iter().zip(row) {
            let gap = " ".repeat(wide.saturating_sub(name.width()));
            let text = paint.cell(cell, &cell.text);
            out.push_str(&format!(" {}{gap} | {text}\n", paint.with("1;35", name)));
        }
        out.push('\n');
    }
    out
}

/// Names in as many columns as fit into `width`.
#[must_use]
pub fn in_columns(names: &[String], width: usize) -> String {
    let wide = names.iter().map(|name| name.width()).max().unwrap_or(0) + 2;
    let across = (width / wide.max(1)).max(1);
    let down = names.len().div_ceil(across);
    let mut out = String::new();
    for row in 0..down {
        let mut line = String::new();
        for name in names.iter().skip(row).step_by(down) {
            line.push_str(name);
            line.push_str(&" ".repeat(wide - name.width()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::new("1", Look::Number), Cell::new("日本\n", Look::Text)],
            vec![Cell::new("12345", Look::Number), Cell::new("null", Look::Null)],
        ]
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_value() {
        let (names, rows) = (names(&["k", "name"]), rows());
        let widths = widths(&names, &rows);
        assert_eq!(widths, [5, 6]);
        let text = head(&names, &widths, Paint(false)) + &body(&rows, &widths, Paint(false));
        assert_eq!(text, " k     | name\n-------+--------\n     1 | 日本\\n\n 12345 |   null\n");
        let painted = body(&rows, &widths, Paint(true));
        assert!(painted.contains("\x1b[31mnull\x1b[0m"), "{painted:?}");
    }

    #[test]
    fn rows_can_be_shown_as_lines() {
        let text = expanded(&names(&["k", "name"]), &rows()[..1], 3, Paint(false));
        assert_eq!(text, "@ Row 3\n------+--------\n k    | 1\n name | 日本\\n\n\n");
    }

    #[test]
    fn names_fill_columns_downwards() {
        assert_eq!(in_columns(&names(&["a", "b", "c", "d", "e"]), 9), "a  c  e\nb  d\n");
        assert_eq!(in_columns(&names(&["long"]), 2), "long\n");
        assert_eq!(in_columns(&[], 80), "");
    }

    #[test]
    fn nothing_in_a_value_reaches_the_terminal_as_a_command() {
        assert_eq!(Cell::new("\x1b[2Jx\u{9b}", Look::Text).text, "\\u001b[2Jx\\u009b");
    }
}
