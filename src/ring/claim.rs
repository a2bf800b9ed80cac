//! Who owns which partition.
//!
//! Three wishes, in this order; each gives way to those before it.
//!
//! 1. **Balance.** A member's count is its exact share (Q times its part of all capacity) rounded
//!    down or up.
//! 2. **Few moves.** Given the owners before, no claim that keeps balance moves fewer partitions:
//!    only what departed members owned and what some are above their share moves, and whoever
//!    already has the larger of two allowed counts keeps it.
//! 3. **Spread.** Neighbours on the ring are different nodes, on different racks, in different
//!    datacentres, as far as this can be: then a walk clockwise finds its replicas in few steps
//!    and a node's replicas are spread over many others.
//!
//! A first claim deals the partitions out in turn: datacentres take turns, within each its racks,
//! within each its nodes, each by *smooth weighted round robin* (as nginx's upstream balancer
//! does it), which spaces unequal shares evenly and comes out whole after Q turns, so that the
//! wrap from the last partition to the first is as good as the rest. A later claim picks what to
//! move at even distances and gives each to the member that suits its neighbours best. Both then
//! exchange pairs of partitions as long as that spreads better and moves no more.
//!
//! Deterministic, whatever the order of `members`: it must be the same wherever it is computed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Member;
use crate::types::NodeId;

/// What a neighbour at distance 1, 2, … weighs. Steep, so that no two adjacent partitions share a
/// node where that can be had for a few that share one at distance 2.
const NEARNESS: [u32; 4] = [64, 12, 4, 2];

/// Pairs looked at, in all, while exchanging; bounds the time on large rings to well under a second.
const EXCHANGE_BUDGET: usize = 1 << 21;

/// How far from a badly placed partition an exchange is sought.
const EXCHANGE_SCAN: usize = 512;

/// The owner of each of `q` partitions among `members`, moving as little as balance allows
/// against `previous`. A `previous` of another length than `q` counts as none.
///
/// A member with capacity 0 owns nothing, unless all have capacity 0: then all count the same.
/// Without members the result is empty (and no [`RingSnapshot`](super::RingSnapshot) can be made
/// of it).
#[must_use]
pub fn claim(q: u32, members: &[Member], previous: Option<&[NodeId]>) -> Vec<NodeId> {
    let members = in_fixed_order(members);
    if members.is_empty() {
        return Vec::new();
    }
    let index: BTreeMap<NodeId, usize> =
        members.iter().enumerate().map(|(i, m)| (m.id, i)).collect();
    let before: Option<Vec<Option<usize>>> = previous
        .filter(|owners| owners.len() == q as usize)
        .map(|owners| owners.iter().map(|id| index.get(id).copied()).collect());

    let counts =
        before.as_ref().map_or_else(|| vec![0; members.len()], |b| count(b, members.len()));
    let places = places(&members);
    let shares = shares(q as usize, &members, &places, &counts);
    let reach = Reach::new(q as usize, &places, &shares);
    let mut ring = Ring { places, reach, owners: vec![None; q as usize] };
    match &before {
        Some(before) if before.iter().any(Option::is_some) => {
            ring.owners = release(before, counts, &shares);
            ring.fill(&shares);
        }
        _ => ring.deal(&shares),
    }
    ring.exchange(before.as_deref());
    ring.owners.iter().flatten().map(|&i| members[i].id).collect()
}

/// Each member once, in an order that does not depend on how they were listed.
fn in_fixed_order(members: &[Member]) -> Vec<&Member> {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|m| (&m.datacenter, &m.rack, &m.name, m.id));
    let mut seen = BTreeSet::new();
    sorted.retain(|m| seen.insert(m.id));
    sorted
}

fn count(owners: &[Option<usize>], members: usize) -> Vec<usize> {
    let mut counts = vec![0; members];
    for &owner in owners.iter().flatten() {
        counts[owner] += 1;
    }
    counts
}

/// How many partitions each member shall own: its exact share rounded down, and one more for as
/// many as it takes to place all: first to those who have one more already (it saves a move), then
/// to those whose share was cut most, then to datacentres and racks in turn.
fn shares(q: usize, members: &[&Member], places: &[Place], counts: &[usize]) -> Vec<usize> {
    let all_zero = members.iter().all(|m| m.capacity == 0);
    let weight = |m: &Member| if all_zero { 1 } else { u128::from(m.capacity) };
    let total: u128 = members.iter().map(|m| weight(m)).sum();
    let exact = |m: &Member| q as u128 * weight(m);

    let mut shares: Vec<usize> = members.iter().map(|m| (exact(m) / total) as usize).collect();
    let missing = q - shares.iter().sum::<usize>();
    let cut = |i: usize| exact(members[i]) % total;
    let turns = turns(places);
    let mut next: Vec<usize> = (0..members.len()).filter(|&i| cut(i) > 0).collect();
    next.sort_by_key(|&i| (counts[i] <= shares[i], Reverse(cut(i)), turns[i]));
    for &i in next.iter().take(missing) {
        shares[i] += 1;
    }
    shares
}

/// An order in which the first node of each datacentre's first rack comes before that of its
/// second, and each rack's first node before any rack's second.
fn turns(places: &[Place]) -> Vec<(usize, usize, usize)> {
    let mut racks: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    let turn = |place: &Place| {
        let racks = racks.entry(place.datacenter).or_default();
        let nodes = racks.entry(place.rack).or_default();
        *nodes += 1;
        // Members are sorted by rack, so the racks seen so far tell the rack's own number.
        (*nodes, racks.len(), place.datacenter)
    };
    places.iter().map(turn).collect()
}

/// What stays where it was; `None` for each partition that must move. Those that members above
/// their share give up are chosen at even distances, so that whoever gets them is spread well.
fn release(before: &[Option<usize>], counts: Vec<usize>, shares: &[usize]) -> Vec<Option<usize>> {
    let q = before.len();
    let mut surplus: Vec<usize> =
        counts.iter().zip(shares).map(|(c, s)| c.saturating_sub(*s)).collect();
    let departed = before.iter().filter(|owner| owner.is_none()).count();
    let to_move = departed + surplus.iter().sum::<usize>();
    let mut owners = before.to_vec();
    let mut moved = 0;
    for (p, owner) in owners.iter_mut().enumerate() {
        match *owner {
            None => moved += 1,
            Some(i) if surplus[i] > 0 && moved * q < to_move * (p + 1) => {
                surplus[i] -= 1;
                moved += 1;
                *owner = None;
            }
            Some(_) => {}
        }
    }
    // The pace could not always be kept: what is left goes from the far end.
    for owner in owners.iter_mut().rev() {
        if let Some(i) = *owner
            && surplus[i] > 0
        {
            surplus[i] -= 1;
            *owner = None;
        }
    }
    owners
}

/// Where a member stands, as numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    datacenter: usize,
    /// Distinct over all datacentres.
    rack: usize,
}

fn places(members: &[&Member]) -> Vec<Place> {
    let mut datacenters = BTreeMap::new();
    let mut racks = BTreeMap::new();
    let mut place = |m: &&Member| {
        let next = datacenters.len();
        let datacenter = *datacenters.entry(m.datacenter.clone()).or_insert(next);
        let next = racks.len();
        let rack = *racks.entry((datacenter, m.rack.clone())).or_insert(next);
        Place { datacenter, rack }
    };
    members.iter().map(&mut place).collect()
}

/// How far apart two partitions must be to have the same node, rack or datacentre without harm:
/// further than this. One less than there are of them, since n in turn meet again after n; to ask
/// for more would make a ring dealt in perfect turns look bad.
struct Reach {
    node: usize,
    rack: usize,
    datacenter: usize,
}

impl Reach {
    fn new(q: usize, places: &[Place], shares: &[usize]) -> Self {
        let owning = || places.iter().zip(shares).filter(|(_, share)| **share > 0).map(|(p, _)| p);
        let distinct = |of: fn(&Place) -> usize| owning().map(of).collect::<BTreeSet<_>>().len();
        let among = |n: usize| n.saturating_sub(1).min(NEARNESS.len()).min((q - 1).div_ceil(2));
        Self {
            node: among(owning().count()),
            rack: among(distinct(|place| place.rack)),
            datacenter: among(distinct(|place| place.datacenter)),
        }
    }
}

/// A claim in the making: members are indices, `None` is a partition not yet given.
struct Ring {
    places: Vec<Place>,
    reach: Reach,
    owners: Vec<Option<usize>>,
}

impl Ring {
    /// Deals all partitions out, `shares[i]` of them to member i.
    fn deal(&mut self, shares: &[usize]) {
        let mut by_datacenter: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for (i, place) in self.places.iter().enumerate() {
            let racks = by_datacenter.entry(place.datacenter).or_default();
            racks.entry(place.rack).or_default().push(i);
        }
        let datacenters = by_datacenter.into_values().map(|racks| {
            let racks = racks
                .into_values()
                .map(|nodes| Turns::new(nodes.into_iter().map(|i| (shares[i], i)).collect()));
            Turns::new(racks.map(|rack| (rack.total(), rack)).collect())
        });
        let mut turns = Turns::new(datacenters.map(|dc| (dc.total(), dc)).collect());
        for owner in &mut self.owners {
            *owner = turns.next().and_then(Turns::next).and_then(Turns::next).copied();
        }
    }

    /// Gives each free partition to the member below its share that suits the place best.
    fn fill(&mut self, shares: &[usize]) {
        let counts = count(&self.owners, self.places.len());
        let mut missing: Vec<usize> =
            shares.iter().zip(counts).map(|(s, c)| s.saturating_sub(c)).collect();
        for p in 0..self.owners.len() {
            if self.owners[p].is_some() {
                continue;
            }
            let candidates = (0..missing.len()).filter(|&i| missing[i] > 0);
            let best =
                candidates.min_by_key(|&i| (self.crowding(p, i, None), Reverse(missing[i]), i));
            if let Some(i) = best {
                missing[i] -= 1;
                self.owners[p] = Some(i);
            }
        }
    }

    /// Exchanges the owners of two partitions wherever that spreads better and does not put more
    /// partitions on a new owner. Counts do not change by it, so balance cannot suffer.
    fn exchange(&mut self, before: Option<&[Option<usize>]>) {
        let q = self.owners.len();
        let moved = |p: usize, owner: Option<usize>| before.is_some_and(|b| b[p] != owner);
        let mut budget = EXCHANGE_BUDGET;
        let mut better = true;
        while better {
            better = false;
            for p in 0..q {
                if !self.is_crowded(p) {
                    continue;
                }
                for distance in 1..q.min(EXCHANGE_SCAN) {
                    if budget == 0 {
                        return;
                    }
                    budget -= 1;
                    let other = (p + distance) % q;
                    let (a, b) = (self.owners[p], self.owners[other]);
                    let more_moves = usize::from(moved(p, b)) + usize::from(moved(other, a))
                        > usize::from(moved(p, a)) + usize::from(moved(other, b));
                    if a != b && !more_moves && self.exchange_if_better(p, other) {
                        better = true;
                        break;
                    }
                }
            }
        }
    }

    fn exchange_if_better(&mut self, p: usize, other: usize) -> bool {
        let cost = |ring: &Self| {
            let at = |x: usize, skip: Option<usize>| {
                ring.owners[x].map_or(0, |owner| ring.crowding(x, owner, skip))
            };
            // The pair's own closeness is counted once.
            at(p, None) + at(other, Some(p))
        };
        let now = cost(self);
        self.owners.swap(p, other);
        if cost(self) < now {
            return true;
        }
        self.owners.swap(p, other);
        false
    }

    /// How badly `owner` would stand at partition `p`: a neighbour on the same node weighs more
    /// than all on the same rack, and those more than all in the same datacentre; the nearer the
    /// heavier. The neighbour `skip` is left out.
    fn crowding(&self, p: usize, owner: usize, skip: Option<usize>) -> u32 {
        let q = self.owners.len();
        let mine = self.places[owner];
        let mut sum = 0;
        for (distance, nearness) in (1..=self.reach.node).zip(NEARNESS) {
            for neighbour in [(p + distance) % q, (p + q - distance) % q] {
                let Some(other) = self.owners[neighbour].filter(|_| Some(neighbour) != skip) else {
                    continue;
                };
                let theirs = self.places[other];
                sum += nearness
                    * if other == owner {
                        10_000
                    } else if theirs.rack == mine.rack && distance <= self.reach.rack {
                        100
                    } else {
                        let near = distance <= self.reach.datacenter;
                        u32::from(theirs.datacenter == mine.datacenter && near)
                    };
            }
        }
        sum
    }

    /// True when an exchange should be sought for `p`.
    fn is_crowded(&self, p: usize) -> bool {
        self.owners[p].is_some_and(|owner| self.crowding(p, owner, None) > 0)
    }
}

/// Smooth weighted round robin: over `total` turns each item comes up as often as its weight
/// says, its turns spaced as evenly as the others allow.
struct Turns<T> {
    items: Vec<Turn<T>>,
}

struct Turn<T> {
    weight: i64,
    credit: i64,
    item: T,
}

impl<T> Turns<T> {
    fn new(items: Vec<(usize, T)>) -> Self {
        let turn = |(weight, item)| Turn { weight: weight as i64, credit: 0, item };
        Self { items: items.into_iter().map(turn).collect() }
    }

    fn total(&self) -> usize {
        self.items.iter().map(|turn| turn.weight as usize).sum()
    }

    /// Everyone earns its weight; the richest has the turn and pays for all.
    fn next(&mut self) -> Option<&mut T> {
        let total = self.total() as i64;
        for turn in &mut self.items {
            turn.credit += turn.weight;
        }
        // The first of the richest; `max_by_key` alone would take the last.
        let richest =
            self.items.iter_mut().rev().filter(|t| t.weight > 0).max_by_key(|t| t.credit)?;
        richest.credit -= total;
        Some(&mut richest.item)
    }
}

#[cfg(test)]
mod tests;
