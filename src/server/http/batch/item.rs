//! One item of a batch: reading it, running it, saying what came of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::causality::Context;
use crate::coordinator::{
    Condition, OpError, ReadOp, ReadOutcome, WriteAction, WriteOp, WriteOutcome,
};
use crate::cql::roles::Permission;
use crate::meta::Table;
use crate::record::version_etag;
use crate::server::Principal;
use crate::server::http::conditions::{checked_fence, condition_of};
use crate::server::http::door::Inner;
use crate::server::http::options::{self, meta_fits, open_context, parse_operation_id};
use crate::server::http::path::check_key;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::unknown;
use crate::server::http::versions::{DotJson, VersionJson};
use crate::types::{Consistency, Key, OpId};

/// What holds for all items of a batch.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) table: Arc<Table>,
    pub(super) read: Consistency,
    pub(super) write: Consistency,
    pub(super) timeout: Duration,
    /// On whose behalf.
    pub(super) principal: Principal,
}

/// An item as it is sent.
#[derive(Debug, Deserialize)]
struct Sent<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    key_encoding: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    encoding: Option<Cow<'a, str>>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(borrow, default)]
    context: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    if_match: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    if_none_match: Option<Cow<'a, str>>,
    #[serde(default)]
    if_fence: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    ttl: Option<u64>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    #[serde(flatten, borrow)]
    others: BTreeMap<Cow<'a, str>, serde::de::IgnoredAny>,
}

const MEMBERS: &[&str] = &[
    "op",
    "key",
    "key_encoding",
    "value",
    "encoding",
    "content_type",
    "context",
    "if_match",
    "if_none_match",
    "if_fence",
    "id",
    "ttl",
    "meta",
];

/// An item of a batch request.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the item in the OpenAPI document")]
pub struct BatchItemDoc {
    /// `put`, `delete` or `get`.
    #[schema(example = "put")]
    op: String,
    /// The key: as text, or in base64.
    #[schema(example = "EWR-UA-1545")]
    key: String,
    /// `utf8` (default) or `base64`.
    key_encoding: Option<String>,
    /// For `put`: the bytes, as text or in base64.
    value: Option<String>,
    /// `utf8` (default) or `base64`.
    encoding: Option<String>,
    /// For `put`: the value's media type.
    content_type: Option<String>,
    /// What the writer has read of the key.
    context: Option<String>,
    /// Of a write: as the header `If-Match`, `*` or entity tags with their quotes.
    if_match: Option<String>,
    /// Of a write: as the header `If-None-Match`, `*` or entity tags with their quotes.
    if_none_match: Option<String>,
    /// Of a write: as the header `If-Fence`.
    if_fence: Option<u64>,
    /// The operation's id, a UUIDv7: sent again with it, a write does not become a second one.
    id: Option<String>,
    /// For `put`: seconds until the value ends to exist.
    ttl: Option<u64>,
    /// For `put`: the value's own metadata.
    meta: Option<BTreeMap<String, String>>,
}

/// The answer to an item: `status`, and the members that fit it.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the answer in the OpenAPI document")]
pub struct BatchAnswerDoc {
    /// As a single request's answer would have it.
    #[schema(example = 201)]
    status: u16,
    /// The item's id, if it had one.
    id: Option<String>,
    /// Of what was written or read.
    etag: Option<String>,
    /// What the client has now seen of the key.
    context: Option<String>,
    /// After a write: the number of live values. After a read with status 300: the values.
    #[schema(value_type = Object)]
    siblings: Option<Value>,
    /// Of a problem: where its page is.
    r#type: Option<String>,
    /// Of a problem with a write.
    outcome: Option<String>,
}

/// What an item asks for.
#[derive(Debug)]
enum Wish {
    Get,
    Write(Box<Write>),
}

/// A write that an item asks for.
#[derive(Debug)]
struct Write {
    action: WriteAction,
    condition: Condition,
    fence: Option<u64>,
    context: Option<Context>,
    op: Option<OpId>,
}

/// An item that has been checked.
#[derive(Debug)]
pub(super) struct Item {
    key: Key,
    id: Option<String>,
    wish: Wish,
}

/// The line that answers an item.
#[derive(Debug, Serialize)]
pub(super) struct ItemAnswer {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    Written {
        #[serde(skip_serializing_if = "Option::is_none")]
        etag: Option<String>,
        context: String,
        siblings: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        dot: Option<DotJson>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        replayed: bool,
    },
    Other(Value),
}

type Wrong = (Option<String>, Problem);

impl Item {
    /// Reads and checks a line.
    pub(super) fn parse(line: &[u8], inner: &Inner, options: &Options) -> Result<Self, Wrong> {
        let sent: Sent<'_> = serde_json::from_slice(line).map_err(|error| {
            (None, Problem::bad(format!("the item is no valid JSON object of this form: {error}")))
        })?;
        let id = sent.id.clone();
        sent.check(inner, options).map_err(|problem| (id, problem))
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Refuses what is no write, or has terms of its own.
    pub(super) fn must_be_plain_write(&self) -> Result<(), Problem> {
        let Wish::Write(write) = &self.wish else {
            return Err(Problem::bad("a batch under a condition is of writes, and this is a get"));
        };
        let plain = write.condition == Condition::None
            && write.fence.is_none()
            && write.context.is_none()
            && write.op.is_none();
        if plain {
            return Ok(());
        }
        Err(Problem::bad(
            "a batch under a condition is one operation: its items have no condition, no context \
             and no id of their own (its id is the header Idempotency-Key)",
        ))
    }

    /// Its key, and what it does; of a write without terms of its own.
    ///
    /// # Errors
    /// As [`Item::must_be_plain_write`].
    pub(super) fn into_plain_write(self) -> Result<(Key, WriteAction), Problem> {
        self.must_be_plain_write()?;
        match self.wish {
            Wish::Write(write) => Ok((self.key, write.action)),
            Wish::Get => Err(Problem::bad("a get writes nothing")),
        }
    }

    /// Runs the item. `seen` is what earlier writes of the batch have seen of the key; the second
    /// part of the answer is what this one adds.
    pub(super) async fn run(
        self,
        inner: &Inner,
        options: &Options,
        mut seen: Context,
    ) -> (ItemAnswer, Context) {
        let table = &options.table;
        match self.wish {
            Wish::Get => {
                let op = ReadOp {
                    table: table.clone(),
                    key: self.key.clone(),
                    level: options.read,
                    timeout: options.timeout,
                    receipt: false,
                    local: false,
                };
                let answer = match inner.backend.read(op).await {
                    Ok(found) => read_answer(inner, options, &self.key, self.id, &found),
                    Err(error) => failed(self.id, error, false),
                };
                (answer, seen)
            }
            Wish::Write(write) => {
                let Write { action, condition, fence, context, op } = *write;
                let delete = matches!(action, WriteAction::Delete);
                // Each supersedes the last: what the batch has written counts as read. A delete
                // without a context still means "what a quorum shows".
                let context = match context {
                    Some(mut own) => {
                        own.union(&seen);
                        Some(own)
                    }
                    None if delete || seen.is_empty() => None,
                    None => Some(seen.clone()),
                };
                let op = WriteOp {
                    condition,
                    fence,
                    table: table.clone(),
                    key: self.key.clone(),
                    action,
                    context,
                    level: options.write,
                    timeout: options.timeout,
                    op,
                    receipt: false,
                };
                match inner.backend.write(op).await {
                    Ok(outcome) => {
                        seen.union(&outcome.context);
                        let token = inner.backend.codec().seal(table.id, &self.key, &seen);
                        (written(self.id, &outcome, token, delete), seen)
                    }
                    Err(error) => (failed(self.id, error, true), seen),
                }
            }
        }
    }
}

impl Sent<'_> {
    fn check(self, inner: &Inner, options: &Options) -> Result<Item, Problem> {
        if let Some(name) = self.others.keys().next() {
            return Err(unknown("member", name, MEMBERS));
        }
        let key = decode("key", &self.key, self.key_encoding.as_deref())?;
        let key = check_key(key, &inner.limits)?;
        let wish = match &*self.op {
            "get"
                if self.if_match.is_some()
                    || self.if_none_match.is_some()
                    || self.if_fence.is_some() =>
            {
                return Err(Problem::bad("a condition is one of a write, and this is a get"));
            }
            "get" => Wish::Get,
            "put" | "delete" => {
                let context = self
                    .context
                    .as_deref()
                    .map(|token| open_context(inner.backend.codec(), &options.table, &key, token))
                    .transpose()?;
                let op = self.id.as_deref().map(|id| parse_operation_id("id", id)).transpose()?;
                let action = if self.op == "put" { self.put(inner)? } else { WriteAction::Delete };
                let condition =
                    condition_of(self.if_match.as_deref(), self.if_none_match.as_deref())?;
                let fence = self.if_fence.map(|n| checked_fence("if_fence", n)).transpose()?;
                Wish::Write(Box::new(Write { action, condition, fence, context, op }))
            }
            other => {
                return Err(Problem::bad_parameter(
                    "op",
                    format_args!("{other:?} is none of \"put\", \"delete\" and \"get\""),
                ));
            }
        };
        match &wish {
            Wish::Get => inner.permit(&options.principal, Permission::Select, &options.table)?,
            Wish::Write(write) => {
                let shows = write.condition != Condition::None;
                inner.permit_write(&options.principal, &options.table, shows)?;
            }
        }
        Ok(Item { key, id: self.id, wish })
    }

    fn put(&self, inner: &Inner) -> Result<WriteAction, Problem> {
        let value = self
            .value
            .as_deref()
            .ok_or_else(|| Problem::bad_parameter("value", "a put needs one"))?;
        let body = decode("value", value, self.encoding.as_deref())?;
        let (got, max) = (body.len(), inner.limits.max_value_bytes);
        if got > max {
            return Err(Problem::new(
                Kind::ValueTooLarge,
                format!("the value has {got} bytes and at most {max} are taken"),
            )
            .with("max", max)
            .with("got", got));
        }
        let mut bytes = 0;
        for (name, value) in &self.meta {
            bytes += name.len() + value.len();
            let fits = axum::http::HeaderName::from_bytes(name.as_bytes()).is_ok()
                && !name.bytes().any(|b| b.is_ascii_uppercase())
                && axum::http::HeaderValue::from_bytes(value.as_bytes()).is_ok();
            if !fits {
                return Err(Problem::bad_parameter(
                    "meta",
                    format_args!("{name:?} and its value must fit a header, in lower case"),
                ));
            }
        }
        meta_fits(bytes, &inner.limits)?;
        if let Some(text) = &self.content_type
            && axum::http::HeaderValue::from_str(text).is_err()
        {
            return Err(Problem::bad_parameter("content_type", "must fit a header"));
        }
        Ok(WriteAction::Put {
            body,
            content_type: self.content_type.clone(),
            meta: self.meta.clone().into_iter().collect(),
            ttl: options::ttl(self.ttl)?,
        })
    }
}

fn decode(name: &'static str, text: &str, encoding: Option<&str>) -> Result<Bytes, Problem> {
    match encoding {
        None | Some("utf8") => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some("base64") => STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| Problem::bad_parameter(name, format_args!("no base64: {error}"))),
        Some(other) => Err(Problem::bad_parameter(
            if name == "key" { "key_encoding" } else { "encoding" },
            format_args!("{other:?} is neither \"utf8\" nor \"base64\""),
        )),
    }
}

fn failed(id: Option<String>, error: OpError, write: bool) -> ItemAnswer {
    ItemAnswer::problem(id.as_deref(), &error.into(), write)
}

pub(super) fn written(
    id: Option<String>,
    outcome: &WriteOutcome,
    context: String,
    delete: bool,
) -> ItemAnswer {
    ItemAnswer {
        status: if outcome.created && !delete { 201 } else { 204 },
        id,
        content: Content::Written {
            etag: outcome.dot.filter(|_| !delete).map(version_etag),
            context,
            siblings: outcome.siblings,
            dot: outcome.dot.map(DotJson::from),
            replayed: outcome.replayed,
        },
    }
}

fn read_answer(
    inner: &Inner,
    options: &Options,
    key: &Key,
    id: Option<String>,
    found: &ReadOutcome,
) -> ItemAnswer {
    let view = found.record.view(found.now);
    let seal = || inner.backend.codec().seal(options.table.id, key, &view.context);
    let (status, mut members) = match &view.versions[..] {
        [] => {
            let mut problem = Problem::new(Kind::KeyNotFound, "there is no value under this key");
            if let Some(etag) = view.etag() {
                problem = problem.with("etag", etag).with("context", seal());
            }
            return ItemAnswer::problem(id.as_deref(), &problem, false);
        }
        [version] => (200, serde_json::to_value(VersionJson::from(*version)).unwrap_or_default()),
        versions => {
            let siblings: Vec<VersionJson<'_>> =
                versions.iter().map(|&version| version.into()).collect();
            (300, serde_json::json!({ "siblings": siblings, "etag": view.etag() }))
        }
    };
    members["context"] = Value::from(seal());
    ItemAnswer { status, id, content: Content::Other(members) }
}

impl ItemAnswer {
    /// A write that another one of its batch has replaced before anybody saw it.
    pub(super) fn superseded() -> Self {
        Self { status: 204, id: None, content: Content::Other(serde_json::json!({})) }
    }

    /// An item that came to nothing.
    pub(super) fn problem(id: Option<&str>, problem: &Problem, write: bool) -> Self {
        let mut members = serde_json::to_value(problem.json(write)).unwrap_or_default();
        if let Some(members) = members.as_object_mut() {
            members.remove("status");
        }
        Self {
            status: problem.status(),
            id: id.map(str::to_owned),
            content: Content::Other(members),
        }
    }
}
