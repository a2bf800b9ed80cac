//! Roles, against real processes: the same name and password at both doors, a change that every
//! node knows of, and the command line.
#![allow(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use henge::client::{BAD_CREDENTIALS, CqlConnection, CqlFailure, Credentials};
use henge::config::Config;
use support::cluster::TestCluster;
use support::raw::{self, Raw};

const UNAUTHORIZED: i32 = 0x2100;

struct Cluster {
    cluster: TestCluster,
    admin: Credentials,
}

impl Cluster {
    /// Two nodes that ask who their clients are, and the superuser that they have made.
    async fn start() -> Self {
        let mut base = Config::default();
        base.auth.enabled = true;
        let cluster = TestCluster::start_with(2, &base).await;
        let admin = Credentials::new("admin", first_password(&cluster));
        let this = Self { cluster, admin };
        for node in 0..2 {
            let began = Instant::now();
            while this.http(node, &this.admin, "GET", "/v1/cluster", "").await.status != 200 {
                assert!(began.elapsed() < Duration::from_secs(30), "no superuser is let in");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        this
    }

    fn door(&self, node: usize) -> SocketAddr {
        self.cluster.layout().places[node].http
    }

    async fn http(
        &self,
        node: usize,
        who: &Credentials,
        method: &str,
        path: &str,
        body: &str,
    ) -> Raw {
        let basic = who.basic();
        let headers = [("authorization", basic.as_str())];
        raw::request(self.door(node), method, path, &headers, body.as_bytes()).await
    }

    async fn cql(&self, node: usize, who: &Credentials) -> Result<CqlConnection, CqlFailure> {
        let address = self.cluster.layout().places[node].cql.to_string();
        CqlConnection::open_as(&address, Some(who)).await
    }
}

/// What one of the nodes has written for its owner to read.
fn first_password(cluster: &TestCluster) -> String {
    let began = Instant::now();
    loop {
        for node in ["n1", "n2"] {
            let file = cluster.directory().join(node).join("first-password");
            let known = cluster.log(0).contains("a superuser was made")
                || cluster.log(1).contains("a superuser was made");
            if let (true, Ok(text)) = (known, std::fs::read_to_string(&file)) {
                let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "others can read it");
                return text.trim_end().to_owned();
            }
        }
        let logs = || cluster.log(0) + &cluster.log(1);
        assert!(began.elapsed() < Duration::from_secs(30), "no first password: {}", logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn code(result: Result<impl std::fmt::Debug, CqlFailure>) -> i32 {
    match result {
        Err(CqlFailure::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_of_every_node_know_the_same_roles() {
    let cluster = Cluster::start().await;
    let nobody = raw::request(cluster.door(0), "GET", "/v1/kv/fruit/apple", &[], b"").await;
    assert_eq!((nobody.status, nobody.problem().as_str()), (401, "unauthenticated"));
    assert!(nobody.header("www-authenticate").is_some_and(|asked| asked.starts_with("basic")));
    for public in ["/healthz", "/readyz", "/metrics", "/problems/unauthenticated"] {
        let answer = raw::request(cluster.door(0), "GET", public, &[], b"").await;
        assert_eq!(answer.status, 200, "{public}");
    }
    let wrong = Credentials::new("admin", "wrong");
    assert_eq!(cluster.http(0, &wrong, "GET", "/v1/buckets", "").await.status, 401);
    assert_eq!(code(cluster.cql(0, &wrong).await), BAD_CREDENTIALS);

    let admin = &cluster.admin;
    assert_eq!(cluster.http(0, admin, "PUT", "/v1/buckets/fruit", "{}").await.status, 201);
    let mut cql = cluster.cql(0, admin).await.expect("the superuser is let in");
    cql.query("CREATE ROLE bob WITH PASSWORD = 'sesame' AND LOGIN = true").await.expect("made");

    // What was made at one node's door holds at the other node's, at once.
    let bob = Credentials::new("bob", "sesame");
    let mut bobs = cluster.cql(1, &bob).await.expect("bob is let in");
    for (method, path, body) in [
        ("GET", "/v1/kv/fruit/apple", ""),
        ("PUT", "/v1/kv/fruit/apple", "red"),
        ("DELETE", "/v1/kv/fruit/apple", ""),
        ("GET", "/v1/kv/fruit", ""),
        ("PATCH", "/v1/buckets/fruit", "{\"ttl_s\": 7}"),
        ("DELETE", "/v1/buckets/fruit", ""),
        ("PUT", "/v1/buckets/more", "{}"),
        ("POST", "/v1/locks/l", "{\"owner\": \"bob\"}"),
        ("GET", "/v1/locks/l", ""),
        ("POST", "/v1/cql", "{\"query\": \"SELECT * FROM fruit.kv\"}"),
        ("POST", "/v1/cql", "{\"query\": \"CREATE ROLE eve\"}"),
    ] {
        let answer = cluster.http(1, &bob, method, path, body).await;
        let shown = (answer.status, answer.problem());
        assert_eq!(shown, (403, "forbidden".to_owned()), "{method} {path}: {}", answer.text());
    }
    assert_eq!(code(bobs.query("SELECT * FROM fruit.kv").await), UNAUTHORIZED);

    cql.query("GRANT SELECT ON fruit.kv TO bob").await.expect("granted");
    assert_eq!(cluster.http(1, &bob, "GET", "/v1/kv/fruit/apple", "").await.status, 404);
    assert_eq!(cluster.http(1, &bob, "PUT", "/v1/kv/fruit/apple", "red").await.status, 403);
    bobs.query("SELECT * FROM fruit.kv").await.expect("on the connection that was open");
    let select = "{\"query\": \"SELECT * FROM fruit.kv\"}";
    assert_eq!(cluster.http(1, &bob, "POST", "/v1/cql", select).await.status, 200);
    let lines =
        "{\"op\": \"get\", \"key\": \"a\"}\n{\"op\": \"put\", \"key\": \"a\", \"value\": \"b\"}\n";
    let batch = cluster.http(1, &bob, "POST", "/v1/kv/fruit/batch", lines).await;
    let text = batch.text();
    // In chunks, each after its length.
    let told = text.lines().filter(|line| line.starts_with('{'));
    let told: Vec<bool> = told.map(|line| line.contains("forbidden")).collect();
    assert_eq!(told, [false, true], "{text}");

    cql.query("GRANT MODIFY ON KEYSPACE fruit TO bob").await.expect("granted");
    assert_eq!(cluster.http(1, &bob, "PUT", "/v1/kv/fruit/apple", "red").await.status, 201);
    cql.query("GRANT MODIFY ON henge.locks TO bob").await.expect("granted, before its first use");
    let lock = cluster.http(1, &bob, "POST", "/v1/locks/l", "{\"owner\": \"bob\"}").await;
    assert_eq!(lock.status, 201, "{}", lock.text());

    // A role that is gone is gone from connections that are open, and from what is remembered.
    cql.query("DROP ROLE bob").await.expect("dropped");
    assert_eq!(code(bobs.query("SELECT * FROM fruit.kv").await), BAD_CREDENTIALS);
    assert_eq!(cluster.http(1, &bob, "GET", "/v1/kv/fruit/apple", "").await.status, 401);
    for node in 0..2 {
        let log = cluster.cluster.log(node);
        assert!(!log.contains("sesame") && !log.contains("$2a$"), "a password is logged: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_logs_in_too() {
    let cluster = Cluster::start().await;
    let password = first_password(&cluster.cluster);
    let secret = cluster.cluster.directory().join("secret");
    std::fs::write(&secret, format!("{password}\n")).expect("a file");
    let cql = cluster.cluster.layout().places[0].cql.to_string();
    let henge = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = Command::new(env!("CARGO_BIN_EXE_henge"))
            .args(arguments)
            .env_remove("HENGE_USER")
            .env("HENGE_NODES", cluster.cluster.nodes())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("henge runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let file = secret.display().to_string();
    let (code, shown) = henge(&["buckets", "create", "fruit"], &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("who you are"), "{shown}");
    let create = ["--user", "admin", "--password-file", &file, "buckets", "create", "fruit"];
    let (code, shown) = henge(&create, &[]);
    assert_eq!(code, Some(0), "{shown}");
    let environment = [("HENGE_USER", "admin"), ("HENGE_PASSWORD", password.as_str())];
    let (code, shown) = henge(&["put", "fruit", "apple", "red"], &environment);
    assert_eq!(code, Some(0), "{shown}");
    let list = ["cql", &cql, "-e", "LIST ROLES"];
    let (code, shown) = henge(&list, &environment);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("admin"), "{shown}");
    let (code, shown) = henge(&list, &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("who you are"), "{shown}");
    let wrong = [&list[..], &["-u", "admin", "-p", "wrong"]].concat();
    let (code, shown) = henge(&wrong, &[]);
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("incorrect"), "{shown}");
}
