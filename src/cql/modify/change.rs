//! What a write does to a column, looked up from its SET, its VALUES or the columns of its DELETE.

use super::place;
use crate::cql::ast::{Target, Term};
use crate::cql::schema::Schema;
use crate::cql::types::CqlType;

/// What happens to a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Set(Term),
    Element(Term, Term),
    Field(usize, Term),
    Append(Term),
    Prepend(Term),
    Subtract(Term),
}

/// What is subtracted from a map are keys.
pub(super) fn subtracted(kind: &CqlType) -> CqlType {
    match kind {
        CqlType::Map(key, _) => CqlType::Set(key.clone()),
        other => other.clone(),
    }
}

/// The place of the column that `target` names, and what `term` makes of it.
///
/// # Errors
/// A sentence for the client.
pub(super) fn assignment(
    schema: &Schema,
    table: &str,
    target: &Target,
    term: &Term,
) -> Result<(usize, Change), String> {
    match target {
        Target::Element(name, key) => {
            let place = place(schema, table, name)?;
            let kind = &schema.columns()[place].kind;
            if !matches!(kind, CqlType::Map(..) | CqlType::List(_) | CqlType::Set(_)) {
                return Err(format!("Invalid element of {name}, which is of type {kind}"));
            }
            if matches!(kind, CqlType::Set(_)) && *term != Term::Null {
                return Err(format!("Invalid operation: {name} is a set"));
            }
            Ok((place, Change::Element(key.clone(), term.clone())))
        }
        Target::Field(name, field) => {
            let place = place(schema, table, name)?;
            let CqlType::Udt(udt) = &schema.columns()[place].kind else {
                return Err(format!("{name} is no user type that is not frozen"));
            };
            let at = udt.fields.iter().position(|(own, _)| own == field);
            let at = at.ok_or_else(|| format!("{} has no field {field}", udt.name))?;
            Ok((place, Change::Field(at, term.clone())))
        }
        Target::Column(name) => {
            let place = place(schema, table, name)?;
            let column = &schema.columns()[place];
            let own = |term: &Term| *term == Term::Column(name.clone());
            let change = match term {
                Term::Sum(left, right) if own(left) => Change::Append((**right).clone()),
                Term::Sum(left, right) if own(right) => Change::Prepend((**left).clone()),
                Term::Difference(left, right) if own(left) => Change::Subtract((**right).clone()),
                other => return Ok((place, Change::Set(other.clone()))),
            };
            let counts = column.kind == CqlType::Counter && !matches!(change, Change::Prepend(_));
            if !counts && (!column.kind.is_collection() || !column.kind.is_multicell()) {
                return Err(format!(
                    "Invalid operation for column {name} of type {}: only collections that are not \
                     frozen, and counters, are added to",
                    column.kind
                ));
            }
            Ok((place, change))
        }
    }
}
