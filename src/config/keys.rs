//! The table of all settings.

use std::ops::RangeInclusive;

use super::Config;
use super::value::{Raw, Setting, host_and_port};

/// Who must agree on a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agree {
    /// Each node has its own value.
    Node,
    /// All nodes should have the same value, but nothing breaks where they do not.
    Advised,
    /// All founding nodes must have the same value, and it is fixed for ever.
    Fixed,
}

/// One setting: everything that is known about it.
pub struct KeySpec {
    /// Its section, `[section]` in the file.
    pub section: &'static str,
    /// Its name in the section.
    pub key: &'static str,
    /// What it means, with unit and danger; one line each.
    pub doc: &'static [&'static str],
    /// Who must agree on it.
    pub agree: Agree,
    /// Reads a value into the configuration.
    pub(super) read: fn(&mut Config, &Raw) -> Result<(), String>,
    /// Says what is wrong with the value, taken alone.
    pub(super) check: fn(&Config) -> Result<(), String>,
    /// The value as TOML.
    pub(super) write: fn(&Config) -> String,
}

impl KeySpec {
    /// The environment variable that overrides it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HENGE_{}_{}", self.section, self.key).to_uppercase()
    }

    /// The value that it has in `config`, as TOML.
    #[must_use]
    pub fn value(&self, config: &Config) -> String {
        (self.write)(config)
    }
}

impl std::fmt::Debug for KeySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.section, self.key)
    }
}

/// What each section is about.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("node", "Who this node is."),
    ("cluster", "What all nodes of the cluster agree on."),
    ("topology", "Where this node stands, so that copies are spread over what fails apart."),
    ("listen", "Where this node can be reached."),
    ("auth", "Who may use the cluster, and what each may do: see \"Roles\" in the README."),
    ("storage", "How data is kept."),
    ("hints", "What is kept for nodes that missed a write, until they are back."),
    ("limits", "Bounds on what clients and peers can make this node hold. Beyond them it refuses."),
    ("repair", "How replicas are brought together in the background."),
    ("log", "What is logged (to stderr)."),
];

macro_rules! key {
    ($section:ident.$key:ident, $agree:ident, $check:expr, $doc:expr) => {
        KeySpec {
            section: stringify!($section),
            key: stringify!($key),
            doc: &$doc,
            agree: Agree::$agree,
            read: |config, raw| {
                config.$section.$key = Setting::read(raw)?;
                Ok(())
            },
            check: |config| ($check)(&config.$section.$key),
            write: |config| Setting::write(&config.$section.$key),
        }
    };
}

fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("{value} is outside of {} to {}", range.start(), range.end()))
}

/// A name that is safe in file names, logs, URLs and on the wire.
fn name(text: &str) -> Result<(), String> {
    let fits = (1..=48).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric();
    if fits {
        return Ok(());
    }
    Err(format!("{text:?} is no name: use 1 to 48 letters, digits, '-', '_' and '.'"))
}

/// All settings, in the order in which they are shown.
pub const KEYS: &[KeySpec] = &[
    key!(
        node.name,
        Node,
        |v: &String| name(v),
        [
            "The node's name: unique in the cluster. Its id is made from this and cluster.name.",
            "Danger: a node started under another name refuses the data directory of the first.",
        ]
    ),
    key!(
        node.data_dir,
        Node,
        any,
        [
            "The directory for all of its data; made if absent; relative to where it is started.",
            "One process at a time may hold it.",
        ]
    ),
    key!(
        cluster.name,
        Fixed,
        |v: &String| name(v),
        ["The cluster's name. Nodes of different clusters refuse each other."]
    ),
    key!(
        cluster.founders,
        Fixed,
        |v: &Vec<super::Founder>| founders(v),
        [
            "The nodes that found the cluster together, as \"name=host:port\" of their peer doors.",
            "The cluster begins when every one of them has confirmed the same list, so that two",
            "halves can never found two clusters. Used only for founding and for first contact.",
            "Danger: a list that leaves a node out founds a cluster without it.",
        ]
    ),
    key!(
        cluster.partitions,
        Fixed,
        |v: &u32| partitions(*v),
        [
            "Number of partitions of the ring: a power of two, 1 to 65536, chosen once.",
            "About ten times as many as the nodes you will ever have. More cost memory on each node.",
        ]
    ),
    key!(
        cluster.max_clock_skew_ms,
        Advised,
        |v: &u64| within(*v, 1..=3_600_000),
        [
            "Milliseconds (1 to 3600000) by which a stamp from elsewhere may be ahead of this",
            "node's clock. Beyond that it is refused, so that one broken clock cannot drag all.",
        ]
    ),
    key!(
        cluster.gossip_interval_ms,
        Advised,
        |v: &u64| within(*v, 20..=10_000),
        [
            "Milliseconds (20 to 10000) between two rounds of gossip.",
            "Lower notices a dead node sooner and costs a little more traffic.",
        ]
    ),
    key!(
        cluster.suspect_phi,
        Advised,
        |v: &f64| within(*v, 1.0..=100.0),
        [
            "Suspicion (1 to 100) above which a silent node counts as down: the accrual failure",
            "detector's phi. Lower notices sooner and errs more often. Never affects safety.",
        ]
    ),
    key!(
        topology.datacenter,
        Node,
        |v: &String| name(v),
        ["The datacentre that this node stands in."]
    ),
    key!(
        topology.rack,
        Node,
        |v: &String| name(v),
        ["The rack (or zone): what fails together. Copies of a key are spread over racks."]
    ),
    key!(
        topology.capacity,
        Node,
        |v: &u32| within(*v, 1..=1_000),
        ["This node's share of the data relative to the other nodes' (1 to 1000)."]
    ),
    key!(
        listen.http,
        Node,
        any,
        [
            "Address and port for HTTP clients.",
            "Danger: beyond loopback anyone who reaches it can read and write: see auth, insecure.",
        ]
    ),
    key!(
        listen.peer,
        Node,
        any,
        [
            "Address and port for the other nodes of the cluster.",
            "Danger: beyond loopback anyone who reaches it can act as a node: see insecure.",
        ]
    ),
    key!(
        listen.cql,
        Node,
        any,
        [
            "Address and port for CQL drivers. Some take the port of the first node for all others:",
            "give the nodes of one machine the same port, each on an address of its own.",
            "Danger: beyond loopback anyone who reaches it can read and write: see auth, insecure.",
        ]
    ),
    key!(
        listen.advertise_address,
        Node,
        |v: &Option<String>| v.as_deref().map_or(Ok(()), host_and_port),
        [
            "\"host:port\" under which other nodes reach the peer door, where that differs from",
            "listen.peer (0.0.0.0, address translation, containers). Empty: listen.peer itself.",
        ]
    ),
    key!(
        listen.advertise_http,
        Node,
        |v: &Option<String>| v.as_deref().map_or(Ok(()), host_and_port),
        [
            "\"host:port\" under which HTTP clients reach this node, where that differs from",
            "listen.http. Empty: listen.http; if that is 0.0.0.0, the host that peers are told.",
        ]
    ),
    key!(
        listen.insecure,
        Node,
        any,
        [
            "Consent to listen beyond this machine without authentication: of clients (see auth) or",
            "of the other nodes, of which there is none yet.",
            "Danger: set it only where a firewall or a private network keeps strangers out.",
        ]
    ),
    key!(
        auth.enabled,
        Advised,
        any,
        [
            "Ask clients who they are, over HTTP and CQL alike, and let each do what its role may.",
            "The first superuser is made when this is true for the first time.",
            "Danger: a node on which it is false lets everybody do everything.",
        ]
    ),
    key!(auth.superuser, Advised, |v: &String| name(v), ["The name of the first superuser."]),
    key!(
        auth.first_password_file,
        Node,
        any,
        [
            "A file whose first line is the first superuser's first password. Empty: a random one,",
            "written to first-password in node.data_dir, for its owner to read. Used once.",
        ]
    ),
    key!(
        storage.engine,
        Node,
        any,
        [
            "\"sled\", \"fjall\", or \"memory\" (nothing on disk: for trials and tests).",
            "Danger: the engine of an existing data directory cannot be changed in place.",
        ]
    ),
    key!(
        storage.cache_mb,
        Node,
        |v: &u64| within(*v, 1..=1_048_576),
        ["MiB of memory for cached data (1 to 1048576). The engine may use half as much again."]
    ),
    key!(
        storage.durability,
        Advised,
        any,
        [
            "\"group\": a write is acknowledged once it is on stable storage, by a sync that it",
            "shares with other writers. \"periodic\": acknowledged at once and synced later.",
            "Danger: with \"periodic\" a power loss takes acknowledged writes with it.",
        ]
    ),
    key!(
        storage.periodic_sync_ms,
        Node,
        |v: &u64| within(*v, 1..=60_000),
        [
            "With durability = \"periodic\": milliseconds (1 to 60000) between syncs; what can be lost."
        ]
    ),
    key!(
        storage.reserve_mb,
        Node,
        |v: &u64| within(*v, 0..=1_048_576),
        [
            "MiB of disk space kept free (0 to 1048576): below it, writes are refused as disk-full",
            "while reads go on, and the engine still has room to clean up.",
        ]
    ),
    key!(
        storage.stuck_after_s,
        Node,
        |v: &u64| within(*v, 0..=86_400),
        [
            "Seconds (0 to 86400) that one write or sync may take. A disk that is slower counts as",
            "hung: the node ends itself with an error, to be started anew. 0: it waits for ever.",
        ]
    ),
    key!(
        hints.enabled,
        Node,
        any,
        [
            "Keep what a replica misses while it is away, and hand it over when it is back.",
            "Without, anti-entropy alone brings a node up to date; nothing is lost either way.",
        ]
    ),
    key!(
        hints.max_mb,
        Node,
        |v: &u64| within(*v, 1..=1_048_576),
        ["MiB (1 to 1048576) of hints on this node's disk. More are left to anti-entropy."]
    ),
    key!(
        hints.max_target_mb,
        Node,
        |v: &u64| within(*v, 1..=1_048_576),
        ["MiB (1 to 1048576) of hints for one node, so that none takes the room of all."]
    ),
    key!(
        hints.max_age_s,
        Node,
        |v: &u64| within(*v, 1..=31_536_000),
        [
            "Seconds (1 to 31536000) after which a hint is dropped and left to anti-entropy. A node",
            "that was away for longer is brought up to date by that.",
        ]
    ),
    key!(
        hints.max_calls,
        Node,
        |v: &u32| within(*v, 1..=4_096),
        [
            "Hints under way to one node at a time, at most (1 to 4096). Fewer when it is slow:",
            "the pace follows its latency.",
        ]
    ),
    key!(
        limits.max_key_bytes,
        Advised,
        |v: &usize| within(*v, 1..=crate::types::MAX_KEY_BYTES),
        ["Longest key over HTTP, in bytes (1 to 65535)."]
    ),
    key!(
        limits.max_value_bytes,
        Advised,
        |v: &usize| within(*v, 1..=64 << 20),
        ["Largest value, in bytes (1 to 67108864). Many large values belong in an object store."]
    ),
    key!(
        limits.request_timeout_ms,
        Node,
        |v: &u64| within(*v, 10..=600_000),
        ["Milliseconds (10 to 600000) for a request that names no timeout of its own."]
    ),
    key!(
        limits.max_inflight_requests,
        Node,
        |v: &usize| within(*v, 1..=1_000_000),
        ["Client requests under way at once (1 to 1000000). More are answered 503 at once."]
    ),
    key!(
        limits.shed_wait_ms,
        Node,
        |v: &u64| within(*v, 0..=60_000),
        [
            "Milliseconds (0 to 60000) for which work may keep waiting for its turn (processor, disk)",
            "before new requests are answered 503 at once (statements of CQL: after a second of",
            "waiting). 0: they never are, for that reason.",
        ]
    ),
    key!(
        limits.shed_floor,
        Node,
        |v: &usize| within(*v, 1..=1_000_000),
        ["Requests (1 to 1000000) that are let in at once, however long work waits."]
    ),
    key!(
        limits.max_body_memory_mb,
        Node,
        |v: &u64| within(*v, 1..=1_048_576),
        ["MiB of memory (1 to 1048576) for the bodies of all client requests under way."]
    ),
    key!(
        limits.max_connections,
        Node,
        |v: &usize| within(*v, 1..=1_000_000),
        [
            "Open client connections (1 to 1000000). Mind the process's limit of open files",
            "(ulimit -n).",
        ]
    ),
    key!(
        limits.peer_inflight,
        Node,
        |v: &usize| within(*v, 1..=1_000_000),
        ["Calls under way to one other node (1 to 1000000). More fail at once."]
    ),
    key!(
        limits.peer_queue_mb,
        Node,
        |v: &u64| within(*v, 1..=65_536),
        ["MiB (1 to 65536) of calls under way to one other node. More fail at once."]
    ),
    key!(
        limits.max_frame_mb,
        Advised,
        |v: &u64| within(*v, 1..=1_024),
        [
            "Largest message between nodes, in MiB (1 to 1024): room for all siblings of a key.",
            "Danger: a node with a lower limit refuses what its peers send.",
        ]
    ),
    key!(
        repair.interval_ms,
        Node,
        |v: &u64| if *v == 0 { Ok(()) } else { within(*v, 100..=86_400_000) },
        [
            "Milliseconds (100 to 86400000), about, between two comparisons of hash trees with each",
            "other replica. 0: never.",
            "Danger: with 0, replicas that missed writes are brought up by reads and hints alone.",
        ]
    ),
    key!(
        repair.scrub_percent,
        Node,
        |v: &u32| within(*v, 0..=100),
        [
            "Of a core and of the disk's time (0 to 100 percent), how much may go into reading all",
            "data through, again and again, for damage. 0: none; damage then shows when it is read.",
        ]
    ),
    key!(
        log.level,
        Node,
        |v: &String| crate::telemetry::check_filter(v),
        [
            "error, warn, info, debug, trace; or directives such as \"info,henge::gossip=debug\".",
            "Values of users are never logged; keys only as fingerprints.",
        ]
    ),
    key!(log.format, Node, any, ["\"text\" for people, \"json\" for machines."]),
];

fn partitions(count: u32) -> Result<(), String> {
    if !count.is_power_of_two() {
        return Err(format!("{count} is no power of two: use 256, or another from 1 to 65536"));
    }
    within(count, 1..=65_536)
}

fn founders(list: &[super::Founder]) -> Result<(), String> {
    if list.is_empty() {
        return Err("name at least one founder, such as \"n1=127.0.0.1:7000\"".to_owned());
    }
    within(list.len(), 1..=64)?;
    for (index, founder) in list.iter().enumerate() {
        name(&founder.name)?;
        for other in &list[..index] {
            if other.name == founder.name {
                return Err(format!("two founders are called {:?}", founder.name));
            }
            if other.address == founder.address {
                return Err(format!("two founders have the address {:?}", founder.address));
            }
        }
    }
    Ok(())
}
