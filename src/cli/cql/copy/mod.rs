//! COPY: a table's rows to a CSV file, and from one.

pub mod from;
mod source;
pub mod to;
mod value;

use super::command::unquote;

/// What is copied, whereto or wherefrom, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The keyspace; `None`: the one in use.
    pub keyspace: Option<String>,
    /// The table.
    pub table: String,
    /// The columns; empty: all.
    pub columns: Vec<String>,
    /// From a file; else to one.
    pub from: bool,
    /// The file; `None`: the standard input or output.
    pub file: Option<String>,
    /// How.
    pub options: Options,
}

/// What follows WITH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The first line names the columns.
    pub header: bool,
    /// Between two values.
    pub delimiter: u8,
    /// Before a quote inside of a value; `None`: quotes are doubled.
    pub escape: Option<u8>,
    /// What stands for no value.
    pub null: String,
    /// Where rows go that were refused; `None`: to a file named for the table.
    pub errors: Option<String>,
    /// Rows left out at the start.
    pub skip: u64,
    /// The most rows; `None`: all.
    pub rows: Option<u64>,
    /// Connections at a time.
    pub parallel: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Rows of a page.
    pub page: u32,
    /// How often a batch or page is tried.
    pub attempts: u32,
    /// The most rows that may be refused before it all ends.
    pub refused: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            header: false,
            delimiter: b',',
            escape: None,
            null: String::new(),
            errors: None,
            skip: 0,
            rows: None,
            parallel: 8,
            batch: 50,
            page: 1_000,
            attempts: 30,
            refused: u64::MAX,
        }
    }
}

/// The options, for errors and HELP.
pub const OPTIONS: &str = "HEADER, DELIMITER, ESCAPE, NULL, ERRFILE, SKIPROWS, MAXROWS, PARALLEL, \
                           MAXBATCHSIZE, PAGESIZE, MAXATTEMPTS, MAXERRORS";

impl Options {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = |most: u64| match value.parse::<u64>() {
            Ok(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("{name} is a number from 1 to {most}, not '{value}'")),
        };
        let one = || match value.as_bytes() {
            [one] if one.is_ascii() => Ok(*one),
            _ if value == "\\t" => Ok(b'\t'),
            _ => Err(format!("{name} is one character, not '{value}'")),
        };
        match name {
            "HEADER" => match value.to_ascii_lowercase().as_str() {
                "true" => self.header = true,
                "false" => self.header = false,
                _ => return Err(format!("HEADER is true or false, not '{value}'")),
            },
            "DELIMITER" => self.delimiter = one()?,
            "ESCAPE" => self.escape = Some(one()?),
            "NULL" | "NULLVAL" => value.clone_into(&mut self.null),
            "ERRFILE" => self.errors = Some(value.to_owned()),
            "SKIPROWS" => self.skip = number(u64::MAX)?,
            // As cqlsh has it, -1 is no bound.
            "MAXROWS" if value == "-1" => self.rows = None,
            "MAXROWS" => self.rows = Some(number(u64::MAX)?),
            "PARALLEL" | "NUMPROCESSES" => self.parallel = number(256)? as usize,
            "MAXBATCHSIZE" => self.batch = number(1_000)? as usize,
            "PAGESIZE" => self.page = number(100_000)? as u32,
            "MAXATTEMPTS" => self.attempts = number(10_000)? as u32,
            "MAXERRORS" | "MAXINSERTERRORS" => self.refused = number(u64::MAX)?,
            _ => return Err(format!("COPY has no option {name}; there are {OPTIONS}")),
        }
        Ok(())
    }
}

/// A part of a COPY: a word, a quoted name or text, or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Word(String),
    Name(String),
    Text(String),
    Sign(char),
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '\'' | '"' => {
                let mut end = 1;
                loop {
                    let more = rest[end..].find(first).ok_or("a text without its closing quote")?;
                    end += more + 1;
                    if !rest[end..].starts_with(first) {
                        break;
                    }
                    end += 1;
                }
                end
            }
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (part, tail) = rest.split_at(len);
        out.push(match first {
            '"' => Part::Name(part[1..len - 1].replace("\"\"", "\"")),
            '\'' => Part::Text(unquote(part).unwrap_or_default()),
            c if is_word(c) => Part::Word(part.to_owned()),
            c => Part::Sign(c),
        });
        rest = tail.trim_start();
    }
    Ok(out)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')
}

struct Reader {
    parts: std::iter::Peekable<std::vec::IntoIter<Part>>,
}

impl Reader {
    fn is(&mut self, word: &str) -> bool {
        self.parts
            .next_if(|part| matches!(part, Part::Word(own) if own.eq_ignore_ascii_case(word)))
            .is_some()
    }

    fn sign(&mut self, sign: char) -> bool {
        self.parts.next_if_eq(&Part::Sign(sign)).is_some()
    }

    /// Names with points between.
    fn names(&mut self) -> Option<Vec<String>> {
        let mut out = Vec::new();
        loop {
            match self.parts.next()? {
                // Points are part of plain words.
                Part::Word(word) => {
                    out.extend(
                        word.split('.').filter(|name| !name.is_empty()).map(str::to_lowercase),
                    );
                    if word.ends_with('.') {
                        continue;
                    }
                }
                Part::Name(name) => out.push(name),
                _ => return None,
            }
            // `"Quoted".name` and `"Quoted"."name"`.
            match self.parts.peek() {
                Some(Part::Word(next)) if next.starts_with('.') => {
                    if next == "." {
                        self.parts.next();
                    }
                }
                _ => return Some(out),
            }
        }
    }
}

const FORM: &str = "COPY [keyspace.]table [(column, …)] FROM | TO 'file' | STDIN | STDOUT \
                    [WITH option = value [AND …]]";

impl Copy {
    /// Reads what follows the word COPY.
    ///
    /// # Errors
    /// What is wrong, and what would be valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("{what}: {FORM}");
        let mut reader = Reader { parts: parts(text)?.into_iter().peekable() };
        let names = reader.names().ok_or_else(|| bad("COPY is followed by a table's name"))?;
        let (keyspace, table) = match names.as_slice() {
            [table] => (None, table.clone()),
            [keyspace, table] => (Some(keyspace.clone()), table.clone()),
            _ => return Err(bad("that is no table's name")),
        };
        let mut columns = Vec::new();
        if reader.sign('(') {
            while !reader.sign(')') {
                let name = reader.names().filter(|names| names.len() == 1);
                columns.extend(name.ok_or_else(|| bad("columns are names"))?);
                reader.sign(',');
            }
        }
        let from = if reader.is("from") {
            true
        } else if reader.is("to") {
            false
        } else {
            return Err(bad("FROM or TO is missing"));
        };
        let file = match reader.parts.next() {
            Some(Part::Text(file)) => Some(file),
            Some(Part::Word(word)) if from && word.eq_ignore_ascii_case("stdin") => None,
            Some(Part::Word(word)) if !from && word.eq_ignore_ascii_case("stdout") => None,
            _ => return Err(bad("the file's name in quotes is missing")),
        };
        let mut options = Options::default();
        if reader.is("with") {
            loop {
                let Some(Part::Word(name)) = reader.parts.next() else {
                    return Err(bad("an option's name is missing"));
                };
                reader.sign('=');
                let value = match reader.parts.next() {
                    Some(Part::Word(value) | Part::Text(value) | Part::Name(value)) => value,
                    _ => return Err(format!("the value of {name} is missing")),
                };
                options.set(&name.to_ascii_uppercase(), &value)?;
                if !reader.is("and") {
                    break;
                }
            }
        }
        match reader.parts.next() {
            None => Ok(Self { keyspace, table, columns, from, file, options }),
            Some(_) => Err(bad("something follows that does not belong there")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_read_with_their_options() {
        let copy = Copy::parse(
            "shop.\"Wide\" (a, \"B\") FROM 'it''s.csv' WITH HEADER = true AND DELIMITER='|' \
             AND null = 'N' AND MAXROWS=-1 AND PARALLEL = 4",
        )
        .expect("a copy");
        assert_eq!(copy.keyspace.as_deref(), Some("shop"));
        assert_eq!((copy.table.as_str(), copy.columns.join(" ")), ("Wide", "a B".to_owned()));
        assert_eq!(copy.file.as_deref(), Some("it's.csv"));
        assert!(copy.from && copy.options.header);
        assert_eq!((copy.options.delimiter, copy.options.parallel), (b'|', 4));
        assert_eq!((copy.options.null.as_str(), copy.options.rows), ("N", None));
        let copy = Copy::parse("\"Shop\".T TO STDOUT").expect("a copy");
        assert_eq!((copy.keyspace.as_deref(), copy.table.as_str()), (Some("Shop"), "t"));
        assert_eq!((copy.from, copy.file), (false, None));
        assert_eq!(Copy::parse("\"S\".\"T\" TO STDOUT").expect("a copy").table, "T");
        assert_eq!(Copy::parse("s.\"T\" TO STDOUT").expect("a copy").table, "T");
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        for (text, part) in [
            ("", "table's name"),
            ("t", "FROM or TO"),
            ("t FROM STDOUT", "in quotes"),
            ("t FROM 'x' WITH", "option's name"),
            ("t FROM 'x' WITH HEADERS = true", "there are HEADER"),
            ("t FROM 'x' WITH PARALLEL = 0", "from 1 to 256"),
            ("t FROM 'x' WITH DELIMITER = 'ab'", "one character"),
            ("t FROM 'x' nonsense", "does not belong"),
            ("t FROM 'x", "closing quote"),
            ("a.b.c TO 'x'", "no table's name"),
        ] {
            let error = Copy::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
