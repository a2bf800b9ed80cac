//! Keys, values, listings and buckets as typed calls.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::{Deserialize, Serialize};

use super::error::ClientError;
use super::node::{Call, Reply};
use super::{Client, Repeat};
use crate::types::OpId;

/// All that RFC 3986 does not call unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `key` as one segment of a path.
#[must_use]
pub fn encode_key(key: &[u8]) -> String {
    percent_encode(key, ENCODED).to_string()
}

/// How bytes stand in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    #[default]
    Utf8,
    /// In base64, with padding.
    Base64,
}

/// `bytes` as they stand in JSON.
#[must_use]
pub fn encode_text(bytes: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (STANDARD.encode(bytes), Encoding::Base64),
    }
}

/// The bytes that `text` stands for; `None` if it is no base64.
#[must_use]
pub fn text_bytes(text: &str, encoding: Encoding) -> Option<Bytes> {
    match encoding {
        Encoding::Utf8 => Some(Bytes::copy_from_slice(text.as_bytes())),
        Encoding::Base64 => STANDARD.decode(text).ok().map(Bytes::from),
    }
}

/// `key` for people: as it is where it is printable text, else percent-encoded.
#[must_use]
pub fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => encode_key(key),
    }
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// A consistency level by name.
    pub level: Option<String>,
    /// Replicas that must answer, in place of `level`.
    pub r: Option<u32>,
    /// Time for the request, such as `500ms`.
    pub timeout: Option<String>,
    /// Only the asked node's own copy.
    pub local: bool,
    /// Ask for the consistency receipt.
    pub receipt: bool,
}

/// What a write does about its operation id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpMode {
    /// A fresh one.
    #[default]
    Fresh,
    /// This one: the write is, or may be, a repeat.
    Given(OpId),
    /// None: cheaper, and an open outcome stays open.
    None,
}

/// How to write.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// A consistency level by name.
    pub level: Option<String>,
    /// Replicas that must acknowledge, in place of `level`.
    pub w: Option<u32>,
    /// Time for the request, such as `500ms`.
    pub timeout: Option<String>,
    /// Seconds until the value expires.
    pub ttl: Option<u64>,
    /// What the writer has read.
    pub context: Option<String>,
    /// The value's type.
    pub content_type: Option<String>,
    /// The fence of a lock that the writer holds: the write is refused if the key has seen a
    /// higher one.
    pub fence: Option<u64>,
    /// The operation id.
    pub op: OpMode,
    /// Ask for the consistency receipt.
    pub receipt: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The bytes.
    pub value: Bytes,
    /// Their type as it was given.
    pub content_type: Option<String>,
    /// The version.
    pub etag: Option<String>,
    /// The one version's dot.
    pub dot: Option<String>,
}

/// One of several concurrent values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sibling {
    /// The bytes, as `encoding` says.
    pub value: String,
    /// How `value` is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Their type as it was given.
    #[serde(default)]
    pub content_type: Option<String>,
    /// The version.
    #[serde(default)]
    pub etag: Option<String>,
    /// Who minted it, and as its how-manieth.
    #[serde(default)]
    pub dot: serde_json::Value,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// No value, one, or several.
    pub value: FoundValue,
    /// What to send with the next write.
    pub context: Option<String>,
    /// The receipt, if asked for.
    pub receipt: Option<String>,
}

/// No value, one, or several concurrent ones.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundValue {
    /// None.
    Absent,
    /// One.
    One(Stored),
    /// Several.
    Siblings(Vec<Sibling>),
}

/// What a write answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// True if no live value stood there before.
    pub created: bool,
    /// The version.
    pub etag: Option<String>,
    /// What the writer has now seen.
    pub context: Option<String>,
    /// Live values after the write.
    pub siblings: Option<u64>,
    /// True if this was a repeat and the answer is the first one's.
    pub replayed: bool,
    /// Where the value is, if the server made its key.
    pub location: Option<String>,
    /// The receipt, if asked for.
    pub receipt: Option<String>,
}

/// How to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only keys that begin so.
    pub prefix: Option<Vec<u8>>,
    /// Where the last page ended.
    pub start: Option<String>,
    /// Keys in a page.
    pub limit: Option<u32>,
    /// Only keys with siblings.
    pub conflicts: bool,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyPage {
    /// The keys, by token, then key.
    pub keys: Vec<KeyEntry>,
    /// Where the next page starts; absent at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// A key in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The key, as `encoding` says.
    pub key: String,
    /// How `key` is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// The version.
    #[serde(default)]
    pub etag: Option<String>,
    /// Live values.
    #[serde(default)]
    pub siblings: u64,
}

impl KeyEntry {
    /// The key's bytes; `None` if they are no base64.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        text_bytes(&self.key, self.encoding)
    }
}

/// Settings of a bucket; what is absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BucketSettings {
    /// Copies of each value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// How concurrent writes meet: `siblings`, `lww` or `strong`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// The level of reads that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<String>,
    /// The level of writes that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub w: Option<String>,
    /// Seconds until values expire; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// The most siblings of a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_siblings: Option<u32>,
    /// Writes may be kept by others for replicas that are down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    /// Seconds that a deletion is kept at least, before its traces may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u64>,
}

/// A path with a growing query.
struct Target {
    text: String,
    next: char,
}

impl Target {
    fn of_key(bucket: &str, key: &[u8]) -> Self {
        Self::new(format!("/v1/kv/{}/{}", encode_key(bucket.as_bytes()), encode_key(key)))
    }

    fn of_bucket(bucket: &str) -> Self {
        Self::new(format!("/v1/kv/{}", encode_key(bucket.as_bytes())))
    }

    fn new(text: String) -> Self {
        Self { text, next: '?' }
    }

    fn with(mut self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        if let Some(value) = value {
            self.text.push(self.next);
            self.text.push_str(name);
            self.text.push('=');
            self.text.push_str(&encode_key(value.as_ref()));
            self.next = '&';
        }
        self
    }
}

fn number<T: ToString>(number: Option<T>) -> Option<String> {
    number.map(|number| number.to_string())
}

impl ReadOptions {
    fn apply(&self, target: Target) -> Target {
        target
            .with("level", self.level.as_ref())
            .with("r", number(self.r))
            .with("timeout", self.timeout.as_ref())
            .with("local", self.local.then_some("true"))
    }
}

impl WriteOptions {
    fn call(&self, method: Method, target: Target) -> Result<(Call, Repeat), ClientError> {
        let target = target
            .with("level", self.level.as_ref())
            .with("w", number(self.w))
            .with("timeout", self.timeout.as_ref())
            .with("ttl", number(self.ttl));
        let mut call = Call::new(method, target.text);
        if let Some(context) = &self.context {
            call = call.header("henge-context", context)?;
        }
        if let Some(content_type) = &self.content_type {
            call = call.header("content-type", content_type)?;
        }
        if self.receipt {
            call = call.header("henge-receipt", "true")?;
        }
        if let Some(fence) = self.fence {
            call = call.header("if-fence", &fence.to_string())?;
        }
        let op = match self.op {
            OpMode::Fresh => Client::new_op_id(),
            OpMode::Given(op) => op,
            OpMode::None => return Ok((call, Repeat::IfNotApplied)),
        };
        Ok((call.header("idempotency-key", &op.to_string())?, Repeat::Always))
    }
}

fn header(reply: &Reply, name: &str) -> Option<String> {
    reply.header(name).map(str::to_owned)
}

fn written(reply: &Reply) -> Written {
    Written {
        created: reply.status.as_u16() == 201,
        etag: header(reply, "etag"),
        context: header(reply, "henge-context"),
        siblings: reply.header("henge-siblings").and_then(|text| text.parse().ok()),
        replayed: reply.header("henge-replayed") == Some("true"),
        location: header(reply, "location"),
        receipt: header(reply, "henge-receipt"),
    }
}

impl Client {
    /// Reads `key`. An absent key is a success: [`FoundValue::Absent`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn get(
        &self,
        bucket: &str,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Found, ClientError> {
        let target = options.apply(Target::of_key(bucket, key));
        let mut call = Call::new(Method::GET, target.text);
        if options.receipt {
            call = call.header("henge-receipt", "true")?;
        }
        let reply = self.call(&call, Repeat::Always).await?;
        let value = match reply.status.as_u16() {
            200 => FoundValue::One(Stored {
                value: reply.body.clone(),
                content_type: header(&reply, "content-type"),
                etag: header(&reply, "etag"),
                dot: header(&reply, "henge-dot"),
            }),
            300 => {
                #[derive(Deserialize)]
                struct Several {
                    siblings: Vec<Sibling>,
                }
                FoundValue::Siblings(reply.json::<Several>()?.siblings)
            }
            404 => {
                let error = reply.refused();
                let name = error.problem().map(|problem| problem.name.as_str());
                if name == Some("bucket-not-found") {
                    return Err(error);
                }
                FoundValue::Absent
            }
            400.. => return Err(reply.refused()),
            status => {
                return Err(ClientError::Protocol {
                    node: reply.node,
                    why: format!("status {status} for a read"),
                });
            }
        };
        Ok(Found {
            value,
            context: header(&reply, "henge-context"),
            receipt: header(&reply, "henge-receipt"),
        })
    }

    /// Writes `value` at `key`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn put(
        &self,
        bucket: &str,
        key: &[u8],
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        let (call, repeat) = options.call(Method::PUT, Target::of_key(bucket, key))?;
        Ok(written(&self.ask(&call.body(value), repeat).await?))
    }

    /// Writes `value` at a key that the server makes; see [`Written::location`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn post(
        &self,
        bucket: &str,
        value: impl Into<Bytes>,
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        let (call, repeat) = options.call(Method::POST, Target::of_bucket(bucket))?;
        Ok(written(&self.ask(&call.body(value), repeat).await?))
    }

    /// Deletes `key`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn delete(
        &self,
        bucket: &str,
        key: &[u8],
        options: &WriteOptions,
    ) -> Result<Written, ClientError> {
        let (call, repeat) = options.call(Method::DELETE, Target::of_key(bucket, key))?;
        Ok(written(&self.ask(&call, repeat).await?))
    }

    /// One page of the keys of `bucket`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn list(&self, bucket: &str, options: &ListOptions) -> Result<KeyPage, ClientError> {
        let target = Target::of_bucket(bucket)
            .with("prefix", options.prefix.as_ref())
            .with("start", options.start.as_ref())
            .with("limit", number(options.limit))
            .with("conflicts", options.conflicts.then_some("true"));
        let call = Call::new(Method::GET, target.text);
        self.ask(&call, Repeat::Always).await?.json()
    }

    /// Creates `bucket`. True if it is new, false if it was there with the same settings.
    ///
    /// # Errors
    /// As [`Client::ask`]; `bucket-exists` if it is there with other settings.
    pub async fn create_bucket(
        &self,
        bucket: &str,
        settings: &BucketSettings,
    ) -> Result<bool, ClientError> {
        let body = serde_json::to_vec(settings)
            .map_err(|error| ClientError::Invalid(error.to_string()))?;
        let target = format!("/v1/buckets/{}", encode_key(bucket.as_bytes()));
        let call =
            Call::new(Method::PUT, target).header("content-type", "application/json")?.body(body);
        Ok(self.ask(&call, Repeat::Always).await?.status.as_u16() == 201)
    }

    /// Deletes a bucket and everything in it.
    ///
    /// # Errors
    /// As [`Client::ask`]; `bucket-not-found`.
    pub async fn drop_bucket(&self, bucket: &str) -> Result<(), ClientError> {
        let target = format!("/v1/buckets/{}", encode_key(bucket.as_bytes()));
        self.ask(&Call::new(Method::DELETE, target), Repeat::Always).await.map(drop)
    }

    /// The JSON that a node serves at `path` (`/v1/cluster`, `/v1/ring`, …).
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn json(&self, path: &str) -> Result<serde_json::Value, ClientError> {
        self.ask(&Call::new(Method::GET, path), Repeat::Always).await?.json()
    }
}
