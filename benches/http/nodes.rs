//! Nodes in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use henge::config::{Config, EngineKind, Founder};
use henge::env::tokio_env;
use henge::node::run;
use henge::storage::{Engine, FjallEngine, FjallOptions, MemEngine, SledEngine, SledOptions};
use tokio::runtime::Runtime;

/// The servers' runtime.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// Starts `count` nodes of one cluster and waits until they are ready. Their data lies below
/// `dir`; without one, in memory. They live as long as the process. Returns where they serve HTTP,
/// and where CQL.
pub async fn start(
    count: usize,
    engine: EngineKind,
    dir: Option<&Path>,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let peers: Vec<SocketAddr> = (0..count).map(|_| free_port()).collect();
    let founders: Vec<Founder> = (0..count)
        .map(|n| Founder { name: format!("n{n}"), address: peers[n].to_string() })
        .collect();
    let starting = (0..count).map(|n| {
        let mut config = Config::default();
        config.node.name = format!("n{n}");
        config.storage.engine = engine;
        if let Some(dir) = dir {
            config.node.data_dir = dir.join(format!("n{n}"));
        }
        config.listen.http = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listen.cql = SocketAddr::from(([127, 0, 0, 1], 0));
        config.listen.peer = peers[n];
        config.cluster.founders.clone_from(&founders);
        async move { run::start(&config, tokio_env()).await.expect("the node starts") }
    });
    let nodes = join_all(starting).await;
    for node in &nodes {
        while !node.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let http = nodes.iter().map(run::NodeProcess::http_address).collect();
    let cql = nodes.iter().map(run::NodeProcess::cql_address).collect();
    std::mem::forget(nodes);
    (http, cql)
}

fn free_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// An engine as a node opens it.
pub fn engine(kind: EngineKind, dir: &Path) -> Arc<dyn Engine> {
    let (cache_bytes, reserve_bytes) = (128 << 20, 64 << 20);
    match kind {
        EngineKind::Sled => {
            let options = SledOptions { cache_bytes, reserve_bytes };
            Arc::new(SledEngine::open(dir, options).expect("sled opens"))
        }
        EngineKind::Fjall => {
            let options = FjallOptions { cache_bytes, reserve_bytes };
            Arc::new(FjallEngine::open(dir, options).expect("fjall opens"))
        }
        EngineKind::Memory => Arc::new(MemEngine::new()),
    }
}
