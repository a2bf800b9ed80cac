use proptest::prelude::*;

use super::*;

fn member(i: usize, datacenter: u8, rack: u8, capacity: u32) -> Member {
    Member {
        id: NodeId::derive("claims", &format!("n{i}")),
        name: format!("n{i}"),
        datacenter: format!("dc{datacenter}"),
        rack: format!("r{rack}"),
        capacity,
    }
}

/// `n` equal nodes, over `racks` racks in turn.
fn equals(n: usize, racks: usize) -> Vec<Member> {
    (0..n).map(|i| member(i, 1, (i % racks) as u8, 1)).collect()
}

fn moves(before: &[NodeId], after: &[NodeId]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

/// How many stretches of `width` partitions, the one over the wrap included, show fewer than
/// `width` different things.
fn repeats<T: Ord>(owners: &[NodeId], width: usize, what: impl Fn(NodeId) -> T) -> usize {
    let distinct = |p: usize| {
        let stretch = (p..p + width).map(|at| what(owners[at % owners.len()]));
        stretch.collect::<BTreeSet<_>>().len()
    };
    (0..owners.len()).filter(|&p| distinct(p) < width).count()
}

fn rack_of(members: &[Member]) -> impl Fn(NodeId) -> String {
    |id| members.iter().find(|m| m.id == id).expect("an owner is a member").rack.clone()
}

#[test]
fn nobody_means_no_owners_and_one_means_one() {
    assert!(claim(8, &[], None).is_empty());
    let one = equals(1, 1);
    assert_eq!(claim(8, &one, None), vec![one[0].id; 8]);
    assert_eq!(claim(1, &equals(3, 1), None).len(), 1);
}

#[test]
fn equal_nodes_follow_each_other_in_turn_over_the_wrap_too() {
    for n in [2, 3, 4, 5, 7, 8, 12] {
        for q in [16, 64, 256, 1024] {
            let owners = claim(q, &equals(n, 1), None);
            assert_eq!(repeats(&owners, 2, |id| id), 0, "{n} nodes, Q = {q}");
            // Three in turn cannot divide a power of two evenly: then two stretches repeat.
            let allowed = if n == 2 { q as usize } else { 2 * usize::from(n == 3) };
            assert!(repeats(&owners, 3, |id| id) <= allowed, "{n} nodes, Q = {q}");
        }
    }
}

#[test]
fn equal_racks_follow_each_other_in_turn() {
    for n in [3, 6, 9, 12] {
        let members = equals(n, 3);
        let owners = claim(256, &members, None);
        let rack = rack_of(&members);
        assert!(repeats(&owners, 2, &rack) <= 1, "{n} nodes");
        assert!(repeats(&owners, 3, &rack) <= 8, "{n} nodes");
        assert!(repeats(&owners, 3, |id| id) <= 2, "{n} nodes");
    }
}

#[test]
fn datacentres_alternate() {
    // With six nodes, 64 partitions do not come out even; then the distance between a node's own
    // partitions is worth more than the alternation.
    for (n, allowed) in [(2, 0), (4, 0), (6, 4), (8, 0)] {
        let members: Vec<Member> = (0..n).map(|i| member(i, (i % 2) as u8, 0, 1)).collect();
        let owners = claim(64, &members, None);
        let datacenter =
            |id| members.iter().find(|m| m.id == id).expect("a member").datacenter.clone();
        assert!(repeats(&owners, 2, datacenter) <= allowed, "{n} nodes");
    }
}

#[test]
fn what_cannot_be_shared_evenly_goes_to_racks_in_turn() {
    // Seven of the nine nodes own two partitions: three on one rack, two on each other one.
    let members = equals(9, 3);
    let owners = claim(16, &members, None);
    let rack = rack_of(&members);
    let mut counts = BTreeMap::new();
    for &owner in &owners {
        *counts.entry(rack(owner)).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [6, 5, 5]);
}

#[test]
fn capacity_is_a_proportion() {
    let members = [member(0, 1, 0, 1), member(1, 1, 0, 2), member(2, 1, 0, 5), member(3, 1, 0, 0)];
    let owners = claim(64, &members, None);
    let count = |i: usize| owners.iter().filter(|&&owner| owner == members[i].id).count();
    assert_eq!([0, 1, 2, 3].map(count), [8, 16, 40, 0]);
}

#[test]
fn without_any_capacity_all_count_the_same() {
    let members: Vec<Member> = (0..4).map(|i| member(i, 1, 0, 0)).collect();
    assert_eq!(claim(64, &members, None), claim(64, &equals(4, 1), None));
}

#[test]
fn a_join_takes_one_share_and_spreads_what_it_takes() {
    let three = claim(256, &equals(3, 3), None);
    let four = claim(256, &equals(4, 3), Some(&three));
    assert_eq!(moves(&three, &four), 64);
    assert_eq!(repeats(&four, 2, |id| id), 0);
    assert!(repeats(&four, 3, |id| id) <= 2);
}

#[test]
fn a_join_undone_restores_the_ring() {
    let three = claim(256, &equals(3, 3), None);
    let four = claim(256, &equals(4, 3), Some(&three));
    assert_eq!(moves(&four, &claim(256, &equals(3, 3), Some(&four))), 64);
}

#[test]
fn a_replaced_node_hands_over_its_partitions_and_no_others() {
    let before = equals(5, 5);
    let mut after = before.clone();
    let gone = std::mem::replace(&mut after[2], member(9, 1, 2, 1));
    let owners = claim(256, &before, None);
    let replaced = claim(256, &after, Some(&owners));
    for (old, new) in owners.iter().zip(&replaced) {
        assert_eq!(*new, if *old == gone.id { after[2].id } else { *old });
    }
}

#[test]
fn a_previous_ring_of_another_size_counts_as_none() {
    let members = equals(3, 1);
    assert_eq!(claim(16, &members, Some(&[members[0].id; 8])), claim(16, &members, None));
}

/// The largest allowed ring ends, and is balanced: the search for a better spread is bounded.
#[test]
fn the_largest_ring_is_claimed_within_the_budget() {
    let members: Vec<Member> =
        (0..50).map(|i| member(i, (i % 2) as u8, (i % 7) as u8, 1 + (i % 3) as u32)).collect();
    let owners = claim(super::super::MAX_PARTITIONS, &members, None);
    assert!(owners.len() == 65_536 && balanced(&owners, &members));
}

/// Each count is the exact share, rounded one way or the other.
fn balanced(owners: &[NodeId], members: &[Member]) -> bool {
    let total: u64 = members.iter().map(|m| u64::from(m.capacity)).sum();
    members.iter().all(|m| {
        let share = owners.len() as u64 * u64::from(m.capacity);
        let count = owners.iter().filter(|&&owner| owner == m.id).count() as u64;
        (share / total..=share.div_ceil(total)).contains(&count)
    })
}

prop_compose! {
    /// Up to 12 members, of up to three datacentres, racks and capacities.
    fn clusters()(
        nodes in prop::collection::btree_map(0usize..16, (0u8..3, 0u8..3, 1u32..4), 1..12),
    ) -> Vec<Member> {
        nodes.into_iter().map(|(i, (dc, rack, capacity))| member(i, dc, rack, capacity)).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_claim_is_balanced_to_within_one_partition(members in clusters(), bits in 0u32..9) {
        let owners = claim(1 << bits, &members, None);
        prop_assert_eq!(owners.len(), 1 << bits);
        prop_assert!(balanced(&owners, &members));
    }

    #[test]
    fn a_claim_does_not_depend_on_the_order_of_the_members(
        members in clusters(),
        then in clusters(),
    ) {
        let backwards = |members: &[Member]| members.iter().rev().cloned().collect::<Vec<_>>();
        let owners = claim(64, &members, None);
        prop_assert_eq!(&claim(64, &backwards(&members), None), &owners);
        prop_assert_eq!(
            claim(64, &backwards(&then), Some(&owners)),
            claim(64, &then, Some(&owners))
        );
    }

    /// From any cluster to any other (joins, leaves, new capacities, all at once): still balanced,
    /// and not one move more than balance demands. The bound is worked out here from first
    /// principles: whoever is below its least share must be filled up to it, and what departed
    /// members owned, or members own above their greatest share, must go.
    #[test]
    fn no_claim_moves_more_than_balance_demands(
        members in clusters(),
        then in clusters(),
        bits in 0u32..9,
    ) {
        let before = claim(1 << bits, &members, None);
        let after = claim(1 << bits, &then, Some(&before));
        prop_assert!(balanced(&after, &then));

        let total: usize = then.iter().map(|m| m.capacity as usize).sum();
        let (mut must_fill, mut must_go, mut stayed) = (0, 0, 0);
        for m in &then {
            let had = before.iter().filter(|&&owner| owner == m.id).count();
            let share = before.len() * m.capacity as usize;
            must_fill += (share / total).saturating_sub(had);
            must_go += had.saturating_sub(share.div_ceil(total));
            stayed += had;
        }
        must_go += before.len() - stayed;
        prop_assert_eq!(moves(&before, &after), must_fill.max(must_go));
    }

    #[test]
    fn nothing_moves_when_nothing_changes(members in clusters(), bits in 0u32..9) {
        let owners = claim(1 << bits, &members, None);
        prop_assert_eq!(claim(1 << bits, &members, Some(&owners)), owners);
    }
}
