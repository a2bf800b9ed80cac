//! HELP.

/// A topic: its name, how it is written, and what it does.
const TOPICS: &[(&str, &str, &str)] = &[
    (
        "SELECT",
        "SELECT [DISTINCT] * | column [AS name], … FROM [ks.]table\n  [WHERE …] [GROUP BY …] [ORDER BY column [DESC]] [PER PARTITION LIMIT n] [LIMIT n] [ALLOW FILTERING];\nSELECT … FROM [ks.]table [WHERE …] ORDER BY vector ANN OF [number, …] LIMIT n [ALLOW FILTERING];",
        "Shows rows. Without the whole partition key in WHERE it reads all of the table, and to filter\nby other columns it needs ALLOW FILTERING. ANN OF shows the rows whose vectors are nearest by their\nangle. How near two vectors are: similarity_cosine(a, b), similarity_euclidean(a, b) and\nsimilarity_dot_product(a, b), from 0 to 1.",
    ),
    (
        "INSERT",
        "INSERT INTO [ks.]table (column, …) VALUES (value, …)\n  [IF NOT EXISTS] [USING TTL seconds [AND TIMESTAMP micros]];",
        "Writes a row, over what there is. IF NOT EXISTS goes through Paxos.",
    ),
    (
        "UPDATE",
        "UPDATE [ks.]table [USING TTL seconds] SET column = value, … WHERE key = …\n  [IF EXISTS | IF column = value [AND …]];",
        "Writes columns of a row, whether or not there is one. Lists, sets and maps: c = c + [1],\nc[k] = v; counters: n = n + 1.",
    ),
    (
        "DELETE",
        "DELETE [column, …] FROM [ks.]table WHERE key = … [IF …];",
        "Deletes columns, rows, or all rows of a partition.",
    ),
    (
        "BATCH",
        "BEGIN [UNLOGGED | COUNTER] BATCH\n  statement; …\nAPPLY BATCH;",
        "Several writes in one request. Those of one partition happen together; of several, in the end\nall or none, unless it is UNLOGGED.",
    ),
    (
        "USE",
        "USE keyspace;",
        "Names that are written without a keyspace are looked up in this one.",
    ),
    ("TRUNCATE", "TRUNCATE [ks.]table;", "Deletes all rows of a table."),
    (
        "CREATE KEYSPACE",
        "CREATE KEYSPACE [IF NOT EXISTS] name WITH replication =\n  {'class': 'SimpleStrategy', 'replication_factor': 3};",
        "Makes a keyspace whose rows are kept by so many nodes.",
    ),
    (
        "CREATE TABLE",
        "CREATE TABLE [IF NOT EXISTS] [ks.]name (\n  column type [static], …,\n  PRIMARY KEY ((partition, …), clustering, …)\n) [WITH CLUSTERING ORDER BY (column DESC) AND option = value …];",
        "Makes a table. Rows of one partition lie together, in the order of the clustering columns.",
    ),
    (
        "CREATE TYPE",
        "CREATE TYPE [IF NOT EXISTS] [ks.]name (field type, …);",
        "Makes a type of several fields.",
    ),
    (
        "CREATE INDEX",
        "CREATE INDEX [IF NOT EXISTS] [name] ON [ks.]table\n  (column | keys(map) | values(collection) | entries(map) | full(frozen collection));",
        "Lets SELECT find rows by the column: column = …, CONTAINS, CONTAINS KEY, column[key] = ….",
    ),
    (
        "ALTER TABLE",
        "ALTER TABLE [ks.]name ADD column type, … | DROP column, … | RENAME old TO new | WITH option = value;",
        "Changes a table.",
    ),
    ("ALTER TYPE", "ALTER TYPE [ks.]name ADD field type | RENAME old TO new;", "Changes a type."),
    (
        "DROP",
        "DROP KEYSPACE | TABLE | TYPE | INDEX [IF EXISTS] name;",
        "Takes it away with all that is in it.",
    ),
    (
        "DESCRIBE",
        "DESC[RIBE] KEYSPACES | TABLES | TYPES | CLUSTER | [FULL] SCHEMA\nDESC[RIBE] [KEYSPACE | TABLE | TYPE | INDEX] name",
        "Shows what there is, or the statements that make it again.",
    ),
    (
        "CONSISTENCY",
        "CONSISTENCY [level]",
        "Shows or sets how many replicas must answer: ONE, TWO, THREE, QUORUM, ALL, LOCAL_ONE,\nLOCAL_QUORUM, EACH_QUORUM, ANY (writes), SERIAL and LOCAL_SERIAL (reads). QUORUM at first.",
    ),
    (
        "SERIAL CONSISTENCY",
        "SERIAL CONSISTENCY [SERIAL | LOCAL_SERIAL]",
        "Shows or sets where conditional writes (IF …) are decided.",
    ),
    (
        "TRACING",
        "TRACING [ON | OFF]",
        "Shows or sets whether each statement is followed by what the cluster did for it.",
    ),
    (
        "RECEIPT",
        "RECEIPT [ON | OFF]",
        "Shows or sets whether each statement is followed by its consistency receipt: which replicas were\nasked, what each has said, and how many answers were needed.",
    ),
    (
        "PAGING",
        "PAGING [ON | OFF | rows]",
        "Shows or sets how many rows are fetched at a time. On a terminal the shell waits after each page.",
    ),
    ("EXPAND", "EXPAND [ON | OFF]", "Shows or sets whether each value is on a line of its own."),
    (
        "TIMING",
        "TIMING [ON | OFF]",
        "Shows or sets whether each statement is followed by the time it took.",
    ),
    ("SOURCE", "SOURCE 'file'", "Runs the statements of a file."),
    (
        "CAPTURE",
        "CAPTURE ['file' | OFF]",
        "Writes rows to a file instead of showing them, from now on.",
    ),
    (
        "COPY",
        "COPY [ks.]table [(column, …)] TO 'file' | STDOUT [WITH option = value [AND …]];\nCOPY [ks.]table [(column, …)] FROM 'file' | STDIN [WITH …];",
        COPY,
    ),
    ("SHOW", "SHOW VERSION | HOST", "Shows versions, or the node that is asked."),
    ("CLEAR", "CLEAR", "Clears the screen."),
    ("EXIT", "EXIT | QUIT", "Ends the shell, as Ctrl-D does."),
    ("HELP", "HELP [topic] | ? [topic]", "Explains a statement or command."),
];

const COPY: &str = "\
Copies rows to or from a CSV file (also one compressed with gzip, FROM). Options:
  HEADER = true         the first line names the columns; FROM finds them by these names
  DELIMITER = ','       between values
  ESCAPE = '\\'          as cqlsh writes quotes; without it they are doubled
  NULL = ''             what stands for no value
  PARALLEL = 8          connections at a time
  MAXBATCHSIZE = 50     rows of a batch (FROM)
  PAGESIZE = 1000       rows of a page (TO)
  SKIPROWS, MAXROWS     leave out rows at the start; copy so many at the most
  MAXATTEMPTS = 30      how often a batch or page is tried, at one node after the other
  ERRFILE = 'file'      where rows go that are refused (FROM); ks.table.refused.csv
  MAXERRORS             end when more rows than that are refused
FROM may be run again after a failure: a row that is written twice is one row.";

/// Names of all topics.
pub fn topics() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|(name, ..)| *name)
}

/// The text for `asked`; empty: what there is.
#[must_use]
pub fn text(asked: &str) -> String {
    let wanted = asked.trim().to_ascii_uppercase();
    let wanted = if wanted == "DESC" { "DESCRIBE".to_owned() } else { wanted };
    if wanted.is_empty() {
        let names: Vec<String> = topics().map(str::to_owned).collect();
        return format!(
            "Topics:\n{}\nHELP topic explains one. Statements end with ';', commands with their line.\n",
            super::table::in_columns(&names, 78)
        );
    }
    let fits = |name: &str| name == wanted || name.split(' ').any(|word| word == wanted);
    let exact = TOPICS.iter().filter(|(name, ..)| *name == wanted);
    let found: Vec<_> = if exact.clone().count() > 0 {
        exact.collect()
    } else {
        TOPICS.iter().filter(|(name, ..)| fits(name)).collect()
    };
    if found.is_empty() {
        return format!("No help on {asked}. HELP alone lists the topics.\n");
    }
    let shown: Vec<String> =
        found.iter().map(|(_, form, text)| format!("{form}\n\n{text}\n")).collect();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_explains_itself() {
        for name in topics() {
            let text = text(&name.to_lowercase());
            assert!(text.len() > 20 && !text.starts_with("No help"), "{name}");
            assert!(super::text("").contains(name), "{name}");
        }
        assert!(text("create").contains("CREATE TYPE") && text("create").contains("CREATE TABLE"));
        assert!(text("desc").contains("KEYSPACES"));
        assert!(text("nonsense").contains("HELP alone"));
    }

    #[test]
    fn help_on_select_tells_of_vectors() {
        let text = text("select");
        for told in ["ANN OF [number, …] LIMIT n", "similarity_cosine(", "similarity_dot_product("]
        {
            assert!(text.contains(told), "{told}");
        }
    }

    #[test]
    fn every_command_of_the_shell_has_its_help() {
        for command in crate::cli::cql::split::LINE_COMMANDS {
            if !["?", "cls", "quit", "serial"].contains(command) {
                assert!(!text(command).starts_with("No help"), "{command}");
            }
        }
    }
}
