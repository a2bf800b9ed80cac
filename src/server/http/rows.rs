//! CQL's tables of rows at this door: the bucket `keyspace.table`, its rows as JSON.
//!
//! What is asked here is carried out as the CQL statement that means the same, so both doors have
//! one meaning: a GET is a SELECT, a PUT an INSERT (columns that it does not name stay as they
//! are, null deletes one), a DELETE a DELETE. Levels, time to live and errors are this door's.
//!
//! The key in the path is the value of the partition key's column as CQL shows it (`7`, `Graz`,
//! `123e4567-…`; of a blob its bytes), or, if there are several key columns, a JSON array of values
//! of the partition key and then of the clustering key, or of a prefix of that: `["Graz",7]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::cql::json;
use crate::cql::schema::{Column, Schema};
use crate::cql::types::{CqlType, quote};
use crate::meta::Table;
use crate::server::Principal;
use crate::server::cql::Store;
use crate::server::cql::direct::{self, PageOfRows, Terms};
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::cql;
use crate::server::http::door::Inner;
use crate::server::http::options::{self, Side};
use crate::server::http::path::decode_path;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;

type Answer = Result<Response<DoorBody>, Problem>;

/// Rows of an answer, unless the client asks for fewer.
const MAX_ROWS: u64 = 1_000;

/// A table of rows, and the store that runs its statements.
pub(super) struct RowsTable {
    table: Arc<Table>,
    schema: Arc<Schema>,
    store: Arc<dyn Store>,
}

/// The table of rows that a bucket's name names, if it does.
pub(super) fn find(inner: &Inner, bucket: &str) -> Option<RowsTable> {
    let (keyspace, name) = bucket.split_once('.')?;
    let store = inner.backend.cql()?;
    let table = store.state().table_of(keyspace, name)?.clone();
    let schema = table.rows.clone()?;
    Some(RowsTable { table, schema, store })
}

/// Answers a request about a key, or, without one, about the whole table.
pub(super) async fn answer(
    inner: &Inner,
    parts: &Parts,
    body: &mut Body,
    rows: &RowsTable,
    key: Option<&str>,
) -> Answer {
    inner.permit(Principal::of(parts), &rows.table)?;
    match (&parts.method, key) {
        (&Method::GET | &Method::HEAD, key) => rows.get(parts, key).await,
        (&Method::PUT, Some(key)) => rows.put(inner, parts, body, key).await,
        (&Method::DELETE, Some(key)) => rows.delete(parts, key).await,
        _ => Err(Problem::new(
            Kind::NotSupported,
            "rows of a CQL table are read, PUT and DELETEd one by one here: use CQL for batches",
        )),
    }
}

impl RowsTable {
    fn name(&self) -> String {
        format!("{}.{}", quote(&self.table.name.keyspace), quote(&self.table.name.table))
    }

    async fn run(&self, text: String, terms: Terms) -> Result<PageOfRows, Problem> {
        cql::answered(direct::execute(self.store.clone(), text, terms).await)
    }

    async fn get(&self, parts: &Parts, key: Option<&str>) -> Answer {
        const KNOWN: &[&str] = &["level", "r", "w", "limit", "start"];
        let params = Params::parse(parts.uri.query(), KNOWN)?;
        let limit = params.number("limit")?.unwrap_or(MAX_ROWS).clamp(1, MAX_ROWS);
        let bad_start = || Problem::bad_parameter("start", "is no cursor of such an answer");
        let start = params.text("start")?.map(|text| URL_SAFE_NO_PAD.decode(text));
        let terms = Terms {
            page_size: u32::try_from(limit).ok(),
            paging_state: start.transpose().map_err(|_| bad_start())?,
            ..Terms::at(options::level(&params, &self.table, Side::Read)?)
        };
        let restriction = match key {
            Some(key) => format!(" WHERE {}", self.restriction(key)?.join(" AND ")),
            None => String::new(),
        };
        let text = format!("SELECT * FROM {}{restriction}", self.name());
        let page = self.run(text, terms).await?;
        if key.is_some() && page.rows.is_empty() && page.paging_state.is_none() {
            return Err(Problem::new(Kind::KeyNotFound, "there is no row under this key"));
        }
        cql::whole(&page)
    }

    async fn put(&self, inner: &Inner, parts: &Parts, body: &mut Body, key: &str) -> Answer {
        const KNOWN: &[&str] = &["level", "r", "w", "ttl"];
        let params = Params::parse(parts.uri.query(), KNOWN)?;
        let level = options::level(&params, &self.table, Side::Write)?;
        let ttl = options::ttl(params.number("ttl")?)?;
        let create = self.only_creates(parts)?;
        let values = self.values(key)?;
        let keys = self.schema.partition_key().len() + self.schema.clustering_key().len();
        if values.len() < keys {
            return Err(bad_key("names no single row: give all key columns"));
        }
        let reading = Reading { env: &inner.env, limits: &inner.limits, budget: &inner.bodies };
        let read = reading.read(&parts.headers, body, inner.limits.max_value_bytes).await?;
        let given: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&read.bytes)
            .map_err(|error| Problem::bad(format!("the body is no JSON object: {error}")))?;
        let (mut names, mut literals) = (Vec::new(), Vec::new());
        for (column, literal) in self.schema.columns().iter().zip(values) {
            names.push(quote(&column.name));
            literals.push(literal);
        }
        for (name, value) in &given {
            let column = self.schema.column(name).filter(|column| !column.is_key());
            let column = column.ok_or_else(|| {
                let what = "is no column of this table beside its key, which the path names";
                Problem::bad_parameter(name, what)
            })?;
            names.push(quote(name));
            let literal = literal(&column.kind, value);
            literals.push(literal.map_err(|why| Problem::bad_parameter(name, why))?);
        }
        let condition = if create { " IF NOT EXISTS" } else { "" };
        let using = ttl.map(|ttl| format!(" USING TTL {}", ttl.as_secs())).unwrap_or_default();
        let (names, literals) = (names.join(", "), literals.join(", "));
        let table = self.name();
        let text = format!("INSERT INTO {table} ({names}) VALUES ({literals}){condition}{using}");
        let page = self.run(text, Terms::at(level)).await?;
        drop(read.share);
        let refused = page.rows.first().and_then(|row| page.value(row, "[applied]"));
        if refused.is_some_and(|applied| applied[..] == [0]) {
            let current: Vec<Value> = page.rows.iter().map(|row| current(&page, row)).collect();
            let problem = Problem::new(Kind::PreconditionFailed, "there is such a row");
            return Err(problem.with("current", current));
        }
        Ok(empty(if create { StatusCode::CREATED } else { StatusCode::NO_CONTENT }))
    }

    async fn delete(&self, parts: &Parts, key: &str) -> Answer {
        let params = Params::parse(parts.uri.query(), &["level", "r", "w"])?;
        let level = options::level(&params, &self.table, Side::Write)?;
        if self.only_creates(parts)? {
            return Err(Problem::bad_parameter("if-none-match", "a deletion creates nothing"));
        }
        let restriction = self.restriction(key)?.join(" AND ");
        self.run(format!("DELETE FROM {} WHERE {restriction}", self.name()), Terms::at(level))
            .await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// True for `If-None-Match: *`. Rows have no entity tags to compare.
    fn only_creates(&self, parts: &Parts) -> Result<bool, Problem> {
        let conditional =
            [header::IF_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE];
        let given = |name| parts.headers.contains_key(name);
        let creates = parts.headers.get(header::IF_NONE_MATCH);
        if conditional.iter().any(given) || creates.is_some_and(|value| value != "*") {
            return Err(Problem::new(
                Kind::NotSupported,
                "rows have no entity tags: use If-None-Match: *, or IF in CQL",
            ));
        }
        Ok(creates.is_some())
    }

    /// The key columns' values, as CQL's literals, in their order.
    fn values(&self, raw: &str) -> Result<Vec<String>, Problem> {
        let bytes = decode_path(raw);
        let bytes = bytes.map_err(|_| bad_key("the path has a bad percent-escape"))?;
        let columns: Vec<&Column> =
            self.schema.partition_key().iter().chain(self.schema.clustering_key()).collect();
        let partition = self.schema.partition_key();
        let given = if bytes.first() == Some(&b'[') {
            let array: Vec<Box<RawValue>> = serde_json::from_slice(&bytes)
                .map_err(|error| bad_key(&format!("is no JSON array: {error}")))?;
            array
        } else if matches!(partition, [Column { kind: CqlType::Blob, .. }]) {
            vec![as_json(&crate::cql::value::blob_text(&bytes))?]
        } else {
            let text = std::str::from_utf8(&bytes).map_err(|_| bad_key("is no UTF-8"))?;
            vec![as_json(text)?]
        };
        if !(partition.len()..=columns.len()).contains(&given.len()) {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            return Err(bad_key(&format!(
                "has {} values, and the key columns are {} (of which {} must be given), as a JSON \
                 array",
                given.len(),
                names.join(", "),
                partition.len()
            )));
        }
        let literals = columns.iter().zip(&given).map(|(column, value)| {
            let literal = literal(&column.kind, value);
            literal.map_err(|why| bad_key(&format!("{}: {why}", column.name)))
        });
        literals.collect()
    }

    fn restriction(&self, raw: &str) -> Result<Vec<String>, Problem> {
        let values = self.values(raw)?;
        let named = self.schema.columns().iter().zip(values);
        Ok(named.map(|(column, value)| format!("{} = {value}", quote(&column.name))).collect())
    }
}

fn bad_key(why: &str) -> Problem {
    Problem::bad_parameter("key", why)
}

/// A text as JSON.
fn as_json(text: &str) -> Result<Box<RawValue>, Problem> {
    to_raw_value(text).map_err(|error| bad_key(&error.to_string()))
}

fn empty(status: StatusCode) -> Response<DoorBody> {
    let mut response = Response::new(DoorBody::empty());
    *response.status_mut() = status;
    response
}

/// What a refused write has met, without the column that says that it was refused.
fn current(page: &PageOfRows, row: &[Option<bytes::Bytes>]) -> Value {
    let mut shown: Value = serde_json::from_str(&page.json(row)).unwrap_or_default();
    if let Some(columns) = shown.as_object_mut() {
        columns.remove("[applied]");
    }
    shown
}

/// JSON as a literal of a CQL type.
fn literal(kind: &CqlType, value: &RawValue) -> Result<String, String> {
    json::term(kind, value).map(|term| term.to_string())
}
