//! How near two vectors are to each other, in Cassandra's numbers (those of Lucene): the nearer, the
//! greater.

use crate::cql::types::CqlType;
use crate::cql::value;

/// A way to tell how near two vectors are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Similarity {
    /// By the angle between them: from 0 (opposite) to 1 (the same direction).
    Cosine,
    /// By the distance between their ends: from 0 (far) to 1 (the same).
    Euclidean,
    /// By their dot product, which is the cosine where both are of length 1.
    DotProduct,
}

/// The numbers of a vector of floats with these bytes; `None`: it is none.
#[must_use]
pub fn floats(kind: &CqlType, bytes: &[u8]) -> Option<Vec<f32>> {
    let CqlType::Vector(inner, len) = kind.thawed() else { return None };
    if **inner != CqlType::Float {
        return None;
    }
    let items = value::vector_elements(inner, *len, bytes)?;
    items.into_iter().map(|item| Some(f32::from_be_bytes(item.try_into().ok()?))).collect()
}

impl Similarity {
    /// The one that the function called `name`, without case and underscores, computes.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "similaritycosine" => Self::Cosine,
            "similarityeuclidean" => Self::Euclidean,
            "similaritydotproduct" => Self::DotProduct,
            _ => return None,
        })
    }

    /// How near `a` and `b` are, which are of the same length. Not a number where that cannot be
    /// said: a vector of zeros has no direction.
    #[must_use]
    pub fn of(self, a: &[f32], b: &[f32]) -> f32 {
        let sum = |part: fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(b).map(|(a, b)| part(f64::from(*a), f64::from(*b))).sum()
        };
        let dot = || sum(|a, b| a * b);
        let similarity = match self {
            Self::Cosine => {
                let lengths = sum(|a, _| a * a).sqrt() * sum(|_, b| b * b).sqrt();
                (1.0 + dot() / lengths) / 2.0
            }
            Self::Euclidean => 1.0 / (1.0 + sum(|a, b| (a - b) * (a - b))),
            Self::DotProduct => (1.0 + dot()) / 2.0,
        };
        similarity as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_those_that_cassandra_computes() {
        let (a, b) = ([3.0, 4.0], [4.0, 3.0]);
        for (similarity, of_both, of_one) in [
            (Similarity::Cosine, 0.98, 1.0),
            (Similarity::Euclidean, 1.0 / 3.0, 1.0),
            (Similarity::DotProduct, 12.5, 13.0),
        ] {
            assert_eq!(similarity.of(&a, &b), of_both, "{similarity:?}");
            assert_eq!(similarity.of(&a, &a), of_one, "{similarity:?}");
        }
        assert_eq!(Similarity::Cosine.of(&a, &[-3.0, -4.0]), 0.0);
        assert!(Similarity::Cosine.of(&a, &[0.0, 0.0]).is_nan());
    }

    #[test]
    fn only_vectors_of_floats_are_vectors_of_floats() {
        let two = CqlType::Vector(Box::new(CqlType::Float), 2);
        let bytes = [1.5f32.to_be_bytes(), (-2f32).to_be_bytes()].concat();
        assert_eq!(floats(&two, &bytes), Some(vec![1.5, -2.0]));
        assert_eq!(floats(&two, &bytes[..7]), None);
        assert_eq!(floats(&CqlType::Vector(Box::new(CqlType::Int), 2), &bytes), None);
        assert_eq!(floats(&CqlType::Blob, &bytes), None);
    }
}
