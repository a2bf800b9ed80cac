//! A client's way through the CQL ports: a connection to each node that it has asked, made when it
//! is needed and given up with the first request that has no answer, or when the node has closed it.

use std::time::Duration;

use henge::client::{CqlConnection, CqlFailure, CqlRows};
use tokio::time::timeout;

/// A consistency level, by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Level {
    /// More than half of the replicas.
    Quorum = 4,
    /// What lightweight transactions have decided.
    Serial = 8,
}

/// Why there are no rows.
#[derive(Debug)]
pub struct Trouble {
    /// In words.
    pub why: String,
    /// Nothing has happened, and nothing will.
    pub has_no_effect: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Door {
    authorities: Vec<String>,
    open: Vec<Option<CqlConnection>>,
}

impl Door {
    /// To these nodes, `host:port`.
    pub fn new(authorities: &[String]) -> Self {
        let open = authorities.iter().map(|_| None).collect();
        Self { authorities: authorities.to_vec(), open }
    }

    /// Asks `node` once, and waits no longer than `patience`.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn ask(
        &mut self,
        node: usize,
        text: &str,
        level: Level,
        patience: Duration,
    ) -> Result<CqlRows, Trouble> {
        let early = |why: String| Trouble { why, has_no_effect: true };
        let kept = self.open[node].take().filter(CqlConnection::is_open);
        let mut connection = match kept {
            Some(connection) => connection,
            None => match timeout(patience, CqlConnection::open(&self.authorities[node])).await {
                Ok(opened) => opened.map_err(|error| early(error.to_string()))?,
                Err(late) => return Err(early(late.to_string())),
            },
        };
        let asked = timeout(patience, connection.rows(text, level as u16)).await;
        let (why, has_no_effect) = match asked {
            Ok(Ok(rows)) => {
                self.open[node] = Some(connection);
                return Ok(rows);
            }
            Ok(Err(error)) => {
                // An error in words leaves the connection as good as it was.
                if matches!(error, CqlFailure::Refused { .. }) {
                    self.open[node] = Some(connection);
                }
                (error.to_string(), error.has_no_effect())
            }
            Err(late) => (late.to_string(), false),
        };
        Err(Trouble { why, has_no_effect })
    }
}
