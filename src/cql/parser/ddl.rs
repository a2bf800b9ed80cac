//! CREATE, ALTER, DROP.

use super::{Parse, Parser};
use crate::cql::ast::{
    AlterTable, AlterType, ColumnDef, CreateIndex, CreateTable, Property, Statement,
};
use crate::cql::index::IndexPart;
use crate::cql::lexer::Kind;
use crate::cql::types::RawType;

const VIEWS: &str = "Materialized views are disabled: write a second table in the same batch";
const FUNCTIONS: &str = "User-defined functions are disabled: compute in the application";
const MASKS: &str =
    "masked columns are not supported: grant SELECT on a table without what is to be hidden";
const TRIGGERS: &str = "Triggers are not supported: write to both tables in the application";

impl Parser<'_> {
    /// What is refused, whichever verb stands before it.
    fn refused(&mut self) -> Option<Statement> {
        let why = match self.word_ahead(0)? {
            "materialized" => VIEWS,
            "function" | "aggregate" | "or" => FUNCTIONS,
            "trigger" => TRIGGERS,
            _ => return None,
        };
        Some(self.refuse(why))
    }

    pub(super) fn create(&mut self) -> Parse<Statement> {
        self.word("create")?;
        if let Some(refused) = self.refused() {
            return Ok(refused);
        }
        if let Some(statement) = self.role_statement("create")? {
            return Ok(statement);
        }
        if self.skip_word("keyspace") || self.skip_word("schema") {
            let if_not_exists = self.if_not_exists();
            let name = self.name()?;
            self.word("with")?;
            let properties = self.properties()?;
            return Ok(Statement::CreateKeyspace { name, if_not_exists, properties });
        }
        if self.skip_word("table") || self.skip_word("columnfamily") {
            return self.create_table();
        }
        if self.skip_word("type") {
            let if_not_exists = self.if_not_exists();
            let name = self.full_name()?;
            let fields = self.list(("(", ")"), Self::field)?;
            if fields.is_empty() {
                return Err(self.error("a type has at least one field"));
            }
            return Ok(Statement::CreateType { name, if_not_exists, fields });
        }
        let custom = self.skip_word("custom");
        if self.skip_word("index") {
            return self.create_index(custom).map(Statement::CreateIndex);
        }
        Err(self.unexpected("KEYSPACE, TABLE, TYPE, INDEX or ROLE"))
    }

    fn create_index(&mut self, custom: bool) -> Parse<CreateIndex> {
        let if_not_exists = self.if_not_exists();
        let name = if self.is_words(&["on"]) { None } else { Some(self.name()?) };
        self.word("on")?;
        let table = self.full_name()?;
        self.sign("(")?;
        let (part, column) = self.index_target()?;
        self.sign(")")?;
        let class = if self.skip_word("using") { Some(self.simple()?) } else { None };
        let mut options = Vec::new();
        if self.skip_word("with") {
            match self.property()? {
                (word, Property::Map(pairs)) if word == "options" => options = pairs,
                _ => return Err(self.error("an index has nothing but OPTIONS = {…}")),
            }
        }
        Ok(CreateIndex { name, if_not_exists, custom, table, column, part, class, options })
    }

    /// `col`, or `keys(col)` and so on.
    fn index_target(&mut self) -> Parse<(Option<IndexPart>, String)> {
        for part in [IndexPart::Full, IndexPart::Keys, IndexPart::Values, IndexPart::Entries] {
            let word = part.word().unwrap_or_default();
            if self.is_word(word) && matches!(self.token(1).kind, Kind::Sign("(")) {
                self.word(word)?;
                self.sign("(")?;
                let column = self.name()?;
                self.sign(")")?;
                return Ok((Some(part), column));
            }
        }
        Ok((None, self.name()?))
    }

    fn field(&mut self) -> Parse<(String, RawType)> {
        Ok((self.name()?, self.raw_type()?))
    }

    fn create_table(&mut self) -> Parse<Statement> {
        let if_not_exists = self.if_not_exists();
        let mut table = CreateTable {
            table: self.full_name()?,
            if_not_exists,
            columns: Vec::new(),
            partition_key: Vec::new(),
            clustering: Vec::new(),
            order: Vec::new(),
            properties: Vec::new(),
            compact_storage: false,
        };
        self.sign("(")?;
        loop {
            if self.is_words(&["primary", "key"]) {
                self.primary_key(&mut table)?;
            } else {
                let column = self.column_def()?;
                if self.skip_words(&["primary", "key"]) {
                    self.one_key(&table)?;
                    table.partition_key.push(column.name.clone());
                }
                table.columns.push(column);
            }
            // A comma may stand before the end.
            if !self.skip(",") || self.is_sign(")") {
                break;
            }
        }
        if !self.skip(")") {
            return Err(self.unexpected("',' or ')'"));
        }
        if self.skip_word("with") {
            loop {
                self.table_option(&mut table)?;
                if !self.skip_word("and") {
                    break;
                }
            }
            self.once_each(&table.properties)?;
        }
        Ok(Statement::CreateTable(table))
    }

    fn one_key(&self, table: &CreateTable) -> Parse<()> {
        if table.partition_key.is_empty() {
            return Ok(());
        }
        Err(self.error("Multiple PRIMARY KEYs specified (exactly one required)"))
    }

    fn column_def(&mut self) -> Parse<ColumnDef> {
        let (name, kind) = self.field()?;
        let is_static = self.skip_word("static");
        if self.is_word("masked") {
            return Err(self.refusal(MASKS));
        }
        Ok(ColumnDef { name, kind, is_static })
    }

    fn primary_key(&mut self, table: &mut CreateTable) -> Parse<()> {
        self.one_key(table)?;
        self.word("primary")?;
        self.word("key")?;
        self.sign("(")?;
        if self.is_sign("(") {
            table.partition_key = self.list(("(", ")"), Self::name)?;
        } else {
            table.partition_key.push(self.name()?);
        }
        while self.skip(",") {
            let column = self.name()?;
            table.clustering.push(column);
        }
        self.sign(")")
    }

    fn table_option(&mut self, table: &mut CreateTable) -> Parse<()> {
        if self.skip_words(&["compact", "storage"]) {
            table.compact_storage = true;
        } else if self.skip_words(&["clustering", "order", "by"]) {
            table.order = self.list(("(", ")"), Self::ordering)?;
        } else {
            let property = self.property()?;
            table.properties.push(property);
        }
        Ok(())
    }

    pub(super) fn alter(&mut self) -> Parse<Statement> {
        self.word("alter")?;
        if let Some(refused) = self.refused() {
            return Ok(refused);
        }
        if let Some(statement) = self.role_statement("alter")? {
            return Ok(statement);
        }
        if self.skip_word("keyspace") || self.skip_word("schema") {
            let if_exists = self.if_exists();
            let name = self.name()?;
            self.word("with")?;
            let properties = self.properties()?;
            return Ok(Statement::AlterKeyspace { name, if_exists, properties });
        }
        if self.skip_word("table") || self.skip_word("columnfamily") {
            let if_exists = self.if_exists();
            let table = self.full_name()?;
            let change = self.alter_table()?;
            return Ok(Statement::AlterTable { table, if_exists, change });
        }
        if self.skip_word("type") {
            let if_exists = self.if_exists();
            let name = self.full_name()?;
            let change = if self.skip_word("add") {
                let if_not_exists = self.if_not_exists();
                AlterType::Add { fields: self.separated(Self::field)?, if_not_exists }
            } else if self.skip_word("rename") {
                let if_exists = self.if_exists();
                AlterType::Rename { names: self.renames()?, if_exists }
            } else {
                return Err(self.unexpected("ADD or RENAME"));
            };
            return Ok(Statement::AlterType { name, if_exists, change });
        }
        Err(self.unexpected("KEYSPACE, TABLE, TYPE or ROLE"))
    }

    fn renames(&mut self) -> Parse<Vec<(String, String)>> {
        let mut out = Vec::new();
        loop {
            let old = self.name()?;
            self.word("to")?;
            out.push((old, self.name()?));
            if !self.skip_word("and") {
                return Ok(out);
            }
        }
    }

    fn alter_table(&mut self) -> Parse<AlterTable> {
        if self.skip_word("add") {
            let if_not_exists = self.if_not_exists();
            let columns = if self.is_sign("(") {
                self.list(("(", ")"), Self::column_def)?
            } else {
                self.separated(Self::column_def)?
            };
            return Ok(AlterTable::Add { columns, if_not_exists });
        }
        if self.skip_word("drop") {
            let if_exists = self.if_exists();
            if self.is_words(&["compact", "storage"]) {
                return Err(self.refusal("no table here has COMPACT STORAGE"));
            }
            let columns = if self.is_sign("(") {
                self.list(("(", ")"), Self::name)?
            } else {
                self.separated(Self::name)?
            };
            return Ok(AlterTable::Drop { columns, if_exists });
        }
        if self.skip_word("rename") {
            let if_exists = self.if_exists();
            return Ok(AlterTable::Rename { names: self.renames()?, if_exists });
        }
        if self.skip_word("with") {
            return Ok(AlterTable::With(self.properties()?));
        }
        if self.skip_word("alter") {
            self.name()?;
            if self.is_word("masked") || self.is_words(&["drop", "masked"]) {
                return Err(self.refusal(MASKS));
            }
            self.word("type")?;
            self.raw_type()?;
            return Ok(AlterTable::Retype);
        }
        Err(self.unexpected("ADD, DROP, RENAME or WITH"))
    }

    pub(super) fn drop_statement(&mut self) -> Parse<Statement> {
        self.word("drop")?;
        if let Some(refused) = self.refused() {
            return Ok(refused);
        }
        if let Some(statement) = self.role_statement("drop")? {
            return Ok(statement);
        }
        if self.skip_word("keyspace") || self.skip_word("schema") {
            let if_exists = self.if_exists();
            return Ok(Statement::DropKeyspace { name: self.name()?, if_exists });
        }
        if self.skip_word("table") || self.skip_word("columnfamily") {
            let if_exists = self.if_exists();
            return Ok(Statement::DropTable { table: self.full_name()?, if_exists });
        }
        if self.skip_word("type") {
            let if_exists = self.if_exists();
            return Ok(Statement::DropType { name: self.full_name()?, if_exists });
        }
        if self.skip_word("index") {
            let if_exists = self.if_exists();
            return Ok(Statement::DropIndex { name: self.full_name()?, if_exists });
        }
        Err(self.unexpected("KEYSPACE, TABLE, TYPE, INDEX or ROLE"))
    }
}
