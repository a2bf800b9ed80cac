//! Text to tokens.

use std::fmt;

/// A statement that is not CQL, and where it ceases to be; or that is, and is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}:{column} {message}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 0, as Cassandra counts.
    pub column: usize,
    /// What is wrong, and what would be valid there.
    pub message: String,
    /// The text is CQL, but of a kind that is refused: told apart by Cassandra's clients.
    pub is_refusal: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: lower-cased unless quoted.
    Word {
        /// The identifier that it is.
        text: String,
        /// Written in double quotes: never a keyword.
        quoted: bool,
    },
    /// A string literal, unescaped.
    Text(String),
    /// Digits, as written.
    Integer(String),
    /// A number with a point or an exponent, as written.
    Float(String),
    /// A UUID literal.
    Uuid([u8; 16]),
    /// A `0x` literal.
    Blob(Vec<u8>),
    /// `1h30m`, `P1Y2M`, as written.
    Duration(String),
    /// `?`
    Question,
    /// Punctuation and operators.
    Sign(&'static str),
    /// The end of the text.
    End,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word { text, quoted: false } => write!(f, "'{text}'"),
            Self::Word { text, quoted: true } => write!(f, "\"{text}\""),
            Self::Text(text) => write!(f, "'{}'", text.chars().take(40).collect::<String>()),
            Self::Integer(text) | Self::Float(text) | Self::Duration(text) => {
                write!(f, "'{}'", text.chars().take(40).collect::<String>())
            }
            Self::Uuid(_) => f.write_str("a uuid"),
            Self::Blob(_) => f.write_str("a blob"),
            Self::Question => f.write_str("'?'"),
            Self::Sign(sign) => write!(f, "'{sign}'"),
            Self::End => f.write_str("the end of the statement"),
        }
    }
}

/// A token and the byte where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

/// The error at byte `at` of `text`.
pub(super) fn error_at(text: &str, at: usize, message: impl Into<String>) -> SyntaxError {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count();
    SyntaxError { line, column, message: message.into(), is_refusal: false }
}

/// Signs, longer ones first.
const SIGNS: &[&str] = &[
    "<=", ">=", "!=", "+=", "-=", "..", "(", ")", "[", "]", "{", "}", ",", ";", ".", ":", "=", "<",
    ">", "+", "-", "*", "/", "%", "@", "$",
];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

/// Cuts `text` into tokens; the last one is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip_blank()?;
        let at = lexer.at;
        let kind = lexer.next()?;
        let end = kind == Kind::End;
        out.push(Token { kind, at });
        if end {
            return Ok(out);
        }
    }
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        error_at(self.text, self.at, message)
    }

    /// Passes over blanks and comments.
    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with("--") || rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let end =
                    rest.find("*/").ok_or_else(|| self.error("a comment without its '*/'"))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// The longest run of bytes at the start that satisfy `test`.
    fn run(&self, test: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.bytes().take_while(|&byte| test(byte)).count();
        &rest[..len]
    }

    fn take(&mut self, kind: Kind, len: usize) -> Kind {
        self.at += len;
        kind
    }

    fn next(&mut self) -> Result<Kind, SyntaxError> {
        let rest = self.rest();
        let Some(first) = rest.bytes().next() else { return Ok(Kind::End) };
        if let Some(uuid) = rest.get(..36).and_then(parse_uuid) {
            let after = rest.as_bytes().get(36);
            if !after.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
                return Ok(self.take(Kind::Uuid(uuid), 36));
            }
        }
        match first {
            b'\'' => self.quoted('\'').map(Kind::Text),
            b'"' => {
                let text = self.quoted('"')?;
                if text.is_empty() {
                    return Err(self.error("an empty quoted name"));
                }
                Ok(Kind::Word { text, quoted: true })
            }
            b'$' if rest.starts_with("$$") => self.dollars(),
            b'?' => Ok(self.take(Kind::Question, 1)),
            b'0'..=b'9' => self.number(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Ok(self.word()),
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => Ok(self.take(Kind::Sign(sign), sign.len())),
                None => {
                    let odd = rest.chars().next().unwrap_or(' ');
                    Err(self.error(format!("no viable alternative at character {odd:?}")))
                }
            },
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, SyntaxError> {
        let rest = self.rest();
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                out.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
                out.push(quote);
            } else {
                self.at += at + 1;
                return Ok(out);
            }
        }
        Err(self.error(format!("a text without its closing {quote}")))
    }

    fn dollars(&mut self) -> Result<Kind, SyntaxError> {
        let inside = &self.rest()[2..];
        let end = inside.find("$$").ok_or_else(|| self.error("a text without its closing $$"))?;
        Ok(self.take(Kind::Text(inside[..end].to_owned()), end + 4))
    }

    fn word(&mut self) -> Kind {
        let word = self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let dated = self.rest().get(..DATED_DURATION.len()).filter(|text| is_dated_duration(text));
        if let Some(duration) = dated.or(Some(word).filter(|word| is_iso_duration(word))) {
            return self.take(Kind::Duration(duration.to_owned()), duration.len());
        }
        let text = word.to_ascii_lowercase();
        self.take(Kind::Word { text, quoted: false }, word.len())
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let rest = self.rest();
        if rest.starts_with("0x") || rest.starts_with("0X") {
            let digits = &self.run(|byte| byte.is_ascii_alphanumeric())[2..];
            let bytes = unhex(digits)
                .ok_or_else(|| self.error("a blob needs an even number of hex digits"))?;
            return Ok(self.take(Kind::Blob(bytes), digits.len() + 2));
        }
        let whole = self.run(|byte| byte.is_ascii_digit()).len();
        let mut len = whole;
        let bytes = rest.as_bytes();
        let digits_from =
            |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
        if bytes.get(len) == Some(&b'.') && digits_from(len + 1) > 0 {
            len += 1 + digits_from(len + 1);
        } else if bytes.get(len) == Some(&b'.') && bytes.get(len + 1) != Some(&b'.') {
            len += 1;
        }
        if matches!(bytes.get(len), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
            let exponent = digits_from(len + 1 + signed);
            if exponent > 0 {
                len += 1 + signed + exponent;
            }
        }
        if len == whole {
            let word = self.run(|byte| byte.is_ascii_alphanumeric());
            // `µs` is the one unit that is not ASCII.
            let micro = rest[word.len()..].starts_with('µ');
            if word.len() > whole || micro {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != 'µ')
                    .unwrap_or(rest.len());
                return Ok(self.take(Kind::Duration(rest[..end].to_owned()), end));
            }
            return Ok(self.take(Kind::Integer(rest[..len].to_owned()), len));
        }
        Ok(self.take(Kind::Float(rest[..len].to_owned()), len))
    }
}

/// Numbers, each with one of these units behind it.
fn has_units(text: &str, units: &[u8]) -> bool {
    let mut digits = 0;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => digits += 1,
            unit if digits > 0 && units.contains(&unit) => digits = 0,
            _ => return false,
        }
    }
    digits == 0
}

/// `P1Y2M`, `PT5M`, `P2W`. What only begins so, as `p99` does, is a name.
fn is_iso_duration(word: &str) -> bool {
    let Some(parts) = word.strip_prefix('P').filter(|parts| !parts.is_empty()) else {
        return false;
    };
    let (date, time) = match parts.split_once('T') {
        Some((_, "")) => return false,
        Some(parts) => parts,
        None => (parts, ""),
    };
    has_units(date, b"YMWD") && has_units(time, b"HMS")
}

/// The other form of ISO 8601; each zero stands for a digit.
const DATED_DURATION: &str = "P0000-00-00T00:00:00";

fn is_dated_duration(text: &str) -> bool {
    text.len() == DATED_DURATION.len()
        && text.bytes().zip(DATED_DURATION.bytes()).all(|(own, form)| match form {
            b'0' => own.is_ascii_digit(),
            sign => own == sign,
        })
}

/// Bytes of hex digits.
pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    digits.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// A UUID in its usual form.
#[must_use]
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    let dashes = [8, 13, 18, 23];
    if bytes.len() != 36 || dashes.iter().any(|&at| bytes[at] != b'-') {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    unhex(&digits)?.try_into().ok()
}
