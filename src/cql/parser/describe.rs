//! DESCRIBE.

use super::{Parse, Parser};
use crate::cql::ast::{Describe, Name, Statement};
use crate::cql::lexer::Kind;

impl Parser<'_> {
    pub(super) fn describe(&mut self) -> Parse<Statement> {
        self.advance();
        let what = self.described()?;
        // Nothing here is internal that a client could use.
        let _ = self.skip_words(&["with", "internals"]);
        Ok(Statement::Describe(what))
    }

    fn described(&mut self) -> Parse<Describe> {
        let word = self.word_ahead(0).unwrap_or_default().to_owned();
        let list = match word.as_str() {
            "keyspaces" => Some(Describe::Keyspaces),
            "tables" | "columnfamilies" => Some(Describe::Tables),
            "types" => Some(Describe::Types),
            "functions" => Some(Describe::Functions),
            "aggregates" => Some(Describe::Aggregates),
            "cluster" => Some(Describe::Cluster),
            "schema" => Some(Describe::Schema { full: false }),
            _ => None,
        };
        if let Some(list) = list {
            self.advance();
            return Ok(list);
        }
        if self.skip_words(&["full", "schema"]) {
            return Ok(Describe::Schema { full: true });
        }
        if self.skip_words(&["only", "keyspace"]) {
            return Ok(Describe::OnlyKeyspace(self.keyspace_if_any()?));
        }
        if self.skip_word("keyspace") {
            return Ok(Describe::Keyspace(self.keyspace_if_any()?));
        }
        if self.skip_words(&["materialized", "view"]) {
            return Ok(Describe::View(self.full_name()?));
        }
        let element: fn(Name) -> Describe = match word.as_str() {
            "table" | "columnfamily" => Describe::Table,
            "index" => Describe::Index,
            // No reserved words: alone they are the name of something.
            "type" if !self.ends_after(1) => Describe::Type,
            "function" if !self.ends_after(1) => Describe::Function,
            "aggregate" if !self.ends_after(1) => Describe::Aggregate,
            _ => {
                const WHAT: &str = "what to describe: KEYSPACES, KEYSPACE, SCHEMA, TABLES, TABLE, \
                                    TYPES, TYPE, FUNCTIONS, AGGREGATES, CLUSTER or a name";
                let named = self.full_name();
                return named.map(Describe::Any).map_err(|_| self.unexpected(WHAT));
            }
        };
        self.advance();
        Ok(element(self.full_name()?))
    }

    /// True if the statement ends behind the next `ahead` tokens.
    fn ends_after(&self, ahead: usize) -> bool {
        matches!(self.token(ahead).kind, Kind::End | Kind::Sign(";" | "."))
    }

    fn keyspace_if_any(&mut self) -> Parse<Option<String>> {
        if self.ends_after(0) || self.is_words(&["with", "internals"]) {
            return Ok(None);
        }
        self.name().map(Some)
    }
}
