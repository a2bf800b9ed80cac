//! A local cluster of real processes that can be killed, stopped and started again.
#![allow(
    clippy::disallowed_methods,
    reason = "drives whole processes from outside, on the real clock"
)]

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hyper::http::Method;

use super::layout::{Layout, node_config};
use crate::client::{Call, Client, ClientError};
use crate::config::Config;

/// How long a node may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// Why a local cluster does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LocalError(pub String);

impl LocalError {
    fn of(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// A cluster of processes of one `henge` binary, with a directory for their configurations, data
/// and logs. Dropping it kills what still runs; the directory stays.
#[derive(Debug)]
pub struct LocalCluster {
    program: PathBuf,
    directory: PathBuf,
    layout: Layout,
    processes: Vec<Option<Child>>,
    environment: Vec<(String, String)>,
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl LocalCluster {
    /// Writes the nodes' configurations (`base` with names, addresses and directories of their
    /// own) and starts one process each. Does not wait for them to be ready.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn start(
        program: &Path,
        base: &Config,
        layout: Layout,
        directory: &Path,
    ) -> Result<Self, LocalError> {
        let mut cluster = Self::prepare(program, base, layout, directory)?;
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    /// As [`LocalCluster::start`], but starts no node yet.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn prepare(
        program: &Path,
        base: &Config,
        layout: Layout,
        directory: &Path,
    ) -> Result<Self, LocalError> {
        std::fs::create_dir_all(directory).map_err(LocalError::of(directory.display()))?;
        let nodes = layout.places.len();
        let cluster = Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            layout,
            processes: (0..nodes).map(|_| None).collect(),
            environment: Vec::new(),
        };
        for node in 0..nodes {
            let config = node_config(base, &cluster.layout, node, directory);
            let path = cluster.config_file(node);
            std::fs::write(&path, config.to_toml()).map_err(LocalError::of(path.display()))?;
        }
        Ok(cluster)
    }

    /// Sets an environment variable of the nodes that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// True for a cluster without nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Where the nodes listen.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The address of a node for clients. Nodes are counted from 0.
    #[must_use]
    pub fn url(&self, node: usize) -> String {
        self.layout.urls()[node].clone()
    }

    /// The configuration file of a node.
    #[must_use]
    pub fn config_file(&self, node: usize) -> PathBuf {
        self.directory.join(format!("n{}.toml", node + 1))
    }

    /// The data directory of a node.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.directory.join(format!("n{}", node + 1))
    }

    /// What a node has logged, over all its starts.
    #[must_use]
    pub fn log_file(&self, node: usize) -> PathBuf {
        self.directory.join(format!("n{}.log", node + 1))
    }

    /// A client of all nodes.
    ///
    /// # Errors
    /// None for a cluster with at least one node.
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::new(self.layout.urls())
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// [`LocalError`], also if it runs.
    pub fn start_node(&mut self, node: usize) -> Result<(), LocalError> {
        if self.processes[node].is_some() {
            return Err(LocalError(format!("node {} runs already", node + 1)));
        }
        let log_file = self.log_file(node);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_file)
            .map_err(LocalError::of(log_file.display()))?;
        let mut command = Command::new(&self.program);
        // The nodes' configurations are complete; an override meant for another node must not
        // reach them. Planted bugs may.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("HENGE_") && text != "HENGE_PLANT" {
                command.env_remove(&name);
            }
        }
        let process = command
            .arg("start")
            .arg("--config")
            .arg(self.config_file(node))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(LocalError::of(self.program.display()))?;
        self.processes[node] = Some(process);
        Ok(())
    }

    /// The process of a node that runs.
    ///
    /// # Errors
    /// [`LocalError`] if it does not run.
    pub fn pid(&self, node: usize) -> Result<u32, LocalError> {
        let process = self.processes[node].as_ref();
        process.map(Child::id).ok_or_else(|| LocalError(format!("node {} does not run", node + 1)))
    }

    /// Kills a node at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// [`LocalError`] if it does not run.
    pub fn kill(&mut self, node: usize) -> Result<ExitStatus, LocalError> {
        self.pid(node)?;
        self.reap(node, Child::kill)
    }

    /// Sends a signal, such as `STOP`, `CONT` or `TERM`, to a node.
    ///
    /// # Errors
    /// [`LocalError`] if it does not run.
    pub fn signal(&self, node: usize, signal: &str) -> Result<(), LocalError> {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid(node)?.to_string())
            .status()
            .map_err(LocalError::of("kill"))?;
        if status.success() {
            return Ok(());
        }
        Err(LocalError(format!("kill -{signal} of node {} failed", node + 1)))
    }

    /// Asks a node to stop (`SIGTERM`) and waits until it has.
    ///
    /// # Errors
    /// [`LocalError`] if it does not run.
    pub fn stop(&mut self, node: usize) -> Result<ExitStatus, LocalError> {
        self.signal(node, "TERM")?;
        self.reap(node, |_| Ok(()))
    }

    fn reap(
        &mut self,
        node: usize,
        before: impl FnOnce(&mut Child) -> std::io::Result<()>,
    ) -> Result<ExitStatus, LocalError> {
        let mut process = self.processes[node]
            .take()
            .ok_or_else(|| LocalError(format!("node {} does not run", node + 1)))?;
        let what = format!("node {}", node + 1);
        before(&mut process).and_then(|()| process.wait()).map_err(LocalError::of(what))
    }

    /// Waits until every node that runs says that it is ready (it can serve a quorum).
    ///
    /// # Errors
    /// [`LocalError`] with the end of the log of a node that ended, or was not ready in a minute.
    pub async fn wait_ready(&mut self) -> Result<(), LocalError> {
        for node in 0..self.len() {
            if self.processes[node].is_some() {
                self.wait_node_ready(node).await?;
            }
        }
        Ok(())
    }

    /// Waits until one node says that it is ready.
    ///
    /// # Errors
    /// As [`LocalCluster::wait_ready`].
    pub async fn wait_node_ready(&mut self, node: usize) -> Result<(), LocalError> {
        let client =
            Client::new([self.url(node)]).map_err(|error| LocalError(error.to_string()))?;
        let began = Instant::now();
        let ready = Call::new(Method::GET, "/readyz");
        loop {
            let why = match client.nodes()[0].send(&ready, Duration::from_secs(2)).await {
                Ok(reply) if reply.status.as_u16() == 200 => return Ok(()),
                Ok(reply) => reply.refused().to_string(),
                Err(error) => error.to_string(),
            };
            self.check_alive(node)?;
            if began.elapsed() > READY {
                return Err(self.trouble(node, &format!("is not ready: {why}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How a node that was started has ended by itself; `None` while it runs.
    ///
    /// # Errors
    /// [`LocalError`] if it was not started, or was stopped or killed from here.
    pub fn ended(&mut self, node: usize) -> Result<Option<ExitStatus>, LocalError> {
        let ended = match &mut self.processes[node] {
            Some(process) => process.try_wait().map_err(LocalError::of("wait"))?,
            None => return Err(LocalError(format!("node {} does not run", node + 1))),
        };
        if ended.is_some() {
            self.processes[node] = None;
        }
        Ok(ended)
    }

    fn check_alive(&mut self, node: usize) -> Result<(), LocalError> {
        match self.ended(node)? {
            None => Ok(()),
            Some(status) => Err(self.trouble(node, &format!("ended ({status})"))),
        }
    }

    /// An error with the last lines that the node logged.
    fn trouble(&self, node: usize, what: &str) -> LocalError {
        let log = std::fs::read(self.log_file(node)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n  ");
        LocalError(format!("node {} {what}\n  {end}", node + 1))
    }
}
