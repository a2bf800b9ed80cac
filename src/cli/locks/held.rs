//! Waiting for a lock, and running a command for as long as it is held.
//!
//! The time of a lease is counted from before it was asked for, on this process's own clock: what
//! the cluster counts began later. The command is killed when that time is over, not when somebody
//! says that the lock has gone: nobody may be there to say so.
#![allow(
    clippy::disallowed_methods,
    reason = "a client lives outside of the simulated node, on the real clock and its own processes"
)]

use std::ffi::OsString;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::cli::exit::{Exit, Failure};
use crate::cli::nodes::asked_to_stop;
use crate::cli::output;
use crate::client::{Asked, ClientError, Kept};

/// The longest pause between two attempts to get a lock.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The longest time that a command is given to end after Ctrl-C.
const MAX_GRACE: Duration = Duration::from_secs(3);
/// How often a running command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A lock that this process holds.
#[derive(Debug)]
pub(super) struct Held {
    /// The number of the grant.
    pub(super) fence: u64,
    ttl: Duration,
    /// It is held until then, whatever anybody says.
    until: Instant,
}

pub(super) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A name for this process: host and number.
pub(super) fn whoever() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(64).collect();
    format!("{}:{}", if host.is_empty() { "henge" } else { &host }, std::process::id())
}

/// Asks until it is ours, or `wait` is over.
pub(super) async fn wait_for<F>(
    shown: &str,
    ttl: Duration,
    wait: Duration,
    ask: impl Fn() -> F,
) -> Result<Held, Failure>
where
    F: Future<Output = Result<Asked, ClientError>>,
{
    let begun = Instant::now();
    let mut told = None;
    loop {
        let asked = Instant::now();
        let theirs = match ask().await {
            Ok(Asked::Ours(lease)) if asked.elapsed() < ttl => {
                return Ok(Held { fence: lease.fence, ttl, until: asked + ttl });
            }
            // The answer took longer than the lease.
            Ok(Asked::Ours(_)) => None,
            Ok(Asked::Theirs(theirs)) => theirs,
            // It may have been granted all the same: then it ends by itself.
            Err(error) if error.is_transient() && begun.elapsed() < wait => {
                output::note(format!("{shown}: {error}"));
                None
            }
            Err(error) => return Err(Failure::write(&error)),
        };
        if begun.elapsed() >= wait {
            let who = theirs.map_or_else(String::new, |lease| {
                format!(" by {} for up to {} ms", lease.owner, lease.remaining_ms)
            });
            return Err(Failure::new(Exit::Unavailable, format!("{shown} is held{who}")));
        }
        if let Some(lease) = &theirs
            && told != Some(lease.fence)
        {
            told = Some(lease.fence);
            output::note(format!("{shown} is held by {}: waiting", lease.owner));
        }
        let left = theirs.map_or(ASK_EVERY, |lease| Duration::from_millis(lease.remaining_ms));
        // Those who wait together do not ask together.
        let spread = Duration::from_millis(u64::from(std::process::id() % 50));
        pause(left.clamp(LOOK_EVERY, ASK_EVERY) + spread).await;
    }
}

/// Runs a command while `keep` keeps the lock, and ends as it does: this process takes over its
/// exit code.
///
/// # Errors
/// When the command fails, or is killed because the lock was lost.
pub(super) async fn run_under<F>(
    held: Held,
    command: &[OsString],
    variables: &[(&str, String)],
    keep: impl Fn() -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Kept, ClientError>>,
{
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("name a command after --"));
    };
    let mut process = Command::new(program);
    process.args(arguments).envs(variables.iter().map(|(name, value)| (*name, value)));
    let child = process.spawn().map_err(|error| {
        Failure::new(Exit::Usage, format!("{}: {error}", program.to_string_lossy()))
    })?;
    let mut child = Running(child);
    // As much as is left of a lease, between two renewals.
    let grace = (held.ttl / 3).min(MAX_GRACE);
    let status = tokio::select! {
        biased;
        status = child.ended() => status?,
        lost = kept(held, keep) => {
            child.kill();
            return Err(Failure::new(Exit::Lost, format!("{lost}: the command was killed")));
        }
        signal = asked_to_stop() => {
            // Ctrl-C reaches the command as well, which may have something to tidy up.
            if signal? == "SIGINT" {
                let _ = tokio::time::timeout(grace, child.ended()).await;
            }
            child.kill();
            return Err(Failure::silent(Exit::Interrupted));
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(Failure { code: Some(code_of(status)), ..Failure::silent(Exit::Failure) })
}

/// Its code, or as a shell has it 128 and the number of the signal that ended it.
fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal: Option<i32> = None;
    let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// A process that does not outlive its lock.
struct Running(Child);

impl Running {
    async fn ended(&mut self) -> Result<ExitStatus, Failure> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            pause(LOOK_EVERY).await;
        }
    }

    fn kill(&mut self) {
        // That it has ended by itself is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps the lock; ends when it is lost, and says how.
async fn kept<F>(mut held: Held, keep: impl Fn() -> F) -> String
where
    F: Future<Output = Result<Kept, ClientError>>,
{
    let mut next = held.ttl / 3;
    loop {
        let left = held.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return "the lock could not be renewed in time".to_owned();
        }
        pause(next.min(left)).await;
        let asked = Instant::now();
        let left = held.until.saturating_duration_since(asked);
        match tokio::time::timeout(left, keep()).await {
            Ok(Ok(Kept::Done)) => {
                held.until = asked + held.ttl;
                next = held.ttl / 3;
            }
            Ok(Ok(Kept::Ended)) => return "the lock was lost".to_owned(),
            Ok(Err(error)) => {
                output::note(format!("the lock could not be renewed yet: {error}"));
                next = held.ttl / 20;
            }
            Err(_) => {}
        }
    }
}
