//! Dependencies of the modules point downwards only. The table is the map: which modules a module
//! of `src` may name, from the pure ones at the bottom to the wiring at the top. Each row is what
//! the code does today, so that a new arrow is a decision that somebody makes here.
//!
//! Read from the `crate::` paths of the code. Tests may use anything and are left out.
#![allow(clippy::disallowed_methods, reason = "reads the project's own sources")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module and those that it names, all of them in rows above.
const LAYERS: &[(&str, &[&str])] = &[
    // Pure: no clock, disk, network, task or global randomness.
    ("types", &[]),
    ("plants", &[]),
    ("binary", &[]),
    ("causality", &["types"]),
    ("record", &["causality", "plants", "types"]),
    ("ring", &["types"]),
    ("quorum", &["plants", "types"]),
    ("paxos", &["binary", "plants", "types"]),
    ("gossip", &["binary", "types"]),
    ("cql", &["record", "ring", "types"]),
    ("meta", &["cql", "record", "ring", "types"]),
    ("merkle", &["ring", "types"]),
    ("recipes", &["plants", "record", "types"]),
    ("overload", &["types"]),
    // The seams, and what stands on them: storage knows no cluster, replicas know no client, the
    // coordinator knows neither sockets nor disks.
    ("env", &["types"]),
    ("storage", &["env", "plants", "types"]),
    ("net", &["binary", "env", "types"]),
    (
        "replica",
        &[
            "binary",
            "causality",
            "cql",
            "env",
            "merkle",
            "meta",
            "net",
            "paxos",
            "plants",
            "record",
            "ring",
            "storage",
            "types",
        ],
    ),
    (
        "cluster",
        &["binary", "env", "gossip", "meta", "net", "paxos", "plants", "ring", "storage", "types"],
    ),
    (
        "coordinator",
        &[
            "binary",
            "causality",
            "cluster",
            "env",
            "meta",
            "net",
            "paxos",
            "plants",
            "quorum",
            "recipes",
            "record",
            "ring",
            "types",
        ],
    ),
    (
        "repair",
        &[
            "cluster",
            "coordinator",
            "env",
            "gossip",
            "merkle",
            "meta",
            "net",
            "plants",
            "record",
            "replica",
            "ring",
            "storage",
            "types",
        ],
    ),
    // The process: logs (which know of storage that its panics are contained), numbers, settings.
    ("metrics", &[]),
    ("telemetry", &["storage"]),
    ("config", &["telemetry", "types"]),
    // The doors know no replica.
    (
        "server",
        &[
            "causality",
            "config",
            "coordinator",
            "cql",
            "env",
            "meta",
            "metrics",
            "overload",
            "recipes",
            "record",
            "ring",
            "types",
        ],
    ),
    (
        "node",
        &[
            "causality",
            "cluster",
            "config",
            "coordinator",
            "cql",
            "env",
            "gossip",
            "meta",
            "metrics",
            "net",
            "overload",
            "record",
            "repair",
            "replica",
            "ring",
            "server",
            "storage",
            "types",
        ],
    ),
    // Programs around it. The client knows the public protocol only.
    // (CQL, the language, is part of it.)
    ("client", &["cql", "types"]),
    ("cli", &["client", "config", "cql", "env", "node", "plants", "telemetry", "types"]),
    (
        "sim",
        &[
            "causality",
            "cluster",
            "coordinator",
            "cql",
            "env",
            "gossip",
            "merkle",
            "meta",
            "net",
            "node",
            "paxos",
            "plants",
            "recipes",
            "record",
            "repair",
            "replica",
            "ring",
            "server",
            "storage",
            "types",
        ],
    ),
];

/// Arrows that point upwards, each with its reason. There should be none.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "coordinator",
    "repair",
    "a coordinator keeps hints in the store that delivers them, and delivery heals through the \
     coordinator; undone by moving the store of hints below both",
)];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The lines of a file that are neither comments nor the tests at its end.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = ["#[cfg(test)]\nmod tests {", "#[cfg(all(test, feature = \"sim\"))]\nmod tests {"]
        .iter()
        .filter_map(|tests| text.find(tests))
        .min()
        .unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The file modules that a file declares for tests only.
fn test_modules(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("#[cfg(") && pair[0].contains("test"))
        .filter_map(|pair| pair[1].split("mod ").nth(1)?.strip_suffix(';'))
        .collect()
}

/// Adds the modules that the code below `path` names.
fn collect(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        let declared = fs::read_to_string(path.join("mod.rs")).unwrap_or_default();
        let tests = test_modules(&declared);
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if !tests.contains(&name) && !is_test_of_sibling(&path, name) {
                collect(&path, found);
            }
        }
        return;
    }
    let text = fs::read_to_string(path).expect("a source file");
    for line in code(&text) {
        for after in line.split("crate::").skip(1) {
            let name: String =
                after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
}

/// `x/tests.rs` beside `x.rs`.
fn is_test_of_sibling(path: &Path, name: &str) -> bool {
    let Some(parent) = path.parent() else { return false };
    let text = fs::read_to_string(parent.with_extension("rs")).unwrap_or_default();
    test_modules(&text).contains(&name)
}

fn modules() -> BTreeSet<String> {
    let lib = fs::read_to_string(sources().join("lib.rs")).expect("lib.rs");
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_names_every_module_and_points_downwards() {
    let mut below = BTreeSet::new();
    for (module, uses) in LAYERS {
        for used in *uses {
            assert!(below.contains(used), "{module} uses {used}, which is not below it");
        }
        assert!(below.insert(module), "{module} stands there twice");
    }
    let listed: BTreeSet<String> = below.into_iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed, modules());
}

#[test]
fn the_code_is_as_the_table_says() {
    let mut wrong = BTreeMap::new();
    for (module, uses) in LAYERS {
        let mut found = BTreeSet::new();
        let directory = sources().join(module);
        collect(
            &if directory.is_dir() { directory } else { directory.with_extension("rs") },
            &mut found,
        );
        found.remove(*module);
        for (from, to, _) in EXCEPTIONS {
            assert!(from != module || found.remove(*to), "{from} does not name {to} any more");
        }
        found.retain(|name| modules().contains(name));
        let uses: BTreeSet<String> = uses.iter().map(|name| (*name).to_owned()).collect();
        let new: Vec<_> = found.difference(&uses).cloned().collect();
        let gone: Vec<_> = uses.difference(&found).cloned().collect();
        if !new.is_empty() || !gone.is_empty() {
            wrong.insert(*module, format!("names {new:?} too, and {gone:?} no more"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The reading order that the library's front page gives is the table's.
#[test]
fn the_front_page_reads_from_the_bottom_to_the_top() {
    let lib = fs::read_to_string(sources().join("lib.rs")).expect("lib.rs");
    let page: String = lib.lines().take_while(|line| line.starts_with("//!")).collect();
    let (_, order) = page.split_once("Reading order").expect("the front page gives an order");
    let shown: Vec<&str> =
        order.split("[`").skip(1).filter_map(|rest| rest.split('`').next()).collect();
    let listed: Vec<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    let places: Vec<_> =
        shown.iter().map(|name| listed.iter().position(|listed| listed == name)).collect();
    assert!(shown.len() > 10 && places.iter().all(Option::is_some), "{shown:?}");
    assert!(places.is_sorted(), "{shown:?} is not in the order of the table");
}

/// The tests above can fail: the reader sees what is code and what is not.
#[test]
fn the_reader_sees_code_and_no_comments_nor_tests() {
    let text = "//! crate::a\nuse crate::b::{C, D};\n/// crate::e\nfn f() { crate::g::h() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::i;\n}\n";
    let lines: Vec<&str> = code(text).collect();
    assert_eq!(lines, ["use crate::b::{C, D};", "fn f() { crate::g::h() }"]);
    assert_eq!(test_modules("#[cfg(test)]\nmod x;\nmod y;\n"), ["x"]);
}
