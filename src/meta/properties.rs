//! What holds for every log, whatever stands in it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::binary;
use crate::cql::roles::{Permission, Permissions, Resource, Secret};
use crate::meta::{
    ClusterState, Command, ConflictMode, Founder, LogEntry, RoleChange, TableSettings, Verdict,
    fixture,
};
use crate::ring::Member;
use crate::types::{ActorId, Addresses, Epoch, Incarnation, NodeId, TableId, VoterId};

fn founder(name: &str, actor: u64) -> Founder {
    Founder {
        member: Member {
            id: NodeId::derive("c", name),
            name: name.to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
        },
        addresses: Addresses { peer: format!("{name}:7000"), ..Addresses::default() },
        voter: VoterId(actor),
        actor: ActorId(actor),
        incarnation: Incarnation(1),
        nonce: 7,
    }
}

fn found() -> Command {
    Command::Found {
        cluster: "c".to_owned(),
        secret: [3; 32],
        q: 8,
        founders: vec![founder("n1", 1), founder("n2", 2), founder("n3", 3)],
    }
}

fn node() -> impl Strategy<Value = NodeId> {
    prop_oneof![9 => Just("n1"), 9 => Just("n2"), 9 => Just("n3"), 1 => Just("stranger")]
        .prop_map(|name| NodeId::derive("c", name))
}

/// Commands over so few nodes, actors, tables and names that they meet all the time.
fn command() -> impl Strategy<Value = Command> {
    let settings = (1usize..4, 0u64..3, any::<bool>()).prop_map(|(nodes, ttl_s, lww)| {
        let conflict = if lww { ConflictMode::Lww } else { ConflictMode::Siblings };
        TableSettings { ttl_s, conflict, ..TableSettings::bucket(nodes) }
    });
    let ids = (1u64..7, 1u64..7);
    let started = (node(), ids, 7u64..11, 7u64..11)
        .prop_map(|(node, ids, nonce, after)| fixture::started(node, ids, nonce, after));
    let refilled = (node(), 1u64..7)
        .prop_map(|(node, actor)| Command::Refilled { node, actor: ActorId(actor) });
    let name = prop_oneof![Just("t"), Just("u"), Just("k.v")].prop_map(|n| n.parse().unwrap());
    let create = (name, settings.clone())
        .prop_map(|(name, settings)| Command::CreateTable { name, settings });
    let owned = (create.clone(), prop::sample::select(vec!["a", "b"]))
        .prop_map(|(create, by)| create.owned(Some(by.to_owned())));
    let alter = (1u32..20, 1u64..20, settings).prop_map(|(id, expected, settings)| {
        Command::AlterTable { id: TableId(id), expected: Epoch(expected), settings }
    });
    let drop = (1u32..20).prop_map(|id| Command::DropTable { id: TableId(id) });
    let role = (0u8..5, prop::sample::select(vec!["a", "b", "c"]), any::<bool>()).prop_map(
        |(what, name, flag)| {
            let (name, of) = (name.to_owned(), if flag { "a" } else { "b" }.to_owned());
            Command::Role(match what {
                0 | 1 => RoleChange::Create {
                    name,
                    superuser: flag,
                    login: true,
                    password: None,
                    by: Some(of),
                },
                2 => RoleChange::Drop { name },
                3 => RoleChange::Join { name, of },
                _ => RoleChange::Leave { name, of },
            })
        },
    );
    prop_oneof![2 => owned, 4 => role, 1 => Just(found()), 5 => started, 3 => refilled, 6 => create, 3 => alter, 4 => drop]
}

fn unfounded() -> ClusterState {
    ClusterState::unfounded(founder("n1", 1).member)
}

/// All that an entry could change, but for the epoch.
fn content(state: &ClusterState) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        state.cluster_id(),
        state.cluster_name().to_owned(),
        state.members().clone(),
        state.tables().clone(),
        state.ring().owners().to_vec(),
        state.roles().clone(),
    )
}

proptest! {
    #[test]
    fn every_log_folds_to_one_state_that_keeps_its_invariants(
        early in any::<bool>(),
        commands in proptest::collection::vec(command(), 0..40),
    ) {
        let (mut state, mut again) = (unfounded(), unfounded());
        let founding = (!early).then(found);
        let mut table_ids = BTreeSet::new();
        let mut replaced = BTreeSet::new();
        let mut replaced_voters = BTreeSet::new();
        for (at, command) in founding.into_iter().chain(commands).enumerate() {
            let entry = LogEntry { id: at as u128, command };
            let before = state.clone();
            let verdict = state.apply(&entry);

            // Another node, that read the entry from its disk, comes to the same.
            let bytes = binary::seal(1, &entry);
            let read: LogEntry = binary::unseal("an entry", 1, &bytes).unwrap();
            prop_assert_eq!(&verdict, &again.apply(&read));
            prop_assert_eq!(content(&state), content(&again));

            prop_assert_eq!(state.epoch(), before.epoch().next());
            if let Verdict::NotDone(_) = verdict {
                prop_assert_eq!(content(&state), content(&before), "a refusal changed something");
            }
            if let Verdict::Created(id) = verdict {
                prop_assert!(table_ids.insert(id), "{} returned", id);
                prop_assert_eq!(u64::from(id.0), state.epoch().0);
            }
            for (node, member) in before.members() {
                let Some(now) = state.member(*node) else { continue };
                if now.actor != member.actor {
                    replaced.insert(member.actor);
                    prop_assert!(!now.filled, "a new actor counts before it is refilled");
                }
                if now.voter != member.voter {
                    replaced_voters.insert(member.voter);
                    prop_assert!(now.actor != member.actor, "votes are lost and dots are not");
                }
            }
            let voters: BTreeSet<VoterId> = state.members().values().map(|m| m.voter).collect();
            prop_assert_eq!(voters.len(), state.members().len(), "two members, one voter");
            prop_assert!(voters.is_disjoint(&replaced_voters), "a replaced voter votes again");
            let actors: BTreeSet<ActorId> = state.members().values().map(|m| m.actor).collect();
            prop_assert_eq!(actors.len(), state.members().len(), "two members, one actor (I24)");
            prop_assert!(actors.is_disjoint(&replaced), "a replaced actor acts again");
            let ring: Vec<NodeId> = state.ring().members().iter().map(|m| m.id).collect();
            let members: Vec<NodeId> = state.members().keys().copied().collect();
            prop_assert!(!state.is_founded() || ring == members);
            for (name, role) in state.roles().iter() {
                for group in &role.member_of {
                    prop_assert!(state.roles().get(group).is_some(), "{group} is gone");
                    let above = state.roles().all_of(group);
                    prop_assert!(!above.contains_key(name), "a circle");
                }
                for on in role.grants.keys() {
                    let is_there = match on {
                        Resource::Role(name) => state.roles().get(name).is_some(),
                        Resource::Table(keyspace, table) => {
                            state.table_of(keyspace, table).is_some()
                        }
                        _ => true,
                    };
                    prop_assert!(is_there, "{name} has rights on {on}, which is gone");
                }
            }
            for table in state.tables().values() {
                prop_assert_eq!(state.table_named(&table.name).map(|t| t.id), Some(table.id));
            }
        }
    }

    /// A start on record leaves it only for one that knew of it.
    #[test]
    fn a_start_is_replaced_only_by_one_that_follows_it(
        commands in proptest::collection::vec(command(), 0..40),
    ) {
        let mut state = unfounded();
        state.apply(&LogEntry { id: 0, command: found() });
        for (at, command) in commands.into_iter().enumerate() {
            let before = state.clone();
            let follows = match &command {
                Command::NodeStarted { node, after, .. } => Some((*node, *after)),
                _ => None,
            };
            state.apply(&LogEntry { id: at as u128 + 1, command });
            for (node, was) in before.members() {
                let now = state.member(*node).unwrap();
                if now.nonce != was.nonce {
                    prop_assert_eq!(follows, Some((*node, was.nonce)));
                }
                prop_assert!(state.may_vote(*node, now.voter));
                prop_assert_eq!(state.may_vote(*node, was.voter), was.voter == now.voter);
            }
        }
    }
}

/// Stored entries of format 3, one of each command. If this fails, old data directories can no
/// longer be read: commands are numbered by their order, so new ones go at the end.
#[test]
fn the_stored_form_of_every_command_is_what_it_was() {
    let settings = TableSettings { ttl_s: 300, ..TableSettings::bucket(3) };
    let commands = [
        found(),
        Command::NodeStarted {
            node: NodeId(5),
            voter: VoterId(7),
            actor: ActorId(6),
            incarnation: Incarnation(2),
            nonce: 9,
            after: 8,
            addresses: Addresses { http: "h:1".to_owned(), ..Addresses::default() },
        },
        Command::Refilled { node: NodeId(5), actor: ActorId(6) },
        Command::CreateTable { name: "k.v".parse().unwrap(), settings: settings.clone() },
        Command::AlterTable { id: TableId(4), expected: Epoch(9), settings },
        Command::DropTable { id: TableId(4) },
        Command::Nothing,
        Command::Role(RoleChange::Create {
            name: "a".to_owned(),
            superuser: true,
            login: true,
            password: Some(Secret("$2a$".to_owned())),
            by: Some("b".to_owned()),
        }),
        Command::Role(RoleChange::Alter {
            name: "a".to_owned(),
            superuser: None,
            login: Some(false),
            password: None,
        }),
        Command::Role(RoleChange::Drop { name: "a".to_owned() }),
        Command::Role(RoleChange::Join { name: "a".to_owned(), of: "b".to_owned() }),
        Command::Role(RoleChange::Leave { name: "a".to_owned(), of: "b".to_owned() }),
        Command::Role(RoleChange::Grant {
            name: "a".to_owned(),
            permissions: Permissions::every(),
            on: Resource::table("k", "t"),
        }),
        Command::Role(RoleChange::Revoke {
            name: "a".to_owned(),
            permissions: Permissions::of(&[Permission::Select]),
            on: Resource::Role("b".to_owned()),
        }),
        Command::CreateTable { name: "k.v".parse().unwrap(), settings: TableSettings::bucket(3) }
            .owned(Some("a".to_owned())),
    ];
    let digests: Vec<String> = commands
        .into_iter()
        .map(|command| {
            let bytes = binary::seal(3, &LogEntry { id: 1, command });
            format!("{} {:016x}", bytes.len(), xxhash_rust::xxh3::xxh3_64(&bytes))
        })
        .collect();
    let expected = [
        "173 110d3a737d656a44",
        "23 73a57895e9720485",
        "13 f3f79ad55553bf73",
        "30 fd0033e4a704b84a",
        "28 4bb8e367d11b3eba",
        "12 17a0e00d2046c3e5",
        "11 a12e81760f2b2ede",
        "25 738a546f26673573",
        "18 4d9384f348b183b2",
        "14 4d367a86c5cbc5cf",
        "16 b44e8219c36d91c3",
        "16 aa2ecdc7f7b157f5",
        "20 ed288c6b5de2fda8",
        "18 9425ab04162a4564",
        "31 aa85bd22338c38c8",
    ];
    assert_eq!(digests, expected);
}
