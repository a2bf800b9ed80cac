//! Text to statements: where one ends and the next begins, without knowing what they mean.
//!
//! A statement ends at a `;` that stands in no text, name or comment, and a batch at the one behind
//! its `APPLY BATCH`. A command of the shell's own ends with its line, with or without a `;`.

/// A statement or command, without the `;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its text.
    pub text: String,
    /// The line on which it begins, from 1.
    pub line: usize,
}

/// What a text holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Whole statements.
    pub whole: Vec<Piece>,
    /// What comes after the last one, if it is more than blanks and comments.
    pub rest: Option<Piece>,
}

/// Commands that end with their line.
pub const LINE_COMMANDS: &[&str] = &[
    "?",
    "capture",
    "clear",
    "cls",
    "consistency",
    "desc",
    "describe",
    "exit",
    "expand",
    "help",
    "paging",
    "quit",
    "receipt",
    "serial",
    "show",
    "source",
    "timing",
    "tracing",
];

/// Cuts `text` into statements.
#[must_use]
pub fn split(text: &str) -> Pieces {
    let mut pieces = Pieces::default();
    let mut at = 0;
    // Counted on from statement to statement: a script may have very many.
    let (mut line, mut counted) = (1, 0);
    loop {
        at += blanks(&text[at..]);
        if at == text.len() {
            return pieces;
        }
        line += text[counted..at].matches('\n').count();
        counted = at;
        let (len, whole) = statement(&text[at..]);
        let piece = Piece { text: text[at..at + len].trim_end().to_owned(), line };
        at += len;
        if !whole {
            // A line that is a command is whole even where no line end follows.
            let own = is_line_command(&piece.text);
            let place = if own {
                &mut pieces.whole
            } else {
                return Pieces { rest: Some(piece), ..pieces };
            };
            place.push(piece);
            return pieces;
        }
        if text[at..].starts_with(';') {
            at += 1;
        }
        if !piece.text.is_empty() {
            pieces.whole.push(piece);
        }
    }
}

/// The first word in lower case; `?` counts as one.
#[must_use]
pub fn first_word(text: &str) -> String {
    let text = text.trim_start();
    if text.starts_with('?') {
        return "?".to_owned();
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text[..end].to_ascii_lowercase()
}

/// True of a command that ends with its line.
#[must_use]
pub fn is_line_command(text: &str) -> bool {
    LINE_COMMANDS.contains(&first_word(text).as_str())
}

/// Bytes of blanks and comments at the start.
fn blanks(text: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        match comment(trimmed) {
            Some(len) => at += len,
            None => return at,
        }
    }
}

/// Bytes of the comment at the start. One that is not closed reaches to the end.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("--") || text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*").then(|| text.find("*/").map_or(text.len(), |at| at + 2))
}

/// Bytes of a quoted text or name at the start, and whether it is closed.
fn quoted(text: &str) -> Option<(usize, bool)> {
    if let Some(inside) = text.strip_prefix("$$") {
        return Some(inside.find("$$").map_or((text.len(), false), |at| (at + 4, true)));
    }
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    // A doubled quote ends one text and begins another: the same for this purpose.
    Some(text[1..].find(quote).map_or((text.len(), false), |at| (at + 2, true)))
}

/// Bytes up to the `;` or line end behind the statement at the start, and whether it is whole.
fn statement(text: &str) -> (usize, bool) {
    let by_line = is_line_command(text);
    let batch = first_word(text) == "begin";
    let mut applied = false;
    let mut before = String::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if let Some((len, closed)) = quoted(rest) {
            at += len;
            if !closed {
                return (text.len(), false);
            }
            continue;
        }
        // `SOURCE //host/file` and the like are no comments.
        if !by_line && let Some(len) = comment(rest) {
            let open = rest.starts_with("/*") && !rest[..len].ends_with("*/");
            at += len;
            if open {
                return (text.len(), false);
            }
            continue;
        }
        let word =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if word > 0 {
            let now = rest[..word].to_ascii_lowercase();
            applied |= before == "apply" && now == "batch";
            before = now;
            at += word;
            continue;
        }
        match rest.chars().next() {
            Some(';') if !batch || applied || by_line => return (at, true),
            Some('\n') if by_line => return (at, true),
            Some(other) => at += other.len_utf8(),
            None => break,
        }
    }
    (text.len(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Vec<String> {
        split(text).whole.into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn statements_end_at_semicolons_that_stand_in_nothing_else() {
        assert_eq!(
            whole("SELECT 1; -- a; b\nSELECT ';', \"a;b\", $$;$$ /* ; */ FROM t;;\n"),
            ["SELECT 1", "SELECT ';', \"a;b\", $$;$$ /* ; */ FROM t"]
        );
        assert_eq!(whole("INSERT 'it''s; so';"), ["INSERT 'it''s; so'"]);
    }

    #[test]
    fn a_batch_is_one_statement() {
        let text = "BEGIN BATCH INSERT INTO t (a) VALUES (1); DELETE FROM t; apply  batch; USE k;";
        assert_eq!(whole(text).len(), 2);
        assert_eq!(split("BEGIN BATCH INSERT x; APPLY").rest.map(|rest| rest.line), Some(1));
    }

    #[test]
    fn commands_of_the_shell_end_with_their_line() {
        assert_eq!(
            whole("DESC TABLES\nCONSISTENCY quorum;SELECT\n1;\nexpand on\n? select"),
            ["DESC TABLES", "CONSISTENCY quorum", "SELECT\n1", "expand on", "? select"]
        );
        assert_eq!(whole("SOURCE '//a;b'"), ["SOURCE '//a;b'"]);
    }

    #[test]
    fn what_is_not_finished_is_left_with_its_line() {
        for text in ["SELECT 1;\n\nSELECT 'a", "SELECT 1;\n\nSELECT a", "x;\n\n$$ a; b"] {
            let pieces = split(text);
            assert_eq!(pieces.whole.len(), 1, "{text}");
            assert_eq!(pieces.rest.map(|rest| rest.line), Some(3), "{text}");
        }
        assert_eq!(split("  -- only a comment\n/* and */ ").rest, None);
        assert_eq!(split("SELECT 1; /* open").rest, None);
    }

    #[test]
    fn lines_are_counted_to_where_a_statement_begins() {
        let lines: Vec<usize> =
            split("a;\n-- b\n  c;\n\nd;").whole.iter().map(|piece| piece.line).collect();
        assert_eq!(lines, [1, 3, 5]);
    }
}
