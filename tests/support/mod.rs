//! What the tests of whole processes share.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "each test binary uses a part; all drive real processes on the real clock"
)]

pub mod cluster;
pub mod fake;
pub mod raw;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: String,
}

impl Ended {
    /// What it printed, as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// What it printed, as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it did what it should.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Checks its exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "stdout: {}\nstderr: {}", self.shown(), self.stderr);
        self
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs `henge` in `directory` against `nodes`, with `stdin`, and waits for its end.
pub async fn henge_in(directory: &Path, nodes: &str, args: &[&str], stdin: &[u8]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_henge"));
    command
        .args(args)
        .current_dir(directory)
        .env("HENGE_NODES", nodes)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let stdin = stdin.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the binary starts");
        // A command that does not read its input is fine.
        drop(child.stdin.take().expect("piped").write_all(&stdin));
        let output = child.wait_with_output().expect("it ends");
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    })
    .await
    .expect("the waiting thread lives")
}

/// Runs `henge` against `nodes` in the directory for temporary files.
pub async fn henge(nodes: &str, args: &[&str]) -> Ended {
    henge_in(&std::env::temp_dir(), nodes, args, b"").await
}
