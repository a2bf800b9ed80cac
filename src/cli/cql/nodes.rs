//! The nodes that a shell may talk to.

use crate::client::{BAD_CREDENTIALS, CqlConnection, CqlFailure, Credentials};

/// The port of CQL where none is written.
const PORT: u16 = 9042;

/// Nodes by `host:port`; never empty.
#[derive(Debug, Clone)]
pub struct Nodes {
    all: Vec<String>,
    /// Who to be.
    credentials: Option<Credentials>,
}

impl Nodes {
    /// Nodes as a user names them, with or without ports.
    #[must_use]
    pub fn new(given: &[String]) -> Self {
        let mut all: Vec<String> = given.iter().map(|node| with_port(node.trim())).collect();
        all.dedup();
        if all.is_empty() {
            all.push(format!("127.0.0.1:{PORT}"));
        }
        Self { all, credentials: None }
    }

    /// The same, to be talked to as a role.
    #[must_use]
    pub fn with_credentials(self, credentials: Option<Credentials>) -> Self {
        Self { credentials, ..self }
    }

    /// The name of the node number `at`, counted round and round.
    #[must_use]
    pub fn name(&self, at: usize) -> &str {
        &self.all[at % self.all.len()]
    }

    /// Adds nodes that others have told of.
    pub fn add(&mut self, node: String) {
        if !self.all.contains(&node) {
            self.all.push(node);
        }
    }

    /// A connection to node number `at`, or, if that one cannot be reached, to the next one that
    /// can.
    ///
    /// # Errors
    /// The first one's.
    pub async fn open(&self, at: usize) -> Result<CqlConnection, CqlFailure> {
        let mut first = None;
        for more in 0..self.all.len() {
            let name = self.name(at.wrapping_add(more));
            match CqlConnection::open_as(name, self.credentials.as_ref()).await {
                Ok(connection) => return Ok(connection),
                // The others know no other password.
                Err(refused @ CqlFailure::Refused { code: BAD_CREDENTIALS, .. }) => {
                    return Err(refused);
                }
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into()))
    }
}

fn with_port(node: &str) -> String {
    let bare_v6 = node.parse::<std::net::Ipv6Addr>().is_ok();
    match node.rsplit_once(':') {
        _ if bare_v6 => format!("[{node}]:{PORT}"),
        Some((_, port)) if port.parse::<u16>().is_ok() => node.to_owned(),
        _ => format!("{node}:{PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_port_has_the_usual_one() {
        for (given, meant) in [
            ("h", "h:9042"),
            ("h:1", "h:1"),
            ("::1", "[::1]:9042"),
            ("[::1]", "[::1]:9042"),
            ("[::1]:2", "[::1]:2"),
        ] {
            assert_eq!(with_port(given), meant);
        }
        assert_eq!(Nodes::new(&[]).name(3), "127.0.0.1:9042");
    }
}
