//! Aggregates: rows of a group counted, summed up and averaged, a row at a time.

use bytes::Bytes;

use super::{Expression, Query, value_of};
use crate::cql::number;
use crate::cql::rows::RowView;
use crate::cql::term::Binds;
use crate::cql::types::CqlType;
use crate::cql::value;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aggregate {
    CountAll,
    Count,
    Min,
    Max,
    Sum,
    Avg,
}

/// The type of what an aggregate makes of values of the type `kind`.
///
/// # Errors
/// A sentence for the client.
pub(super) fn aggregate_kind(
    aggregate: Aggregate,
    name: &str,
    kind: &CqlType,
) -> Result<CqlType, String> {
    let is_number = matches!(
        kind,
        CqlType::Tinyint
            | CqlType::Smallint
            | CqlType::Int
            | CqlType::Bigint
            | CqlType::Varint
            | CqlType::Float
            | CqlType::Double
            | CqlType::Decimal
            | CqlType::Counter
    );
    match aggregate {
        Aggregate::CountAll | Aggregate::Count => Ok(CqlType::Bigint),
        Aggregate::Min | Aggregate::Max => Ok(kind.clone()),
        Aggregate::Sum | Aggregate::Avg if is_number => Ok(kind.clone()),
        Aggregate::Sum | Aggregate::Avg => {
            Err(format!("Invalid call to function {name}: {kind} is no number"))
        }
    }
}

impl Query {
    /// Begins to count and sum up.
    #[must_use]
    pub fn accumulator(&self) -> Accumulator<'_> {
        Accumulator { query: self, group: None, states: Vec::new(), any: false }
    }
}

/// Counts and sums of the rows of a group.
#[derive(Debug)]
pub struct Accumulator<'a> {
    query: &'a Query,
    group: Option<Vec<Option<Bytes>>>,
    states: Vec<State>,
    any: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    count: i64,
    /// The sum of whole numbers; of decimals, × 10^`scale`.
    whole: i128,
    scale: i32,
    real: f64,
    best: Option<Bytes>,
}

impl Accumulator<'_> {
    /// Takes in a row. With the result's row of the group before it, if this one begins another.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn push(
        &mut self,
        row: &RowView,
        binds: Binds<'_>,
    ) -> Result<Option<Vec<Option<Bytes>>>, String> {
        let group: Vec<Option<Bytes>> =
            self.query.group_by.iter().map(|place| row.values[*place].clone()).collect();
        let mut done = None;
        if self.group.as_ref().is_some_and(|before| *before != group) {
            done = Some(self.close()?);
        }
        if self.states.is_empty() {
            self.states = vec![State::default(); self.query.expressions.len()];
        }
        self.group = Some(group);
        for (at, expression) in self.query.expressions.iter().enumerate() {
            let value = value_of(expression, row, binds)?;
            let state = &mut self.states[at];
            match expression {
                Expression::Aggregate(Aggregate::CountAll, ..) => state.count += 1,
                Expression::Aggregate(aggregate, _, kind) => {
                    if let Some(value) = value {
                        state.take(*aggregate, kind, value)?;
                    }
                }
                // Of a column that is not summed up, the group's first value is shown.
                _ if state.count == 0 => {
                    state.count = 1;
                    state.best = value;
                }
                _ => {}
            }
        }
        self.any = true;
        Ok(done)
    }

    fn close(&mut self) -> Result<Vec<Option<Bytes>>, String> {
        let states = std::mem::take(&mut self.states);
        self.group = None;
        let pairs = self.query.expressions.iter().zip(states);
        let values = pairs.map(|(expression, state)| match expression {
            Expression::Aggregate(aggregate, _, kind) => state.result(*aggregate, kind),
            _ => Ok(state.best),
        });
        Ok(self.query.shown(values.collect::<Result<_, String>>()?))
    }

    /// The last group's row; without GROUP BY there is one even of no rows.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn finish(mut self) -> Result<Option<Vec<Option<Bytes>>>, String> {
        if self.group.is_none() && (self.any || !self.query.group_by.is_empty()) {
            return Ok(None);
        }
        if self.states.is_empty() {
            self.states = vec![State::default(); self.query.expressions.len()];
        }
        self.close().map(Some)
    }
}

/// `whole` / `parts` (at least 1), rounded to the nearest; halves to the even one, as Cassandra's
/// averages of decimals are.
fn half_even(whole: i128, parts: i128) -> i128 {
    let (down, rest) = (whole.div_euclid(parts), whole.rem_euclid(parts));
    let up = match rest.cmp(&(parts - rest)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => down % 2 != 0,
        std::cmp::Ordering::Greater => true,
    };
    down + i128::from(up)
}

impl State {
    fn take(&mut self, aggregate: Aggregate, kind: &CqlType, value: Bytes) -> Result<(), String> {
        self.count += 1;
        match aggregate {
            Aggregate::CountAll | Aggregate::Count => {}
            Aggregate::Min | Aggregate::Max => {
                let better = self.best.as_ref().is_none_or(|best| {
                    let order = value::compare(kind, &value, best);
                    if aggregate == Aggregate::Min { order.is_lt() } else { order.is_gt() }
                });
                if better {
                    self.best = Some(value);
                }
            }
            Aggregate::Sum | Aggregate::Avg => match kind {
                CqlType::Float | CqlType::Double => {
                    self.real += value::real(&value).unwrap_or_default();
                }
                CqlType::Decimal => {
                    let parts = number::decimal_parts(&value);
                    let parts =
                        parts.and_then(|(scale, bytes)| Some((scale, number::varint_i128(bytes)?)));
                    // The first one's scale may be below 0.
                    let own = (if self.count == 1 { i32::MIN } else { self.scale }, self.whole);
                    let sum = parts.and_then(|parts| number::add_decimals(own, parts));
                    (self.scale, self.whole) = sum.ok_or("the sum has too many digits")?;
                }
                CqlType::Varint => {
                    let whole = number::varint_i128(&value);
                    let sum = whole.and_then(|whole| self.whole.checked_add(whole));
                    self.whole = sum.ok_or("the sum is too large")?;
                }
                _ => self.whole += i128::from(value::integer(&value).unwrap_or_default()),
            },
        }
        Ok(())
    }

    fn result(self, aggregate: Aggregate, kind: &CqlType) -> Result<Option<Bytes>, String> {
        match aggregate {
            Aggregate::CountAll | Aggregate::Count => {
                return Ok(Some(self.count.to_be_bytes().to_vec().into()));
            }
            Aggregate::Min | Aggregate::Max => return Ok(self.best),
            Aggregate::Sum | Aggregate::Avg => {}
        }
        let parts = if aggregate == Aggregate::Avg { self.count.max(1) } else { 1 };
        let (whole, real) = (self.whole / i128::from(parts), self.real / parts as f64);
        // Sums stay in their type, and wrap as Cassandra's do.
        Ok(Some(match kind {
            CqlType::Tinyint => vec![whole as u8].into(),
            CqlType::Smallint => (whole as i16).to_be_bytes().to_vec().into(),
            CqlType::Int => (whole as i32).to_be_bytes().to_vec().into(),
            CqlType::Varint => number::varint_of(whole).into(),
            CqlType::Float => (real as f32).to_be_bytes().to_vec().into(),
            CqlType::Double => real.to_be_bytes().to_vec().into(),
            CqlType::Decimal => {
                number::decimal_of(self.scale, half_even(self.whole, i128::from(parts))).into()
            }
            _ => (whole as i64).to_be_bytes().to_vec().into(),
        }))
    }
}
