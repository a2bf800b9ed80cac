//! What this machine lets the harness do.

use std::path::Path;
use std::process::{Command, Stdio};

use super::sys;

/// One thing that is needed, and whether it is there.
#[derive(Debug)]
pub struct Need {
    /// What.
    pub name: &'static str,
    /// What becomes impossible without it.
    pub purpose: &'static str,
    /// `None`: it is there; else, what is missing.
    pub missing: Option<String>,
}

/// Leaves the system's network and mounts for empty ones of this process. To be called before any
/// other thread exists.
///
/// # Errors
/// What the system refused.
pub fn enter_own_world() -> Result<(), String> {
    sys::enter_own_mounts().map_err(|error| format!("a mount namespace: {error}"))?;
    sys::enter_own_network().map_err(|error| format!("a network namespace: {error}"))
}

fn runs(program: &str, argument: &str) -> Option<String> {
    let status =
        Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(_) => None,
        Err(error) => Some(format!("{program}: {error}")),
    }
}

fn exists(path: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| format!("no {path}"))
}

/// Looks at everything. The process should be in its own world already; `entered` says how that
/// went.
pub fn examine(entered: &Result<(), String>, binary: &Path) -> Vec<Need> {
    let need = |name, purpose, missing| Need { name, purpose, missing };
    let root = (!sys::is_root()).then(|| "not root".to_owned());
    let tun = match entered {
        Ok(()) => sys::open_tun("probe0").err().map(|error| error.to_string()),
        Err(why) => Some(why.clone()),
    };
    vec![
        need("root", "namespaces, disk-full, power", root),
        need(
            "namespaces",
            "a network of its own (else: proxies on loopback)",
            entered.clone().err(),
        ),
        need("/dev/net/tun", "the packet switch: partitions, delay, loss", tun),
        need("ip", "addresses in the namespaces (iproute2)", runs("ip", "-V")),
        need("setpriv", "nodes end with the harness (util-linux)", runs("setpriv", "--version")),
        need("loop devices", "disk-full, power", exists("/dev/loop-control")),
        need("mkfs.ext4", "disk-full, power (e2fsprogs)", runs("mkfs.ext4", "-V")),
        need("henge", "the node itself", exists(&binary.to_string_lossy())),
    ]
}
