//! The planted bugs of `quorum` do break it. In a process of its own: a plant is on for the whole
//! process, and the unit tests must not meet it.

#![cfg(feature = "sim")]

use henge::plants::{Plant, set_plant};
use henge::quorum::{Progress, ReplicaInfo, Requirement, Tally};
use henge::types::{Consistency, NodeId};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn tally(write: bool) -> Tally {
    let replicas = NODES.map(|node| ReplicaInfo { node, datacenter: "dc1" });
    let make = if write { Requirement::for_write } else { Requirement::for_read };
    Tally::new(make(Consistency::Quorum, &replicas, "dc1").expect("a sound level"), NODES[0])
}

/// One test, so that no two plants are on at once.
#[test]
fn each_plant_weakens_what_it_is_named_for_and_nothing_else() {
    let first_ack = |write: bool| tally(write).on_ack(NODES[0]);

    assert_eq!((first_ack(true), first_ack(false)), (Progress::Pending, Progress::Pending));

    set_plant(Some(Plant::P12));
    assert_eq!((first_ack(true), first_ack(false)), (Progress::Reached, Progress::Pending));
    assert_eq!(tally(true).on_ack(NODES[1]), Progress::Pending, "not the coordinator");

    set_plant(Some(Plant::P13));
    assert_eq!((first_ack(true), first_ack(false)), (Progress::Pending, Progress::Reached));

    set_plant(None);
    assert_eq!((first_ack(true), first_ack(false)), (Progress::Pending, Progress::Pending));
}
