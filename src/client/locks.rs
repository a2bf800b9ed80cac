//! Locks and elections as typed calls.

use std::time::Duration;

use hyper::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::error::ClientError;
use super::kv::encode_key;
use super::node::{Call, Reply};
use super::{Client, Repeat};

/// A lock that is held, or an election that somebody leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who holds it, as it called itself.
    #[serde(alias = "candidate")]
    pub owner: String,
    /// The number of the grant.
    pub fence: u64,
    /// What is left of its time, by the cluster's clocks.
    pub remaining_ms: u64,
}

/// What became of asking for a lock, or of standing for election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It is the asker's.
    Ours(Lease),
    /// It is somebody else's. `None`: it was, and by now it may be free.
    Theirs(Option<Lease>),
}

/// What becomes of asking to hold for longer, or no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Done.
    Done,
    /// The grant had ended.
    Ended,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock(name: &[u8]) -> String {
    format!("/v1/locks/{}", encode_key(name))
}

fn election(name: &[u8]) -> String {
    format!("/v1/elections/{}", encode_key(name))
}

/// What [`Client::stand`] is answered.
#[derive(Deserialize)]
struct Stood {
    leader: bool,
    candidate: Option<String>,
    fence: u64,
    remaining_ms: u64,
}

impl Client {
    /// Asks for the lock `name`, once.
    ///
    /// # Errors
    /// [`ClientError`]; that somebody else holds it is none.
    pub async fn acquire(
        &self,
        name: &[u8],
        owner: &str,
        ttl: Duration,
    ) -> Result<Asked, ClientError> {
        let body = json!({ "owner": owner, "ttl_ms": millis(ttl) }).to_string();
        let op = Self::new_op_id().to_string();
        let call = Call::new(Method::POST, lock(name)).header("idempotency-key", &op)?.body(body);
        let reply = self.call(&call, Repeat::Always).await?;
        match reply.status.as_u16() {
            201 => Ok(Asked::Ours(reply.json()?)),
            409 => Ok(Asked::Theirs(reply.json().ok())),
            _ => Err(reply.refused()),
        }
    }

    /// Asks to hold the lock `name` for `ttl` from now.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn renew(&self, name: &[u8], fence: u64, ttl: Duration) -> Result<Kept, ClientError> {
        let body = json!({ "fence": fence, "ttl_ms": millis(ttl) }).to_string();
        let call = Call::new(Method::PUT, lock(name)).body(body);
        // Doing it twice does no more than doing it once.
        kept(self.call(&call, Repeat::Always).await?)
    }

    /// Gives the lock `name` back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release(&self, name: &[u8], fence: u64) -> Result<Kept, ClientError> {
        self.end(lock(name), fence).await
    }

    /// Who holds the lock `name`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn holder(&self, name: &[u8]) -> Result<Option<Lease>, ClientError> {
        self.show(lock(name)).await
    }

    /// Stands for election `name`, or leads on.
    ///
    /// # Errors
    /// [`ClientError`]; that somebody else leads is none.
    pub async fn stand(
        &self,
        name: &[u8],
        candidate: &str,
        ttl: Duration,
    ) -> Result<Asked, ClientError> {
        let body = json!({ "candidate": candidate, "ttl_ms": millis(ttl) }).to_string();
        let call = Call::new(Method::POST, election(name)).body(body);
        // A candidate is its name: standing twice is standing once.
        let stood: Stood = self.ask(&call, Repeat::Always).await?.json()?;
        let (fence, remaining_ms) = (stood.fence, stood.remaining_ms);
        let lease = stood.candidate.map(|owner| Lease { owner, fence, remaining_ms });
        match (stood.leader, lease) {
            (true, Some(lease)) => Ok(Asked::Ours(lease)),
            (_, lease) => Ok(Asked::Theirs(lease)),
        }
    }

    /// Ends one's own term in election `name`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resign(&self, name: &[u8], fence: u64) -> Result<Kept, ClientError> {
        self.end(election(name), fence).await
    }

    /// Who leads in election `name`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leader(&self, name: &[u8]) -> Result<Option<Lease>, ClientError> {
        self.show(election(name)).await
    }

    async fn end(&self, target: String, fence: u64) -> Result<Kept, ClientError> {
        let op = Self::new_op_id().to_string();
        let call = Call::new(Method::DELETE, target)
            .header("if-fence", &fence.to_string())?
            .header("idempotency-key", &op)?;
        kept(self.call(&call, Repeat::Always).await?)
    }

    async fn show(&self, target: String) -> Result<Option<Lease>, ClientError> {
        let reply = self.call(&Call::new(Method::GET, target), Repeat::Always).await?;
        match reply.status.as_u16() {
            200 => reply.json().map(Some),
            404 => Ok(None),
            _ => Err(reply.refused()),
        }
    }
}

fn kept(reply: Reply) -> Result<Kept, ClientError> {
    match reply.status.as_u16() {
        200 | 204 => Ok(Kept::Done),
        412 => Ok(Kept::Ended),
        _ => Err(reply.refused()),
    }
}
