//! What may stand at the cursor: words of the language, names of the schema.

use super::help;
use super::known::Known;
use crate::cql::types::quote;

/// Words with which a statement or command begins.
const FIRST: &[&str] = &[
    "ALTER",
    "BEGIN",
    "CAPTURE",
    "CLEAR",
    "CONSISTENCY",
    "COPY",
    "CREATE",
    "DELETE",
    "DESCRIBE",
    "DROP",
    "EXIT",
    "EXPAND",
    "HELP",
    "INSERT",
    "PAGING",
    "QUIT",
    "RECEIPT",
    "SELECT",
    "SERIAL",
    "SHOW",
    "SOURCE",
    "TIMING",
    "TRACING",
    "TRUNCATE",
    "UPDATE",
    "USE",
];

/// Words that may follow somewhere.
const KEYWORDS: &[&str] = &[
    "ADD",
    "AGGREGATE",
    "ALLOW",
    "ALTER",
    "AND",
    "ANN",
    "APPLY",
    "AS",
    "ASC",
    "BATCH",
    "BY",
    "CAST",
    "CLUSTERING",
    "CONTAINS",
    "COUNT",
    "COUNTER",
    "CREATE",
    "DELETE",
    "DESC",
    "DISTINCT",
    "DROP",
    "EXISTS",
    "FILTERING",
    "FROM",
    "GROUP",
    "IF",
    "IN",
    "INSERT",
    "INTO",
    "JSON",
    "KEY",
    "KEYSPACE",
    "LIMIT",
    "LIST",
    "MAP",
    "NOT",
    "NULL",
    "ORDER",
    "PARTITION",
    "PER",
    "PRIMARY",
    "RENAME",
    "SELECT",
    "SET",
    "STATIC",
    "TABLE",
    "TIMESTAMP",
    "TO",
    "TOKEN",
    "TRUNCATE",
    "TTL",
    "TYPE",
    "UNLOGGED",
    "UPDATE",
    "USE",
    "USING",
    "VALUES",
    "WHERE",
    "WITH",
    "WRITETIME",
];

/// Functions of two vectors.
const SIMILARITIES: &[&str] =
    &["similarity_cosine(", "similarity_dot_product(", "similarity_euclidean("];

/// What follows a word at once.
const AFTER: &[(&str, &[&str])] = &[
    ("ALTER", &["KEYSPACE", "TABLE", "TYPE"]),
    ("CREATE", &["INDEX", "KEYSPACE", "TABLE", "TYPE"]),
    ("DROP", &["INDEX", "KEYSPACE", "TABLE", "TYPE"]),
    ("BEGIN", &["BATCH", "COUNTER", "UNLOGGED"]),
    (
        "DESCRIBE",
        &[
            "AGGREGATES",
            "CLUSTER",
            "FUNCTIONS",
            "INDEX",
            "KEYSPACE",
            "KEYSPACES",
            "SCHEMA",
            "TABLE",
            "TABLES",
            "TYPE",
            "TYPES",
        ],
    ),
    ("SHOW", &["HOST", "VERSION"]),
    ("SERIAL", &["CONSISTENCY"]),
    ("TRACING", &["OFF", "ON"]),
    ("EXPAND", &["OFF", "ON"]),
    ("RECEIPT", &["OFF", "ON"]),
    ("TIMING", &["OFF", "ON"]),
    ("PAGING", &["OFF", "ON"]),
    ("ORDER", &["BY"]),
    ("GROUP", &["BY"]),
    ("INSERT", &["INTO"]),
    ("PRIMARY", &["KEY"]),
    ("ALLOW", &["FILTERING"]),
    ("ANN", &["OF"]),
    ("APPLY", &["BATCH"]),
];

/// Where the word at the cursor begins, and what it may become.
#[must_use]
pub fn at_cursor(known: &Known, before: &str) -> (usize, Vec<String>) {
    let pieces = super::split::split(before);
    let statement = pieces.rest.or_else(|| {
        // A command that a line end would end is still being written.
        let last = pieces.whole.into_iter().next_back();
        last.filter(|_| !before.trim_end().ends_with(';'))
    });
    let statement = statement.map(|piece| piece.text).unwrap_or_default();
    // Blanks at the end were taken away: they tell that a word is over.
    let open = !before.ends_with(char::is_whitespace);
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '"');
    let start = if open {
        before
            .rfind(|c| !is_word(c))
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8))
    } else {
        before.len()
    };
    let typed = &before[start..];
    let words = words(&statement);
    let earlier: Vec<&str> = if open && !typed.is_empty() {
        words[..words.len().saturating_sub(1)].iter().map(String::as_str).collect()
    } else {
        words.iter().map(String::as_str).collect()
    };
    let all = candidates(known, &earlier);
    let lower = typed.to_lowercase();
    let mut fitting: Vec<String> =
        all.into_iter().filter(|name| name.to_lowercase().starts_with(&lower)).collect();
    fitting.sort();
    fitting.dedup();
    (start, fitting)
}

/// The words of a statement, signs left out; names with their points.
fn words(statement: &str) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '"');
    let all = statement.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    all.map(str::to_owned).collect()
}

fn tables(known: &Known) -> Vec<String> {
    let mut out = Vec::new();
    for (keyspace, tables) in &known.keyspaces {
        for table in tables.keys() {
            if known.keyspace.as_ref() == Some(keyspace) {
                out.push(quote(table));
            }
            out.push(format!("{}.{}", quote(keyspace), quote(table)));
        }
    }
    out
}

fn keyspaces(known: &Known) -> Vec<String> {
    known.keyspaces.keys().map(|name| quote(name)).collect()
}

/// The columns of the table that the statement names, if it names one that there is.
fn columns(known: &Known, words: &[&str]) -> Option<Vec<String>> {
    let at = words.iter().position(|word| {
        ["from", "into", "update", "table", "copy"].contains(&word.to_lowercase().as_str())
    })?;
    let mut after = words[at + 1..].iter();
    let name =
        after.find(|word| !["if", "not", "exists"].contains(&word.to_lowercase().as_str()))?;
    let plain = |name: &str| match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(quoted) => quoted.to_owned(),
        None => name.to_lowercase(),
    };
    let found = match name.split_once('.') {
        Some((keyspace, table)) => known.columns(Some(&plain(keyspace)), &plain(table)),
        None => known.columns(None, &plain(name)),
    };
    found.map(|columns| columns.iter().map(|column| quote(&column.name)).collect())
}

fn candidates(known: &Known, words: &[&str]) -> Vec<String> {
    let upper = |word: &&str| word.to_ascii_uppercase();
    let fixed = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let Some(last) = words.last().map(upper) else { return fixed(FIRST) };
    let first = words.first().map(upper).unwrap_or_default();
    match last.as_str() {
        "HELP" => return help::topics().map(str::to_owned).collect(),
        "CONSISTENCY" => {
            let all = super::command::LEVELS.iter().map(|(name, _)| *name);
            let serial = first == "SERIAL";
            return all
                .filter(|name| !serial || name.contains("SERIAL"))
                .map(str::to_owned)
                .collect();
        }
        "USE" | "KEYSPACE" => return keyspaces(known),
        "FROM" | "INTO" | "UPDATE" | "TABLE" | "TRUNCATE" | "COPY" => {
            let mut out = tables(known);
            out.extend(keyspaces(known).into_iter().map(|name| format!("{name}.")));
            return out;
        }
        "DESC" => return candidates(known, &["DESCRIBE"]),
        _ => {}
    }
    if let Some((_, next)) = AFTER.iter().find(|(word, _)| *word == last) {
        let mut out = fixed(next);
        if last == "DESCRIBE" {
            out.extend(tables(known));
        }
        return out;
    }
    let mut out = columns(known, words).unwrap_or_default();
    if first == "SELECT" && out.is_empty() {
        // The table comes later: columns of the keyspace in use.
        let own = known.keyspace.as_ref().and_then(|name| known.keyspaces.get(name));
        let all = own.into_iter().flat_map(|tables| tables.values().flatten());
        out.extend(all.map(|column| quote(&column.name)));
    }
    if first == "SELECT" {
        out.extend(fixed(SIMILARITIES));
    }
    out.extend(fixed(KEYWORDS));
    out
}

#[cfg(test)]
mod tests {
    use super::super::known::tests::shop;
    use super::*;

    fn fitting(before: &str) -> Vec<String> {
        at_cursor(&shop(), before).1
    }

    #[test]
    fn what_may_stand_at_the_cursor_is_offered() {
        assert_eq!(fitting("SEL"), ["SELECT"]);
        assert_eq!(fitting("SELECT 1; ins"), ["INSERT"]);
        assert_eq!(fitting("SELECT * FROM st"), ["stock"]);
        assert_eq!(fitting("SELECT * FROM shop.s"), ["shop.stock"]);
        assert_eq!(
            fitting("SELECT * FROM "),
            [
                "\"Orders\"",
                "shop.",
                "shop.\"Orders\"",
                "shop.stock",
                "stock",
                "system.",
                "system.local"
            ]
        );
        assert_eq!(fitting("USE s"), ["shop", "system"]);
        assert_eq!(fitting("SELECT * FROM stock WHERE it"), ["item"]);
        assert_eq!(fitting("UPDATE stock SET si"), ["size"]);
        assert_eq!(
            fitting("INSERT INTO shop.stock (d"),
            ["DELETE", "DESC", "DISTINCT", "DROP", "day"]
        );
        assert_eq!(fitting("SELECT it"), ["item"]);
        assert_eq!(fitting("CREATE TA"), ["TABLE"]);
        assert_eq!(fitting("DESC TABLE"), ["TABLE", "TABLES"]);
        assert_eq!(fitting("describe st"), ["stock"]);
        assert_eq!(fitting("CONSISTENCY local_"), ["LOCAL_ONE", "LOCAL_QUORUM", "LOCAL_SERIAL"]);
        assert_eq!(fitting("SERIAL CONSISTENCY "), ["LOCAL_SERIAL", "SERIAL"]);
        assert!(fitting("HELP COP").contains(&"COPY".to_owned()));
        assert!(fitting("SELECT zzz").is_empty());
        assert_eq!(fitting("SELECT item, similarity_c"), ["similarity_cosine("]);
        assert_eq!(fitting("SELECT * FROM stock ORDER BY size AN"), ["AND", "ANN"]);
        assert_eq!(fitting("SELECT * FROM stock ORDER BY size ANN "), ["OF"]);
    }

    #[test]
    fn the_word_that_is_replaced_begins_where_it_was_typed() {
        assert_eq!(at_cursor(&shop(), "SELECT * FROM sho").0, 14);
        assert_eq!(at_cursor(&shop(), "SELECT 'é', it").0, 13);
    }
}
