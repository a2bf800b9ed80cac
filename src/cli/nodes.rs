//! Nodes that run in this process.
#![allow(
    clippy::disallowed_methods,
    reason = "wires nodes to the real runtime and the process's signals"
)]

use std::time::Duration;

use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::env::tokio_env;
use crate::node::run::{self, NodeProcess};

/// How long each step of a stop may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node that runs in this process.
#[derive(Debug)]
pub struct RunningNode(NodeProcess);

impl RunningNode {
    /// Takes no new requests, finishes those under way, and closes the storage.
    pub async fn stop(self) {
        if let Err(error) = self.0.stop(PATIENCE).await {
            tracing::error!(%error, "the stop was not clean; nothing acknowledged is lost");
        }
    }

    /// Completes when the node's storage has failed for good, with the error.
    pub async fn storage_failed(&self) -> String {
        self.0.storage_failed().await.to_string()
    }

    /// Completes if the node has to be started anew, with the reason.
    pub async fn must_restart(&self) -> String {
        self.0.must_restart().await
    }
}

/// Starts a node.
pub async fn start(config: Config) -> Result<RunningNode, String> {
    run::start(&config, tokio_env()).await.map(RunningNode).map_err(|error| error.to_string())
}

/// Switches the planted bug on that `HENGE_PLANT` names: test builds only.
#[cfg(feature = "sim")]
pub fn plant() -> Result<(), Failure> {
    let Ok(name) = std::env::var("HENGE_PLANT") else { return Ok(()) };
    match crate::plants::plant_named(&name) {
        Some(plant) => {
            crate::plants::set_plant(Some(plant));
            Ok(())
        }
        None => Err(Failure::usage(format!("HENGE_PLANT: there is no plant {name:?}"))),
    }
}

/// A build without planted bugs refuses to be asked for one.
#[cfg(not(feature = "sim"))]
pub fn plant() -> Result<(), Failure> {
    match std::env::var_os("HENGE_PLANT") {
        None => Ok(()),
        Some(_) => Err(Failure::usage("HENGE_PLANT: this build has no planted bugs")),
    }
}

/// Runs `nodes` on a runtime of their own until they have ended. A thread that hangs in the storage
/// engine is left behind: it must not keep the process.
pub fn block_on<T>(nodes: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("henge")
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))?;
    let ended = runtime.block_on(nodes);
    runtime.shutdown_background();
    ended
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

/// Puts a fresh process of the same command in this one's place: nothing of the old node, above
/// all no task that could still write, outlives it.
#[cfg(unix)]
pub fn start_anew() -> Failure {
    use std::os::unix::process::CommandExt as _;
    let error = match std::env::current_exe() {
        Ok(program) => {
            let mut arguments = std::env::args_os();
            let mut command = std::process::Command::new(program);
            if let Some(name) = arguments.next() {
                command.arg0(name);
            }
            // Returns only if it fails.
            command.args(arguments).exec()
        }
        Err(error) => error,
    };
    Failure::new(Exit::Failure, format!("the node must be started again ({error})"))
}

#[cfg(not(unix))]
pub fn start_anew() -> Failure {
    Failure::new(Exit::Failure, "the node must be started again: run the same command")
}
