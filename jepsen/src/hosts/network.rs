//! Hosts: one network namespace per node, joined by the switch; the clients are a host too. Where
//! this machine allows no namespaces, hosts are addresses of loopback, joined by proxies.
//!
//! Nothing has a name in the system: namespaces and devices end with the threads and files that
//! hold them, so a killed run leaves nothing behind.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use super::loopback::{self, Proxies};
use super::switch::{self, NET, Rules, last_byte};
use super::sys;

/// What a host's thread is asked to start, and where to say how that went.
type Start = (Command, Sender<io::Result<Child>>);

/// The address of host number `host` in a network of its own.
fn address(host: usize) -> IpAddr {
    Ipv4Addr::new(NET[0], NET[1], NET[2], last_byte(host)).into()
}

/// A thread that lives in a host's network. Processes that it starts live there too.
#[derive(Debug)]
struct Host {
    asks: Sender<Start>,
}

impl Host {
    /// A host in the network that all share.
    fn beside(number: usize) -> io::Result<Self> {
        let (asks, asked) = mpsc::channel::<Start>();
        let name = format!("host {}", number + 1);
        std::thread::Builder::new().name(name).spawn(move || serve(&asked))?;
        Ok(Self { asks })
    }

    /// Makes a host; answers with its end of the wire.
    fn new(number: usize) -> io::Result<(Self, File)> {
        let (asks, asked) = mpsc::channel::<Start>();
        let (told, made) = mpsc::channel();
        std::thread::Builder::new().name(format!("host {}", number + 1)).spawn(move || {
            let device = sys::enter_own_network().and_then(|()| plug_in(number));
            let is_made = device.is_ok();
            if told.send(device).is_ok() && is_made {
                serve(&asked);
            }
        })?;
        let device = made.recv().map_err(io::Error::other)??;
        Ok((Self { asks }, device))
    }
}

fn serve(asked: &Receiver<Start>) {
    while let Ok((mut command, told)) = asked.recv() {
        drop(told.send(command.spawn()));
    }
}

/// Gives the calling thread's network a device with the address of host `number`.
fn plug_in(number: usize) -> io::Result<File> {
    const NAME: &str = "henge0";
    let device = sys::open_tun(NAME)?;
    let with_prefix = format!("{}/24", address(number));
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &["addr", "add", &with_prefix, "dev", NAME],
        &["link", "set", NAME, "mtu", "9000", "up"],
    ] {
        let output = Command::new("ip").args(arguments).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("ip {}: {why}", arguments.join(" "))));
        }
    }
    Ok(device)
}

/// What is between the hosts.
#[derive(Debug)]
enum Between {
    /// The switch.
    Switch { stop: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
    /// Proxies on loopback.
    Proxies(Proxies),
}

/// All hosts and what is between them.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    rules: Arc<Rules>,
    between: Between,
}

impl Network {
    /// A network of `nodes` hosts, and this process as one more. Must be called from a thread whose
    /// network is this process's own ([`sys::enter_own_network`]).
    pub fn new(nodes: usize, seed: u64) -> io::Result<Self> {
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for number in 0..nodes {
            let (host, device) = Host::new(number)?;
            hosts.push(host);
            devices.push(device);
        }
        devices.push(plug_in(nodes)?);
        let rules = Arc::new(Rules::new(nodes + 1));
        let stop = Arc::new(AtomicBool::new(false));
        let (of_switch, stopped) = (Arc::clone(&rules), Arc::clone(&stop));
        let switch = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || switch::run(devices, &of_switch, &stopped, seed))?;
        let between = Between::Switch { stop, thread: Some(switch) };
        Ok(Self { hosts, rules, between })
    }

    /// A network of `nodes` hosts on loopback, beside everybody else's.
    pub fn on_loopback(nodes: usize, seed: u64) -> io::Result<Self> {
        let hosts = (0..nodes).map(Host::beside).collect::<io::Result<_>>()?;
        let rules = Arc::new(Rules::new(nodes + 1));
        let between = Between::Proxies(Proxies::new(nodes, &rules, seed)?);
        Ok(Self { hosts, rules, between })
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> IpAddr {
        match self.between {
            Between::Switch { .. } => address(host),
            Between::Proxies(_) => loopback::address(host),
        }
    }

    /// Where a host's peers find it, if not where it listens.
    pub fn advertised(&self, host: usize) -> Option<SocketAddr> {
        match self.between {
            Between::Switch { .. } => None,
            Between::Proxies(_) => Some(loopback::advertised(host)),
        }
    }

    /// The rules of its links.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Starts a process on a host.
    pub fn spawn(&self, host: usize, command: Command) -> io::Result<Child> {
        let (told, done) = mpsc::channel();
        self.hosts[host].asks.send((command, told)).map_err(io::Error::other)?;
        let child = done.recv().map_err(io::Error::other)??;
        if let Between::Proxies(proxies) = &self.between {
            proxies.started(host, child.id());
        }
        Ok(child)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Between::Switch { stop, thread } = &mut self.between {
            stop.store(true, Ordering::Relaxed);
            if let Some(thread) = thread.take() {
                drop(thread.join());
            }
        }
    }
}
