//! Values.

use super::{Parse, Parser};
use crate::cql::ast::Term;
use crate::cql::lexer::Kind;

impl Parser<'_> {
    /// A term with `+` and `-`.
    pub(super) fn term(&mut self) -> Parse<Term> {
        self.nested(|parser| {
            let mut left = parser.simple_term()?;
            let mut terms = 1;
            loop {
                if parser.skip("+") {
                    left = Term::Sum(Box::new(left), Box::new(parser.simple_term()?));
                } else if parser.skip("-") {
                    left = Term::Difference(Box::new(left), Box::new(parser.simple_term()?));
                } else {
                    return Ok(left);
                }
                terms += 1;
                // Each is a level of the tree.
                if terms > super::MAX_DEPTH {
                    return Err(parser.error("too many operators in one expression"));
                }
            }
        })
    }

    pub(super) fn simple_term(&mut self) -> Parse<Term> {
        if let Some(bind) = self.bind()? {
            return Ok(Term::Bind(bind));
        }
        match self.peek().clone() {
            Kind::Integer(text) => self.literal(Term::Integer(text)),
            Kind::Float(text) => self.literal(Term::Float(text)),
            Kind::Text(text) => self.literal(Term::Text(text)),
            Kind::Uuid(uuid) => self.literal(Term::Uuid(uuid)),
            Kind::Blob(blob) => self.literal(Term::Blob(blob)),
            Kind::Duration(text) => self.literal(Term::Duration(text)),
            Kind::Sign("-") => self.negative(),
            Kind::Sign("[") => {
                self.nested(|parser| parser.list(("[", "]"), Self::term)).map(Term::List)
            }
            Kind::Sign("{") => self.nested(Self::braces),
            Kind::Sign("(") => self.nested(Self::parenthesis),
            Kind::Word { text, quoted } => self.word_term(&text, quoted),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn literal(&mut self, term: Term) -> Parse<Term> {
        self.advance();
        Ok(term)
    }

    fn negative(&mut self) -> Parse<Term> {
        self.advance();
        match self.peek().clone() {
            Kind::Integer(text) => self.literal(Term::Integer(format!("-{text}"))),
            Kind::Float(text) => self.literal(Term::Float(format!("-{text}"))),
            Kind::Duration(text) => self.literal(Term::Duration(format!("-{text}"))),
            Kind::Word { text, quoted: false } if text == "infinity" || text == "nan" => {
                self.literal(Term::Float(format!("-{text}")))
            }
            _ => Err(self.unexpected("a number after '-'")),
        }
    }

    fn word_term(&mut self, text: &str, quoted: bool) -> Parse<Term> {
        if !quoted {
            let literal = match text {
                "null" => Some(Term::Null),
                "true" => Some(Term::Boolean(true)),
                "false" => Some(Term::Boolean(false)),
                "nan" | "infinity" => Some(Term::Float(text.to_owned())),
                _ => None,
            };
            if let Some(literal) = literal {
                return self.literal(literal);
            }
        }
        let mut name = if !quoted && text == "token" {
            self.advance();
            text.to_owned()
        } else {
            self.name()?
        };
        if self.is_sign(".") && self.has_call_ahead() {
            self.advance();
            let function = self.name()?;
            name = if name == "system" { function } else { format!("{name}.{function}") };
        }
        if self.is_sign("(") {
            let arguments = self.nested(|parser| parser.list(("(", ")"), Self::term))?;
            return Ok(Term::Function(name, arguments));
        }
        Ok(Term::Column(name))
    }

    /// `.name(` comes next.
    pub(super) fn has_call_ahead(&self) -> bool {
        matches!(self.token(1).kind, Kind::Word { .. }) && self.token(2).kind == Kind::Sign("(")
    }

    /// A set, a map, or a user type's value.
    fn braces(&mut self) -> Parse<Term> {
        self.sign("{")?;
        if self.skip("}") {
            return Ok(Term::Set(Vec::new()));
        }
        let field = matches!(self.peek(), Kind::Word { .. })
            && self.token(1).kind == Kind::Sign(":")
            && !matches!(self.word_ahead(0), Some("null" | "true" | "false" | "nan" | "infinity"));
        if field {
            let mut fields = Vec::new();
            loop {
                let name = self.name()?;
                self.sign(":")?;
                fields.push((name, self.term()?));
                if !self.skip(",") {
                    break;
                }
            }
            self.sign("}")?;
            return Ok(Term::Udt(fields));
        }
        let first = self.term()?;
        if self.skip(":") {
            let mut pairs = vec![(first, self.term()?)];
            while self.skip(",") {
                let key = self.term()?;
                self.sign(":")?;
                pairs.push((key, self.term()?));
            }
            self.sign("}")?;
            return Ok(Term::Map(pairs));
        }
        let mut items = vec![first];
        while self.skip(",") {
            items.push(self.term()?);
        }
        self.sign("}")?;
        Ok(Term::Set(items))
    }

    /// `(type) term`, or a tuple.
    fn parenthesis(&mut self) -> Parse<Term> {
        let start = (self.at, self.binds.len());
        self.sign("(")?;
        if matches!(self.peek(), Kind::Word { .. })
            && let Ok(kind) = self.raw_type()
            && self.skip(")")
            && self.begins_term()
        {
            return Ok(Term::Cast(kind, Box::new(self.simple_term()?)));
        }
        self.at = start.0;
        self.binds.truncate(start.1);
        Ok(Term::Tuple(self.list(("(", ")"), Self::term)?))
    }

    fn begins_term(&self) -> bool {
        match self.peek() {
            Kind::Word { quoted: true, .. } => true,
            Kind::Word { text, .. } => {
                !super::is_reserved(text) || matches!(text.as_str(), "null" | "nan" | "infinity")
            }
            Kind::Sign(sign) => matches!(*sign, "(" | "[" | "{" | "-" | ":"),
            Kind::End => false,
            _ => true,
        }
    }
}
