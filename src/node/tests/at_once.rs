//! Reads for which one node's own copy is enough, and which wait for nobody.

use std::sync::Arc;

use super::town::{ABC, SECOND, Town, Write, key_of, values_of};
use crate::coordinator::ReadOp;
use crate::meta::{ConflictMode, Table};
use crate::net::Response;
use crate::ring::Replication;
use crate::types::Consistency;

/// What `name` says of "k" without waiting; `None`: it would have to ask others.
fn at_once(town: &Town, name: &str, table: &Arc<Table>, level: Consistency) -> Option<Vec<String>> {
    let op = ReadOp {
        table: table.clone(),
        key: key_of("k"),
        level,
        timeout: SECOND,
        receipt: false,
        local: false,
    };
    let outcome = town.coordinator(name).read_at_once(&op)?;
    Some(values_of(&outcome.expect("it was let in")))
}

#[test]
fn one_of_three_copies_is_enough_at_level_one_alone() {
    let (mut town, table) = Town::with_table(1, ConflictMode::Siblings);
    assert_eq!(at_once(&town, "a", &table, Consistency::One), Some(vec![]), "nothing yet");
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    for name in ABC {
        for level in [Consistency::One, Consistency::LocalOne] {
            assert_eq!(at_once(&town, name, &table, level), Some(vec!["v".to_owned()]));
        }
        use Consistency::{All, EachQuorum, LocalQuorum, LocalSerial, Quorum, Serial, Two};
        for level in [Two, Quorum, LocalQuorum, EachQuorum, All, Serial, LocalSerial] {
            assert_eq!(at_once(&town, name, &table, level), None, "{level}");
        }
    }
}

#[test]
fn the_only_copy_is_enough_for_every_level_that_it_can_satisfy_and_only_where_it_is() {
    let mut town = Town::founded(2, &ABC);
    let one = Replication::Simple { factor: 1 };
    let table = town.create("t", |settings| settings.replication = one);
    town.put("a", &table, "k", "v", Write::at(Consistency::One)).unwrap();
    let mut holders = Vec::from(ABC);
    holders.retain(|name| matches!(town.own(name, &table, "k"), Response::Record(Some(_), _)));
    let [holder] = holders[..] else { panic!("{holders:?} hold it") };
    for name in ABC {
        use Consistency::{All, LocalOne, LocalQuorum, One, Quorum};
        for level in [One, LocalOne, Quorum, LocalQuorum, All] {
            let found = at_once(&town, name, &table, level);
            assert_eq!(found, (name == holder).then(|| vec!["v".to_owned()]), "{name} at {level}");
        }
        // No single copy can say more than these.
        assert_eq!(at_once(&town, name, &table, Consistency::Two), None);
        town.read(name, &table, "k", Consistency::Two).unwrap_err();
    }
}

#[test]
fn a_damaged_copy_is_left_to_whoever_asks_the_others() {
    let (mut town, table) = Town::with_table(3, ConflictMode::Siblings);
    town.put("a", &table, "k", "v", Write::at(Consistency::All)).unwrap();
    town.rot("b", &table, "k");
    assert_eq!(at_once(&town, "b", &table, Consistency::One), None);
    assert!(at_once(&town, "a", &table, Consistency::One).is_some());
    assert_eq!(values_of(&town.read("b", &table, "k", Consistency::One).unwrap()), ["v"]);
}
