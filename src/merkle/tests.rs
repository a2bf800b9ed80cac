use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ring::{PartitionMap, token_of};
use crate::types::{PartitionId, Token};

/// The stored bytes of each key.
type Store = BTreeMap<u8, u8>;

fn share(key: u8, value: u8) -> u128 {
    digest(&[key], Digest::of(&[value]))
}

fn leaf_of(key: u8) -> Leaf {
    Cut::new(PartitionMap::new(1).unwrap()).place(token_of(&[key])).1
}

fn rebuilt(store: &Store) -> Tree {
    let mut tree = Tree::default();
    for (&key, &value) in store {
        tree.fold(leaf_of(key), share(key, value));
    }
    tree
}

fn same(a: &Tree, b: &Tree) -> bool {
    a.root() == b.root()
        && a.groups() == b.groups()
        && (0..GROUPS).all(|group| a.leaves_of(group) == b.leaves_of(group))
}

/// Writes and removals of a store, with a tree that is told of each.
fn live(history: &[(u8, Option<u8>)]) -> (Store, Tree) {
    let (mut store, mut tree) = (Store::new(), Tree::default());
    for &(key, value) in history {
        let before = match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
        let old = before.map_or(0, |value| share(key, value));
        let new = value.map_or(0, |value| share(key, value));
        tree.fold(leaf_of(key), old ^ new);
    }
    (store, tree)
}

proptest! {
    #[test]
    fn a_tree_that_followed_every_change_is_the_tree_built_from_the_data(
        history: Vec<(u8, Option<u8>)>,
    ) {
        let (store, tree) = live(&history);
        prop_assert!(same(&tree, &rebuilt(&store)));
    }

    #[test]
    fn roots_are_equal_exactly_when_the_data_is(
        a: Vec<(u8, Option<u8>)>,
        b: Vec<(u8, Option<u8>)>,
    ) {
        let ((store_a, a), (store_b, b)) = (live(&a), live(&b));
        prop_assert_eq!(store_a == store_b, a.root() == b.root());
    }

    #[test]
    fn the_leaves_that_differ_are_those_of_the_keys_that_differ(
        a: BTreeMap<u8, u8>,
        b: BTreeMap<u8, u8>,
    ) {
        let (tree_a, tree_b) = (rebuilt(&a), rebuilt(&b));
        for leaf in Leaf::all() {
            let keys = (0..=255).filter(|&key| leaf_of(key) == leaf);
            let differs = keys.clone().any(|key| a.get(&key) != b.get(&key));
            prop_assert_eq!(tree_a.leaf(leaf) != tree_b.leaf(leaf), differs);
        }
    }

    #[test]
    fn a_checkpoint_reads_back_and_only_at_its_place(history: Vec<(u8, Option<u8>)>, place: u64) {
        let (_, tree) = live(&history);
        let stored = tree.encode(place);
        prop_assert!(same(&Tree::decode(&stored, place).unwrap(), &tree));
        prop_assert!(tree.root() == 0 || Tree::decode(&stored, place ^ 1).is_none());
    }

    #[test]
    fn a_damaged_checkpoint_is_refused(history: Vec<(u8, Option<u8>)>, at: usize, bit in 0..8u8) {
        let mut stored = live(&history).1.encode(7).to_vec();
        let at = at % stored.len();
        stored[at] ^= 1 << bit;
        prop_assert!(Tree::decode(&stored, 7).is_none());
        prop_assert!(Tree::decode(&stored[..at], 7).is_none());
    }

    #[test]
    fn a_token_lies_between_the_ends_of_its_leaf(token: i64, bits in 0..=16u32) {
        let cut = Cut::new(PartitionMap::new(1 << bits).unwrap());
        let (partition, leaf) = cut.place(Token(token));
        let (first, last) = cut.tokens(partition, leaf, leaf);
        prop_assert!(first.0 <= token && token <= last.0);
    }

    #[test]
    fn a_set_of_leaves_holds_what_was_put_into_it(mut numbers: Vec<u16>) {
        numbers.iter_mut().for_each(|number| *number %= LEAVES as u16);
        let mut set = LeafSet::NONE;
        numbers.iter().for_each(|&number| set.insert(Leaf::new(number).unwrap()));
        for leaf in Leaf::all() {
            prop_assert_eq!(set.contains(leaf), numbers.contains(&(leaf.index() as u16)));
        }
        while let Some((first, last)) = set.first_run() {
            first.to(last).for_each(|leaf| set.remove(leaf));
            prop_assert!(numbers.contains(&(first.index() as u16)));
            prop_assert!(!numbers.contains(&(last.index() as u16 + 1)));
        }
        prop_assert!(set.is_empty());
    }
}

#[test]
fn the_leaves_tile_their_partition() {
    for bits in [0, 1, 8, 16] {
        let map = PartitionMap::new(1 << bits).unwrap();
        let cut = Cut::new(map);
        for partition in [PartitionId(0), PartitionId((1 << bits) - 1)] {
            let mut next = map.first_token(partition).0;
            for leaf in Leaf::all() {
                let (first, last) = cut.tokens(partition, leaf, leaf);
                assert_eq!(first.0, next);
                assert_eq!(cut.place(first), (partition, leaf));
                assert_eq!(cut.place(last), (partition, leaf));
                next = last.0.wrapping_add(1);
            }
            assert_eq!(next, map.end_token(partition).0.wrapping_add(1));
        }
    }
}

/// Two keys that hold each other's value are not two keys that hold their own.
#[test]
fn swapped_values_show() {
    let (a, b) = (Store::from([(1, 10), (2, 20)]), Store::from([(1, 20), (2, 10)]));
    assert_ne!(rebuilt(&a).root(), rebuilt(&b).root());
}
