//! Where in a statement an error is: the line, and a caret below the token.

/// The lines that show where `message` finds fault with `statement`; nothing if it does not say.
///
/// A syntax error names its place (`line 1:9 …`). Other errors name what they miss, which is looked
/// for in the statement.
#[must_use]
pub fn shown(statement: &str, message: &str) -> Option<String> {
    let (line, column) = place(message).or_else(|| named(statement, message))?;
    let text = statement.lines().nth(line.checked_sub(1)?)?;
    let before: String = text.chars().take(column).collect();
    // Tabs stay tabs, so that the caret stands where the token does.
    let indent: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    Some(format!("{text}\n{indent}^"))
}

/// `line 2:14 …`: the line from 1, and the column in characters from 0.
fn place(message: &str) -> Option<(usize, usize)> {
    let rest = message.strip_prefix("line ")?;
    let (line, rest) = rest.split_once(':')?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    Some((line.parse().ok()?, rest[..end].parse().ok()?))
}

/// What stands before the name of the thing that is missed.
const NAMING: &[&str] = &[
    "Undefined column name ",
    "unconfigured table ",
    "Unknown identifier ",
    "Unknown type ",
    "Unknown property ",
    "Unknown function ",
    "Invalid value for ",
    "keyspace ",
    "Keyspace ",
    "Table ",
];

fn named(statement: &str, message: &str) -> Option<(usize, usize)> {
    let name = NAMING.iter().find_map(|before| {
        let at = message.find(before)? + before.len();
        let rest = message[at..].trim_start_matches(['\'', '"']);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let end = if end == 0 { rest.len() } else { end };
        Some(&rest[..end]).filter(|name| !name.is_empty())
    });
    let name = name.or_else(|| {
        // The message may end with the name.
        NAMING.iter().find_map(|before| {
            let rest = &message[message.find(before)? + before.len()..];
            let whole = rest.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
            Some(rest).filter(|rest| whole && !rest.is_empty())
        })
    })?;
    let at = find_word(statement, name)?;
    let line = statement[..at].matches('\n').count();
    let start = statement[..at].rfind('\n').map_or(0, |end| end + 1);
    Some((line + 1, statement[start..at].chars().count()))
}

/// The place of `word` as a word of its own, whatever its case.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let word = word.to_ascii_lowercase();
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    lower.match_indices(&word).map(|(at, _)| at).find(|&at| {
        !is_part(lower[..at].chars().next_back())
            && !is_part(lower[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_the_token() {
        assert_eq!(
            shown("SELECT *\n\tFORM t", "line 2:1 no viable alternative at input 'form'")
                .as_deref(),
            Some("\tFORM t\n\t^")
        );
        assert_eq!(
            shown("SELECT a, Nope FROM t", "Undefined column name nope in table k.t").as_deref(),
            Some("SELECT a, Nope FROM t\n          ^")
        );
        assert_eq!(
            shown("SELECT a\nFROM at", "unconfigured table at").as_deref(),
            Some("FROM at\n     ^")
        );
        assert_eq!(
            shown("SELECT * FROM ké.t", "line 1:16 odd").as_deref(),
            Some("SELECT * FROM ké.t\n                ^")
        );
        assert_eq!(shown("USE x", "Keyspace 'x' does not exist").as_deref(), Some("USE x\n    ^"));
    }

    #[test]
    fn an_error_that_names_no_place_has_no_caret() {
        assert_eq!(shown("SELECT 1", "Cannot achieve consistency level"), None);
        assert_eq!(shown("SELECT 1", "line 9:1 beyond the end"), None);
        assert_eq!(shown("SELECT 1", "Undefined column name nope in table k.t"), None);
    }
}
