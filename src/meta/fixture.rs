//! Clusters for tests, as their logs make them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binary;
use crate::cql::schema::{Role, Schema};
use crate::cql::types::CqlType;
use crate::meta::{ClusterState, Command, Founder, Keyspace, LogEntry, TableName, Verdict};
use crate::ring::{Member, Replication};
use crate::types::{ActorId, Addresses, Incarnation, NodeId, TableId, VoterId};

/// The founder `name` of the cluster `c`; voter and actor are half of its id, its start is 7.
pub(crate) fn founder(name: &str) -> Founder {
    let id = NodeId::derive("c", name);
    Founder {
        member: Member {
            id,
            name: name.to_owned(),
            datacenter: "dc1".to_owned(),
            rack: "r1".to_owned(),
            capacity: 1,
        },
        addresses: Addresses::default(),
        voter: VoterId(id.0 as u64),
        actor: ActorId(id.0 as u64),
        incarnation: Incarnation(1),
        nonce: 7,
    }
}

/// The first entry of a cluster of these nodes.
pub(crate) fn found(names: &[&str]) -> Command {
    let founders = names.iter().map(|name| founder(name)).collect();
    Command::Found { cluster: "c".to_owned(), secret: [3; 32], q: 16, founders }
}

/// A start of `node` as (voter, actor), after the start `after`.
pub(crate) fn started(node: NodeId, (voter, actor): (u64, u64), nonce: u64, after: u64) -> Command {
    Command::NodeStarted {
        node,
        voter: VoterId(voter),
        actor: ActorId(actor),
        incarnation: Incarnation(nonce),
        nonce,
        after,
        addresses: Addresses::default(),
    }
}

/// A cluster of these nodes, as the first of them sees it.
pub(crate) fn founded(names: &[&str]) -> ClusterState {
    let mut state = ClusterState::unfounded(founder(names[0]).member);
    assert_eq!(apply(&mut state, found(names)), Verdict::Done);
    state
}

/// Applies the command as a node does that has read it from the log.
pub(crate) fn apply(state: &mut ClusterState, command: Command) -> Verdict {
    let entry = LogEntry { id: u128::from(state.epoch().0) + 100, command };
    state.apply(&binary::decode(&binary::body(&entry)).unwrap())
}

/// A new keyspace, one copy of everything.
pub(crate) fn create_keyspace(name: &str) -> Command {
    Command::CreateKeyspace(Arc::new(Keyspace {
        name: name.to_owned(),
        replication: Replication::Simple { factor: 1 },
        durable_writes: true,
        types: BTreeMap::new(),
    }))
}

/// A table of these columns, of which the first is the key, in a new keyspace.
pub(crate) fn with_rows(
    state: &mut ClusterState,
    (keyspace, table): (&str, &str),
    columns: &[(&str, CqlType)],
) -> TableId {
    assert_eq!(apply(state, create_keyspace(keyspace)), Verdict::Done);
    let role = |at| if at == 0 { Role::Partition(0) } else { Role::Regular };
    let columns = columns.iter().enumerate();
    let columns = columns.map(|(at, (name, kind))| ((*name).to_owned(), kind.clone(), role(at)));
    let schema = Arc::new(Schema::new(columns.collect(), [7; 16]));
    let name = TableName { keyspace: keyspace.to_owned(), table: table.to_owned() };
    let made = apply(state, Command::CreateRows { name, schema });
    let Verdict::Created(id) = made else { panic!("{made:?}") };
    id
}
