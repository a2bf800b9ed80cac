//! What a node counts, under the names that `/metrics` shows. Each component keeps its own
//! numbers; here they are read when somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::coordinator::{CoordinatorCounters, LwtCounters};
use crate::gossip::Liveness;
use crate::metrics::{Kind, Registry};
use crate::net::{InboundStats, PeerStats, TcpTransport};
use crate::node::{Gates, Node};
use crate::repair::hints::{HintCounters, TargetHints};
use crate::repair::purge::{Blocked, PurgeCounters};
use crate::repair::{Apart, RepairCounters};
use crate::replica::ReplicaCounters;

/// A counter: name, help, and where it is.
type Row<T> = (&'static str, &'static str, fn(&T) -> &AtomicU64);

const COORDINATOR: &[Row<CoordinatorCounters>] = &[
    ("henge_coordinator_reads_total", "Reads driven.", |c| &c.reads),
    ("henge_coordinator_writes_total", "Writes driven.", |c| &c.writes),
    ("henge_coordinator_mismatches_total", "Reads that found replicas in disagreement.", |c| {
        &c.mismatches
    }),
    ("henge_coordinator_repairs_total", "Records sent to replicas that were behind.", |c| {
        &c.repairs
    }),
    ("henge_coordinator_hedges_total", "Replicas asked because another was slow.", |c| &c.hedges),
    (
        "henge_coordinator_forwards_total",
        "Operations on keys of which this node holds no copy.",
        |c| &c.forwards,
    ),
    (
        "henge_coordinator_hedges_put_off_total",
        "Hedges put off because they had used up their share of the reads.",
        |c| &c.hedges_put_off,
    ),
    ("henge_coordinator_second_mints_total", "Mints sent again to a second replica.", |c| {
        &c.second_mints
    }),
    (
        "henge_coordinator_restamps_total",
        "Last-write-wins versions minted again above a newer stamp.",
        |c| &c.restamps,
    ),
    (
        "henge_coordinator_stand_ins_total",
        "Records that another node keeps in a replica's place (sloppy quorums).",
        |c| &c.stand_ins,
    ),
    (
        "henge_coordinator_resumed_batches_total",
        "Logged batches that their coordinator had left unfinished.",
        |c| &c.resumed_batches,
    ),
    ("henge_coordinator_heals_total", "Damaged copies replaced by the merge of all others.", |c| {
        &c.heals
    }),
];

const LWT: &[Row<LwtCounters>] = &[
    ("henge_lwt_rounds_total", "Rounds of lightweight transactions begun.", |c| &c.rounds),
    ("henge_lwt_standing_total", "Of these, on a standing promise.", |c| &c.standing),
    ("henge_lwt_interrupted_total", "Rounds that came to no end.", |c| &c.interrupted),
    ("henge_lwt_finished_total", "Undecided votes of others that a round finished.", |c| {
        &c.finished
    }),
    ("henge_lwt_judged_total", "Operations judged.", |c| &c.judged),
    ("henge_lwt_refused_total", "Conditions that did not hold.", |c| &c.refused),
    ("henge_lwt_peeks_total", "Serial reads that promised nothing.", |c| &c.peeks),
    ("henge_lwt_forwarded_total", "Operations sent to the node that orders their key.", |c| {
        &c.forwarded
    }),
];

const REPLICA: &[Row<ReplicaCounters>] = &[
    ("henge_replica_reads_total", "Records shown, whole or as digests.", |c| &c.reads),
    ("henge_replica_mints_total", "Dots minted.", |c| &c.mints),
    ("henge_replica_applies_total", "Records merged in from other nodes.", |c| &c.applies),
    ("henge_replica_dominated_total", "Of these, those that brought nothing new.", |c| {
        &c.dominated
    }),
    ("henge_replica_hints_total", "Of these, hints: what this node had missed.", |c| &c.hints),
    ("henge_replica_damaged_total", "Copies that failed their checksum.", |c| &c.damaged),
    ("henge_replica_healed_total", "Damaged copies replaced.", |c| &c.healed),
];

const HINTS: &[Row<HintCounters>] = &[
    ("henge_hints_missed_total", "Replicas that missed a write.", |c| &c.missed),
    ("henge_hints_stored_total", "Of these, kept as hints, or merged into one.", |c| &c.stored),
    ("henge_hints_merged_total", "Of these, merged into a hint that was there.", |c| &c.merged),
    ("henge_hints_delivered_total", "Hints that their targets have on stable storage.", |c| {
        &c.delivered
    }),
    ("henge_hints_no_room_total", "Not kept: no room within the bounds, or switched off.", |c| {
        &c.no_room
    }),
    ("henge_hints_not_stored_total", "Not kept: the store refused or failed.", |c| &c.not_stored),
    ("henge_hints_expired_total", "Dropped because they were too old.", |c| &c.expired),
    ("henge_hints_moot_total", "Dropped: no such table or replica any more.", |c| &c.moot),
    ("henge_hints_damaged_total", "Dropped because they could not be read.", |c| &c.damaged),
    ("henge_hints_purged_total", "Hints dropped because their keys were purged since.", |c| {
        &c.purged
    }),
    ("henge_hints_refused_total", "Attempts that their targets refused or did not answer.", |c| {
        &c.refused
    }),
];

/// A number about the hints for each target.
type TargetRow = (&'static str, &'static str, fn(&TargetHints) -> f64);

const TARGETS: &[TargetRow] = &[
    ("henge_hints_pending", "Hints kept for the target.", |t| t.count as f64),
    ("henge_hints_pending_bytes", "Their bytes.", |t| t.bytes as f64),
    ("henge_hints_oldest_seconds", "Age of the oldest.", |t| t.oldest.as_secs_f64()),
    ("henge_hints_rate", "Handed over per second now.", |t| t.rate),
];

const REPAIR: &[Row<RepairCounters>] = &[
    ("henge_repair_rounds_total", "Comparisons of hash trees with another replica.", |c| &c.rounds),
    ("henge_repair_failed_total", "Comparisons that another replica did not answer.", |c| {
        &c.failed
    }),
    ("henge_repair_trees_total", "Hash trees that were found to differ.", |c| &c.trees),
    ("henge_repair_rows_total", "Digests of records compared.", |c| &c.rows),
    (
        "henge_refill_records_total",
        "Records copied from other replicas because the data directory began anew.",
        |c| &c.refilled,
    ),
    ("henge_refill_bytes_total", "Their bytes.", |c| &c.refilled_bytes),
    ("henge_repair_pulled_total", "Records fetched because they differed.", |c| &c.pulled),
    ("henge_repair_pulled_bytes_total", "Bytes of records fetched.", |c| &c.pulled_bytes),
    ("henge_repair_pushed_total", "Records sent because they differed.", |c| &c.pushed),
    ("henge_repair_pushed_bytes_total", "Bytes of records sent.", |c| &c.pushed_bytes),
    ("henge_repair_damaged_total", "Damaged copies met, here or there.", |c| &c.damaged),
    ("henge_tree_surveys_total", "Steps of building hash trees from the data.", |c| &c.surveys),
    ("henge_scrub_rows_total", "Records read by scrubbing.", |c| &c.scrubbed_rows),
    ("henge_scrub_bytes_total", "Bytes read by scrubbing.", |c| &c.scrubbed_bytes),
    ("henge_scrub_damaged_total", "Damaged records met by scrubbing.", |c| &c.scrub_damaged),
    (
        "henge_scrub_wrong_leaves_total",
        "Leaves of hash trees that did not match sound data, and were put right.",
        |c| &c.scrub_wrong_leaves,
    ),
    ("henge_scrub_passes_total", "Times that scrubbing has read everything.", |c| &c.scrub_passes),
];

const PURGE: &[Row<PurgeCounters>] = &[
    (
        "henge_purge_looks_total",
        "Looks through ranges for tombstones past their grace time.",
        |c| &c.looks,
    ),
    ("henge_purges_total", "Purges that all replicas agreed to, led by this node.", |c| &c.purges),
    ("henge_purged_total", "Tombstones and expired records that they removed.", |c| &c.rows),
    ("henge_purges_blocked_total", "Purges put off because somebody was in the way.", |c| {
        &c.blocked
    }),
    (
        "henge_purges_caught_up_total",
        "Purges that this node's replica had missed and caught up with.",
        |c| &c.caught_up,
    ),
];

/// Ranges for which a number of their own is shown while they are apart.
const MAX_RANGES_SHOWN: usize = 1_000;

/// A number about each peer.
type PeerRow = (Kind, &'static str, &'static str, fn(&PeerStats) -> u64);

const PEERS: &[PeerRow] = &[
    (Kind::Gauge, "henge_peer_connected", "1 while a connection to the peer stands.", |p| {
        u64::from(p.connected)
    }),
    (Kind::Counter, "henge_peer_calls_total", "Calls begun.", |p| p.calls),
    (Kind::Counter, "henge_peer_answered_total", "Calls that were answered.", |p| p.answered),
    (Kind::Counter, "henge_peer_not_sent_total", "Calls of which no byte was sent.", |p| {
        p.not_sent
    }),
    (
        Kind::Counter,
        "henge_peer_lost_total",
        "Calls that were sent and brought no answer in time.",
        |p| p.lost,
    ),
    (Kind::Gauge, "henge_peer_calls_under_way", "Calls without an answer now.", |p| {
        p.in_flight as u64
    }),
    (Kind::Gauge, "henge_peer_queued_bytes", "Bytes that wait to be written.", |p| {
        p.queued_bytes as u64
    }),
    (Kind::Counter, "henge_peer_connect_failures_total", "Attempts to connect that failed.", |p| {
        p.connect_failures
    }),
    (
        Kind::Counter,
        "henge_peer_garbage_total",
        "Connections given up because the peer sent garbage.",
        |p| p.garbage,
    ),
];

/// A number about all calls from peers.
type InboundRow = (Kind, &'static str, &'static str, fn(&InboundStats) -> u64);

const INBOUND: &[InboundRow] = &[
    (Kind::Gauge, "henge_inbound_connections", "Connections from peers.", |i| i.connections as u64),
    (Kind::Counter, "henge_inbound_requests_total", "Requests from peers.", |i| i.requests),
    (
        Kind::Counter,
        "henge_inbound_refused_total",
        "Handshakes that were refused, by either side.",
        |i| i.refused,
    ),
    (Kind::Counter, "henge_inbound_garbage_total", "Connections that ended in garbage.", |i| {
        i.garbage
    }),
    (
        Kind::Counter,
        "henge_inbound_overloaded_total",
        "Requests refused because too many were being served.",
        |i| i.overloaded,
    ),
    (
        Kind::Counter,
        "henge_inbound_late_total",
        "Requests refused because no time was left.",
        |i| i.late,
    ),
];

/// Puts the numbers of `node` and of its transport into `registry`.
pub(super) fn register(registry: &Registry, node: &Node, transport: &Arc<TcpTransport>) {
    for &(name, help, of) in COORDINATOR {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.coordinator().counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(name, help, of) in LWT {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.coordinator().lwt_counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(name, help, of) in REPLICA {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.replica().counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(name, help, of) in HINTS {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.hints().counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(name, help, of) in TARGETS {
        let node = node.clone();
        registry.read_all(Kind::Gauge, name, help, move || {
            let targets = node.hints().targets();
            targets.iter().map(|t| (vec![("target", t.target.to_string())], of(t))).collect()
        });
    }
    for &(name, help, of) in REPAIR {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.repair().counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(name, help, of) in PURGE {
        let node = node.clone();
        registry.read(Kind::Counter, name, help, &[], move || {
            of(node.purge().counters()).load(Ordering::Relaxed) as f64
        });
    }
    for &(kind, name, help, of) in PEERS {
        let transport = transport.clone();
        registry.read_all(kind, name, help, move || {
            let peers = transport.stats().peers;
            peers.iter().map(|p| (vec![("peer", p.node.to_string())], of(p) as f64)).collect()
        });
    }
    for &(kind, name, help, of) in INBOUND {
        let transport = transport.clone();
        registry.read(kind, name, help, &[], move || of(&transport.stats().inbound) as f64);
    }
    cluster_numbers(registry, node);
    repair_numbers(registry, node);
    blocked_numbers(registry, node);
    commit_numbers(registry, node);
    load_numbers(registry, node);
}

fn cluster_numbers(registry: &Registry, node: &Node) {
    let of = node.clone();
    registry.read(
        Kind::Gauge,
        "henge_epoch",
        "Length of the metadata log that this node has applied.",
        &[],
        move || of.cluster().state().epoch().0 as f64,
    );
    let of = node.clone();
    registry.read_all(
        Kind::Gauge,
        "henge_member_up",
        "1 while this node believes the member up.",
        move || {
            let members = of.cluster().members();
            let up = |status: &crate::cluster::MemberStatus| {
                status.member.member.id == of.id()
                    || matches!(status.liveness, Liveness::Live | Liveness::Suspect)
            };
            members
                .iter()
                .map(|s| (vec![("node", s.member.member.name.clone())], f64::from(up(s))))
                .collect()
        },
    );
    let of = node.clone();
    registry.read(
        Kind::Gauge,
        "henge_operations_under_way",
        "Client operations that this node drives now.",
        &[],
        move || of.coordinator().under_way() as f64,
    );
}

/// A number's name, its help, and how it is read from something.
type Number<T> = (&'static str, &'static str, fn(&T) -> f64);

/// How far apart from other replicas, and for how long.
fn repair_numbers(registry: &Registry, node: &Node) {
    let gauges: [Number<Node>; 3] = [
        ("henge_trees", "Hash trees kept.", |n| n.replica().trees().counts().trees as f64),
        ("henge_trees_unbuilt", "Hash trees that are being built from the data.", |n| {
            n.replica().trees().counts().unbuilt as f64
        }),
        ("henge_ranges_apart", "Ranges in which this node and another replica differ.", |n| {
            n.repair().apart().len() as f64
        }),
    ];
    for (name, help, of) in gauges {
        let node = node.clone();
        registry.read(Kind::Gauge, name, help, &[], move || of(&node));
    }
    let ranges: [Number<Apart>; 2] = [
        (
            "henge_range_apart_leaves",
            "1,024ths of a range in which this node and another replica differ.",
            |apart| f64::from(apart.leaves),
        ),
        (
            "henge_range_apart_seconds",
            "For how long this node and another replica have differed in a range.",
            |apart| apart.since.as_secs_f64(),
        ),
    ];
    for (name, help, of) in ranges {
        let node = node.clone();
        registry.read_all(Kind::Gauge, name, help, move || {
            let mut apart = node.repair().apart();
            apart.sort_by_key(|apart| std::cmp::Reverse(apart.since));
            apart.truncate(MAX_RANGES_SHOWN);
            let labels = |apart: &Apart| {
                vec![
                    ("table", apart.table.0.to_string()),
                    ("partition", apart.partition.0.to_string()),
                    ("peer", apart.peer.to_string()),
                ]
            };
            apart.iter().map(|apart| (labels(apart), of(apart))).collect()
        });
    }
}

/// Who is in the way of purges, of which ranges.
fn blocked_numbers(registry: &Registry, node: &Node) {
    let node = node.clone();
    let help = "For how long tombstones past their grace time could not be purged, and who was in \
                the way.";
    registry.read_all(Kind::Gauge, "henge_purge_blocked_seconds", help, move || {
        let mut blocked = node.purge().blocked();
        blocked.sort_by_key(|blocked| std::cmp::Reverse(blocked.since));
        blocked.truncate(MAX_RANGES_SHOWN);
        let labels = |blocked: &Blocked| {
            vec![
                ("table", blocked.table.0.to_string()),
                ("partition", blocked.partition.0.to_string()),
                ("node", blocked.node.to_string()),
                ("why", blocked.why.name().to_owned()),
            ]
        };
        blocked.iter().map(|blocked| (labels(blocked), blocked.since.as_secs_f64())).collect()
    });
}

/// How much there is to do, and what is refused for that.
fn load_numbers(registry: &Registry, node: &Node) {
    let rows: [(Kind, Number<Gates>); 7] = [
        (
            Kind::Gauge,
            ("henge_work_wait_seconds", "How long work was last seen to wait for its turn.", |g| {
                g.clients.wait().as_secs_f64()
            }),
        ),
        (
            Kind::Gauge,
            ("henge_admission_limit", "Requests of clients that may be under way now.", |g| {
                g.clients.limit() as f64
            }),
        ),
        (
            Kind::Gauge,
            ("henge_admission_under_way", "Requests of clients under way.", |g| {
                g.clients.under_way() as f64
            }),
        ),
        (
            Kind::Gauge,
            (
                "henge_admission_waiting",
                "Connections that are read no further until a request of theirs is let in.",
                |g| g.clients.waiting() as f64,
            ),
        ),
        (
            Kind::Gauge,
            (
                "henge_peer_admission_limit",
                "Requests by which peers begin operations here that may be under way now.",
                |g| g.peers.limit() as f64,
            ),
        ),
        (
            Kind::Counter,
            ("henge_shed_total", "Requests of clients refused because work waits too long.", |g| {
                g.clients.shed() as f64
            }),
        ),
        (
            Kind::Counter,
            (
                "henge_peer_shed_total",
                "Requests of peers refused because work waits too long.",
                |g| g.peers.shed() as f64,
            ),
        ),
    ];
    for (kind, (name, help, of)) in rows {
        let gates = node.gates().clone();
        registry.read(kind, name, help, &[], move || of(&gates));
    }
}

fn commit_numbers(registry: &Registry, node: &Node) {
    let of = node.clone();
    registry.read(
        Kind::Counter,
        "henge_commit_groups_total",
        "Groups of batches committed together.",
        &[],
        move || of.committer().stats().groups as f64,
    );
    let of = node.clone();
    registry.read(
        Kind::Counter,
        "henge_commit_batches_total",
        "Batches committed.",
        &[],
        move || of.committer().stats().batches as f64,
    );
    let of = node.clone();
    registry.read(
        Kind::Gauge,
        "henge_commit_queued_bytes",
        "Bytes of batches that wait or are being committed.",
        &[],
        move || of.committer().stats().queued_bytes as f64,
    );
}
