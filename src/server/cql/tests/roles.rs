//! Roles and permissions, as statements see them.

use super::door::{parameters, shown};
use super::mem::MemStore;
use crate::cql::roles::Secret;
use crate::env::tokio_env;
use crate::meta::{Command, RoleChange};
use crate::server::auth::{Gate, Principal};
use crate::server::cql::error::{INVALID, UNAUTHORIZED};
use crate::server::cql::request::Request;
use crate::server::cql::response::Answer;
use crate::server::cql::service::{Origin, Session, Wanted};
use crate::server::cql::{CqlService, Store as _};

/// A node that asks who its clients are, with a superuser.
struct Node {
    service: CqlService,
    gate: Gate,
}

/// Somebody who has logged in.
struct Who<'a> {
    node: &'a Node,
    session: Session,
}

impl Node {
    async fn new() -> Self {
        let (store, gate) = (MemStore::new(tokio_env(), 9042), Gate::closed(tokio_env()));
        let admin = RoleChange::Create {
            name: "admin".to_owned(),
            superuser: true,
            login: true,
            password: Some(gate.hash(Secret("x".to_owned())).await.unwrap()),
            by: None,
        };
        store.append(Command::Role(admin)).await.unwrap();
        Self { service: CqlService::new(store).with_gate(gate.clone()), gate }
    }

    async fn principal(&self, name: &str) -> Principal {
        let state = self.service.store().state();
        self.gate.log_in(&state, None, name, "x").await.unwrap()
    }

    async fn who(&self, name: &str) -> Who<'_> {
        Who { node: self, session: Session::of(self.principal(name).await) }
    }

    /// A superuser with a keyspace and two tables, and an ordinary role, bob.
    async fn with_bob(&self) -> (Who<'_>, Who<'_>) {
        let admin = self.who("admin").await;
        admin
            .run("CREATE KEYSPACE shop WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
            .await;
        admin.run("CREATE TABLE shop.stock (k int PRIMARY KEY, v text)").await;
        admin.run("CREATE TABLE shop.bills (k int PRIMARY KEY, v text)").await;
        admin.run("CREATE ROLE bob WITH PASSWORD = 'x' AND LOGIN = true").await;
        let bob = self.who("bob").await;
        (admin, bob)
    }
}

impl Who<'_> {
    async fn ask(&self, text: &str) -> Answer {
        let (text, parameters) = (text.to_owned(), parameters(Vec::new()));
        let origin = Origin { client: None };
        let request = Request::Query { text, parameters };
        self.node.service.answer(&self.session, request, origin, Wanted::default()).await.answer
    }

    async fn run(&self, text: &str) {
        let answer = self.ask(text).await;
        assert!(!matches!(answer, Answer::Error(_)), "{text}: {answer:?}");
    }

    /// The error's code and its words.
    async fn refused(&self, text: &str) -> (i32, String) {
        let Answer::Error(error) = self.ask(text).await else { panic!("{text} is not refused") };
        (error.code(), error.message().to_owned())
    }

    async fn denied(&self, text: &str) -> String {
        let (code, why) = self.refused(text).await;
        assert_eq!(code, UNAUTHORIZED, "{text}: {why}");
        why
    }

    async fn invalid(&self, text: &str) -> String {
        let (code, why) = self.refused(text).await;
        assert_eq!(code, INVALID, "{text}: {why}");
        why
    }

    async fn show(&self, text: &str) -> Vec<String> {
        match self.ask(text).await {
            Answer::Rows(rows) => shown(&rows),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_statement_needs_its_permission_and_no_other() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    for (statement, permission, on) in [
        ("SELECT * FROM shop.stock", "SELECT", "TABLE shop.stock"),
        ("INSERT INTO shop.stock (k, v) VALUES (1, 'a')", "MODIFY", "shop.stock"),
        ("UPDATE shop.stock SET v = 'b' WHERE k = 1", "MODIFY", "KEYSPACE shop"),
        ("DELETE FROM shop.stock WHERE k = 1", "MODIFY", "ALL KEYSPACES"),
        ("TRUNCATE shop.stock", "MODIFY", "shop.stock"),
        (
            "BEGIN UNLOGGED BATCH INSERT INTO shop.stock (k) VALUES (1); APPLY BATCH",
            "MODIFY",
            "shop.stock",
        ),
        ("ALTER TABLE shop.stock WITH comment = 'x'", "ALTER", "shop.stock"),
        ("ALTER KEYSPACE shop WITH durable_writes = true", "ALTER", "KEYSPACE shop"),
        ("CREATE TYPE shop.t (a int)", "CREATE", "KEYSPACE shop"),
        ("ALTER TYPE shop.t ADD b int", "ALTER", "KEYSPACE shop"),
        ("DROP TYPE shop.t", "DROP", "KEYSPACE shop"),
        ("CREATE TABLE shop.more (k int PRIMARY KEY)", "CREATE", "KEYSPACE shop"),
        ("CREATE INDEX by_v ON shop.stock (v)", "ALTER", "shop.stock"),
        ("DROP INDEX shop.by_v", "ALTER", "shop.stock"),
        ("CREATE ROLE eve", "CREATE", "ALL ROLES"),
        ("ALTER ROLE eve WITH LOGIN = true", "ALTER", "ROLE eve"),
        ("GRANT eve TO bob", "AUTHORIZE", "ROLE eve"),
        ("REVOKE eve FROM bob", "AUTHORIZE", "ROLE eve"),
        ("DROP ROLE eve", "DROP", "ALL ROLES"),
        ("DROP TABLE shop.bills", "DROP", "shop.bills"),
    ] {
        // Who has made a role may do everything with it: not what is looked at here.
        admin.run("REVOKE ALL ON ALL ROLES FROM bob").await;
        if on == "ROLE eve" {
            admin.run("REVOKE ALL ON ROLE eve FROM bob").await;
        }
        let why = bob.denied(statement).await;
        assert!(why.contains(permission) && why.starts_with("User bob has no"), "{why}");
        admin.run(&format!("GRANT {permission} ON {on} TO bob")).await;
        bob.run(statement).await;
        // Unless that is gone by now.
        admin.ask(&format!("REVOKE {permission} ON {on} FROM bob")).await;
        if !statement.starts_with("DROP") {
            bob.denied(statement).await;
        }
    }
    for statement in [
        "CREATE KEYSPACE k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
        "DROP KEYSPACE shop",
    ] {
        bob.denied(statement).await;
    }
    for statement in ["USE shop", "SELECT * FROM system_schema.tables", "DESCRIBE TABLES"] {
        bob.run(statement).await;
    }
}

#[tokio::test]
async fn a_condition_needs_the_right_to_read_since_its_answer_shows_what_is_there() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    admin.run("GRANT MODIFY ON shop.stock TO bob").await;
    let conditional = "INSERT INTO shop.stock (k, v) VALUES (1, 'a') IF NOT EXISTS";
    assert!(bob.denied(conditional).await.contains("SELECT"));
    admin.run("GRANT SELECT ON shop.stock TO bob").await;
    bob.run(conditional).await;
}

#[tokio::test]
async fn who_makes_something_may_do_everything_with_it_and_nobody_with_what_comes_after() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    admin.run("GRANT CREATE ON KEYSPACE shop TO bob").await;
    admin.run("GRANT CREATE ON ALL ROLES TO bob").await;
    let epoch = || node.service.store().state().epoch();
    let before = epoch();
    bob.run("CREATE TABLE shop.own (k int PRIMARY KEY)").await;
    assert_eq!(epoch(), before.next(), "the table and the rights on it: never one without them");
    bob.run("INSERT INTO shop.own (k) VALUES (1)").await;
    bob.run("CREATE ROLE carl").await;
    bob.run("GRANT SELECT ON shop.own TO carl").await;
    bob.run("DROP ROLE carl").await;
    admin.run("DROP TABLE shop.own").await;
    admin.run("CREATE TABLE shop.own (k int PRIMARY KEY)").await;
    bob.denied("SELECT * FROM shop.own").await;
}

#[tokio::test]
async fn nobody_makes_himself_more_than_he_is() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    for all in ["CREATE", "ALTER", "DROP", "AUTHORIZE", "DESCRIBE"] {
        admin.run(&format!("GRANT {all} ON ALL ROLES TO bob")).await;
    }
    admin.run("CREATE ROLE eve").await;
    for statement in [
        "CREATE ROLE more WITH SUPERUSER = true",
        "ALTER ROLE eve WITH SUPERUSER = true",
        "ALTER ROLE bob WITH SUPERUSER = true",
        "ALTER ROLE admin WITH PASSWORD = 'mine'",
        "GRANT admin TO bob",
        "DROP ROLE admin",
        "GRANT SELECT ON shop.stock TO bob",
        "GRANT SELECT ON ALL KEYSPACES TO eve",
    ] {
        bob.denied(statement).await;
    }
    admin.run("GRANT AUTHORIZE ON shop.stock TO bob").await;
    bob.denied("GRANT SELECT ON shop.stock TO eve").await;
    admin.run("GRANT SELECT ON shop.stock TO bob").await;
    bob.run("GRANT SELECT ON shop.stock TO eve").await;
    bob.denied("GRANT ALL ON shop.stock TO eve").await;
    bob.run("ALTER ROLE bob WITH PASSWORD = 'y'").await;
    bob.run("SELECT * FROM shop.stock").await;
    admin.denied("ALTER ROLE admin WITH SUPERUSER = false").await;
    admin.invalid("DROP ROLE admin").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_statement_is_said() {
    let node = Node::new().await;
    let (admin, _bob) = node.with_bob().await;
    for (statement, words) in [
        ("CREATE ROLE bob", "bob already exists"),
        ("DROP ROLE eve", "eve doesn't exist"),
        ("ALTER ROLE eve WITH LOGIN = true", "eve doesn't exist"),
        ("ALTER ROLE bob", "can't be empty"),
        ("GRANT eve TO bob", "eve doesn't exist"),
        ("GRANT bob TO bob", "bob is a member of bob"),
        ("REVOKE admin FROM bob", "bob is not a member of admin"),
        ("GRANT SELECT ON shop.none TO bob", "<table shop.none> doesn't exist"),
        ("GRANT SELECT ON KEYSPACE none TO bob", "<keyspace none> doesn't exist"),
        ("GRANT SELECT ON shop.stock TO eve", "eve doesn't exist"),
        ("GRANT CREATE ON shop.stock TO bob", "does not support"),
        ("GRANT SELECT ON ALL ROLES TO bob", "does not support"),
        ("CREATE ROLE a WITH OPTIONS = {'a': 'b'}", "OPTIONS"),
        ("CREATE ROLE a WITH ACCESS TO DATACENTERS {'dc1'}", "datacenters"),
        ("CREATE ROLE a WITH HASHED PASSWORD = 'x'", "jBcrypt"),
        ("CREATE ROLE a WITH PASSWORD = ''", "1 to 72 bytes"),
    ] {
        let why = admin.invalid(statement).await;
        assert!(why.contains(words), "{statement}: {why}");
    }
    for statement in [
        "CREATE ROLE IF NOT EXISTS bob",
        "DROP ROLE IF EXISTS eve",
        "ALTER ROLE IF EXISTS eve WITH LOGIN = true",
        "LIST ALL PERMISSIONS OF bob",
    ] {
        assert_eq!(admin.ask(statement).await, Answer::Void, "{statement}");
    }
    let hash = "$2a$04$TNnQxQ5pyNJIcP5.LDfEOeTvDPDGMoUFAzVVxsX3x8hMs9y2XpIOK";
    admin.run(&format!("CREATE ROLE a WITH HASHED PASSWORD = '{hash}'")).await;
    let kept = admin.show("SELECT salted_hash FROM system_auth.roles WHERE role = 'a'").await;
    assert_eq!(kept, [hash]);
}

#[tokio::test]
async fn lists_show_a_superuser_all_and_others_themselves() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    admin.run("CREATE ROLE readers").await;
    admin.run("CREATE ROLE staff").await;
    admin.run("GRANT readers TO staff").await;
    admin.run("GRANT staff TO bob").await;
    admin.run("GRANT SELECT, MODIFY ON KEYSPACE shop TO readers").await;
    admin.run("GRANT ALTER ON shop.stock TO bob").await;
    assert_eq!(
        admin.show("LIST ROLES").await,
        [
            "admin true true {} ALL",
            "bob false true {} ALL",
            "readers false false {} ALL",
            "staff false false {} ALL"
        ]
    );
    assert_eq!(admin.show("LIST ROLES OF bob NORECURSIVE").await.len(), 2);
    assert_eq!(bob.show("LIST ROLES").await.len(), 3);
    assert_eq!(bob.show("LIST USERS").await, ["bob false ALL"]);
    assert_eq!(admin.show("LIST USERS").await, ["admin true ALL", "bob false ALL"]);
    assert_eq!(
        bob.show("LIST ALL PERMISSIONS OF bob").await,
        [
            "bob bob <table shop.stock> ALTER",
            "readers readers <keyspace shop> SELECT",
            "readers readers <keyspace shop> MODIFY"
        ]
    );
    let of_table = "LIST SELECT ON shop.stock OF bob";
    assert_eq!(bob.show(of_table).await, ["readers readers <keyspace shop> SELECT"]);
    assert_eq!(bob.ask("LIST SELECT ON shop.stock OF bob NORECURSIVE").await, Answer::Void);
    bob.denied("LIST ALL PERMISSIONS").await;
    bob.denied("LIST ALL PERMISSIONS OF admin").await;
    bob.denied("LIST ROLES OF admin").await;
    let roles =
        "SELECT role, can_login, is_superuser, member_of, salted_hash FROM system_auth.roles";
    let own = bob.show(roles).await;
    assert_eq!(own.len(), 3, "{own:?}");
    assert!(own.iter().all(|row| row.ends_with("null")), "a hash is shown: {own:?}");
    let all = admin.show(roles).await;
    assert!(all.iter().any(|row| row.contains("$2a$10$")), "{all:?}");
    let grants = "SELECT permissions FROM system_auth.role_permissions WHERE role = 'readers'";
    assert_eq!(bob.show(grants).await, ["{'MODIFY', 'SELECT'}"]);
    assert_eq!(bob.show("SELECT * FROM system_auth.role_members").await.len(), 2);
    bob.denied("INSERT INTO system_auth.roles (role) VALUES ('x')").await;
}

#[tokio::test]
async fn where_nobody_is_asked_nobody_is_a_role() {
    let service = CqlService::new(MemStore::new(tokio_env(), 9042));
    let node = Node { service, gate: Gate::open() };
    let anybody = Who { node: &node, session: Session::default() };
    for statement in [
        "CREATE ROLE a",
        "LIST ROLES",
        "LIST ALL PERMISSIONS",
        "GRANT SELECT ON ALL KEYSPACES TO a",
    ] {
        let why = anybody.denied(statement).await;
        assert!(why.contains("logged in and not anonymous"), "{why}");
    }
    assert_eq!(anybody.show("SELECT * FROM system_auth.roles").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_trace_shows_no_password() {
    let node = Node::new().await;
    let (admin, _bob) = node.with_bob().await;
    let text = "CREATE ROLE eve WITH PASSWORD = 'sesame' AND LOGIN = true".to_owned();
    let request = Request::Query { text, parameters: parameters(Vec::new()) };
    let origin = Origin { client: None };
    let reply = node
        .service
        .answer(&admin.session, request, origin, Wanted { trace: true, ..Wanted::default() })
        .await;
    assert!(!matches!(reply.answer, Answer::Error(_)), "{:?}", reply.answer);
    let sessions = admin.show("SELECT parameters FROM system_traces.sessions").await.join("\n");
    assert!(sessions.contains("CREATE ROLE eve"), "{sessions}");
    let events = admin.show("SELECT activity FROM system_traces.events").await.join("\n");
    assert!(!sessions.contains("sesame") && !events.contains("sesame"), "{sessions}\n{events}");
}

/// A statement that is prepared is judged each time that it runs.
#[tokio::test]
async fn a_prepared_statement_ends_with_the_right_to_run_it() {
    let node = Node::new().await;
    let (admin, bob) = node.with_bob().await;
    admin.run("GRANT SELECT ON shop.stock TO bob").await;
    let text = "SELECT * FROM shop.stock WHERE k = ?".to_owned();
    let origin = Origin { client: None };
    let prepare = Request::Prepare { text, keyspace: None };
    let answer = node.service.answer(&bob.session, prepare, origin, Wanted::default()).await.answer;
    let Answer::Prepared { id, .. } = answer else { panic!("{answer:?}") };
    let execute = || Request::Execute {
        id: id.to_vec(),
        result: None,
        parameters: parameters(vec![crate::server::cql::wire::Value::Bytes(vec![0, 0, 0, 1])]),
    };
    assert!(node.service.point(&bob.session, &execute()).is_some());
    admin.run("REVOKE SELECT ON shop.stock FROM bob").await;
    assert!(node.service.point(&bob.session, &execute()).is_none(), "the short way");
    let answer =
        node.service.answer(&bob.session, execute(), origin, Wanted::default()).await.answer;
    assert!(matches!(&answer, Answer::Error(e) if e.code() == UNAUTHORIZED), "{answer:?}");
}
