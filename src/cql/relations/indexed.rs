//! Which restrictions an index answers, and which of its terms they ask for.

use super::{Restriction, Test, Tests, Where, contained};
use crate::cql::ast::Operator;
use crate::cql::index::{Index, IndexPart, hash_of, hash_of_pair};
use crate::cql::schema::Schema;
use crate::cql::types::CqlType;
use crate::types::IndexTerm;

/// The index of this part of the column at `place`.
fn index_of(schema: &Schema, place: usize, part: IndexPart) -> Option<&Index> {
    let column = schema.columns().get(place)?.id;
    schema.indexes().iter().find(|index| index.column == column && index.part == part)
}

/// The index of a column whose value is one.
fn index_of_value(schema: &Schema, place: usize) -> Option<&Index> {
    let index = index_of(schema, place, IndexPart::Value);
    index.or_else(|| index_of(schema, place, IndexPart::Full))
}

impl Restriction {
    /// The index that finds the rows which satisfy it.
    fn index<'a>(&self, schema: &'a Schema) -> Option<&'a Index> {
        match self {
            Self::Compare { place, operator: Operator::Equal, .. } => {
                index_of_value(schema, *place)
            }
            Self::Contains { place, key: true, .. } => index_of(schema, *place, IndexPart::Keys),
            Self::Contains { place, .. } => index_of(schema, *place, IndexPart::Values),
            Self::Element { place, operator: Operator::Equal, .. } => {
                index_of(schema, *place, IndexPart::Entries)
            }
            Self::Compare { .. }
            | Self::Element { .. }
            | Self::In { .. }
            | Self::Token { .. }
            | Self::Multi { .. }
            | Self::MultiIn { .. } => None,
        }
    }
}

impl Test {
    /// See [`Restriction::index`].
    fn index_term(&self, schema: &Schema) -> Option<IndexTerm> {
        let term = |index: &Index, hash| IndexTerm { index: index.id, hash };
        match self {
            Self::Compare { place, operator: Operator::Equal, value } => {
                let kind = &schema.columns().get(*place)?.kind;
                let index = index_of_value(schema, *place)?;
                Some(term(index, hash_of(kind, value)))
            }
            Self::Contains { place, key, value } => {
                let part = if *key { IndexPart::Keys } else { IndexPart::Values };
                let inner = contained(&schema.columns().get(*place)?.kind, *key);
                let index = index_of(schema, *place, part)?;
                Some(term(index, hash_of(&inner, value)))
            }
            Self::Element { place, key, operator: Operator::Equal, value } => {
                let CqlType::Map(of_key, of_value) = schema.columns().get(*place)?.kind.thawed()
                else {
                    return None;
                };
                let index = index_of(schema, *place, IndexPart::Entries)?;
                Some(term(index, hash_of_pair((of_key, of_value), key, value)))
            }
            Self::Compare { .. }
            | Self::Element { .. }
            | Self::In { .. }
            | Self::Token { .. }
            | Self::Multi { .. }
            | Self::MultiIn { .. } => None,
        }
    }
}

impl Where {
    /// True when rows must be read that are then left out, though indexes be asked.
    #[must_use]
    pub fn needs_filtering(&self, schema: &Schema) -> bool {
        let keys = schema.partition_key().len() + schema.clustering_key().len();
        // An index of a key column is not asked where the key itself names partition and slice.
        self.leaves_rows_out(schema)
            && self.without_indexed(schema, keys).leaves_rows_out(schema)
            && self.without_indexed(schema, 0).leaves_rows_out(schema)
    }

    /// Without the restrictions that indexes answer, of columns from the place `first` on.
    fn without_indexed(&self, schema: &Schema, first: usize) -> Self {
        let keeps = |restriction: &&Restriction| match restriction.index(schema) {
            Some(index) => {
                let place = schema.columns().iter().position(|column| column.id == index.column);
                place.is_none_or(|place| place < first)
            }
            None => true,
        };
        Self { restrictions: self.restrictions.iter().filter(keeps).cloned().collect() }
    }
}

impl Tests {
    /// A term that every row which matches has in an index, if one of the tests has an index.
    #[must_use]
    pub fn index_term(&self, schema: &Schema) -> Option<IndexTerm> {
        self.tests.iter().find_map(|test| test.index_term(schema))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql::ast::Statement;
    use crate::cql::functions::Now;
    use crate::cql::index::Index;
    use crate::cql::schema::Role;
    use crate::cql::term::Binds;
    use crate::types::IndexId;

    /// `t (p, q, c, v, w, m)` with an index of q, c, v and the keys, values and entries of m.
    fn schema() -> Schema {
        let map = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Int));
        let columns = vec![
            ("p".to_owned(), CqlType::Int, Role::Partition(0)),
            ("q".to_owned(), CqlType::Int, Role::Partition(1)),
            ("c".to_owned(), CqlType::Int, Role::Clustering { at: 0, descending: false }),
            ("m".to_owned(), map, Role::Regular),
            ("v".to_owned(), CqlType::Int, Role::Regular),
            ("w".to_owned(), CqlType::Int, Role::Regular),
        ];
        let mut schema = Schema::new(columns, [7; 16]);
        let parts = [
            ("q", IndexPart::Value),
            ("c", IndexPart::Value),
            ("v", IndexPart::Value),
            ("m", IndexPart::Keys),
            ("m", IndexPart::Values),
            ("m", IndexPart::Entries),
        ];
        for (at, (name, part)) in parts.into_iter().enumerate() {
            let column = schema.column(name).unwrap().id;
            let id = IndexId(at as u64);
            schema.add_index(Index { id, name: format!("i{at}"), column, part, class: None });
        }
        schema
    }

    fn resolve(schema: &Schema, relations: &str) -> Where {
        let text = format!("SELECT * FROM t WHERE {relations}");
        let Statement::Select(select) = crate::cql::parse(&text).unwrap().statement else {
            panic!("{text}");
        };
        Where::resolve(schema, "t", &select.relations).unwrap()
    }

    #[test]
    fn what_an_index_answers_needs_no_filtering() {
        let schema = schema();
        for (relations, needs) in [
            ("v = 1", false),
            ("q = 1", false),
            ("c = 1", false),
            ("v = 1 AND c = 2", false),
            ("v = 1 AND token(p, q) > 5", false),
            ("p = 1 AND q = 2 AND v = 3", false),
            ("p = 1 AND q = 2 AND c = 3 AND v = 4", false),
            ("m CONTAINS 1", false),
            ("m CONTAINS KEY 'a'", false),
            ("m['a'] = 1", false),
            ("m['a'] = 1 AND w = 1", true),
            ("v > 1", true),
            ("v IN (1, 2)", true),
            ("w = 1", true),
            ("v = 1 AND w = 1", true),
            ("p = 1 AND v = 3", true),
        ] {
            assert_eq!(resolve(&schema, relations).needs_filtering(&schema), needs, "{relations}");
            assert!(
                resolve(&schema, relations).leaves_rows_out(&schema)
                    || relations.starts_with("p = 1 AND q = 2 AND c"),
                "{relations}"
            );
        }
    }

    #[test]
    fn a_restriction_asks_for_the_term_that_its_rows_have() {
        let schema = schema();
        let now = Now::new(1, 1);
        let binds = Binds { values: &[], now: &now };
        let one = 1i32.to_be_bytes();
        let (text, int) = (CqlType::Text, CqlType::Int);
        for (relations, index, hash) in [
            ("w = 5 AND v = 1", 2, hash_of(&int, &one)),
            ("m CONTAINS KEY 'a'", 3, hash_of(&text, b"a")),
            ("m CONTAINS 1", 4, hash_of(&int, &one)),
            ("m['a'] = 1", 5, hash_of_pair((&text, &int), b"a", &one)),
        ] {
            let tests = resolve(&schema, relations).bind(&schema, binds).unwrap();
            let term = IndexTerm { index: IndexId(index), hash };
            assert_eq!(tests.index_term(&schema), Some(term), "{relations}");
        }
        let tests = resolve(&schema, "w = 1").bind(&schema, binds).unwrap();
        assert_eq!(tests.index_term(&schema), None);
    }
}
