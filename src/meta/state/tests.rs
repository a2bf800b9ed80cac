use super::*;
use crate::cql::roles::Permission;
use crate::meta::ConflictMode;
use crate::meta::fixture::{self, apply, founder};

fn unfounded() -> ClusterState {
    ClusterState::unfounded(founder("n1").member)
}

fn founded() -> ClusterState {
    fixture::founded(&["n1", "n2", "n3"])
}

fn found() -> Command {
    fixture::found(&["n1", "n2", "n3"])
}

fn create() -> Command {
    Command::CreateTable { name: "cart".parse().unwrap(), settings: TableSettings::bucket(3) }
}

/// A start of `n1` as (voter, actor), after the start `after`.
fn started(ids: (u64, u64), nonce: u64, after: u64) -> Command {
    fixture::started(NodeId::derive("c", "n1"), ids, nonce, after)
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = founded();
    let id = state.cluster_id();
    assert_eq!(apply(&mut state, found()), Verdict::NotDone(NotDone::AlreadyFounded));
    assert_eq!(state.cluster_id(), id);
    assert_eq!(state.epoch(), Epoch(2), "a refusal takes its place in the log");
}

#[test]
fn what_somebody_makes_is_theirs_with_the_entry_that_makes_it() {
    let may = |state: &ClusterState, table: &str| {
        state.roles().may("eve", Permission::Select, &Resource::table("cart", table))
    };
    let role = |name: &str| {
        Command::Role(RoleChange::Create {
            name: name.to_owned(),
            superuser: false,
            login: true,
            password: None,
            by: None,
        })
    };
    let mut state = founded();
    apply(&mut state, role("eve"));
    let own = create().owned(Some("eve".to_owned()));
    let Verdict::Created(id) = apply(&mut state, own.clone()) else { panic!("not created") };
    assert!(may(&state, "kv"));
    let again = apply(&mut state, create().owned(Some("bob".to_owned())));
    assert!(matches!(again, Verdict::NotDone(NotDone::TableExists { .. })), "{again:?}");
    assert_eq!(apply(&mut state, Command::DropTable { id }), Verdict::Done);
    assert!(matches!(apply(&mut state, create()), Verdict::Created(_)));
    assert!(!may(&state, "kv"), "another one of that name");
    let keyspace = fixture::create_keyspace("shop").owned(Some("eve".to_owned()));
    assert_eq!(apply(&mut state, keyspace), Verdict::Done);
    assert!(state.roles().may("eve", Permission::Drop, &Resource::table("shop", "any")));
    let nobody = fixture::create_keyspace("more").owned(Some("carl".to_owned()));
    assert_eq!(apply(&mut state, nobody), Verdict::Done, "its maker is gone");
    let long = fixture::create_keyspace("k").owned(Some("x".repeat(1000)));
    let verdict = apply(&mut state, long);
    assert!(matches!(verdict, Verdict::NotDone(NotDone::OutOfBounds(_))), "{verdict:?}");
}

/// It was dropped while the statement was on its way.
#[test]
fn nothing_is_granted_on_what_is_gone() {
    let mut state = founded();
    let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
    let role = RoleChange::Create {
        name: "eve".to_owned(),
        superuser: false,
        login: true,
        password: None,
        by: None,
    };
    apply(&mut state, Command::Role(role));
    let grant = |on: Resource| {
        let (name, permissions) = ("eve".to_owned(), on.applicable());
        Command::Role(RoleChange::Grant { name, permissions, on })
    };
    let table = Resource::table("cart", "kv");
    assert_eq!(apply(&mut state, grant(table.clone())), Verdict::Done);
    apply(&mut state, Command::DropTable { id });
    for gone in [table, Resource::Keyspace("cart".to_owned()), Resource::Role("bob".to_owned())] {
        let verdict = apply(&mut state, grant(gone.clone()));
        assert!(matches!(verdict, Verdict::NotDone(_)), "{gone}: {verdict:?}");
    }
    for kept in [Resource::table("henge", "locks"), Resource::table("system", "local")] {
        assert_eq!(apply(&mut state, grant(kept)), Verdict::Done, "made when it is used");
    }
}

#[test]
fn nothing_happens_before_the_founding() {
    let mut state = unfounded();
    assert_eq!(apply(&mut state, create()), Verdict::NotDone(NotDone::NotFounded));
}

#[test]
fn a_table_created_twice_is_one_table_and_its_id_never_returns() {
    let mut state = founded();
    let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
    let again = Verdict::NotDone(NotDone::TableExists { id, same: true });
    assert_eq!(apply(&mut state, create()), again);
    assert_eq!(apply(&mut state, Command::DropTable { id }), Verdict::Done);
    let Verdict::Created(other) = apply(&mut state, create()) else { panic!("not created") };
    assert_ne!(id, other);
}

/// A keyspace may have the name of the one where the nodes' own tables stand.
#[test]
fn a_keyspace_that_is_dropped_takes_its_tables_with_it_and_none_of_the_nodes_own() {
    let mut state = founded();
    let keyspace = fixture::create_keyspace("henge");
    assert_eq!(apply(&mut state, keyspace), Verdict::Done);
    let mut create = |name: TableName| {
        let made =
            apply(&mut state, Command::CreateTable { name, settings: TableSettings::bucket(3) });
        let Verdict::Created(id) = made else { panic!("{made:?}") };
        id
    };
    let (locks, bucket) = (create(TableName::system("locks")), create("henge".parse().unwrap()));
    let drop = Command::DropKeyspace { name: "henge".to_owned() };
    assert_eq!(apply(&mut state, drop), Verdict::Done);
    assert!(state.keyspaces().is_empty());
    assert_eq!(state.tables().keys().copied().collect::<Vec<_>>(), [locks], "not {bucket}");
    assert!(state.table_named(&TableName::system("locks")).is_some());
}

fn id_of(name: &str) -> u64 {
    NodeId::derive("c", name).0 as u64
}

#[test]
fn a_start_takes_the_place_of_the_one_that_it_follows_and_of_no_other() {
    let mut state = founded();
    let me = (id_of("n1"), id_of("n1"));
    assert_eq!(apply(&mut state, started(me, 8, 7)), Verdict::Done);
    let restored = apply(&mut state, started(me, 9, 7));
    assert_eq!(restored, Verdict::NotDone(NotDone::Overtaken { known: 8 }));
    assert_eq!(apply(&mut state, started(me, 8, 7)), Verdict::Done, "said twice");
    assert_eq!(apply(&mut state, started(me, 9, 8)), Verdict::Done);
    let late = apply(&mut state, started(me, 8, 7));
    assert_eq!(late, Verdict::NotDone(NotDone::Overtaken { known: 9 }));
}

#[test]
fn an_actor_that_was_replaced_or_is_anothers_never_acts_again() {
    let mut state = founded();
    let (n1, n2) = (id_of("n1"), id_of("n2"));
    let no_actor = |actor| Verdict::NotDone(NotDone::ActorTaken(ActorId(actor)));
    let no_voter = |voter| Verdict::NotDone(NotDone::VoterTaken(VoterId(voter)));
    assert_eq!(apply(&mut state, started((n2, n2), 9, 7)), no_actor(n2), "a copy of n2's");
    assert_eq!(apply(&mut state, started((n2, 5), 9, 7)), no_voter(n2), "and renewed");
    assert_eq!(apply(&mut state, started((5, n1), 9, 7)), no_actor(n1), "half a new history");
    assert_eq!(apply(&mut state, started((5, 5), 8, 7)), Verdict::Done, "emptied");
    assert_eq!(apply(&mut state, started((n1, n1), 9, 8)), no_actor(n1), "an old backup");
    assert_eq!(apply(&mut state, started((n1, 6), 9, 8)), no_voter(n1), "half renewed");
    assert_eq!(apply(&mut state, started((5, 5), 9, 8)), Verdict::Done);
}

#[test]
fn an_emptied_directory_counts_for_nothing_until_refilled() {
    let mut state = founded();
    let node = NodeId::derive("c", "n1");
    let (voter, old) = (VoterId(id_of("n1")), ActorId(id_of("n1")));
    assert!(state.is_filled(node, old));
    assert!(state.may_vote(node, voter));
    assert!(!state.may_vote(node, VoterId(6)), "not named yet");
    assert_eq!(apply(&mut state, started((6, 5), 8, 7)), Verdict::Done);
    assert!(!state.is_filled(node, ActorId(5)));
    assert!(!state.is_filled(node, old));
    assert!(state.may_vote(node, VoterId(6)), "named by an entry");
    assert!(!state.may_vote(node, voter));
    let refilled = |actor| Command::Refilled { node, actor };
    assert!(matches!(apply(&mut state, refilled(old)), Verdict::NotDone(_)));
    assert_eq!(apply(&mut state, refilled(ActorId(5))), Verdict::Done);
    assert!(state.is_filled(node, ActorId(5)));
}

/// An unclean stop with periodic syncs: writes may be lost, votes are not.
#[test]
fn a_new_actor_under_the_same_voter_votes_at_once_and_is_refilled() {
    let mut state = founded();
    let node = NodeId::derive("c", "n1");
    let voter = VoterId(id_of("n1"));
    assert_eq!(apply(&mut state, started((voter.0, 5), 8, 7)), Verdict::Done);
    assert!(state.may_vote(node, voter));
    assert!(!state.is_filled(node, ActorId(5)));
}

#[test]
fn what_a_table_is_cannot_change_but_how_it_behaves_may() {
    let mut state = founded();
    let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
    let settings = TableSettings { ttl_s: 60, ..TableSettings::bucket(3) };
    let expected = state.table(id).unwrap().version;
    let alter = Command::AlterTable { id, expected, settings: settings.clone() };
    assert_eq!(apply(&mut state, alter), Verdict::Done);
    let expected = state.table(id).unwrap().version;
    let settings = TableSettings { conflict: ConflictMode::Lww, ..settings };
    let alter = Command::AlterTable { id, expected, settings };
    assert_eq!(apply(&mut state, alter), Verdict::NotDone(NotDone::Immutable));
}

#[test]
fn of_two_changes_of_a_table_at_once_the_second_is_told_of_the_first() {
    let mut state = founded();
    let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
    let expected = state.table(id).unwrap().version;
    let change = |ttl_s, max_siblings| Command::AlterTable {
        id,
        expected,
        settings: TableSettings { ttl_s, max_siblings, ..TableSettings::bucket(3) },
    };
    assert_eq!(apply(&mut state, change(60, 64)), Verdict::Done);
    let overtaken = NotDone::TableChanged { version: state.epoch() };
    assert_eq!(apply(&mut state, change(0, 5)), Verdict::NotDone(overtaken));
    assert_eq!(state.table(id).unwrap().settings.ttl_s, 60, "the first one stands");
}

#[test]
fn what_no_node_could_keep_for_ever_is_refused() {
    let out_of_bounds = |state: &mut ClusterState, command| {
        let verdict = apply(state, command);
        assert!(matches!(verdict, Verdict::NotDone(NotDone::OutOfBounds(_))), "{verdict:?}");
    };
    let long = || "x".repeat(1000);
    let mut state = unfounded();
    for change in [
        |founder: &mut Founder, long: String| founder.member.name = long,
        |founder: &mut Founder, long: String| founder.member.rack = long,
        |founder: &mut Founder, long: String| founder.addresses.http = long,
    ] {
        let Command::Found { cluster, secret, q, mut founders } = found() else { return };
        change(&mut founders[1], long());
        out_of_bounds(&mut state, Command::Found { cluster, secret, q, founders });
    }
    for partitions in [0, 48, 1 << 31] {
        let Command::Found { cluster, secret, founders, .. } = found() else { return };
        out_of_bounds(&mut state, Command::Found { cluster, secret, q: partitions, founders });
    }
    let mut state = founded();
    let addresses = Addresses { peer: long(), ..Addresses::default() };
    let mut start = started((id_of("n1"), id_of("n1")), 8, 7);
    if let Command::NodeStarted { addresses: named, .. } = &mut start {
        *named = addresses;
    }
    out_of_bounds(&mut state, start);
    let settings = TableSettings::bucket(3);
    let name = TableName { keyspace: long(), table: "kv".to_owned() };
    out_of_bounds(&mut state, Command::CreateTable { name, settings: settings.clone() });
    let factors = (0..1000).map(|n| (format!("dc{n}"), 1)).collect();
    let settings = TableSettings::new(crate::ring::Replication::NetworkTopology { factors });
    let name: TableName = "t".parse().unwrap();
    out_of_bounds(&mut state, Command::CreateTable { name, settings });
    assert!(state.tables().is_empty());
}
