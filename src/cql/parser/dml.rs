//! INSERT, UPDATE, DELETE, BATCH.

use super::{Parse, Parser};
use crate::cql::ast::{
    Batch, BatchKind, Conditions, Delete, Insert, InsertJson, Statement, Target, Term, Test,
    Update, Using,
};
use crate::cql::lexer::Kind;

impl Parser<'_> {
    pub(super) fn insert(&mut self) -> Parse<Statement> {
        self.word("insert")?;
        self.word("into")?;
        let table = self.full_name()?;
        let json = if self.skip_word("json") { Some(self.json()?) } else { None };
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        if json.is_none() {
            columns = self.list(("(", ")"), Self::name)?;
            self.word("values")?;
            values = self.list(("(", ")"), Self::term)?;
        }
        if columns.len() != values.len() {
            return Err(self.refusal(format!(
                "Unmatched column names/values: {} columns, {} values",
                columns.len(),
                values.len()
            )));
        }
        let conditions =
            if self.if_not_exists() { Conditions::NotExists } else { Conditions::None };
        let using = self.using()?;
        Ok(Statement::Insert(Insert { table, columns, values, json, conditions, using }))
    }

    /// `'{…}' [DEFAULT NULL | DEFAULT UNSET]`
    fn json(&mut self) -> Parse<InsertJson> {
        let row = match self.bind()? {
            Some(bind) => Term::Bind(bind),
            None => match self.peek().clone() {
                Kind::Text(text) => {
                    self.advance();
                    Term::Text(text)
                }
                _ => return Err(self.unexpected("a JSON object as a text, or a bind marker")),
            },
        };
        let mut unset = false;
        if self.skip_word("default") {
            unset = self.skip_word("unset");
            if !unset {
                self.word("null")?;
            }
        }
        Ok(InsertJson { row, unset })
    }

    fn using(&mut self) -> Parse<Using> {
        let mut using = Using::default();
        if !self.skip_word("using") {
            return Ok(using);
        }
        loop {
            if self.skip_word("ttl") {
                using.ttl = Some(self.number()?);
            } else if self.skip_word("timestamp") {
                using.timestamp = Some(self.number()?);
            } else {
                return Err(self.unexpected("TTL or TIMESTAMP"));
            }
            if !self.skip_word("and") {
                return Ok(using);
            }
        }
    }

    pub(super) fn update(&mut self) -> Parse<Update> {
        self.word("update")?;
        let table = self.full_name()?;
        let using = self.using()?;
        self.word("set")?;
        let assignments = self.separated(Self::assignment)?;
        self.word("where")?;
        let relations = self.relations()?;
        let conditions = self.conditions()?;
        Ok(Update { table, using, assignments, relations, conditions })
    }

    fn target(&mut self) -> Parse<Target> {
        let column = self.name()?;
        if self.skip("[") {
            let key = self.term()?;
            self.sign("]")?;
            return Ok(Target::Element(column, key));
        }
        if self.skip(".") {
            return Ok(Target::Field(column, self.name()?));
        }
        Ok(Target::Column(column))
    }

    fn assignment(&mut self) -> Parse<(Target, Term)> {
        let target = self.target()?;
        let own = |target: &Target| match target {
            Target::Column(column) => Some(Box::new(Term::Column(column.clone()))),
            Target::Element(..) | Target::Field(..) => None,
        };
        let adds = self.is_sign("+=");
        if adds || self.is_sign("-=") {
            let Some(own) = own(&target) else { return Err(self.unexpected("'='")) };
            self.advance();
            let value = Box::new(self.term()?);
            let term = if adds { Term::Sum(own, value) } else { Term::Difference(own, value) };
            return Ok((target, term));
        }
        self.sign("=")?;
        let value = self.term()?;
        // `c = c -1` reads as `c` and a negative number: it is a subtraction.
        if let (Term::Column(column), Kind::Integer(_)) = (&value, self.peek())
            && target == Target::Column(column.clone())
        {
            return Err(self.unexpected("an operator"));
        }
        Ok((target, value))
    }

    pub(super) fn delete(&mut self) -> Parse<Delete> {
        self.word("delete")?;
        let targets = if self.is_word("from") { Vec::new() } else { self.separated(Self::target)? };
        self.word("from")?;
        let table = self.full_name()?;
        let using = self.using()?;
        self.word("where")?;
        let relations = self.relations()?;
        let conditions = self.conditions()?;
        Ok(Delete { table, targets, using, relations, conditions })
    }

    fn conditions(&mut self) -> Parse<Conditions> {
        if self.if_exists() {
            return Ok(Conditions::Exists);
        }
        if self.if_not_exists() {
            return Ok(Conditions::NotExists);
        }
        if !self.skip_word("if") {
            return Ok(Conditions::None);
        }
        let mut all = vec![self.condition()?];
        while self.skip_word("and") {
            all.push(self.condition()?);
        }
        Ok(Conditions::All(all))
    }

    fn condition(&mut self) -> Parse<(Target, Test)> {
        let target = self.target()?;
        if self.skip_word("in") {
            return Ok((target, Test::In(self.in_values()?)));
        }
        let operator = self.operator()?;
        Ok((target, Test::Compare(operator, self.term()?)))
    }

    pub(super) fn batch(&mut self) -> Parse<Batch> {
        self.word("begin")?;
        let kind = if self.skip_word("unlogged") {
            BatchKind::Unlogged
        } else if self.skip_word("counter") {
            BatchKind::Counter
        } else {
            BatchKind::Logged
        };
        self.word("batch")?;
        let using = self.using()?;
        let mut statements = Vec::new();
        while !self.is_word("apply") {
            let statement = match self.word_ahead(0) {
                Some("insert") => self.insert()?,
                Some("update") => Statement::Update(self.update()?),
                Some("delete") => Statement::Delete(self.delete()?),
                _ => return Err(self.unexpected("INSERT, UPDATE, DELETE or APPLY BATCH")),
            };
            if matches!(statement, Statement::Refused(_)) {
                return Ok(Batch { kind, using, statements: vec![statement] });
            }
            statements.push(statement);
            self.skip(";");
        }
        self.word("apply")?;
        self.word("batch")?;
        Ok(Batch { kind, using, statements })
    }
}
