//! `henge start`: one node in the foreground.
#![allow(
    clippy::disallowed_methods,
    reason = "wires the node to the real runtime and the process's signals"
)]

use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure};
use super::nodes;
use crate::config::Config;
use crate::telemetry;

/// Arguments of `henge start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The node's configuration; see config/henge.toml.
    #[arg(long, short, value_name = "FILE", env = "HENGE_CONFIG")]
    pub config: PathBuf,
}

/// `henge start`.
pub fn start(args: &StartArgs) -> Result<(), Failure> {
    let loaded = Config::load(&args.config).map_err(|error| Failure::usage(error.to_string()))?;
    telemetry::init(&loaded.config.log.level, loaded.config.log.format);
    telemetry::abort_on_panic();
    nodes::plant()?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        file = %args.config.display(),
        "effective configuration:\n{}",
        loaded.config.to_toml()
    );
    nodes::block_on(async {
        let node = nodes::start(loaded.config.clone())
            .await
            .map_err(|message| Failure::new(Exit::Failure, message))?;
        let again = tokio::select! {
            biased;
            signal = nodes::asked_to_stop() => {
                let signal = signal?;
                tracing::info!(signal, "stopping: no new requests, those under way are finished");
                false
            }
            why = node.storage_failed() => {
                // Without a clean stop: nothing more can be written.
                let cure = "start it again once the disk is well";
                return Err(Failure::new(Exit::Failure, format!("{why}; {cure}")));
            }
            why = node.must_restart() => {
                tracing::warn!(why, "starting anew");
                true
            }
        };
        node.stop().await;
        if again {
            return Err(nodes::start_anew());
        }
        tracing::info!("stopped");
        Ok(())
    })
}
