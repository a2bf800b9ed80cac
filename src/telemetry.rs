//! Logging, and what happens when a node finds itself in an impossible state.
//!
//! Log lines go to stderr: stdout belongs to what a command prints. Events carry fields (`node`,
//! `key_hash`, `required`, …) and never a user's values; keys appear as fingerprints only.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Says what is wrong with `level`, a level or `tracing` filter directives.
///
/// # Errors
/// The parser's words, and what is allowed.
pub fn check_filter(level: &str) -> Result<(), String> {
    filter(level).map(|_| ())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    const EXPECTED: &str = "use error, warn, info, debug, trace, or directives such as \
                            \"info,henge::gossip=debug\"";
    // A lone unknown word would be taken for the name of a module and silence everything.
    for part in level.split(',') {
        let known = ["error", "warn", "info", "debug", "trace", "off"];
        if !part.contains(['=', ':', '[']) && !known.contains(&part.trim()) {
            return Err(format!("{part:?} is no log level: {EXPECTED}"));
        }
    }
    EnvFilter::builder().parse(level).map_err(|error| format!("{error}: {EXPECTED}"))
}

/// Starts logging for the whole process, with a `level` that passes [`check_filter`]. Later calls
/// change nothing, so that several nodes may live in one process.
pub fn init(level: &str, format: LogFormat) {
    let filter = filter(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).try_init(),
    };
    drop(started);
}

/// Makes a panic anywhere in the process log itself and end the process.
///
/// A panic is an impossible state of our own. A node that goes on after one may acknowledge what
/// it does not hold; a node that stops is what the rest of the cluster is built to survive.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if crate::storage::panic_is_contained() {
            // A storage engine met bytes that it did not expect; the wrapper turns its panic into
            // an error that names the store.
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!(
            place,
            message,
            "impossible state: this is a bug in Henge; the node stops rather than go on. \
             Start it again, and report this with the lines above"
        );
        report(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_rather_than_silencing_everything() {
        assert!(check_filter("inof").is_err());
        assert!(check_filter("info,henge::gossip=loud").is_err());
        assert_eq!(check_filter("info,henge::gossip=debug"), Ok(()));
    }
}
