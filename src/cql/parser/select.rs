//! SELECT, and the restrictions that it shares with UPDATE and DELETE.

use super::{Parse, Parser};
use crate::cql::ast::{InValues, Operator, Relation, Select, SelectItem, Selector, Term};
use crate::cql::lexer::Kind;

/// The most relations in one WHERE: each is held against all others.
const MAX_RELATIONS: usize = 10_000;

impl Parser<'_> {
    pub(super) fn select(&mut self) -> Parse<Select> {
        self.word("select")?;
        let modifier = |parser: &mut Self, word: &str| {
            // `json` and `distinct` are names too: they are modifiers only before a selector.
            let next = &parser.token(1).kind;
            let is_modifier = matches!(next, Kind::Sign("*"))
                || matches!(next, Kind::Word { .. })
                    && !matches!(parser.word_ahead(1), Some("from" | "as"));
            is_modifier && parser.skip_word(word)
        };
        let json = modifier(self, "json");
        let distinct = modifier(self, "distinct");
        let items = if self.skip("*") { Vec::new() } else { self.separated(Self::select_item)? };
        self.word("from")?;
        let table = self.full_name()?;
        let relations = if self.skip_word("where") { self.relations()? } else { Vec::new() };
        let mut select = Select {
            json,
            distinct,
            items,
            table,
            relations,
            group_by: Vec::new(),
            order_by: Vec::new(),
            nearest: None,
            per_partition_limit: None,
            limit: None,
            allow_filtering: false,
        };
        if self.skip_words(&["group", "by"]) {
            select.group_by = self.separated(Self::name)?;
        }
        if self.skip_words(&["order", "by"]) {
            let is_nearest = self.word_ahead(1) == Some("ann") && self.word_ahead(2) == Some("of");
            if is_nearest {
                let column = self.name()?;
                self.skip_words(&["ann", "of"]);
                select.nearest = Some((column, self.term()?));
            } else {
                select.order_by = self.separated(Self::ordering)?;
            }
        }
        if self.skip_words(&["per", "partition", "limit"]) {
            select.per_partition_limit = Some(self.number()?);
        }
        if self.skip_word("limit") {
            select.limit = Some(self.number()?);
        }
        select.allow_filtering = self.skip_words(&["allow", "filtering"]);
        Ok(select)
    }

    /// `column [ASC | DESC]`
    pub(super) fn ordering(&mut self) -> Parse<(String, bool)> {
        let column = self.name()?;
        let descending = self.skip_word("desc");
        if !descending {
            self.skip_word("asc");
        }
        Ok((column, descending))
    }

    fn select_item(&mut self) -> Parse<SelectItem> {
        let selector = self.selector()?;
        if ["+", "-", "*", "/", "%"].iter().any(|sign| self.is_sign(sign)) {
            return Err(
                self.refusal("arithmetic in a SELECT is not supported: compute in the application")
            );
        }
        let alias = if self.skip_word("as") { Some(self.name()?) } else { None };
        Ok(SelectItem { selector, alias })
    }

    fn selector(&mut self) -> Parse<Selector> {
        self.nested(|parser| {
            let mut selector = parser.plain_selector()?;
            for _ in 0..super::MAX_DEPTH {
                if parser.skip(".") {
                    selector = Selector::Field(Box::new(selector), parser.name()?);
                } else if parser.skip("[") {
                    let key = parser.term()?;
                    parser.sign("]")?;
                    selector = Selector::Element(Box::new(selector), key);
                } else {
                    return Ok(selector);
                }
            }
            Err(parser.error("too many parts in one selector"))
        })
    }

    fn plain_selector(&mut self) -> Parse<Selector> {
        let is_name = matches!(self.peek(), Kind::Word { .. })
            && !matches!(self.word_ahead(0), Some("null" | "true" | "false" | "nan" | "infinity"));
        if !is_name {
            return Ok(Selector::Literal(self.simple_term()?));
        }
        let word = self.word_ahead(0).map(str::to_owned);
        let call = self.token(1).kind == Kind::Sign("(");
        match word.as_deref() {
            Some("cast") if call => {
                self.advance();
                self.sign("(")?;
                let inner = self.selector()?;
                self.word("as")?;
                let kind = self.raw_type()?;
                self.sign(")")?;
                return Ok(Selector::Cast(Box::new(inner), kind));
            }
            Some(word @ ("writetime" | "ttl")) if call => {
                let writetime = word == "writetime";
                self.advance();
                self.sign("(")?;
                let column = self.name()?;
                self.sign(")")?;
                return Ok(if writetime {
                    Selector::WriteTime(column)
                } else {
                    Selector::Ttl(column)
                });
            }
            Some("count") if call => {
                let all = matches!(self.token(2).kind, Kind::Sign("*"))
                    || matches!(&self.token(2).kind, Kind::Integer(one) if one == "1");
                if all && self.token(3).kind == Kind::Sign(")") {
                    (0..4).for_each(|_| drop(self.advance()));
                    return Ok(Selector::CountAll);
                }
            }
            _ => {}
        }
        let mut name = if word.as_deref() == Some("token") && call {
            self.advance();
            "token".to_owned()
        } else {
            self.name()?
        };
        if self.is_sign(".") && self.has_call_ahead() {
            self.advance();
            let function = self.name()?;
            name = if name == "system" { function } else { format!("{name}.{function}") };
        }
        if self.is_sign("(") {
            return Ok(Selector::Function(name, self.list(("(", ")"), Self::selector)?));
        }
        Ok(Selector::Column(name))
    }

    pub(super) fn relations(&mut self) -> Parse<Vec<Relation>> {
        let mut out = Vec::new();
        loop {
            self.nested(|parser| parser.relation(&mut out))?;
            if out.len() > MAX_RELATIONS {
                return Err(self.error(format!("more than {MAX_RELATIONS} relations in one WHERE")));
            }
            if !self.skip_word("and") {
                return Ok(out);
            }
        }
    }

    pub(super) fn operator(&mut self) -> Parse<Operator> {
        let operator = match self.peek() {
            Kind::Sign("=") => Operator::Equal,
            Kind::Sign("!=") => Operator::NotEqual,
            Kind::Sign("<") => Operator::Less,
            Kind::Sign("<=") => Operator::LessOrEqual,
            Kind::Sign(">") => Operator::Greater,
            Kind::Sign(">=") => Operator::GreaterOrEqual,
            _ => return Err(self.unexpected("an operator (=, <, >, <=, >=, IN, CONTAINS)")),
        };
        self.advance();
        Ok(operator)
    }

    pub(super) fn in_values(&mut self) -> Parse<InValues> {
        if let Some(bind) = self.bind()? {
            return Ok(InValues::Bind(bind));
        }
        Ok(InValues::Terms(self.list(("(", ")"), Self::term)?))
    }

    fn relation(&mut self, out: &mut Vec<Relation>) -> Parse<()> {
        if self.is_word("token") && self.token(1).kind == Kind::Sign("(") {
            self.advance();
            let columns = self.list(("(", ")"), Self::name)?;
            let operator = self.operator()?;
            let value = self.term()?;
            out.push(Relation::Token { columns, operator, value });
            return Ok(());
        }
        if self.is_sign("(") {
            return self.multi_relation(out);
        }
        let column = self.name()?;
        if self.skip("[") {
            let key = self.term()?;
            self.sign("]")?;
            let operator = self.operator()?;
            let value = self.term()?;
            out.push(Relation::Element { column, key, operator, value });
        } else if self.skip_word("in") {
            let values = self.in_values()?;
            out.push(Relation::In { column, values });
        } else if self.skip_words(&["contains", "key"]) {
            let value = self.term()?;
            out.push(Relation::ContainsKey { column, value });
        } else if self.skip_word("contains") {
            let value = self.term()?;
            out.push(Relation::Contains { column, value });
        } else if self.is_word("like") {
            return Err(self.refusal(
                "LIKE is not supported: select a range of a clustering column, or filter in the \
                 application",
            ));
        } else if self.is_words(&["is", "not", "null"]) {
            return Err(
                self.refusal("IS NOT NULL belongs to materialized views, which there are not")
            );
        } else {
            let operator = self.operator()?;
            let value = self.term()?;
            out.push(Relation::Column { column, operator, value });
        }
        Ok(())
    }

    /// `(a, b) > (1, 2)`, `(a, b) IN (…)`, or a relation in parentheses.
    fn multi_relation(&mut self, out: &mut Vec<Relation>) -> Parse<()> {
        let names = matches!(self.token(1).kind, Kind::Word { .. })
            && matches!(self.token(2).kind, Kind::Sign("," | ")"));
        if !names {
            self.sign("(")?;
            self.nested(|parser| parser.relation(out))?;
            return self.sign(")");
        }
        let columns = self.list(("(", ")"), Self::name)?;
        if self.skip_word("in") {
            let values = self.in_values()?;
            out.push(Relation::MultiIn { columns, values });
            return Ok(());
        }
        let operator = self.operator()?;
        let value: Term = self.term()?;
        out.push(Relation::Multi { columns, operator, value });
        Ok(())
    }
}
