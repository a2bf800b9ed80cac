//! A cluster of real `henge` processes, each on a host of its own, that can be hurt from outside.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use henge::cli::local::{Layout, Place, node_config};
use henge::client::{Call, Client};
use henge::config::Config;
use hyper::http::Method;

use super::network::Network;
use super::power::{PowerDisk, freeze};
use super::switch::Rules;
use super::sys;

/// How long a node may take to be ready after a fault.
const READY: Duration = Duration::from_secs(90);

/// The size of a node's own disk, in MiB, where it has one.
const DISK_MIB: u64 = 400;

/// Free space below which a node on its own disk refuses writes, in MiB.
const RESERVE_MIB: u64 = 64;

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `henge` binary.
    pub binary: PathBuf,
    /// For configurations, data and logs; made anew.
    pub directory: PathBuf,
    /// Number of nodes.
    pub nodes: usize,
    /// A planted bug, for binaries that have them.
    pub plant: Option<String>,
    /// Settings of the nodes that differ, as the environment's variables for them.
    pub set: Vec<(String, String)>,
    /// Give every node a file system of its own, which can be filled and lose its power.
    pub own_disks: bool,
    /// On loopback, for want of a network of its own.
    pub on_loopback: bool,
    /// For the network's draws.
    pub seed: u64,
}

/// A cluster. What still runs ends with it.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    network: Network,
    nodes: Vec<Option<Child>>,
    disks: Vec<PowerDisk>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            drop(self.kill(node));
        }
    }
}

impl Cluster {
    /// Builds the network, writes the configurations and starts all nodes.
    ///
    /// # Errors
    /// What could not be made.
    pub fn start(settings: Settings) -> Result<Self, String> {
        let directory = &settings.directory;
        fs::create_dir_all(directory).map_err(of(directory))?;
        let made = if settings.on_loopback {
            Network::on_loopback(settings.nodes, settings.seed)
        } else {
            Network::new(settings.nodes, settings.seed)
        };
        let network = made.map_err(of("the network"))?;
        let places = (0..settings.nodes).map(|node| Place {
            http: (network.address(node), 8098).into(),
            peer: (network.address(node), 7000).into(),
            cql: (network.address(node), 9042).into(),
        });
        let layout = Layout { places: places.collect() };
        let mut base = Config::default();
        base.cluster.name = "jepsen".to_owned();
        // Small and quick: a run is a minute, and every second of calm is one less of faults.
        base.cluster.partitions = 16;
        base.storage.cache_mb = 16;
        base.storage.reserve_mb = RESERVE_MIB;
        base.repair.interval_ms = 1_000;
        // The nodes share two cores with others: waiting is no overload here.
        base.limits.shed_wait_ms = 0;
        base.listen.insecure = true;
        for node in 0..settings.nodes {
            let mut config = node_config(&base, &layout, node, directory);
            config.listen.advertise_address = network.advertised(node).map(|at| at.to_string());
            for (founder, config) in config.cluster.founders.iter_mut().enumerate() {
                if let Some(at) = network.advertised(founder) {
                    config.address = at.to_string();
                }
            }
            let path = directory.join(format!("n{}.toml", node + 1));
            fs::write(&path, config.to_toml()).map_err(of(&path))?;
        }
        let nodes = (0..settings.nodes).map(|_| None).collect();
        let mut cluster = Self { settings, network, nodes, disks: Vec::new() };
        for node in 0..cluster.len() {
            if cluster.settings.own_disks {
                let disk = PowerDisk::at(&cluster.data_dir(node), DISK_MIB);
                cluster.disks.push(disk.ok_or("no disks of their own on this machine")?);
            }
            cluster.set_clock(node, 0)?;
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    /// Number of nodes.
    #[allow(clippy::len_without_is_empty, reason = "there is always a node")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The address of a node for clients.
    pub fn url(&self, node: usize) -> String {
        format!("http://{}:8098", self.network.address(node))
    }

    /// Where a node serves CQL, `host:port`.
    pub fn cql(&self, node: usize) -> String {
        format!("{}:9042", self.network.address(node))
    }

    /// The rules of the network.
    pub fn rules(&self) -> &Arc<Rules> {
        self.network.rules()
    }

    /// Where a node keeps its data.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.settings.directory.join(format!("n{}", node + 1))
    }

    /// What a node has logged.
    pub fn log_file(&self, node: usize) -> PathBuf {
        self.settings.directory.join(format!("n{}.log", node + 1))
    }

    fn clock_file(&self, node: usize) -> PathBuf {
        self.settings.directory.join(format!("n{}.clock", node + 1))
    }

    /// Puts a node's wall clock off by so many microseconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_clock(&self, node: usize, offset_us: i64) -> Result<(), String> {
        let path = self.clock_file(node);
        fs::write(&path, offset_us.to_string()).map_err(of(&path))
    }

    /// True while a node's process should be running.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].is_some()
    }

    /// Starts a node that does not run.
    ///
    /// # Errors
    /// What could not be done.
    pub fn start_node(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].is_some() {
            return Ok(());
        }
        let path = self.log_file(node);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(of(&path))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.settings.binary);
        command.args(["start", "--config"]);
        command.arg(self.settings.directory.join(format!("n{}.toml", node + 1)));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HENGE_") {
                command.env_remove(&name);
            }
        }
        command.env("HENGE_CLOCK_FILE", self.clock_file(node));
        command.envs(self.settings.set.iter().map(|(name, value)| (name, value)));
        if let Some(plant) = &self.settings.plant {
            command.env("HENGE_PLANT", plant);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.nodes[node] = Some(self.network.spawn(node, command).map_err(of("setpriv"))?);
        Ok(())
    }

    /// The process of a node.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, node: usize) -> Result<u32, String> {
        let child = self.nodes[node].as_ref();
        child.map(Child::id).ok_or_else(|| format!("n{} does not run", node + 1))
    }

    /// Kills a node at once and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, node: usize) -> Result<ExitStatus, String> {
        self.end(node, libc::SIGKILL)
    }

    /// Asks a node to end, and waits until it has.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self, node: usize) -> Result<ExitStatus, String> {
        self.end(node, libc::SIGTERM)
    }

    fn end(&mut self, node: usize, signal: libc::c_int) -> Result<ExitStatus, String> {
        let pid = self.pid(node)?;
        let mut child = self.nodes[node].take().ok_or("it does not run")?;
        sys::signal(pid, signal).map_err(of("kill"))?;
        child.wait().map_err(of("wait"))
    }

    /// Freezes or thaws a node.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, node: usize, paused: bool) -> Result<(), String> {
        let signal = if paused { libc::SIGSTOP } else { libc::SIGCONT };
        sys::signal(self.pid(node)?, signal).map_err(of("kill"))
    }

    /// The letter of a node's process state, as the kernel shows it.
    pub fn state(&self, node: usize) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(node).ok()?)).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// Cuts the power of all nodes at one instant, and brings the disks back as after a boot. The
    /// nodes are down afterwards.
    ///
    /// # Errors
    /// A node without a disk of its own.
    pub fn lose_power(&mut self) -> Result<(), String> {
        if self.disks.len() != self.nodes.len() {
            return Err("the nodes have no disks of their own".to_owned());
        }
        let pids: Vec<u32> = (0..self.len()).filter_map(|node| self.pid(node).ok()).collect();
        freeze(&pids);
        PowerDisk::cut_all(&mut self.disks);
        for node in 0..self.nodes.len() {
            if self.is_running(node) {
                self.kill(node)?;
            }
        }
        self.disks.iter_mut().for_each(PowerDisk::restore);
        Ok(())
    }

    /// Leaves a node so little space that it must refuse writes.
    ///
    /// # Errors
    /// It has no disk of its own.
    pub fn fill_disk(&self, node: usize) -> Result<PathBuf, String> {
        let disk = self.disks.get(node).ok_or("the nodes have no disks of their own")?;
        Ok(disk.fill(RESERVE_MIB / 4))
    }

    /// MiB free on a node's disk.
    pub fn free_mib(&self, node: usize) -> u64 {
        rustix::fs::statvfs(self.data_dir(node)).map_or(0, |s| (s.f_bavail * s.f_frsize) >> 20)
    }

    /// Empties a node's data directory. The node must be down.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn wipe(&self, node: usize) -> Result<(), String> {
        let directory = self.data_dir(node);
        for entry in fs::read_dir(&directory).map_err(of(&directory))?.flatten() {
            let path = entry.path();
            let gone =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            // A file system's own directory is no data.
            if entry.file_name() != "lost+found" {
                gone.map_err(of(&path))?;
            }
        }
        Ok(())
    }

    /// Waits until a node says that it can serve a quorum.
    ///
    /// # Errors
    /// It ended, or was not ready in time; with the end of its log.
    pub async fn wait_node_ready(&mut self, node: usize) -> Result<(), String> {
        let client = Client::new([self.url(node)]).map_err(|error| error.to_string())?;
        let ready = Call::new(Method::GET, "/readyz");
        let began = Instant::now();
        loop {
            let why = match client.nodes()[0].send(&ready, Duration::from_secs(2)).await {
                Ok(reply) if reply.status.as_u16() == 200 => return Ok(()),
                Ok(reply) => reply.refused().to_string(),
                Err(error) => error.to_string(),
            };
            let ended = match &mut self.nodes[node] {
                Some(child) => child.try_wait().map_err(of("wait"))?,
                None => return Err(format!("n{} was not started", node + 1)),
            };
            if let Some(status) = ended {
                self.nodes[node] = None;
                return Err(format!("n{} ended ({status}): {}", node + 1, self.log_end(node)));
            }
            if began.elapsed() > READY {
                let end = self.log_end(node);
                return Err(format!("n{} is not ready: {why}: {end}", node + 1));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until all nodes are ready.
    ///
    /// # Errors
    /// As [`Cluster::wait_node_ready`].
    pub async fn wait_ready(&mut self) -> Result<(), String> {
        for node in 0..self.len() {
            self.wait_node_ready(node).await?;
        }
        Ok(())
    }

    fn log_end(&self, node: usize) -> String {
        let log = fs::read(self.log_file(node)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n  ")
    }

    /// Every line of the nodes' logs that tells of a panic.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in 0..self.len() {
            let log = fs::read(self.log_file(node)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let told = log.lines().filter(|line| line.contains("panicked"));
            found.extend(told.map(|line| format!("n{}: {line}", node + 1)));
        }
        found
    }
}

fn of<W: AsRef<Path>>(what: W) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", what.as_ref().display())
}
