//! Nodes that run in this process.
#![allow(
    clippy::disallowed_methods,
    reason = "wires nodes to the real runtime and the process's signals"
)]

use super::exit::{Exit, Failure};
use crate::config::Config;

/// A node that runs in this process.
#[derive(Debug)]
pub struct RunningNode;

impl RunningNode {
    /// Takes no new requests, finishes those under way, and closes the storage.
    pub async fn stop(self) {}
}

/// Starts a node.
pub async fn start(_config: Config) -> Result<RunningNode, String> {
    Err("this build has no node yet".to_owned())
}

/// The runtime that nodes run on.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("henge")
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))
}

/// Waits for Ctrl-C or `SIGTERM`; says which.
pub async fn asked_to_stop() -> Result<&'static str, Failure> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate())?;
        tokio::select! {
            biased;
            _ = term.recv() => Ok("SIGTERM"),
            result = tokio::signal::ctrl_c() => result.map(|()| "SIGINT").map_err(Failure::from),
        }
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await?;
        Ok("Ctrl-C")
    }
}
