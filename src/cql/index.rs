//! Secondary indexes: what they are of, which terms a stored row has in them, and which term a
//! restriction asks for. Pure.
//!
//! An index maps a *term*, the hash of a value, to the rows that hold the value. It is kept by each
//! replica for its own rows and by nobody else ([`crate::replica`]), so a term is a function of the
//! stored row alone: no clock decides it (an expired cell keeps its term until it is gone), and no
//! other row (what a partition's head deletes keeps its terms). Rows found by a term are
//! *candidates*: whoever asked reads them at its own level and tests them again. Hence a hash that
//! two values share costs a look, and never an answer.
//!
//! That no row is missed follows from how cells merge. A row that matches has a newest cell with
//! the value; of the replicas that answer, one holds that cell and no newer one, so in its own row
//! the cell stands, and with it the term.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::cql::order;
use crate::cql::relations::partition_values;
use crate::cql::schema::{Column, Role, Schema};
use crate::cql::types::{CqlType, quote};
use crate::cql::value;
use crate::record::{Cell, Column as Stored, Content, Row};
use crate::types::{IndexId, IndexTerm, Key};

/// The most indexes of a table: each is looked after by every write.
pub const MAX_INDEXES: usize = 32;

/// What of a column is indexed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum IndexPart {
    /// The value of a column that holds one value; `col = …`.
    Value,
    /// A whole frozen collection: `full(col)`; `col = …`.
    Full,
    /// The keys of a map: `keys(col)`; `col CONTAINS KEY …`.
    Keys,
    /// The elements of a list or set, the values of a map: `values(col)`; `col CONTAINS …`.
    Values,
    /// The pairs of a map: `entries(col)`; `col[…] = …`.
    Entries,
}

impl IndexPart {
    /// The word around the column's name, where there is one.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Value => None,
            Self::Full => Some("full"),
            Self::Keys => Some("keys"),
            Self::Values => Some("values"),
            Self::Entries => Some("entries"),
        }
    }
}

/// An index of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// The entry of the metadata log that made it: never used again, so that nothing which an
    /// older index left behind is taken for its own.
    pub id: IndexId,
    /// Its name, unique in its keyspace.
    pub name: String,
    /// The id of the column.
    pub column: u16,
    /// What of the column.
    pub part: IndexPart,
    /// The class that `USING` named. All are carried out alike.
    pub class: Option<String>,
}

impl Index {
    /// What it is of, as CQL has it: `v`, `keys(m)`. Empty once its column is gone.
    #[must_use]
    pub fn target(&self, schema: &Schema) -> String {
        let column = schema.columns().iter().find(|column| column.id == self.column);
        column.map_or_else(String::new, |column| Target(self.part, &column.name).to_string())
    }
}

/// A column's name and what of it, as CQL has it.
#[derive(Debug)]
pub struct Target<'a>(pub IndexPart, pub &'a str);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.word() {
            Some(word) => write!(f, "{word}({})", quote(self.1)),
            None => f.write_str(&quote(self.1)),
        }
    }
}

/// What an index of `column` is of, where the statement says `asked` (`None`: the column alone).
///
/// # Errors
/// A sentence for the client: such an index cannot be.
pub fn part_of(
    schema: &Schema,
    column: &Column,
    asked: Option<IndexPart>,
) -> Result<IndexPart, String> {
    let (name, kind) = (&column.name, &column.kind);
    let frozen = matches!(kind, CqlType::Frozen(_)) && kind.is_collection();
    let collection = kind.is_collection() && !frozen;
    let part = match asked {
        None | Some(IndexPart::Value) if collection => IndexPart::Values,
        None | Some(IndexPart::Value | IndexPart::Values) if frozen => {
            return Err(format!(
                "Cannot create values() index on frozen column {name}. Frozen collections are \
                 immutable and must be fully indexed by using the 'full({name})' modifier"
            ));
        }
        None => IndexPart::Value,
        Some(part) => part,
    };
    let fits = match part {
        IndexPart::Value => !kind.is_collection(),
        IndexPart::Full => frozen,
        IndexPart::Values => collection,
        IndexPart::Keys | IndexPart::Entries => collection && matches!(kind, CqlType::Map(..)),
    };
    if !fits {
        let word = part.word().unwrap_or_default();
        return Err(format!("Cannot create {word}() index on {name}: it is {kind}"));
    }
    if matches!(kind, CqlType::Udt(_)) {
        return Err(format!(
            "Cannot create index on non-frozen UDT column {name}: only a frozen one is one value"
        ));
    }
    let refused = match column.role {
        Role::Static => Some(
            "static columns cannot be indexed: a row would be found by the value of its partition",
        ),
        Role::Partition(_) if schema.partition_key().len() == 1 => {
            Some("it is the only partition key column, which is found without an index")
        }
        _ if holds(kind, &CqlType::Duration) => Some("durations have no order and no one form"),
        _ if holds(kind, &CqlType::Counter) => Some("counters cannot be indexed"),
        _ => None,
    };
    match refused {
        Some(why) => Err(format!("Cannot create secondary index on column {name}: {why}")),
        None => Ok(part),
    }
}

fn holds(kind: &CqlType, wanted: &CqlType) -> bool {
    kind == wanted || kind.parts().into_iter().any(|part| holds(part, wanted))
}

/// A value in the one form that all values equal to it have: `1.0` is `1.00`.
fn canonical(out: &mut Vec<u8>, kind: &CqlType, bytes: &[u8]) {
    // What is no value of the type is equal to itself at most; a peer or a disk may hold such.
    match value::validate(kind, bytes) {
        Ok(()) => order::put_component(out, kind, false, bytes),
        Err(_) => out.extend_from_slice(bytes),
    }
}

/// The hash of a value.
#[must_use]
pub fn hash_of(kind: &CqlType, bytes: &[u8]) -> u64 {
    let mut out = Vec::with_capacity(bytes.len() + 4);
    canonical(&mut out, kind, bytes);
    xxh3_64(&out)
}

/// The hash of a pair of a map.
#[must_use]
pub fn hash_of_pair(kinds: (&CqlType, &CqlType), key: &[u8], value: &[u8]) -> u64 {
    let mut out = Vec::with_capacity(key.len() + value.len() + 8);
    canonical(&mut out, kinds.0, key);
    canonical(&mut out, kinds.1, value);
    xxh3_64(&out)
}

/// The terms that the stored row under `key` has in its table's indexes.
#[must_use]
pub fn terms(schema: &Schema, key: &Key, row: &Row) -> BTreeSet<IndexTerm> {
    let mut out = BTreeSet::new();
    for index in schema.indexes() {
        let column = schema.columns().iter().enumerate().find(|(_, c)| c.id == index.column);
        let Some((place, column)) = column else { continue };
        let mut add = |hash| {
            out.insert(IndexTerm { index: index.id, hash });
        };
        match column.role {
            Role::Partition(_) | Role::Clustering { .. } => {
                if row.value_count() > 0
                    && let Some(bytes) = key_value(schema, key, place)
                {
                    add(hash_of(&column.kind, &bytes));
                }
            }
            Role::Regular | Role::Static => match row.column(column.id) {
                Some(Stored::Cell(cell)) => {
                    if let Some(bytes) = content(cell) {
                        add(hash_of(&column.kind, bytes));
                    }
                }
                Some(Stored::Elements { cells, .. }) => {
                    let stand =
                        cells.iter().filter_map(|(path, cell)| Some((path, content(cell)?)));
                    stand
                        .filter_map(|(path, bytes)| element(index.part, &column.kind, path, bytes))
                        .for_each(add);
                }
                None => {}
            },
        }
    }
    out
}

fn content(cell: &Cell) -> Option<&[u8]> {
    match &cell.content {
        Content::Value { bytes, .. } => Some(bytes),
        Content::Deleted => None,
    }
}

/// The hash of an element of a collection: a set's is its path, a map's path its key.
fn element(part: IndexPart, kind: &CqlType, path: &[u8], bytes: &[u8]) -> Option<u64> {
    match (part, kind) {
        (IndexPart::Values, CqlType::Set(inner)) => Some(hash_of(inner, path)),
        (IndexPart::Values, CqlType::List(inner)) => Some(hash_of(inner, bytes)),
        (IndexPart::Values, CqlType::Map(_, value)) => Some(hash_of(value, bytes)),
        (IndexPart::Keys, CqlType::Map(key, _)) => Some(hash_of(key, path)),
        (IndexPart::Entries, CqlType::Map(key, value)) => {
            Some(hash_of_pair((key, value), path, bytes))
        }
        _ => None,
    }
}

/// The value of the key column at `place`; none in a partition's head for a clustering column.
fn key_value(schema: &Schema, key: &Key, place: usize) -> Option<Vec<u8>> {
    let (partition, clustering) = key.row_parts()?;
    let start = schema.partition_key().len();
    if place < start {
        return partition_values(partition, start)?.into_iter().nth(place);
    }
    let kinds: Vec<(&CqlType, bool)> = schema
        .clustering_key()
        .iter()
        .map(|column| {
            (&column.kind, matches!(column.role, Role::Clustering { descending: true, .. }))
        })
        .collect();
    order::read_components(&kinds, clustering)?.into_iter().nth(place - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Liveness;
    use bytes::Bytes;

    fn shop() -> Schema {
        let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Decimal));
        let columns = vec![
            ("p".to_owned(), CqlType::Int, Role::Partition(0)),
            ("q".to_owned(), CqlType::Text, Role::Partition(1)),
            ("c".to_owned(), CqlType::Int, Role::Clustering { at: 0, descending: true }),
            ("v".to_owned(), CqlType::Decimal, Role::Regular),
            ("m".to_owned(), map.clone(), Role::Regular),
            ("f".to_owned(), CqlType::Frozen(Box::new(map)), Role::Regular),
            ("s".to_owned(), CqlType::Int, Role::Static),
        ];
        Schema::new(columns, [7; 16])
    }

    fn with(schema: &mut Schema, parts: &[(&str, IndexPart)]) {
        for (at, (name, part)) in parts.iter().enumerate() {
            let column = schema.column(name).unwrap().id;
            let id = IndexId(at as u64 + 1);
            let name = format!("i{at}");
            schema.add_index(Index { id, name, column, part: *part, class: None });
        }
    }

    fn cell(bytes: &[u8]) -> Cell {
        let content = Content::Value { bytes: Bytes::copy_from_slice(bytes), expiry: None };
        Cell { stamp: 1, content }
    }

    fn decimal(text: &str) -> Vec<u8> {
        crate::cql::number::parse_decimal(text).unwrap()
    }

    fn key(schema: &Schema, clustering: Option<i32>) -> Key {
        let partition =
            crate::cql::relations::partition_bytes(&[&1i32.to_be_bytes()[..], &b"x"[..]]);
        let column = &schema.clustering_key()[0];
        let clustering = clustering.map_or_else(Vec::new, |value| {
            crate::cql::relations::component(column, &value.to_be_bytes())
        });
        Key::of_row(&partition, &clustering).unwrap()
    }

    #[test]
    fn equal_values_have_one_term_whatever_their_bytes() {
        let mut schema = shop();
        with(&mut schema, &[("v", IndexPart::Value), ("m", IndexPart::Entries)]);
        let (v, m) = (schema.column("v").unwrap().id, schema.column("m").unwrap().id);
        let key = key(&schema, Some(5));
        let (mut a, mut b) = (Row::default(), Row::default());
        assert_ne!(decimal("1.0"), decimal("1.00"));
        a.write(v, cell(&decimal("1.0")));
        b.write(v, cell(&decimal("1.00")));
        a.write_element(m, Bytes::from_static(b"k"), cell(&decimal("2")));
        b.write_element(m, Bytes::from_static(b"k"), cell(&decimal("2.0")));
        assert_eq!(terms(&schema, &key, &a), terms(&schema, &key, &b));
        let asked = hash_of(&CqlType::Decimal, &decimal("1.000"));
        assert!(terms(&schema, &key, &a).contains(&IndexTerm { index: IndexId(1), hash: asked }));
        let kinds = (&CqlType::Text, &CqlType::Decimal);
        let pair = hash_of_pair(kinds, b"k", &decimal("2"));
        assert!(terms(&schema, &key, &a).contains(&IndexTerm { index: IndexId(2), hash: pair }));
    }

    #[test]
    fn a_deleted_value_has_no_term_and_an_expired_one_keeps_it() {
        let mut schema = shop();
        with(&mut schema, &[("v", IndexPart::Value)]);
        let v = schema.column("v").unwrap().id;
        let key = key(&schema, Some(5));
        let mut row = Row::default();
        let expiry = Some(crate::record::Expiry { at: crate::types::WallMicros(1), ttl_s: 1 });
        let bytes = Bytes::from(decimal("1"));
        row.write(v, Cell { stamp: 1, content: Content::Value { bytes, expiry } });
        assert_eq!(terms(&schema, &key, &row).len(), 1);
        row.write(v, Cell { stamp: 2, content: Content::Deleted });
        assert!(terms(&schema, &key, &row).is_empty());
    }

    #[test]
    fn key_columns_have_terms_while_anything_of_the_row_stands() {
        let mut schema = shop();
        with(&mut schema, &[("q", IndexPart::Value), ("c", IndexPart::Value)]);
        let mut row = Row::default();
        let (whole, head) = (key(&schema, Some(5)), key(&schema, None));
        assert!(terms(&schema, &whole, &row).is_empty());
        row.insert(Liveness { stamp: 1, expiry: None });
        let found = terms(&schema, &whole, &row);
        let q = IndexTerm { index: IndexId(1), hash: hash_of(&CqlType::Text, b"x") };
        let five = 5i32.to_be_bytes();
        let c = IndexTerm { index: IndexId(2), hash: hash_of(&CqlType::Int, &five) };
        assert_eq!(found, BTreeSet::from([q, c]));
        assert_eq!(terms(&schema, &head, &row), BTreeSet::from([q]));
        row.delete(2);
        assert!(terms(&schema, &whole, &row).is_empty());
    }

    #[test]
    fn what_cannot_be_indexed_is_told_why() {
        let schema = shop();
        let part = |name: &str, asked| part_of(&schema, schema.column(name).unwrap(), asked);
        assert_eq!(part("v", None), Ok(IndexPart::Value));
        assert_eq!(part("m", None), Ok(IndexPart::Values));
        assert_eq!(part("m", Some(IndexPart::Entries)), Ok(IndexPart::Entries));
        assert_eq!(part("f", Some(IndexPart::Full)), Ok(IndexPart::Full));
        assert_eq!(part("q", None), Ok(IndexPart::Value));
        assert!(part("f", None).unwrap_err().contains("full(f)"));
        assert!(part("s", None).unwrap_err().contains("static"));
        assert!(part("m", Some(IndexPart::Full)).is_err());
        assert!(part("v", Some(IndexPart::Keys)).is_err());
    }
}
