//! Faults: what each does to the cluster, how its effect is seen, and when which one strikes.
//!
//! A fault that silently does nothing is the classic false pass. Every one therefore has a probe
//! of its effect (packets that a cut link swallowed, the kernel's letter for a stopped process, a
//! node's own clock, …), and a run in which a probe saw nothing is no proof of anything.

mod plan;
mod probe;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use henge::sim::rng::Rng;
use serde::{Deserialize, Serialize};

pub use plan::{ALL, Fault};
pub use probe::BUCKET as PROBE_BUCKET;

use crate::hosts::cluster::Cluster;
use crate::session::Stage;

/// A node takes stamps so far ahead of its own clock (`cluster.max_clock_skew_ms`, as it is by default).
const TAKEN_AHEAD: Duration = Duration::from_secs(5);

/// What a fault did, as far as could be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Which fault.
    pub fault: String,
    /// To whom, and how.
    pub detail: String,
    /// Its probe saw it.
    pub seen: bool,
    /// What the probe saw.
    pub probe: String,
}

/// A fault under way.
#[derive(Debug)]
struct Active {
    fault: Fault,
    detail: String,
    /// Directed links that it cuts, with what had been dropped on them before.
    cut: Vec<(usize, usize, u64)>,
    /// Dropped and delayed packets of all links before it.
    before: (u64, u64),
    nodes: Vec<usize>,
    ballast: Option<PathBuf>,
    /// Seen already, at its beginning.
    seen: Option<(bool, String)>,
    /// How often clients had hung up before it.
    hung_up: u64,
    /// Microseconds by which the clocks drift every tick.
    drift_us: i64,
    offset_us: i64,
}

/// Hurts a cluster.
#[derive(Debug)]
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    stages: &'a [Arc<Stage>],
    rng: Rng,
    /// The one node whose data is ever damaged: two could be more than the cluster may survive.
    victim: usize,
    /// What was done.
    pub effects: Vec<Effect>,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// How long an episode lasts, if not as long as its fault usually does.
    lasts: Option<Duration>,
    /// When all clocks have come as far as one had been whose stamps the others do not take.
    caught_up: Instant,
}

impl<'a> Nemesis<'a> {
    /// A nemesis of `cluster`, whose faults go into the histories of `stages`.
    pub fn new(
        cluster: &'a mut Cluster,
        stages: &'a [Arc<Stage>],
        seed: u64,
        lasts: Option<Duration>,
    ) -> Self {
        let mut rng = Rng::stream(seed, 0, "nemesis");
        let victim = rng.index(cluster.len());
        Self {
            cluster,
            stages,
            rng,
            victim,
            effects: Vec::new(),
            notes: Vec::new(),
            lasts,
            caught_up: Instant::now(),
        }
    }

    /// Strikes again and again until `end`, with calm in between, and leaves all whole.
    ///
    /// # Errors
    /// What the harness could not do, or a node that did not come back.
    pub async fn run(&mut self, fault: Fault, end: Instant) -> Result<(), String> {
        pause(Duration::from_secs(2)).await;
        while fault != Fault::None && Instant::now() + Duration::from_secs(4) < end {
            let faults = fault.draw(&mut self.rng);
            let (least, most) = fault.lasts_ms();
            let drawn = Duration::from_millis(self.rng.between(least, most));
            let length = self.lasts.unwrap_or(drawn);
            let left = end.saturating_duration_since(Instant::now());
            self.episode(&faults, length.min(left)).await?;
            if matches!(fault, Fault::KillAll | Fault::Power) {
                // Else most of the run would go by with nobody being served.
                self.cluster.wait_ready().await?;
            }
            let calm = self.rng.duration(Duration::from_millis(1_500), Duration::from_secs(3));
            let left = end.saturating_duration_since(Instant::now());
            pause(calm.min(left)).await;
        }
        pause(end.saturating_duration_since(Instant::now())).await;
        Ok(())
    }

    async fn episode(&mut self, faults: &[Fault], length: Duration) -> Result<(), String> {
        let mut all = Vec::new();
        for &fault in faults {
            let active = self.begin(fault).await?;
            if !fault.is_over_at_once() {
                self.record(&format!("begin {}", fault.name()), &active.detail);
            }
            all.push(active);
        }
        let over = Instant::now() + length;
        while Instant::now() < over {
            pause(Duration::from_millis(50)).await;
            for active in all.iter_mut().filter(|active| active.drift_us != 0) {
                active.offset_us += active.drift_us;
                self.cluster.set_clock(active.nodes[0], active.offset_us)?;
            }
        }
        for active in all.into_iter().rev() {
            let (fault, detail) = (active.fault, active.detail.clone());
            let (seen, probe) = self.end(active).await?;
            self.record(&format!("end {}", fault.name()), &detail);
            let fault = fault.name().to_owned();
            self.effects.push(Effect { fault, detail, seen, probe });
        }
        Ok(())
    }

    fn record(&self, name: &str, detail: &str) {
        for stage in self.stages {
            stage.recorder.fault(name, detail);
        }
    }

    fn one(&mut self) -> usize {
        let up: Vec<usize> =
            (0..self.cluster.len()).filter(|&node| self.cluster.is_running(node)).collect();
        *self.rng.pick(&up)
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.cluster.len()).collect();
        self.rng.shuffle(&mut nodes);
        nodes
    }

    async fn begin(&mut self, fault: Fault) -> Result<Active, String> {
        let mut active = Active {
            fault,
            detail: String::new(),
            cut: Vec::new(),
            before: self.counted(),
            nodes: Vec::new(),
            ballast: None,
            seen: None,
            hung_up: 0,
            drift_us: 0,
            offset_us: 0,
        };
        match fault {
            Fault::None | Fault::Mix | Fault::SlowRefill | Fault::RollingCut => {}
            Fault::PartitionOne
            | Fault::PartitionHalves
            | Fault::Bridge
            | Fault::Ring
            | Fault::OneWay => self.begin_cut(&mut active),
            Fault::Delay | Fault::Loss => self.begin_bad_links(&mut active),
            Fault::Kill | Fault::KillAll => {
                active.nodes =
                    if fault == Fault::Kill { vec![self.one()] } else { self.shuffled() };
                let mut told = Vec::new();
                for &node in &active.nodes {
                    if self.cluster.is_running(node) {
                        told.push(self.cluster.kill(node)?.to_string());
                    }
                }
                let seen = told.iter().all(|status| status.contains("signal: 9"));
                active.seen = Some((seen && !told.is_empty(), told.join(", ")));
                active.detail = names(&active.nodes);
            }
            Fault::Pause => {
                let node = self.one();
                self.cluster.pause(node, true)?;
                active.nodes = vec![node];
                active.detail = names(&active.nodes);
                pause(Duration::from_millis(50)).await;
                let state = self.cluster.state(node);
                active.seen = Some((state == Some('T'), format!("state {state:?}")));
            }
            Fault::ClockJump | Fault::ClockDrift => self.begin_clock(&mut active).await?,
            Fault::DiskFull => {
                active.nodes = vec![self.victim];
                active.detail = names(&active.nodes);
                active.ballast = Some(self.cluster.fill_disk(self.victim)?);
                let free = self.cluster.free_mib(self.victim);
                active.seen = Some((free < 32, format!("{free} MiB free")));
            }
            Fault::Wipe | Fault::Corrupt => self.begin_damage(&mut active)?,
            Fault::Rolling => self.restart_one_by_one(&mut active).await?,
            Fault::ClockRestart => self.restart_with_right_clocks(&mut active).await?,
            Fault::HangUp => {
                active.detail = "clients hang up".to_owned();
                active.hung_up = self.hung_up();
                for stage in self.stages {
                    stage.impatient.store(true, Relaxed);
                }
            }
            Fault::Power => {
                active.nodes = (0..self.cluster.len()).collect();
                active.detail = "all nodes".to_owned();
                // The canary in each file system shows that unsynced data is gone; else it panics.
                tokio::task::block_in_place(|| self.cluster.lose_power())?;
                active.seen = Some((true, "the canaries are gone".to_owned()));
            }
        }
        Ok(active)
    }

    /// Asks one node after the other to stop, and starts it again; those that are cut off, and
    /// could not become ready, are left alone.
    async fn restart_one_by_one(&mut self, active: &mut Active) -> Result<(), String> {
        let (all, rules) = (0..self.cluster.len(), Arc::clone(self.cluster.rules()));
        let is_alone = |node: usize| {
            all.clone().all(|to| to == node || rules.link(node, to).is_cut.load(Relaxed))
        };
        active.nodes = self.shuffled().into_iter().filter(|&node| !is_alone(node)).collect();
        active.detail = names(&active.nodes);
        self.record("begin rolling", &active.detail);
        let mut told = Vec::new();
        for &node in &active.nodes {
            if active.nodes.len() < self.cluster.len() {
                // What the one that is cut off misses piles up with the others meanwhile.
                pause(Duration::from_millis(1_500)).await;
            }
            told.push(self.cluster.stop(node)?.to_string());
            self.cluster.start_node(node)?;
            self.cluster.wait_node_ready(node).await?;
        }
        let seen = told.iter().all(|status| status.contains("exit status: 0"));
        active.seen = Some((seen, told.join(", ")));
        Ok(())
    }

    /// All wall clocks run ahead; then all nodes end at once, and start with clocks that are right:
    /// by these, what they wrote last is of the future.
    async fn restart_with_right_clocks(&mut self, active: &mut Active) -> Result<(), String> {
        // Less than what a node takes for a broken clock, and more than a start takes.
        const AHEAD_US: i64 = 4_000_000;
        active.nodes = self.shuffled();
        active.detail = format!("all {} ms ahead, until they are killed", AHEAD_US / 1_000);
        self.record("begin clock-restart", &active.detail);
        for node in 0..self.cluster.len() {
            self.cluster.set_clock(node, AHEAD_US)?;
        }
        pause(Duration::from_millis(50)).await;
        let (is_ahead, clock) = probe::clock(self.cluster, active.nodes[0], AHEAD_US).await;
        let length = self.rng.duration(Duration::from_millis(1_500), Duration::from_secs(3));
        pause(length).await;
        let mut told = vec![clock];
        for &node in &active.nodes {
            told.push(self.cluster.kill(node)?.to_string());
            self.cluster.set_clock(node, 0)?;
        }
        for &node in &active.nodes {
            self.cluster.start_node(node)?;
        }
        self.cluster.wait_ready().await?;
        let all_killed = told[1..].iter().all(|status| status.contains("signal: 9"));
        active.seen = Some((is_ahead && all_killed, told.join(", ")));
        Ok(())
    }

    /// How often clients have hung up.
    fn hung_up(&self) -> u64 {
        self.stages.iter().map(|stage| stage.hung_up.load(Relaxed)).sum()
    }

    /// Dropped and delayed packets of all links.
    fn counted(&self) -> (u64, u64) {
        let rules = self.cluster.rules();
        let all = 0..self.cluster.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        pairs.fold((0, 0), |(dropped, delayed), (from, to)| {
            let link = rules.link(from, to);
            (dropped + link.dropped.load(Relaxed), delayed + link.delayed.load(Relaxed))
        })
    }

    fn begin_cut(&mut self, active: &mut Active) {
        let nodes = self.shuffled();
        let (count, first) = (nodes.len(), nodes[0]);
        let half = count / 2;
        // By places in the shuffled order: do packets pass from one to the other?
        let passes = |from: usize, to: usize| match active.fault {
            Fault::PartitionOne => (from == 0) == (to == 0),
            Fault::PartitionHalves => (from < half) == (to < half),
            // The first is the bridge.
            Fault::Bridge => from == 0 || to == 0 || (from <= half) == (to <= half),
            Fault::Ring => {
                let distance = from.abs_diff(to);
                distance <= count / 4 || count - distance <= count / 4
            }
            _ => from != 0,
        };
        for from in 0..count {
            for to in (0..count).filter(|&to| to != from) {
                if !passes(from, to) {
                    let link = self.cluster.rules().link(nodes[from], nodes[to]);
                    link.is_cut.store(true, Relaxed);
                    active.cut.push((nodes[from], nodes[to], link.dropped.load(Relaxed)));
                }
            }
        }
        active.detail = match active.fault {
            Fault::PartitionOne => format!("n{} alone", first + 1),
            Fault::PartitionHalves => {
                format!("{} | {}", names(&nodes[..half]), names(&nodes[half..]))
            }
            Fault::Bridge => {
                let (left, right) = (names(&nodes[1..=half]), names(&nodes[half + 1..]));
                format!("{left} – n{} – {right}", first + 1)
            }
            Fault::Ring => format!("ring of {}", names(&nodes)),
            _ => format!("nobody hears n{}", first + 1),
        };
    }

    fn begin_bad_links(&mut self, active: &mut Active) {
        let all = 0..self.cluster.len();
        let (delay, loss) = (self.rng.between(10, 120), self.rng.between(3, 20));
        for (from, to) in all.clone().flat_map(|from| all.clone().map(move |to| (from, to))) {
            let link = self.cluster.rules().link(from, to);
            if active.fault == Fault::Delay {
                link.delay_us.store(delay as u32 * 1_000, Relaxed);
                link.jitter_us.store(delay as u32 * 1_000, Relaxed);
            } else {
                link.loss_ppm.store(loss as u32 * 10_000, Relaxed);
            }
        }
        active.detail = match active.fault {
            Fault::Delay => format!("{delay} to {} ms, out of order", 2 * delay),
            _ => format!("{loss} % of packets lost"),
        };
    }

    async fn begin_clock(&mut self, active: &mut Active) -> Result<(), String> {
        let node = self.one();
        active.nodes = vec![node];
        let sign = if self.rng.flip() { 1 } else { -1 };
        if active.fault == Fault::ClockDrift {
            // A twentieth to a fifth of a second per second, for 50 ms a tick.
            active.drift_us = sign * self.rng.between(2_500, 10_000).cast_signed();
            active.detail = format!("n{}: {} us per 50 ms", node + 1, active.drift_us);
            return Ok(());
        }
        let size = *self.rng.pick(&[150_000, 600_000, 3_000_000, 60_000_000]);
        active.offset_us = sign * size;
        active.detail = format!("n{}: {} ms", node + 1, active.offset_us / 1_000);
        self.cluster.set_clock(node, active.offset_us)?;
        pause(Duration::from_millis(50)).await;
        active.seen = Some(probe::clock(self.cluster, node, active.offset_us).await);
        Ok(())
    }

    /// The victim's data goes, or loses bits, while it is down.
    fn begin_damage(&mut self, active: &mut Active) -> Result<(), String> {
        active.nodes = vec![self.victim];
        active.detail = names(&active.nodes);
        if self.cluster.is_running(self.victim) {
            self.cluster.kill(self.victim)?;
        }
        let directory = self.cluster.data_dir(self.victim);
        if active.fault == Fault::Wipe {
            let before = probe::files(&directory).len();
            self.cluster.wipe(self.victim)?;
            let after = probe::files(&directory).len();
            let seen = before > 0 && after == 0;
            active.seen = Some((seen, format!("{before} files before, {after} after")));
        } else {
            let flipped = probe::flip_bits(&directory, &mut self.rng)?;
            active.detail = format!("{}: {flipped}", active.detail);
            active.seen = Some((!flipped.is_empty(), flipped));
        }
        Ok(())
    }

    async fn end(&mut self, active: Active) -> Result<(bool, String), String> {
        let seen = match (&active.seen, active.fault) {
            (Some(seen), _) => seen.clone(),
            (None, Fault::ClockDrift) => {
                probe::clock(self.cluster, active.nodes[0], active.offset_us).await
            }
            (None, Fault::HangUp) => {
                let times = self.hung_up() - active.hung_up;
                (times > 0, format!("{times} requests"))
            }
            (None, _) => self.links_seen(&active),
        };
        match active.fault {
            Fault::None
            | Fault::Mix
            | Fault::SlowRefill
            | Fault::RollingCut
            | Fault::Rolling
            | Fault::ClockRestart => {}
            Fault::HangUp => self.calm_clients(),
            Fault::PartitionOne
            | Fault::PartitionHalves
            | Fault::Bridge
            | Fault::Ring
            | Fault::OneWay
            | Fault::Delay
            | Fault::Loss => self.cluster.rules().heal(),
            Fault::Pause => self.cluster.pause(active.nodes[0], false)?,
            Fault::ClockJump | Fault::ClockDrift => {
                self.cluster.set_clock(active.nodes[0], 0)?;
                let ahead = Duration::from_micros(active.offset_us.max(0).unsigned_abs());
                let until = Instant::now() + ahead.saturating_sub(TAKEN_AHEAD);
                self.caught_up = self.caught_up.max(until);
            }
            Fault::DiskFull => {
                if let Some(ballast) = &active.ballast {
                    std::fs::remove_file(ballast).map_err(|error| error.to_string())?;
                }
            }
            Fault::Kill | Fault::KillAll | Fault::Power | Fault::Wipe => {
                for &node in &active.nodes {
                    self.cluster.start_node(node)?;
                }
                if active.fault == Fault::Wipe {
                    // A second loss before the first is made good would be one too many.
                    self.cluster.wait_node_ready(self.victim).await?;
                }
            }
            Fault::Corrupt => {
                self.cluster.start_node(self.victim)?;
                if let Err(why) = self.cluster.wait_node_ready(self.victim).await {
                    if self.cluster.is_running(self.victim) {
                        return Err(why);
                    }
                    // It would not start on such data, and said so: what an operator does then.
                    let why: String = why.chars().take(400).collect();
                    self.notes.push(format!("refused to start on damaged data: {why}"));
                    self.cluster.wipe(self.victim)?;
                    self.cluster.start_node(self.victim)?;
                    self.cluster.wait_node_ready(self.victim).await?;
                }
            }
        }
        Ok(seen)
    }

    /// Did the rules of the network catch packets?
    fn links_seen(&self, active: &Active) -> (bool, String) {
        let (dropped, delayed) = self.counted();
        let (dropped, delayed) = (dropped - active.before.0, delayed - active.before.1);
        if active.cut.is_empty() {
            return (dropped + delayed > 0, format!("{dropped} lost, {delayed} late"));
        }
        // Each node talks with each other several times a second.
        let rules = self.cluster.rules();
        let silent = active
            .cut
            .iter()
            .filter(|&&(from, to, before)| rules.link(from, to).dropped.load(Relaxed) == before);
        let silent = silent.count();
        let links = active.cut.len();
        (silent < links, format!("{dropped} packets lost on {links} cut links, {silent} idle"))
    }

    fn calm_clients(&self) {
        for stage in self.stages {
            stage.impatient.store(false, Relaxed);
        }
    }

    /// Ends every fault and starts every node, and waits until all clocks have come as far as any
    /// has been: what a node has stored under stamps that the others refuse cannot be read before.
    ///
    /// # Errors
    /// A node that does not come back.
    pub async fn heal(&mut self) -> Result<(), String> {
        self.cluster.rules().heal();
        self.calm_clients();
        for node in 0..self.cluster.len() {
            self.cluster.set_clock(node, 0)?;
            self.cluster.start_node(node)?;
            self.cluster.pause(node, false)?;
        }
        self.cluster.wait_ready().await?;
        let left = self.caught_up.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.notes.push(format!("waited {} s for stamps of a fast clock", left.as_secs() + 1));
            pause(left).await;
        }
        Ok(())
    }
}

async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn names(nodes: &[usize]) -> String {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes.iter().map(|node| format!("n{}", node + 1)).collect::<Vec<_>>().join(",")
}
