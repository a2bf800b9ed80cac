//! The faults by name, and which of them go together.

use henge::sim::rng::Rng;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Nothing at all.
    None,
    /// One node is cut off from the others.
    PartitionOne,
    /// Two halves.
    PartitionHalves,
    /// Two halves that both see one node.
    Bridge,
    /// Each sees a majority, no two the same; of five nodes or more.
    Ring,
    /// Nobody hears one node, which hears all.
    OneWay,
    /// Packets are late, and out of order.
    Delay,
    /// Packets are lost.
    Loss,
    /// `kill -9` of one node.
    Kill,
    /// `kill -9` of all nodes.
    KillAll,
    /// One node stops for seconds and goes on as if nothing had been.
    Pause,
    /// One node's wall clock jumps, and jumps back; mostly while links are bad.
    ClockJump,
    /// One node's wall clock runs fast or slow, and jumps back; mostly while links are bad.
    ClockDrift,
    /// One node's disk is full.
    DiskFull,
    /// One node loses its data directory.
    Wipe,
    /// Bits flip in one node's files while it is down.
    Corrupt,
    /// One node loses its data directory while packets are late, so that it serves for long before
    /// it has everything again.
    SlowRefill,
    /// One node after the other is asked to stop, and started again.
    Rolling,
    /// One node is cut off, while the others are asked to stop, one after the other, and started again.
    RollingCut,
    /// All wall clocks are ahead, until all nodes are killed at once; they start with clocks that are
    /// right.
    ClockRestart,
    /// Clients hang up before they have an answer; mostly while one node is cut off.
    HangUp,
    /// All nodes lose their power at one instant.
    Power,
    /// One or two at a time of those that leave data alone.
    Mix,
}

/// All of them.
pub const ALL: [Fault; 23] = [
    Fault::None,
    Fault::PartitionOne,
    Fault::PartitionHalves,
    Fault::Bridge,
    Fault::Ring,
    Fault::OneWay,
    Fault::Delay,
    Fault::Loss,
    Fault::Kill,
    Fault::KillAll,
    Fault::Pause,
    Fault::ClockJump,
    Fault::ClockDrift,
    Fault::DiskFull,
    Fault::Wipe,
    Fault::Corrupt,
    Fault::SlowRefill,
    Fault::Rolling,
    Fault::RollingCut,
    Fault::ClockRestart,
    Fault::HangUp,
    Fault::Power,
    Fault::Mix,
];

/// What a mix draws from: a fault of the network …
const OF_LINKS: [Fault; 5] =
    [Fault::PartitionOne, Fault::Bridge, Fault::OneWay, Fault::Delay, Fault::Loss];

/// … and one of a node.
const OF_NODES: [Fault; 4] = [Fault::Kill, Fault::Pause, Fault::ClockJump, Fault::ClockDrift];

impl Fault {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PartitionOne => "partition-one",
            Self::PartitionHalves => "partition-halves",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::OneWay => "one-way",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::Pause => "pause",
            Self::ClockJump => "clock-jump",
            Self::ClockDrift => "clock-drift",
            Self::DiskFull => "disk-full",
            Self::Wipe => "wipe",
            Self::Corrupt => "corrupt",
            Self::SlowRefill => "slow-refill",
            Self::Rolling => "rolling",
            Self::RollingCut => "rolling-cut",
            Self::ClockRestart => "clock-restart",
            Self::HangUp => "hang-up",
            Self::Power => "power",
            Self::Mix => "mix",
        }
    }

    /// The fault called `name`.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// The smallest cluster in which it means something of its own.
    pub fn nodes(self) -> usize {
        match self {
            Self::PartitionHalves | Self::Ring => 5,
            _ => 3,
        }
    }

    /// It goes through its whole course as it begins, and marks that in the history itself.
    pub(super) fn is_over_at_once(self) -> bool {
        matches!(self, Self::Rolling | Self::ClockRestart)
    }

    /// It needs a file system per node.
    pub fn needs_own_disks(self) -> bool {
        matches!(self, Self::DiskFull | Self::Power)
    }

    /// How long an episode may last. Where nobody can be served, what comes after it is what
    /// matters; a wiped or damaged node is started again at once, under load.
    pub(super) fn lasts_ms(self) -> (u64, u64) {
        match self {
            Self::KillAll | Self::Power => (200, 2_000),
            // All of it is in its beginning.
            Self::ClockRestart => (0, 0),
            Self::Wipe | Self::SlowRefill | Self::Corrupt => (500, 4_000),
            _ => (4_000, 8_000),
        }
    }

    /// What strikes together in one episode.
    pub(super) fn draw(self, rng: &mut Rng) -> Vec<Self> {
        match (self, rng.below(3)) {
            // Where every replica has seen the last write, causality alone outdoes a wrong clock:
            // clocks decide between versions that have not met.
            (Self::ClockJump | Self::ClockDrift, 0) => vec![Self::Delay, self],
            (Self::ClockJump | Self::ClockDrift, 1) => vec![Self::Bridge, self],
            (Self::RollingCut, _) => vec![Self::PartitionOne, Self::Rolling],
            (Self::SlowRefill, _) => vec![Self::Delay, Self::Wipe],
            // A write that everybody holds at once is not ended by a client that goes.
            (Self::HangUp, 0..2) => vec![Self::PartitionOne, self],
            (Self::Mix, 0) => vec![*rng.pick(&OF_LINKS)],
            (Self::Mix, 1) => vec![*rng.pick(&OF_NODES)],
            (Self::Mix, _) => vec![*rng.pick(&OF_LINKS), *rng.pick(&OF_NODES)],
            _ => vec![self],
        }
    }
}
