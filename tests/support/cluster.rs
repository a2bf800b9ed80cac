//! Clusters of real processes of the built binary, each in a directory of its own.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use henge::cli::local::{Layout, LocalCluster};
use henge::config::Config;
use tempfile::TempDir;

/// Tells the clusters of one test process apart.
static NUMBER: AtomicU8 = AtomicU8::new(0);

/// A cluster that ends with the test. Everything that [`LocalCluster`] can do, it can do.
#[derive(Debug)]
pub struct TestCluster {
    cluster: LocalCluster,
    // After the cluster: the processes end before their directory goes.
    directory: TempDir,
}

impl std::ops::Deref for TestCluster {
    type Target = LocalCluster;

    fn deref(&self) -> &LocalCluster {
        &self.cluster
    }
}

impl std::ops::DerefMut for TestCluster {
    fn deref_mut(&mut self) -> &mut LocalCluster {
        &mut self.cluster
    }
}

impl Drop for TestCluster {
    /// A failed test leaves its logs and data.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("logs and data stay in {}", self.directory.path().display());
        }
    }
}

impl TestCluster {
    /// Starts `nodes` nodes with the default settings and waits until they are ready.
    pub async fn start(nodes: u8) -> Self {
        Self::start_with(nodes, &Config::default()).await
    }

    /// Starts `nodes` nodes with the settings of `base` (names, addresses and directories are
    /// replaced) and waits until they are ready.
    pub async fn start_with(nodes: u8, base: &Config) -> Self {
        let mut cluster = Self::start_unready(nodes, base);
        cluster.wait_ready().await.unwrap_or_else(|error| panic!("{error}"));
        cluster
    }

    /// As [`TestCluster::start_with`], without waiting.
    pub fn start_unready(nodes: u8, base: &Config) -> Self {
        let mut cluster = Self::prepare(nodes, base);
        for node in 0..cluster.len() {
            cluster.start_node(node).unwrap_or_else(|error| panic!("{error}"));
        }
        cluster
    }

    /// As [`TestCluster::start`], with an address of its own for each node.
    pub async fn start_apart(nodes: u8) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::apart(nodes, std::process::id(), number).expect("free addresses");
        let mut cluster = Self::prepare_at(layout, &Config::default());
        for node in 0..cluster.len() {
            cluster.start_node(node).unwrap_or_else(|error| panic!("{error}"));
        }
        cluster.wait_ready().await.unwrap_or_else(|error| panic!("{error}"));
        cluster
    }

    /// As [`TestCluster::start_with`], with no node started yet.
    pub fn prepare(nodes: u8, base: &Config) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::private(nodes, std::process::id(), number).expect("free addresses");
        Self::prepare_at(layout, base)
    }

    fn prepare_at(layout: Layout, base: &Config) -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let mut base = base.clone();
        base.cluster.name = "test".to_owned();
        base.storage.cache_mb = 32;
        let program = Path::new(env!("CARGO_BIN_EXE_henge"));
        let cluster = LocalCluster::prepare(program, &base, layout, directory.path())
            .unwrap_or_else(|error| panic!("{error}"));
        Self { cluster, directory }
    }

    /// All nodes for `HENGE_NODES`.
    pub fn nodes(&self) -> String {
        self.layout().urls().join(",")
    }

    /// What a node has logged, over all its starts.
    pub fn log(&self, node: usize) -> String {
        let log = std::fs::read(self.log_file(node)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The directory with configurations, data and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
