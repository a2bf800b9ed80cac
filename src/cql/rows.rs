//! Rows of cells as rows of values, and the keys under which they are stored.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::cql::order;
use crate::cql::relations::partition_values;
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::types::CqlType;
use crate::cql::value;
use crate::record::{Cell, Column as Stored, Row};
use crate::ring::token_of;
use crate::types::WallMicros;

/// A row as a reader sees it, by the places of its columns in the schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowView {
    /// The values.
    pub values: Vec<Option<Bytes>>,
    /// When they were written; none for keys and collections.
    pub stamps: Vec<Option<i64>>,
    /// Seconds that they have left, where they end.
    pub ttls: Vec<Option<i32>>,
    /// The partition's token.
    pub token: i64,
}

impl RowView {
    /// A row of values alone.
    #[must_use]
    pub fn of_values(values: Vec<Option<Bytes>>) -> Self {
        let none = vec![None; values.len()];
        Self { stamps: none.clone(), ttls: vec![None; values.len()], values, token: 0 }
    }

    /// See [`row_tag`].
    #[must_use]
    pub fn tag(&self, schema: &Schema) -> u128 {
        let names = schema.columns().iter().map(|column| column.name.as_str());
        row_tag(names.zip(self.values.iter().map(Option::as_ref)))
    }
}

/// Names what a row shows: two rows of one table have the same tag if they hold the same, however
/// it came there. Columns without a value change nothing.
#[must_use]
pub fn row_tag<'a>(columns: impl Iterator<Item = (&'a str, Option<&'a Bytes>)>) -> u128 {
    let mut shown: Vec<(&str, &Bytes)> =
        columns.filter_map(|(name, value)| Some((name, value?))).collect();
    shown.sort_unstable();
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for (name, value) in shown {
        for part in [name.as_bytes(), value] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.digest128()
}

/// Reads rows of one table at one moment.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The table's columns.
    pub schema: &'a Schema,
    /// The moment, which decides expiry.
    pub now: WallMicros,
}

impl Reader<'_> {
    /// The values of a partition's key, by place; nothing if the bytes are none of this table's.
    #[must_use]
    pub fn key_values(&self, partition: &[u8]) -> Option<Vec<Option<Bytes>>> {
        let mut values: Vec<Option<Bytes>> = vec![None; self.schema.columns().len()];
        if let [_] = self.schema.partition_key() {
            values[0] = Some(Bytes::copy_from_slice(partition));
            return Some(values);
        }
        let key = partition_values(partition, self.schema.partition_key().len())?;
        for (at, value) in key.into_iter().enumerate() {
            values[at] = Some(value.into());
        }
        Some(values)
    }

    /// The row at `clustering`, where `head` is the head of its partition. `None`: there is none.
    #[must_use]
    pub fn row(
        &self,
        partition: &[u8],
        clustering: &[u8],
        head: Option<&Row>,
        row: &Row,
    ) -> Option<RowView> {
        let mut view = RowView::of_values(self.key_values(partition)?);
        view.token = token_of(partition).0;
        self.fill_row(view, clustering, head, row)
    }

    /// The values of [`Reader::row`] alone: what most reads by key show.
    #[must_use]
    pub fn values_of_row(
        &self,
        partition: &[u8],
        clustering: &[u8],
        head: Option<&Row>,
        row: &Row,
    ) -> Option<Vec<Option<Bytes>>> {
        let values = self.key_values(partition)?;
        let bare = RowView { values, stamps: Vec::new(), ttls: Vec::new(), token: 0 };
        self.fill_row(bare, clustering, head, row).map(|view| view.values)
    }

    fn fill_row(
        &self,
        mut view: RowView,
        clustering: &[u8],
        head: Option<&Row>,
        row: &Row,
    ) -> Option<RowView> {
        let start = self.schema.partition_key().len();
        let kinds: Vec<(&CqlType, bool)> = self
            .schema
            .clustering_key()
            .iter()
            .map(|column| {
                let descending = matches!(column.role, Role::Clustering { descending: true, .. });
                (&column.kind, descending)
            })
            .collect();
        for (at, value) in order::read_components(&kinds, clustering)?.into_iter().enumerate() {
            view.values[start + at] = Some(value.into());
        }
        let shadow = head.and_then(|head| head.shadow(clustering)).max(row.deleted());
        let inserted = row.liveness().is_some_and(|liveness| {
            let expired = liveness.expiry.is_some_and(|expiry| expiry.at <= self.now);
            !expired && shadow.is_none_or(|shadow| liveness.stamp > shadow)
        });
        let live = self.fill(&mut view, row, shadow, Role::Regular);
        if let Some(head) = head {
            self.fill(&mut view, head, head.deleted(), Role::Static);
        }
        (inserted || live).then_some(view)
    }

    /// The static columns of a partition as a row without clustering key, if any holds a value.
    #[must_use]
    pub fn static_row(&self, partition: &[u8], head: &Row) -> Option<RowView> {
        let mut view = RowView::of_values(self.key_values(partition)?);
        view.token = token_of(partition).0;
        self.fill(&mut view, head, head.deleted(), Role::Static).then_some(view)
    }

    /// Fills in the columns of one role. True if any holds a value.
    fn fill(&self, view: &mut RowView, row: &Row, shadow: Option<i64>, role: Role) -> bool {
        let mut any = false;
        for (place, column) in self.schema.columns().iter().enumerate() {
            if column.role != role {
                continue;
            }
            let visible = |cell: &Cell| {
                shadow.is_none_or(|shadow| cell.stamp > shadow) && cell.live(self.now).is_some()
            };
            match row.column(column.id) {
                Some(Stored::Cell(cell)) if visible(cell) => {
                    view.values[place] = cell.live(self.now).cloned();
                    // Of values alone there are no others to fill in.
                    if let (Some(stamp), Some(ttl)) =
                        (view.stamps.get_mut(place), view.ttls.get_mut(place))
                    {
                        *stamp = Some(cell.stamp);
                        *ttl = cell.expiry().map(|expiry| {
                            let left = (expiry.at.0.saturating_sub(self.now.0)).div_ceil(1_000_000);
                            i32::try_from(left).unwrap_or(i32::MAX)
                        });
                    }
                }
                Some(Stored::Elements { cells, .. }) => {
                    let live: Vec<(&Bytes, &Bytes)> = cells
                        .iter()
                        .filter(|(_, cell)| visible(cell))
                        .filter_map(|(path, cell)| Some((path, cell.live(self.now)?)))
                        .collect();
                    if !live.is_empty() {
                        view.values[place] = Some(gather(column, live).into());
                    }
                }
                Some(Stored::Cell(_)) | None => {}
            }
            any |= view.values[place].is_some();
        }
        any
    }

    /// The live elements of a list, by path, in order.
    #[must_use]
    pub fn list_elements(
        &self,
        row: &Row,
        head: Option<&Row>,
        clustering: &[u8],
        column: &Column,
    ) -> Vec<(Bytes, Bytes)> {
        let shadow = head.and_then(|head| head.shadow(clustering)).max(row.deleted());
        match row.column(column.id) {
            Some(Stored::Elements { cells, .. }) => cells
                .iter()
                .filter(|(_, cell)| shadow.is_none_or(|shadow| cell.stamp > shadow))
                .filter_map(|(path, cell)| Some((path.clone(), cell.live(self.now)?.clone())))
                .collect(),
            Some(Stored::Cell(_)) | None => Vec::new(),
        }
    }
}

/// Rows of one partition that are written together, by clustering bytes: what their head deletes of
/// the others is written into those too.
///
/// Readers ask for head and rows one after the other, so that they may see the one as it was before
/// a batch and the other as it is after. A row that carries what deletes it is whole by itself.
pub fn carry_deletions(rows: &mut BTreeMap<Vec<u8>, Row>) {
    let Some(head) = rows.remove(&Vec::new()) else { return };
    for (clustering, row) in &mut *rows {
        if let Some(stamp) = head.shadow(clustering) {
            row.delete(stamp);
        }
    }
    rows.insert(Vec::new(), head);
}

/// The value of a collection of these elements, by path.
fn gather(column: &Column, mut live: Vec<(&Bytes, &Bytes)>) -> Vec<u8> {
    match &column.kind {
        // The shares of all who have counted.
        CqlType::Counter => {
            let shares = live.iter().filter_map(|(_, share)| value::integer(share));
            shares.fold(0_i64, i64::wrapping_add).to_be_bytes().to_vec()
        }
        CqlType::Set(inner) => {
            live.sort_by(|a, b| value::compare(inner, a.0, b.0));
            value::collection(&live.iter().map(|(path, _)| *path).collect::<Vec<_>>(), 1)
        }
        CqlType::Map(key, _) => {
            live.sort_by(|a, b| value::compare(key, a.0, b.0));
            let flat: Vec<&Bytes> = live.iter().flat_map(|(path, value)| [*path, *value]).collect();
            value::collection(&flat, 2)
        }
        CqlType::Udt(udt) => {
            let mut out = Vec::new();
            for at in 0..udt.fields.len() {
                let path = field_path(at);
                let field = live.iter().find(|(own, _)| **own == path).map(|(_, value)| &value[..]);
                value::put_field(&mut out, field);
            }
            out
        }
        _ => value::collection(&live.iter().map(|(_, value)| *value).collect::<Vec<_>>(), 1),
    }
}

/// The path of the field at this place of a user type.
#[must_use]
pub fn field_path(at: usize) -> Bytes {
    u16::try_from(at).unwrap_or(u16::MAX).to_be_bytes().to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Content, RangeDeletion};

    #[test]
    fn rows_carry_what_the_head_that_is_written_with_them_deletes() {
        let written = |stamp| {
            let mut row = Row::default();
            let content = Content::Value { bytes: Bytes::from_static(b"v"), expiry: None };
            row.write(1, Cell { stamp, content });
            row
        };
        let (start, end) = (Bytes::from_static(b"b"), Bytes::from_static(b"c"));
        let mut head = Row::default();
        head.delete(5);
        head.delete_range(RangeDeletion { start, end, stamp: 7 });
        let rows =
            [(vec![], head.clone()), (b"a".to_vec(), written(6)), (b"b".to_vec(), written(7))];
        let mut rows = BTreeMap::from(rows);
        carry_deletions(&mut rows);
        assert_eq!(rows[&b""[..]], head);
        let (a, b) = (&rows[&b"a"[..]], &rows[&b"b"[..]]);
        assert_eq!((a.deleted(), a.column(1).is_some()), (Some(5), true));
        assert_eq!((b.deleted(), b.column(1).is_some()), (Some(7), false));
    }
}
