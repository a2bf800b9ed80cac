//! Tokens to a syntax tree, by recursive descent.
//!
//! Nesting is bounded ([`MAX_DEPTH`]), so that no text can exhaust the stack; lengths need no bound
//! of their own, since the tree is no larger than the text.

mod ddl;
mod describe;
mod dml;
mod roles;
mod select;
mod terms;

use std::collections::BTreeSet;

use crate::cql::ast::{Name, Parsed, Property, Statement, Term};
use crate::cql::lexer::{Kind, SyntaxError, Token, error_at, tokens};
use crate::cql::types::{CqlType, RawType};

/// How deep terms and types may be nested.
const MAX_DEPTH: usize = 32;

/// Words that are no names unless quoted (Cassandra's reserved keywords).
const RESERVED: &[&str] = &[
    "add",
    "allow",
    "alter",
    "and",
    "any",
    "apply",
    "asc",
    "authorize",
    "batch",
    "begin",
    "by",
    "columnfamily",
    "create",
    "default",
    "delete",
    "desc",
    "describe",
    "drop",
    "each_quorum",
    "entries",
    "execute",
    "from",
    "full",
    "grant",
    "if",
    "in",
    "index",
    "inet",
    "infinity",
    "insert",
    "into",
    "is",
    "keyspace",
    "limit",
    "local_one",
    "local_quorum",
    "materialized",
    "mbean",
    "mbeans",
    "modify",
    "nan",
    "norecursive",
    "not",
    "null",
    "of",
    "on",
    "one",
    "or",
    "order",
    "password",
    "primary",
    "quorum",
    "rename",
    "replace",
    "revoke",
    "schema",
    "select",
    "set",
    "table",
    "three",
    "to",
    "token",
    "truncate",
    "two",
    "unlogged",
    "unset",
    "update",
    "use",
    "using",
    "view",
    "where",
    "with",
];

/// Reserved in the table above and yet names in practice: Cassandra's grammar takes them.
const ALLOWED: &[&str] = &[
    "any",
    "each_quorum",
    "inet",
    "local_one",
    "local_quorum",
    "mbean",
    "mbeans",
    "one",
    "password",
    "quorum",
    "three",
    "two",
    "default",
    "unset",
    "replace",
];

/// True of a word that is a name only in quotes.
pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word) && !ALLOWED.contains(&word)
}

/// Parses one statement; a `;` after it is optional, and nothing may follow.
///
/// # Errors
/// [`SyntaxError`]: where, and what would be valid there.
pub fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    whole(text, |parser| {
        let statement = parser.statement()?;
        parser.skip(";");
        if *parser.peek() != Kind::End {
            return Err(parser.unexpected("the end of the statement"));
        }
        Ok(Parsed { statement, binds: std::mem::take(&mut parser.binds) })
    })
}

/// Parses one term, such as `{'a': 1}`; nothing may follow, and there are no bind markers in it.
///
/// # Errors
/// [`SyntaxError`].
pub fn parse_term(text: &str) -> Result<Term, SyntaxError> {
    whole(text, |parser| {
        let term = parser.term()?;
        if *parser.peek() != Kind::End || !parser.binds.is_empty() {
            return Err(parser.unexpected("the end of the value"));
        }
        Ok(term)
    })
}

fn whole<T>(text: &str, parse: impl FnOnce(&mut Parser<'_>) -> Parse<T>) -> Result<T, SyntaxError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, at: 0, depth: 0, binds: Vec::new() };
    let Misfit { at, message, is_refusal } = match parse(&mut parser) {
        Ok(parsed) => return Ok(parsed),
        Err(misfit) => misfit,
    };
    Err(SyntaxError { is_refusal, ..error_at(text, at, message) })
}

pub(super) struct Parser<'a> {
    text: &'a str,
    /// Ends with [`Kind::End`].
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    binds: Vec<Option<String>>,
}

/// A [`SyntaxError`] whose line is not counted yet. What is tried as one thing and then read as
/// another makes an error for each try, and a long text has many.
#[derive(Debug)]
pub(super) struct Misfit {
    /// The byte where it begins.
    at: usize,
    message: String,
    is_refusal: bool,
}

pub(super) type Parse<T> = Result<T, Misfit>;

impl Parser<'_> {
    fn token(&self, ahead: usize) -> &Token {
        // The last token is the end, and stays so however far one looks.
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token(0).kind
    }

    fn advance(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    fn error(&self, message: impl Into<String>) -> Misfit {
        Misfit { at: self.token(0).at, message: message.into(), is_refusal: false }
    }

    /// What stands here is CQL, and not carried out.
    fn refusal(&self, message: impl Into<String>) -> Misfit {
        Misfit { is_refusal: true, ..self.error(message) }
    }

    fn unexpected(&self, expected: &str) -> Misfit {
        self.error(format!("no viable alternative at input {}: expected {expected}", self.peek()))
    }

    /// One level deeper, within bounds.
    fn nested<T>(&mut self, inside: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        result
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(found) if *found == sign)
    }

    fn skip(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn sign(&mut self, sign: &str) -> Parse<()> {
        if self.skip(sign) { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn word_ahead(&self, ahead: usize) -> Option<&str> {
        match &self.token(ahead).kind {
            Kind::Word { text, quoted: false } => Some(text),
            _ => None,
        }
    }

    fn is_word(&self, word: &str) -> bool {
        self.word_ahead(0) == Some(word)
    }

    fn is_words(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| self.word_ahead(ahead) == Some(word))
    }

    fn skip_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    /// All of `words`, or none.
    fn skip_words(&mut self, words: &[&str]) -> bool {
        let found = self.is_words(words);
        if found {
            words.iter().for_each(|_| drop(self.advance()));
        }
        found
    }

    fn word(&mut self, word: &str) -> Parse<()> {
        if self.skip_word(word) { Ok(()) } else { Err(self.unexpected(&word.to_ascii_uppercase())) }
    }

    /// A name: quoted, or a word that is not reserved.
    fn name(&mut self) -> Parse<String> {
        match self.peek() {
            Kind::Word { quoted: true, .. } => {}
            Kind::Word { text, .. } if !is_reserved(text) => {}
            Kind::Word { text, .. } => {
                let why = format!("'{text}' is a reserved word: write \"{text}\" for a name");
                return Err(self.error(why));
            }
            _ => return Err(self.unexpected("a name")),
        }
        match self.advance() {
            Kind::Word { text, .. } => Ok(text),
            _ => Err(self.unexpected("a name")),
        }
    }

    /// `name` or `keyspace.name`.
    fn full_name(&mut self) -> Parse<Name> {
        let first = self.name()?;
        if self.skip(".") {
            return Ok(Name { keyspace: Some(first), name: self.name()? });
        }
        Ok(Name { keyspace: None, name: first })
    }

    /// Items between signs, with commas; `trailing`: a comma may stand before the end.
    fn list<T>(
        &mut self,
        (open, close): (&str, &str),
        item: impl Fn(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        self.sign(open)?;
        let mut items = Vec::new();
        if self.skip(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if !self.skip(",") {
                break;
            }
        }
        if self.skip(close) {
            Ok(items)
        } else {
            Err(self.unexpected(&format!("',' or '{close}'")))
        }
    }

    fn separated<T>(&mut self, item: impl Fn(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.skip(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn if_exists(&mut self) -> bool {
        self.skip_words(&["if", "exists"])
    }

    fn if_not_exists(&mut self) -> bool {
        self.skip_words(&["if", "not", "exists"])
    }

    /// A bind marker gets the next number.
    fn bind(&mut self) -> Parse<Option<usize>> {
        let name = match self.peek() {
            Kind::Question => {
                self.advance();
                None
            }
            Kind::Sign(":") => {
                self.advance();
                match self.advance() {
                    Kind::Word { text, .. } => Some(text),
                    _ => return Err(self.unexpected("a name after ':'")),
                }
            }
            _ => return Ok(None),
        };
        self.binds.push(name);
        Ok(Some(self.binds.len() - 1))
    }

    fn raw_type(&mut self) -> Parse<RawType> {
        self.nested(|parser| {
            if let Kind::Text(class) = parser.peek() {
                return Err(parser.refusal(format!(
                    "custom types are not supported: write '{class}' as a blob"
                )));
            }
            // `set` is reserved, and a type.
            let name = if parser.skip_word("set") {
                Name { keyspace: None, name: "set".to_owned() }
            } else {
                parser.full_name()?
            };
            if name.keyspace.is_some() || !parser.is_sign("<") {
                let native = CqlType::native(&name.name).filter(|_| name.keyspace.is_none());
                return Ok(match native {
                    Some(native) => RawType::Native(native),
                    None => RawType::Named(name.keyspace, name.name),
                });
            }
            if name.name == "vector" {
                parser.sign("<")?;
                let inner = Box::new(parser.raw_type()?);
                parser.sign(",")?;
                let bad = parser.error("a vector has 1 to 8192 elements");
                let Kind::Integer(len) = parser.advance() else { return Err(bad) };
                let len = len.parse().ok().filter(|len| (1..=8192).contains(len)).ok_or(bad)?;
                parser.sign(">")?;
                return Ok(RawType::Vector(inner, len));
            }
            let mut inner = parser.list(("<", ">"), Self::raw_type)?;
            let count = inner.len();
            let wrong = |parser: &Self| {
                Err(parser.error(format!("{} of {} types is no type", name.name, count)))
            };
            match (name.name.as_str(), count) {
                ("map", 2) => {
                    let (value, key) = (inner.pop(), inner.pop());
                    match (key, value) {
                        (Some(key), Some(value)) => {
                            Ok(RawType::Map(Box::new(key), Box::new(value)))
                        }
                        _ => wrong(parser),
                    }
                }
                ("tuple", 1..) => Ok(RawType::Tuple(inner)),
                ("list" | "set" | "frozen", 1) => {
                    let one = Box::new(inner.remove(0));
                    Ok(match name.name.as_str() {
                        "list" => RawType::List(one),
                        "set" => RawType::Set(one),
                        _ => RawType::Frozen(one),
                    })
                }
                _ => wrong(parser),
            }
        })
    }

    /// `WITH a = 1 AND b = {…}`, after the WITH.
    fn properties(&mut self) -> Parse<Vec<(String, Property)>> {
        let mut out = vec![self.property()?];
        while self.skip_word("and") {
            out.push(self.property()?);
        }
        self.once_each(&out)?;
        Ok(out)
    }

    /// Of two values of one name, one would go unheard.
    fn once_each<T>(&self, all: &[(String, T)]) -> Parse<()> {
        let mut names = BTreeSet::new();
        match all.iter().find(|(name, _)| !names.insert(name)) {
            Some((name, _)) => {
                Err(self.error(format!("Multiple definition for property '{name}'")))
            }
            None => Ok(()),
        }
    }

    fn property(&mut self) -> Parse<(String, Property)> {
        let name = self.name()?;
        self.sign("=")?;
        if !self.is_sign("{") {
            return Ok((name, Property::Simple(self.simple()?)));
        }
        let pairs = self.list(("{", "}"), |parser| {
            let key = parser.simple()?;
            parser.sign(":")?;
            Ok((key, parser.simple()?))
        })?;
        self.once_each(&pairs)?;
        Ok((name, Property::Map(pairs)))
    }

    /// A constant, as text.
    fn simple(&mut self) -> Parse<String> {
        let minus = self.skip("-");
        let text = match self.peek().clone() {
            Kind::Text(text) if !minus => text,
            Kind::Word { text, quoted: false } if !minus => text,
            Kind::Uuid(uuid) if !minus => crate::cql::value::uuid_text(&uuid),
            Kind::Integer(text) | Kind::Float(text) => text,
            _ => return Err(self.unexpected("a constant")),
        };
        self.advance();
        Ok(if minus { format!("-{text}") } else { text })
    }

    fn statement(&mut self) -> Parse<Statement> {
        const STATEMENTS: &str = "a statement: SELECT, INSERT, UPDATE, DELETE, BEGIN BATCH, CREATE, \
                                  ALTER, DROP, TRUNCATE, USE, DESCRIBE, GRANT, \
                                  REVOKE or LIST";
        let Some(word) = self.word_ahead(0).map(str::to_owned) else {
            return Err(self.unexpected(STATEMENTS));
        };
        match word.as_str() {
            "select" => self.select().map(Statement::Select),
            "insert" => self.insert(),
            "update" => self.update().map(Statement::Update),
            "delete" => self.delete().map(Statement::Delete),
            "begin" => self.batch().map(Statement::Batch),
            "use" => {
                self.advance();
                Ok(Statement::Use(self.name()?))
            }
            "truncate" => {
                self.advance();
                let _ = self.skip_word("table") || self.skip_word("columnfamily");
                Ok(Statement::Truncate(self.full_name()?))
            }
            "create" => self.create(),
            "alter" => self.alter(),
            "drop" => self.drop_statement(),
            "grant" | "revoke" => self.grant(),
            "list" => self.list_statement(),
            "describe" | "desc" => self.describe(),
            _ => Err(self.unexpected(STATEMENTS)),
        }
    }

    /// Reads the rest of a statement that is not carried out.
    fn refuse(&mut self, why: &'static str) -> Statement {
        while !matches!(self.peek(), Kind::End) && !self.is_sign(";") {
            self.advance();
        }
        Statement::Refused(why)
    }

    /// A literal or bind marker that must be a number of rows, seconds or microseconds.
    fn number(&mut self) -> Parse<Term> {
        if let Some(bind) = self.bind()? {
            return Ok(Term::Bind(bind));
        }
        let minus = self.skip("-");
        match self.peek().clone() {
            Kind::Integer(text) => {
                self.advance();
                Ok(Term::Integer(if minus { format!("-{text}") } else { text }))
            }
            _ => Err(self.unexpected("a number or a bind marker")),
        }
    }
}
