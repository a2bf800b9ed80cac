//! Who may, where the node asks: what the answers that take long do when that changes meanwhile.

use std::sync::Arc;

use henge::client::Credentials;
use henge::cql::roles::{Permissions, Resource, Secret};
use henge::env::tokio_env;
use henge::meta::{ClusterState, Command, Founder, LogEntry, RoleChange, Verdict};
use henge::ring::Member;
use henge::server::auth::Gate;
use henge::server::http::HttpLimits;
use henge::types::{ActorId, Addresses, Incarnation, NodeId, VoterId};

use crate::support::{Fake, World};

fn apply(state: &mut ClusterState, command: Command) {
    let entry = LogEntry { id: u128::from(state.epoch().0) + 1, command };
    assert!(matches!(state.apply(&entry), Verdict::Done), "{entry:?}");
}

/// A cluster with a role, eve, that may do everything with all tables.
async fn with_eve(gate: &Gate) -> ClusterState {
    let member = Member {
        id: NodeId::derive("c", "n1"),
        name: "n1".to_owned(),
        datacenter: "dc1".to_owned(),
        rack: "r1".to_owned(),
        capacity: 1,
    };
    let founder = Founder {
        member: member.clone(),
        addresses: Addresses::default(),
        voter: VoterId(1),
        actor: ActorId(1),
        incarnation: Incarnation(1),
        nonce: 1,
    };
    let mut state = ClusterState::unfounded(member);
    let (cluster, secret) = ("c".to_owned(), [1; 32]);
    apply(&mut state, Command::Found { cluster, secret, q: 1, founders: vec![founder] });
    let password = Some(gate.hash(Secret("apple".to_owned())).await.unwrap());
    let name = "eve".to_owned();
    let role = RoleChange::Create { name, superuser: false, login: true, password, by: None };
    apply(&mut state, Command::Role(role));
    let (name, on) = ("eve".to_owned(), Resource::AllKeyspaces);
    let grant = RoleChange::Grant { name, permissions: on.applicable(), on };
    apply(&mut state, Command::Role(grant));
    state
}

#[tokio::test]
async fn a_stream_ends_where_the_right_to_it_ends() {
    let gate = Gate::closed(tokio_env());
    let may = with_eve(&gate).await;
    let mut fake = Fake::new();
    fake.entrance = gate;
    fake.agreed.lock().unwrap().push_back(Arc::new(may.clone()));
    let w = World::with(fake, HttpLimits::default());
    let basic = Credentials::new("eve", "apple").basic();
    let eve = [("authorization", basic.as_str()), ("accept", "application/x-ndjson")];
    assert_eq!(w.put("/v1/buckets/b", &eve, "").await.status, 201);
    for n in 0..600 {
        assert_eq!(w.put(&format!("/v1/kv/b/k{n}"), &eve, "x").await.status, 201);
    }
    assert_eq!(w.get("/v1/kv/b", &eve).await.lines().len(), 600);

    let mut may_not = may;
    let (name, on) = ("eve".to_owned(), Resource::AllKeyspaces);
    let revoke = RoleChange::Revoke { name, permissions: Permissions::every(), on };
    apply(&mut may_not, Command::Role(revoke));
    w.fake.agreed.lock().unwrap().push_back(Arc::new(may_not));
    let lines = w.get("/v1/kv/b", &eve).await.lines();
    assert!(lines.len() < 600, "all keys were shown");
    let last = &lines[lines.len() - 1]["error"];
    assert_eq!(last["type"], "/problems/forbidden", "{last}");
}
