//! What a SELECT says of vectors: ORDER BY … ANN OF, and functions of two of them.

use super::{Expression, Query, Resolver, Typed};
use crate::cql::ast::{Select, Selector, Term};
use crate::cql::similarity::Similarity;
use crate::cql::types::CqlType;

/// The most rows that ORDER BY … ANN OF may show, which all stand in memory meanwhile.
pub const MAX_NEAREST: u32 = 1_000;

fn is_of_floats(kind: &CqlType) -> bool {
    matches!(kind.thawed(), CqlType::Vector(inner, _) if **inner == CqlType::Float)
}

impl Resolver<'_> {
    /// A call of the function `name` of two vectors.
    pub(super) fn similarity(
        &self,
        name: &str,
        arguments: &[Selector],
        inside: bool,
    ) -> Result<Typed, String> {
        let wrong = || format!("{name} takes two vectors of floats, of the same length");
        // A literal is of the other one's type.
        let mut typed = Vec::new();
        for argument in arguments {
            typed.push(match argument {
                Selector::Literal(term) if !matches!(term, Term::Cast(..)) => Err(term),
                other => Ok(self.selector(other, inside)?),
            });
        }
        let kinds = typed.iter().flatten().map(|(_, kind, _)| kind.clone());
        let kinds: Vec<CqlType> = kinds.collect();
        let kind = kinds.first().filter(|kind| is_of_floats(kind)).ok_or_else(wrong)?.clone();
        if arguments.len() != 2 || kinds.iter().any(|other| other.thawed() != kind.thawed()) {
            return Err(wrong());
        }
        let (mut labels, mut values) = (Vec::new(), Vec::new());
        for argument in typed {
            let (expression, label) = match argument {
                Ok((expression, _, label)) => (expression, label),
                Err(term) => (Expression::Literal(term.clone(), kind.clone()), term.to_string()),
            };
            labels.push(label);
            values.push((expression, kind.clone()));
        }
        let label = format!("system.{name}({})", labels.join(", "));
        Ok((Expression::Call(name.to_owned(), values), CqlType::Float, label))
    }

    /// The place of the column that ORDER BY … ANN OF names, and the vector.
    pub(super) fn nearest(
        &self,
        query: &Query,
        select: &Select,
    ) -> Result<Option<(usize, Term)>, String> {
        let Some((name, term)) = &select.nearest else { return Ok(None) };
        let place = self.place(name)?;
        let kind = &self.schema.columns()[place].kind;
        if !is_of_floats(kind) {
            return Err(format!("ANN OF is for vectors of floats, and {name} is of type {kind}"));
        }
        if query.is_aggregate() || select.distinct || select.per_partition_limit.is_some() {
            return Err("ANN OF cannot be combined with GROUP BY, aggregates, DISTINCT or PER \
                        PARTITION LIMIT"
                .to_owned());
        }
        if select.limit.is_none() {
            return Err(format!(
                "Use of ANN OF in an ORDER BY clause requires a LIMIT that is not greater than \
                 {MAX_NEAREST}"
            ));
        }
        if !select.allow_filtering && !query.wheres.names_partitions(self.schema) {
            return Err("ANN OF looks at every row that the WHERE lets through, as no index of \
                        vectors is kept: name the partition, or use ALLOW FILTERING"
                .to_owned());
        }
        Ok(Some((place, term.clone())))
    }
}

/// The function of this name, if it is one of two vectors.
pub(super) fn is_similarity(name: &str) -> bool {
    Similarity::named(&crate::cql::functions::plain(name)).is_some()
}
