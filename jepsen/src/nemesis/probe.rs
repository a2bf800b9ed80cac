//! How the effects of faults are seen, and the damage that is done to files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use henge::client::{Call, Client};
use henge::sim::rng::Rng;
use hyper::http::Method;

use crate::hosts::cluster::Cluster;

/// The bucket that clocks are asked through: its keys are made by the server, and tell its time.
pub const BUCKET: &str = "probe";

/// Asks a node what time it is; true if it is off by `offset_us`.
pub async fn clock(cluster: &Cluster, node: usize, offset_us: i64) -> (bool, String) {
    let Ok(client) = Client::new([cluster.url(node)]) else {
        return (false, "no client".to_owned());
    };
    let (mut why, mut names_clock) = (String::new(), false);
    // It may be cut off, or busy, for a moment.
    for _ in 0..10 {
        let target = format!("/v1/kv/{BUCKET}?w=1&timeout=500ms");
        let call = Call::new(Method::POST, target).body("?");
        let before_ms = real_ms();
        match client.nodes()[0].send(&call, Duration::from_secs(1)).await {
            Ok(reply) => match reply.header("location").and_then(time_in) {
                Some(shown_ms) => {
                    // The node looked at its clock somewhere between the two.
                    let off = (shown_ms - real_ms(), shown_ms - before_ms);
                    why = format!("its clock is off by {} to {} ms", off.0, off.1);
                    if is_off_by(off, offset_us / 1_000) {
                        return (true, why);
                    }
                }
                None => {
                    why = reply.refused().to_string();
                    // A stamp too far from its own time is refused by the others.
                    names_clock |= why.contains("clock");
                }
            },
            Err(error) => why = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (names_clock, why)
}

/// True of a clock that is off, and by about so much.
fn is_off_by((least_ms, most_ms): (i64, i64), offset_ms: i64) -> bool {
    let near = (least_ms - 60)..=(most_ms + 60);
    near.contains(&offset_ms) && !(least_ms - 5..=most_ms + 5).contains(&0)
}

fn real_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The milliseconds in the UUIDv7 at the end of a path.
fn time_in(location: &str) -> Option<i64> {
    let id = uuid::Uuid::parse_str(location.rsplit('/').next()?).ok()?;
    i64::try_from(id.as_u128() >> 80).ok()
}

/// All files below a directory, largest first.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push((entry.metadata().map_or(0, |file| file.len()), path));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Flips single bits where data is, in the largest file below `directory`; says where, and nothing
/// if there is no data.
pub fn flip_bits(directory: &Path, rng: &mut Rng) -> Result<String, String> {
    let Some(path) = files(directory).into_iter().next() else { return Ok(String::new()) };
    let of = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = fs::read(&path).map_err(of)?;
    let Some(used) = bytes.iter().rposition(|byte| *byte != 0).filter(|used| *used > 0) else {
        return Ok(String::new());
    };
    let mut flipped = 0;
    for _ in 0..2_000 {
        let at = rng.index(used);
        // Zeros are mostly room that nobody reads.
        if bytes[at] != 0 {
            bytes[at] ^= 1 << rng.below(8);
            flipped += 1;
        }
        if flipped == 12 {
            break;
        }
    }
    fs::write(&path, &bytes).map_err(of)?;
    if flipped == 0 {
        return Ok(String::new());
    }
    let name = path.strip_prefix(directory).unwrap_or(&path).display();
    Ok(format!("{flipped} bits of {name} ({used} bytes)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_right_or_off_by_something_else_is_not_off() {
        assert!(is_off_by((-154, -146), -150));
        assert!(is_off_by((2_999, 3_040), 3_000));
        assert!(!is_off_by((-2, 2), 150));
        assert!(!is_off_by((-2, 2), 10), "nobody could tell");
        assert!(!is_off_by((590, 610), 3_000));
    }

    #[test]
    fn where_there_is_no_data_no_bits_are_flipped() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut rng = Rng::new(1);
        assert_eq!(flip_bits(directory.path(), &mut rng).expect("no file"), "");
        for bytes in [vec![], vec![0; 64]] {
            fs::write(directory.path().join("f"), &bytes).expect("a file");
            assert_eq!(flip_bits(directory.path(), &mut rng).expect("a file"), "", "{bytes:?}");
        }
        fs::write(directory.path().join("f"), [7; 64]).expect("a file");
        let flipped = flip_bits(directory.path(), &mut rng).expect("a file");
        assert!(flipped.starts_with("12 bits of f"), "{flipped}");
    }
}
