//! A consistency level, made concrete for the replicas of one partition.

use std::collections::BTreeMap;

use super::majority;
use crate::plants::{Plant, planted};
use crate::types::{Consistency, NodeId};

/// A replica, as far as counting is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaInfo<'a> {
    /// Which node it is.
    pub node: NodeId,
    /// Where it stands.
    pub datacenter: &'a str,
}

/// So many answers out of these nodes.
///
/// Invariants: the nodes are distinct; `1 ≤ required ≤ nodes.len()`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quota {
    datacenter: Option<String>,
    nodes: Vec<NodeId>,
    required: usize,
}

impl Quota {
    /// The datacentre that this quota is about, when it is about one.
    #[must_use]
    pub fn datacenter(&self) -> Option<&str> {
        self.datacenter.as_deref()
    }

    /// The nodes that count, in preference order.
    #[must_use]
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// How many of them must answer.
    #[must_use]
    pub fn required(&self) -> usize {
        self.required
    }
}

/// Why a level makes no sense for an operation here, whoever is alive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// ANY, on a read.
    #[error("level {level} is for writes only: a hint cannot be read; use one")]
    WritesOnly {
        /// The level.
        level: Consistency,
    },
    /// SERIAL or LOCAL_SERIAL, where no Paxos is run.
    #[error("level {level} is for conditional writes and serial reads only")]
    Serial {
        /// The level.
        level: Consistency,
    },
    /// A count of 0.
    #[error("level 0 asks no replica: ask for at least 1")]
    Zero,
    /// More replicas than the key has.
    #[error("level {level} needs {required} replicas, and this key has {replicas}")]
    MoreThanReplicas {
        /// The level.
        level: Consistency,
        /// How many it asks for.
        required: usize,
        /// How many there are.
        replicas: usize,
    },
    /// A local level in a datacentre that keeps no replica of the key.
    #[error(
        "level {level} needs a replica in this node's datacentre {datacenter:?}, which keeps none"
    )]
    NoLocalReplicas {
        /// The level.
        level: Consistency,
        /// The coordinator's datacentre.
        datacenter: String,
    },
}

/// What one operation needs: all of its quotas.
///
/// Invariant: there is at least one quota.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    quotas: Vec<Quota>,
    is_write: bool,
    hint_suffices: bool,
}

impl Requirement {
    /// What a read at `level` needs of `replicas` (the read set), for a coordinator in
    /// `local_dc`.
    ///
    /// # Errors
    /// [`LevelError`] when no read at this level can ever be served here.
    pub fn for_read(
        level: Consistency,
        replicas: &[ReplicaInfo],
        local_dc: &str,
    ) -> Result<Self, LevelError> {
        if level == Consistency::Any {
            return Err(LevelError::WritesOnly { level });
        }
        let mut quotas = quotas(level, replicas, local_dc)?;
        if planted(Plant::P13) {
            for quota in &mut quotas {
                quota.required = (quota.required - 1).max(1);
            }
        }
        Ok(Self { quotas, is_write: false, hint_suffices: false })
    }

    /// What a write at `level` needs of `replicas` (the write set), for a coordinator in
    /// `local_dc`.
    ///
    /// # Errors
    /// [`LevelError`] when no write at this level can ever be served here.
    pub fn for_write(
        level: Consistency,
        replicas: &[ReplicaInfo],
        local_dc: &str,
    ) -> Result<Self, LevelError> {
        let quotas = quotas(level, replicas, local_dc)?;
        Ok(Self { quotas, is_write: true, hint_suffices: level == Consistency::Any })
    }

    /// Both this and `other`, each counted apart: for a partition that moves, the level over the
    /// old set and over the new one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.quotas.extend(other.quotas);
        self.is_write |= other.is_write;
        self.hint_suffices &= other.hint_suffices;
        self
    }

    /// The quotas, all of which must be met.
    #[must_use]
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// How many answers are needed, summed over the quotas.
    #[must_use]
    pub fn required(&self) -> usize {
        self.quotas.iter().map(|quota| quota.required).sum()
    }

    /// How many of the needed answers `alive` nodes could give, summed over the quotas: it equals
    /// [`required`](Self::required) exactly when they suffice. The number for "unavailable".
    #[must_use]
    pub fn available(&self, alive: &[NodeId]) -> usize {
        self.count(|node| alive.contains(&node))
    }

    /// True when the requirement can be met by `alive` nodes (level ANY: always, as the
    /// coordinator itself can keep a hint).
    #[must_use]
    pub fn alive_suffices(&self, alive: &[NodeId]) -> bool {
        self.suffices(|node| alive.contains(&node))
    }

    /// True when the requirement is met by the answers of the nodes with `has`.
    #[must_use]
    pub fn suffices(&self, has: impl Fn(NodeId) -> bool) -> bool {
        self.hint_suffices || self.count(has) == self.required()
    }

    /// True when one stored hint is enough (level ANY).
    #[must_use]
    pub fn hint_suffices(&self) -> bool {
        self.hint_suffices
    }

    /// True when any answers that meet this requirement and any that meet `other` have a replica
    /// in common: a read then sees what a write left. What is said of one quota holds of any two,
    /// and of the wholes; [`overlap`](super::overlap) is the case of one quota each over the same
    /// replicas. Never true of a requirement that a hint alone can meet.
    #[must_use]
    pub fn always_meets(&self, other: &Self) -> bool {
        if self.hint_suffices || other.hint_suffices {
            return false;
        }
        let all = |requirement: &Self| {
            let nodes = requirement.quotas.iter().flat_map(|quota| quota.nodes.iter().copied());
            let mut distinct: Vec<NodeId> = nodes.clone().collect();
            distinct.sort_unstable();
            distinct.dedup();
            // Quotas that share nodes may be met by fewer nodes than their sum.
            let disjoint = distinct.len() == nodes.count();
            disjoint.then(|| (distinct, requirement.required()))
        };
        let parts = |requirement: &Self| {
            let quotas = requirement.quotas.iter().map(|q| (q.nodes.clone(), q.required));
            quotas.chain(all(requirement)).collect::<Vec<_>>()
        };
        let others = parts(other);
        parts(self).iter().any(|a| others.iter().any(|b| must_share(a, b)))
    }

    pub(super) fn is_write(&self) -> bool {
        self.is_write
    }

    /// How many needed answers the nodes with `has` give. What one quota has too many does not
    /// help another.
    pub(super) fn count(&self, has: impl Fn(NodeId) -> bool) -> usize {
        let met = |quota: &Quota| {
            quota.nodes.iter().filter(|&&node| has(node)).count().min(quota.required)
        };
        self.quotas.iter().map(met).sum()
    }
}

/// True when `a.1` of the nodes `a.0` and `b.1` of the nodes `b.0` cannot be chosen apart.
fn must_share(a: &(Vec<NodeId>, usize), b: &(Vec<NodeId>, usize)) -> bool {
    let both = a.0.iter().filter(|node| b.0.contains(node)).count();
    // As many as possible outside of what both have, the rest inside.
    let inside =
        |(nodes, required): &(Vec<NodeId>, usize)| required.saturating_sub(nodes.len() - both);
    inside(a) + inside(b) > both
}

/// The level's definition.
fn quotas(
    level: Consistency,
    replicas: &[ReplicaInfo],
    local_dc: &str,
) -> Result<Vec<Quota>, LevelError> {
    use Consistency as C;
    let everywhere = || nodes_of(replicas.iter());
    let local = || {
        let nodes = nodes_of(replicas.iter().filter(|replica| replica.datacenter == local_dc));
        if nodes.is_empty() {
            return Err(LevelError::NoLocalReplicas { level, datacenter: local_dc.to_owned() });
        }
        Ok(nodes)
    };
    let of_all = |required: usize| one_quota(level, everywhere(), required);
    match level {
        C::Any | C::One => of_all(1),
        C::Two => of_all(2),
        C::Three => of_all(3),
        C::Count(0) => Err(LevelError::Zero),
        C::Count(n) => of_all(usize::from(n)),
        C::Quorum => {
            let nodes = everywhere();
            let required = majority(nodes.len());
            one_quota(level, nodes, required)
        }
        C::All => {
            let nodes = everywhere();
            let required = nodes.len().max(1);
            one_quota(level, nodes, required)
        }
        C::LocalOne => Ok(vec![in_datacenter(local_dc, local()?, |_| 1)]),
        C::LocalQuorum => Ok(vec![in_datacenter(local_dc, local()?, majority)]),
        C::EachQuorum => each_quorum(level, replicas),
        C::Serial | C::LocalSerial => Err(LevelError::Serial { level }),
    }
}

fn one_quota(
    level: Consistency,
    nodes: Vec<NodeId>,
    required: usize,
) -> Result<Vec<Quota>, LevelError> {
    if required > nodes.len() {
        return Err(LevelError::MoreThanReplicas { level, required, replicas: nodes.len() });
    }
    Ok(vec![Quota { datacenter: None, nodes, required }])
}

fn in_datacenter(name: &str, nodes: Vec<NodeId>, required: fn(usize) -> usize) -> Quota {
    Quota { datacenter: Some(name.to_owned()), required: required(nodes.len()), nodes }
}

fn each_quorum(level: Consistency, replicas: &[ReplicaInfo]) -> Result<Vec<Quota>, LevelError> {
    if replicas.is_empty() {
        return Err(LevelError::MoreThanReplicas { level, required: 1, replicas: 0 });
    }
    let mut by_datacenter: BTreeMap<&str, Vec<&ReplicaInfo>> = BTreeMap::new();
    for replica in replicas {
        by_datacenter.entry(replica.datacenter).or_default().push(replica);
    }
    let quota = |(name, replicas): (&str, Vec<&ReplicaInfo>)| {
        in_datacenter(name, nodes_of(replicas.into_iter()), majority)
    };
    Ok(by_datacenter.into_iter().map(quota).collect())
}

/// Their nodes, each once.
fn nodes_of<'a>(replicas: impl Iterator<Item = &'a ReplicaInfo<'a>>) -> Vec<NodeId> {
    let mut nodes = Vec::with_capacity(replicas.size_hint().1.unwrap_or(0));
    for replica in replicas {
        if !nodes.contains(&replica.node) {
            nodes.push(replica.node);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes 1, 2, 3 in "east", 4, 5 in "west", as far as `n` goes.
    fn replicas(n: u128) -> Vec<ReplicaInfo<'static>> {
        let datacenter = |i| if i <= 3 { "east" } else { "west" };
        (1..=n).map(|i| ReplicaInfo { node: NodeId(i), datacenter: datacenter(i) }).collect()
    }

    /// `required of how many` per quota.
    fn numbers(requirement: &Requirement) -> Vec<(usize, usize)> {
        requirement.quotas().iter().map(|q| (q.required(), q.nodes().len())).collect()
    }

    #[test]
    fn each_level_asks_what_its_definition_says() {
        use Consistency as C;
        /// Per quota: how many of how many.
        type Quotas = &'static [(usize, usize)];
        // By level: for 1 … 5 replicas, the coordinator in "east".
        let table: &[(C, [Quotas; 5])] = &[
            (C::One, [&[(1, 1)], &[(1, 2)], &[(1, 3)], &[(1, 4)], &[(1, 5)]]),
            (C::Quorum, [&[(1, 1)], &[(2, 2)], &[(2, 3)], &[(3, 4)], &[(3, 5)]]),
            (C::All, [&[(1, 1)], &[(2, 2)], &[(3, 3)], &[(4, 4)], &[(5, 5)]]),
            (C::LocalOne, [&[(1, 1)], &[(1, 2)], &[(1, 3)], &[(1, 3)], &[(1, 3)]]),
            (C::LocalQuorum, [&[(1, 1)], &[(2, 2)], &[(2, 3)], &[(2, 3)], &[(2, 3)]]),
            (
                C::EachQuorum,
                [&[(1, 1)], &[(2, 2)], &[(2, 3)], &[(2, 3), (1, 1)], &[(2, 3), (2, 2)]],
            ),
            (C::Count(1), [&[(1, 1)], &[(1, 2)], &[(1, 3)], &[(1, 4)], &[(1, 5)]]),
        ];
        for (level, expected) in table {
            for (n, expected) in (1..).zip(expected) {
                for asked in [Requirement::for_read, Requirement::for_write] {
                    let requirement = asked(*level, &replicas(n), "east").expect("a sound level");
                    assert_eq!(numbers(&requirement), *expected, "{level} of {n}");
                }
            }
        }
    }

    #[test]
    fn more_replicas_than_there_are_is_refused_with_both_numbers() {
        use Consistency as C;
        for (level, required, n) in
            [(C::Two, 2, 1), (C::Three, 3, 2), (C::Count(4), 4, 3), (C::One, 1, 0), (C::All, 1, 0)]
        {
            assert_eq!(
                Requirement::for_read(level, &replicas(n), "east"),
                Err(LevelError::MoreThanReplicas { level, required, replicas: n as usize })
            );
        }
        assert!(Requirement::for_write(C::EachQuorum, &[], "east").is_err());
        assert!(Requirement::for_write(C::Quorum, &[], "east").is_err());
    }

    #[test]
    fn levels_that_make_no_sense_are_refused() {
        use Consistency as C;
        let three = replicas(3);
        assert_eq!(Requirement::for_write(C::Count(0), &three, "east"), Err(LevelError::Zero));
        assert_eq!(
            Requirement::for_read(C::Any, &three, "east"),
            Err(LevelError::WritesOnly { level: C::Any })
        );
        for level in [C::Serial, C::LocalSerial] {
            let refused = Err(LevelError::Serial { level });
            assert_eq!(Requirement::for_read(level, &three, "east"), refused);
            assert_eq!(Requirement::for_write(level, &three, "east"), refused);
        }
        for level in [C::LocalOne, C::LocalQuorum] {
            assert_eq!(
                Requirement::for_read(level, &three, "mars"),
                Err(LevelError::NoLocalReplicas { level, datacenter: "mars".to_owned() })
            );
        }
    }

    #[test]
    fn a_replica_listed_twice_is_one_replica() {
        let mut twice = replicas(3);
        twice.extend(replicas(3));
        let requirement = Requirement::for_read(Consistency::All, &twice, "east").expect("sound");
        assert_eq!(numbers(&requirement), [(3, 3)]);
    }

    #[test]
    fn the_living_of_one_datacentre_do_not_stand_in_for_another() {
        let requirement =
            Requirement::for_write(Consistency::EachQuorum, &replicas(5), "east").expect("sound");
        let east = [1, 2, 3].map(NodeId);
        assert!(!requirement.alive_suffices(&east));
        assert_eq!((requirement.available(&east), requirement.required()), (2, 4));
        assert!(requirement.alive_suffices(&[1, 2, 4, 5].map(NodeId)));
    }

    #[test]
    fn nodes_that_are_no_replicas_do_not_count_as_alive() {
        let requirement =
            Requirement::for_read(Consistency::Two, &replicas(3), "east").expect("sound");
        assert!(!requirement.alive_suffices(&[1, 7, 8, 9].map(NodeId)));
        assert!(!requirement.alive_suffices(&[1, 1].map(NodeId)));
        assert!(requirement.alive_suffices(&[3, 1].map(NodeId)));
    }

    #[test]
    fn any_is_available_while_the_coordinator_is() {
        let requirement =
            Requirement::for_write(Consistency::Any, &replicas(3), "east").expect("sound");
        assert!(requirement.alive_suffices(&[]));
        assert!(requirement.hint_suffices());
    }

    /// By trying all sets of nodes that meet the one with all that meet the other.
    #[test]
    fn requirements_always_meet_exactly_when_no_two_answers_can_be_apart() {
        use Consistency as C;
        let levels = [
            C::One,
            C::Two,
            C::Three,
            C::Quorum,
            C::All,
            C::LocalOne,
            C::LocalQuorum,
            C::EachQuorum,
            C::Count(4),
        ];
        for n in 1..=6 {
            let replicas = replicas(n);
            let nodes: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
            let sets = |requirement: &Requirement| -> Vec<u32> {
                let chosen = |set: u32| {
                    let picked = nodes.iter().enumerate().filter(move |(at, _)| set >> at & 1 == 1);
                    picked.map(|(_, node)| *node).collect::<Vec<_>>()
                };
                (0..1 << n).filter(|&set| requirement.alive_suffices(&chosen(set))).collect()
            };
            for read in levels {
                for write in levels {
                    let Ok(r) = Requirement::for_read(read, &replicas, "east") else { continue };
                    let Ok(w) = Requirement::for_write(write, &replicas, "east") else { continue };
                    let (a, b) = (sets(&r), sets(&w));
                    let meet = a.iter().all(|a| b.iter().all(|b| a & b != 0));
                    assert_eq!(r.always_meets(&w), meet, "{read} and {write} of {n}");
                    assert_eq!(w.always_meets(&r), meet, "{write} and {read} of {n}");
                }
            }
        }
        let any = Requirement::for_write(C::Any, &replicas(1), "east").expect("sound");
        let all = Requirement::for_read(C::All, &replicas(1), "east").expect("sound");
        assert!(!any.always_meets(&all));
    }
}
