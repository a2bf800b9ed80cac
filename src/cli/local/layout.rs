//! Which addresses the nodes of a local cluster take.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Founder};

/// The ports of a node that has an address of its own.
const HTTP: u16 = 8098;
const PEER: u16 = 7000;
const CQL: u16 = 9042;

/// Where one node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// For HTTP clients.
    pub http: SocketAddr,
    /// For the other nodes.
    pub peer: SocketAddr,
    /// For CQL drivers.
    pub cql: SocketAddr,
}

impl Place {
    fn new(ip: IpAddr, shift: u16) -> Self {
        Self {
            http: SocketAddr::new(ip, HTTP + shift),
            peer: SocketAddr::new(ip, PEER + shift),
            cql: SocketAddr::new(ip, CQL + shift),
        }
    }

    /// The first of its addresses that cannot be listened on now.
    fn taken(&self) -> Option<SocketAddr> {
        [self.http, self.peer, self.cql]
            .into_iter()
            .find(|address| TcpListener::bind(address).is_err())
    }
}

/// Where all nodes of a local cluster listen, node 1 first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// One for each node.
    pub places: Vec<Place>,
}

impl Layout {
    /// For people: node *i* on 127.0.0.*i* with the usual ports. Where the system has only
    /// 127.0.0.1, or something else listens there: the ports of 127.0.0.1, shifted by the node's
    /// number and, as often as need be, by ten more.
    ///
    /// # Errors
    /// What is in the way, if no free ports were found.
    pub fn usual(nodes: u8) -> Result<Self, String> {
        let own = Self::of((1..=nodes).map(|i| Place::new(Ipv4Addr::new(127, 0, 0, i).into(), 0)));
        let mut taken = own.taken();
        if taken.is_none() {
            return Ok(own);
        }
        for tens in 0..90 {
            let shift = |i: u8| tens * 10 + u16::from(i);
            let shifted =
                Self::of((0..nodes).map(|i| Place::new(Ipv4Addr::LOCALHOST.into(), shift(i))));
            taken = shifted.taken();
            if taken.is_none() {
                return Ok(shifted);
            }
        }
        let in_the_way = taken.map(|address| address.to_string()).unwrap_or_default();
        Err(format!("no free ports: something listens on {in_the_way} and everywhere around it"))
    }

    /// For tests: addresses that no other process uses, made of `process` (its id) and `number`
    /// (of the cluster in it). Linux takes all of 127.0.0.0/8 for loopback; elsewhere these are
    /// free ports of 127.0.0.1, which others might take in between.
    ///
    /// # Errors
    /// The system's words.
    pub fn private(nodes: u8, process: u32, number: u8) -> Result<Self, String> {
        let [_, high, mid, low] = process.to_be_bytes();
        let ip = Ipv4Addr::new(127, 64 + number % 128, mid ^ (high << 4), low);
        let own = Self::of((0..nodes).map(|i| Place::new(ip.into(), u16::from(i))));
        if own.taken().is_none() {
            return Ok(own);
        }
        let ports = 3 * usize::from(nodes);
        let listeners: Vec<_> = (0..ports)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("no free port: {error}"))?;
        let free: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("no free port: {error}"))?;
        Ok(Self::of(free.chunks_exact(3).map(|p| Place { http: p[0], peer: p[1], cql: p[2] })))
    }

    /// As [`Layout::private`], with an address of its own and the same ports for each node (at most
    /// eight): clients that know addresses only expect that. Needs all of 127.0.0.0/8.
    ///
    /// # Errors
    /// What is in the way.
    pub fn apart(nodes: u8, process: u32, number: u8) -> Result<Self, String> {
        let [_, high, mid, low] = process.to_be_bytes();
        let ip = |i: u8| Ipv4Addr::new(127, 192 + number % 8 * 8 + i, mid ^ (high << 4), low);
        let own = Self::of((0..nodes.min(8)).map(|i| Place::new(ip(i).into(), 0)));
        match own.taken() {
            None => Ok(own),
            Some(address) => Err(format!("{address} is taken")),
        }
    }

    fn of(places: impl Iterator<Item = Place>) -> Self {
        Self { places: places.collect() }
    }

    /// The first address that cannot be listened on now.
    #[must_use]
    pub fn taken(&self) -> Option<SocketAddr> {
        self.places.iter().find_map(Place::taken)
    }

    /// The nodes' addresses for clients.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.places.iter().map(|place| format!("http://{}", place.http)).collect()
    }
}

/// The configuration of node `index` (from 0) of a cluster with this layout; its data goes to
/// `data/n1`, `data/n2`, ….
#[must_use]
pub fn node_config(base: &Config, layout: &Layout, index: usize, data: &Path) -> Config {
    let name = |index: usize| format!("n{}", index + 1);
    let place = layout.places[index];
    let mut config = base.clone();
    config.node.name = name(index);
    config.node.data_dir = data.join(name(index));
    config.cluster.founders = layout
        .places
        .iter()
        .enumerate()
        .map(|(index, place)| Founder { name: name(index), address: place.peer.to_string() })
        .collect();
    config.topology.rack = format!("r{}", index + 1);
    config.listen.http = place.http;
    config.listen.peer = place.peer;
    config.listen.cql = place.cql;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_configurations_pass_the_checks_of_a_configuration_file() {
        let layout = Layout::private(3, std::process::id(), 1).unwrap();
        for index in 0..3 {
            let config = node_config(&Config::default(), &layout, index, Path::new("/d"));
            let loaded = Config::parse(&config.to_toml(), []).unwrap();
            assert_eq!(loaded.config, config);
            assert_eq!(loaded.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn a_taken_port_is_noticed() {
        let layout = Layout::private(2, std::process::id(), 2).unwrap();
        assert_eq!(layout.taken(), None);
        let _holder = TcpListener::bind(layout.places[1].peer).unwrap();
        assert_eq!(layout.taken(), Some(layout.places[1].peer));
        let other = Layout::private(2, std::process::id(), 2).unwrap();
        assert_ne!(other, layout);
    }
}
