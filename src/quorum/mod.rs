//! How many answers are enough. Pure: counting only.
//!
//! # The problem
//!
//! A consistency level is a promise about sets of replicas: a read of R and a write of W out of N
//! share a replica whenever R + W > N ([`overlap`]), and only then does the read see the write.
//! The promise breaks when anything is counted that the level does not mean: one replica twice (a
//! hedge, a retry, the coordinator's own copy), a node that is no replica (a keeper of a hint), a
//! replica of another datacentre, or one of a set that only writes go to.
//!
//! # The idea
//!
//! A [`Requirement`] is the level made concrete for one partition: a list of [`Quota`]s, each "so
//! many of *these* nodes", all of which must be met. One quota does for most levels; there is one
//! per datacentre for EACH_QUORUM. A [`Tally`] hears which node has answered or failed and says
//! one of three things: *pending*, *reached*, or *out of reach*. "Not yet" is never "no".
//!
//! ```text
//!   EACH_QUORUM, replicas a b c in "east", d e f in "west":
//!       2 of {a b c}  and  2 of {d e f}
//!   acks a b d        pending: one more of {e f}
//!   then e f fail     out of reach, though four of six may yet answer
//! ```
//!
//! While a partition moves, its write set is larger than its read set; a write must then satisfy
//! both, each counted apart: [`Requirement::and`].
//!
//! # Source, and where we differ
//!
//! Levels are Cassandra's (`ConsistencyLevel`), with two differences. A majority is of the
//! replicas that the partition *has*, not of the factor that its keyspace asks for, so that one
//! node alone can serve a keyspace of factor 3; as replicas are added, data moves before they
//! count. And a level that can never be met here (more replicas than there are, a local one where
//! nothing is local) is told apart, as a [`LevelError`], from one that cannot be met *now*.
//!
//! Not here: SERIAL and LOCAL_SERIAL (they are Paxos's), and stand-ins for replicas (sloppy
//! quorums: to the tally, an answer of one is the answer of the replica in whose place it was
//! given). One hint counts, for ANY alone.

mod requirement;
mod tally;

pub use requirement::{LevelError, Quota, ReplicaInfo, Requirement};
pub use tally::{Progress, Tally};

/// More than half of `n`.
#[must_use]
pub fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// True when any `r` and any `w` of `n` replicas have one in common.
#[must_use]
pub fn overlap(r: usize, w: usize, n: usize) -> bool {
    r.saturating_add(w) > n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_overlap_exactly_when_they_exceed_n_together() {
        // By trying all pairs of subsets.
        for n in 1..=5u32 {
            for r in 1..=n {
                for w in 1..=n {
                    let of_size = |k: u32| (0u32..1 << n).filter(move |s| s.count_ones() == k);
                    let meet = of_size(r).all(|a| of_size(w).all(|b| a & b != 0));
                    assert_eq!(overlap(r as usize, w as usize, n as usize), meet, "{r} {w} {n}");
                }
            }
        }
    }

    #[test]
    fn two_majorities_always_overlap() {
        for n in 1..100 {
            assert!(overlap(majority(n), majority(n), n));
            assert!(!overlap(majority(n) - 1, majority(n) - 1, n));
        }
    }
}
