//! One row being written: changes of its columns, turned into cells.

use bytes::Bytes;

use super::change::{Change, subtracted};
use super::{Kind, Moment, RowKey};
use crate::cql::ast::Term;
use crate::cql::rows::{Reader, field_path};
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::term::{Binds, Bound, evaluate};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::record::{Cell, Content, Expiry, Row};

/// One row being written.
pub(super) struct Write<'a> {
    pub(super) schema: &'a Schema,
    pub(super) binds: Binds<'a>,
    pub(super) moment: &'a Moment<'a>,
    pub(super) stamp: i64,
    pub(super) expiry: Option<Expiry>,
}

impl Write<'_> {
    fn cell(&self, bytes: impl Into<Bytes>) -> Cell {
        let content = Content::Value { bytes: bytes.into(), expiry: self.expiry };
        Cell { stamp: self.stamp, content }
    }

    fn deleted(&self) -> Cell {
        Cell { stamp: self.stamp, content: Content::Deleted }
    }

    /// Makes a change of one column of a row of this key.
    ///
    /// # Errors
    /// A sentence for the client.
    pub(super) fn change(
        &self,
        kind: Kind,
        row: &mut Row,
        column: &Column,
        change: &Change,
        key: &RowKey,
    ) -> Result<(), String> {
        let id = column.id;
        match change {
            Change::Set(term) => {
                let bound = match kind {
                    Kind::Delete => Bound::Null,
                    Kind::Insert | Kind::Update => evaluate(term, &column.kind, self.binds)?,
                };
                match bound {
                    Bound::Unset => {}
                    Bound::Null
                        if column.kind.is_multicell() || column.kind == CqlType::Counter =>
                    {
                        row.delete_elements(id, self.stamp)
                    }
                    Bound::Null => row.write(id, self.deleted()),
                    Bound::Value(bytes) if column.kind.is_multicell() => {
                        row.delete_elements(id, self.stamp.saturating_sub(1));
                        self.add(row, column, &bytes, false)?;
                    }
                    Bound::Value(bytes) => row.write(id, self.cell(bytes)),
                }
            }
            Change::Append(term) | Change::Prepend(term) => {
                let prepend = matches!(change, Change::Prepend(_));
                if prepend && !matches!(column.kind, CqlType::List(_)) {
                    return Err(format!(
                        "only lists are prepended to, and {} is none",
                        column.name
                    ));
                }
                if let Bound::Value(bytes) = evaluate(term, &column.kind, self.binds)? {
                    self.add(row, column, &bytes, prepend)?;
                }
            }
            Change::Subtract(term) => {
                let wanted = subtracted(&column.kind);
                if let Bound::Value(bytes) = evaluate(term, &wanted, self.binds)? {
                    self.subtract(row, column, &bytes, key);
                }
            }
            Change::Field(at, term) => {
                let CqlType::Udt(udt) = &column.kind else { return Ok(()) };
                let Some((_, of_field)) = udt.fields.get(*at) else { return Ok(()) };
                let cell = match evaluate(term, of_field, self.binds)? {
                    Bound::Unset => return Ok(()),
                    Bound::Null => self.deleted(),
                    Bound::Value(bytes) => self.cell(bytes),
                };
                row.write_element(id, field_path(*at), cell);
            }
            Change::Element(at, term) => self.change_element(kind, row, column, at, term, key)?,
        }
        Ok(())
    }

    fn change_element(
        &self,
        kind: Kind,
        row: &mut Row,
        column: &Column,
        at: &Term,
        term: &Term,
        key: &RowKey,
    ) -> Result<(), String> {
        let (of_key, of_value) = match &column.kind {
            CqlType::Map(of_key, of_value) => ((**of_key).clone(), (**of_value).clone()),
            CqlType::List(inner) => (CqlType::Int, (**inner).clone()),
            CqlType::Set(inner) => ((**inner).clone(), (**inner).clone()),
            _ => return Ok(()),
        };
        let Bound::Value(at) = evaluate(at, &of_key, self.binds)? else {
            return Err(format!("Invalid null value for an element of {}", column.name));
        };
        let path: Bytes = if matches!(column.kind, CqlType::List(_)) {
            let elements = self.list(column, key);
            let index = value::integer(&at).and_then(|at| usize::try_from(at).ok());
            match index.and_then(|index| elements.get(index)) {
                Some((path, _)) => path.clone(),
                None => {
                    return Err(format!(
                        "List index {} out of bound, list has size {}",
                        value::integer(&at).unwrap_or(-1),
                        elements.len()
                    ));
                }
            }
        } else {
            at.into()
        };
        let bound = match kind {
            Kind::Delete => Bound::Null,
            Kind::Insert | Kind::Update => evaluate(term, &of_value, self.binds)?,
        };
        let cell = match bound {
            Bound::Unset => return Ok(()),
            Bound::Null => self.deleted(),
            Bound::Value(bytes) => self.cell(bytes),
        };
        row.write_element(column.id, path, cell);
        Ok(())
    }

    fn list(&self, column: &Column, key: &RowKey) -> Vec<(Bytes, Bytes)> {
        let Some((head, row)) = self.moment.current.get(key) else { return Vec::new() };
        let reader = Reader { schema: self.schema, now: self.moment.now };
        match column.role {
            Role::Static => reader.list_elements(head, None, &[], column),
            _ => reader.list_elements(row, Some(head), &key.1, column),
        }
    }

    /// Writes the elements of a collection's value.
    fn add(
        &self,
        row: &mut Row,
        column: &Column,
        bytes: &[u8],
        prepend: bool,
    ) -> Result<(), String> {
        let wrong = || format!("the value for {} is not sound", column.name);
        let id = column.id;
        match &column.kind {
            CqlType::Set(_) => {
                for item in value::elements(bytes, 1).ok_or_else(wrong)? {
                    row.write_element(id, item.to_vec().into(), self.cell(Bytes::new()));
                }
            }
            CqlType::Map(..) => {
                for pair in value::elements(bytes, 2).ok_or_else(wrong)?.chunks(2) {
                    row.write_element(id, pair[0].to_vec().into(), self.cell(pair[1].to_vec()));
                }
            }
            CqlType::List(_) => {
                let items = value::elements(bytes, 1).ok_or_else(wrong)?;
                for (at, item) in items.into_iter().enumerate() {
                    row.write_element(id, self.list_path(at, prepend), self.cell(item.to_vec()));
                }
            }
            CqlType::Udt(udt) => {
                let fields = value::fields(bytes, udt.fields.len()).ok_or_else(wrong)?;
                for (at, field) in fields.into_iter().enumerate() {
                    if let Some(field) = field {
                        row.write_element(id, field_path(at), self.cell(field.to_vec()));
                    }
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The place of a new element of a list: after all that were appended before this moment, or
    /// before all that were prepended; random bits keep two writers of one moment apart.
    fn list_path(&self, at: usize, prepend: bool) -> Bytes {
        const MIDDLE: u64 = 1 << 63;
        let now = self.moment.order.min(MIDDLE - 1);
        let time = if prepend { MIDDLE - 1 - now } else { MIDDLE + now };
        let random = self.binds.now.uuid();
        let mut path = time.to_be_bytes().to_vec();
        path.extend_from_slice(&u32::try_from(at).unwrap_or(u32::MAX).to_be_bytes());
        path.extend_from_slice(&random[..4]);
        path.into()
    }

    fn subtract(&self, row: &mut Row, column: &Column, bytes: &[u8], key: &RowKey) {
        let items = value::elements(bytes, 1).unwrap_or_default();
        if matches!(column.kind, CqlType::List(_)) {
            for (path, own) in self.list(column, key) {
                if items.contains(&&own[..]) {
                    row.write_element(column.id, path, self.deleted());
                }
            }
            return;
        }
        for item in items {
            row.write_element(column.id, item.to_vec().into(), self.deleted());
        }
    }
}
