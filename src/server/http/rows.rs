//! CQL's tables of rows at this door: the bucket `keyspace.table`, its rows as JSON.
//!
//! What is asked here is carried out as the CQL statement that means the same, so both doors have
//! one meaning: a GET is a SELECT, a PUT an INSERT (columns that it does not name stay as they
//! are, null deletes one), a DELETE a DELETE. Levels, time to live and errors are this door's.
//!
//! The entity tag of one row names what it shows, so it is the same again when the same values
//! are. `If-Match` is judged on the row as CQL's IF is, by Paxos: writers of one row that all give
//! conditions (or a table WITH conflict = 'strong') lose no update.
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

use crate::coordinator::Condition;
use crate::cql::json;
use crate::cql::roles::Permission;
use crate::cql::schema::{Column, Schema};
use crate::cql::types::{CqlType, quote};
use crate::meta::Table;
use crate::server::Principal;
use crate::server::auth::Access;
use crate::server::cql::Store;
use crate::server::cql::direct::{self, APPLIED, PageOfRows, Terms};
use crate::server::http::body::{DoorBody, Reading};
use crate::server::http::conditions;
use crate::server::http::cql;
use crate::server::http::door::Inner;
use crate::server::http::identity::has_condition;
use crate::server::http::options::{self, Side};
use crate::server::http::path::decode_path;
use crate::server::http::problem::{Kind, Problem};
use crate::server::http::query::Params;
use crate::types::Consistency;

type Answer = Result<Response<DoorBody>, Problem>;

/// Rows of an answer, unless the client asks for fewer.
const MAX_ROWS: u64 = 1_000;

/// A table of rows, the store that runs its statements, and on whose behalf it does.
pub(super) struct RowsTable {
    table: Arc<Table>,
    schema: Arc<Schema>,
    store: Arc<dyn Store>,
    access: Access,
}

/// The table of rows that a bucket's name names, if it does.
pub(super) fn find(inner: &Inner, parts: &Parts, bucket: &str) -> Option<RowsTable> {
    let (keyspace, name) = bucket.split_once('.')?;
    let store = inner.backend.cql()?;
    let table = store.state().table_of(keyspace, name)?.clone();
    let schema = table.rows.clone()?;
    let access = Access { gate: inner.gate.clone(), principal: Principal::of(parts).clone() };
    Some(RowsTable { table, schema, store, access })
}

/// Answers a request about a key, or, without one, about the whole table.
pub(super) async fn answer(
    inner: &Inner,
    parts: &Parts,
    body: &mut Body,
    rows: &RowsTable,
    key: Option<&str>,
) -> Answer {
    let (principal, shows) = (&rows.access.principal, has_condition(&parts.headers));
    // Before a body is read; the statement is judged once more when it runs.
    match parts.method {
        Method::GET | Method::HEAD => {
            inner.permit(principal, Permission::Select, &rows.table)?;
        }
        _ => inner.permit_write(principal, &rows.table, shows)?,
    }
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

    fn terms(&self, level: Consistency) -> Terms {
        Terms { access: self.access.clone(), ..Terms::at(level) }
    }

    async fn run(&self, text: String, terms: Terms) -> Result<PageOfRows, Problem> {
        cql::answered(direct::execute(self.store.clone(), text, terms).await)
    }

    /// Runs a write of one row at `level`, unless `condition` does not hold: then the answer says
    /// what stands there.
    async fn write(
        &self,
        text: String,
        level: Consistency,
        condition: Condition,
    ) -> Result<(), Problem> {
        let tags = match condition {
            Condition::Exists => None,
            Condition::Matches(tags) => {
                Some(tags.iter().filter_map(|tag| parse_tag(tag)).collect())
            }
            // The statement says what is to be absent.
            Condition::None | Condition::Absent => {
                return judged(&self.run(text, self.terms(level)).await?);
            }
            Condition::Differs(_) => {
                return Err(Problem::new(
                    Kind::NotSupported,
                    "of a row If-None-Match takes * only: use If-Match, or IF in CQL",
                ));
            }
        };
        let (store, access) = (self.store.clone(), self.access.clone());
        judged(&cql::answered(direct::write_row_if(store, access, &text, tags).await)?)
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
            ..self.terms(options::level(&params, &self.table, Side::Read)?)
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
        let is_one = key.map(|key| self.values(key)).transpose()?;
        let is_one = is_one.is_some_and(|values| values.len() == self.keys());
        let Some(row) = page.rows.first().filter(|_| is_one) else { return cql::whole(&page) };
        let tag = tag_text(page.tag(row));
        if parts.headers.contains_key(header::IF_MATCH)
            && !options::names_etag(&parts.headers, &header::IF_MATCH, &tag)
        {
            let problem = Problem::new(Kind::PreconditionFailed, "If-Match names another content");
            return Err(problem.with_header(header::ETAG, options::value_of(tag)));
        }
        let mut response = match options::names_etag(&parts.headers, &header::IF_NONE_MATCH, &tag) {
            true => empty(StatusCode::NOT_MODIFIED),
            false => cql::whole(&page)?,
        };
        response.headers_mut().insert(header::ETAG, options::value_of(tag));
        Ok(response)
    }

    /// How many values name one row.
    fn keys(&self) -> usize {
        self.schema.partition_key().len() + self.schema.clustering_key().len()
    }

    async fn put(&self, inner: &Inner, parts: &Parts, body: &mut Body, key: &str) -> Answer {
        const KNOWN: &[&str] = &["level", "r", "w", "ttl"];
        let params = Params::parse(parts.uri.query(), KNOWN)?;
        let level = options::level(&params, &self.table, Side::Write)?;
        let ttl = options::ttl(params.number("ttl")?)?;
        let condition = conditions::condition(&parts.headers)?;
        let create = condition == Condition::Absent;
        let values = self.values(key)?;
        if values.len() < self.keys() {
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
        let absent = if create { " IF NOT EXISTS" } else { "" };
        let using = ttl.map(|ttl| format!(" USING TTL {}", ttl.as_secs())).unwrap_or_default();
        let (names, literals) = (names.join(", "), literals.join(", "));
        let table = self.name();
        let text = format!("INSERT INTO {table} ({names}) VALUES ({literals}){absent}{using}");
        self.write(text, level, condition).await?;
        drop(read.share);
        Ok(empty(if create { StatusCode::CREATED } else { StatusCode::NO_CONTENT }))
    }

    async fn delete(&self, parts: &Parts, key: &str) -> Answer {
        let params = Params::parse(parts.uri.query(), &["level", "r", "w"])?;
        let level = options::level(&params, &self.table, Side::Write)?;
        let condition = conditions::condition(&parts.headers)?;
        if condition == Condition::Absent {
            return Err(Problem::bad_parameter("if-none-match", "a deletion creates nothing"));
        }
        let restriction = self.restriction(key)?.join(" AND ");
        let text = format!("DELETE FROM {} WHERE {restriction}", self.name());
        self.write(text, level, condition).await?;
        Ok(empty(StatusCode::NO_CONTENT))
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

/// What a write with a condition has answered: that it took effect, or what stands there instead.
fn judged(page: &PageOfRows) -> Result<(), Problem> {
    let refused = page
        .rows
        .first()
        .filter(|row| page.value(row, APPLIED).is_some_and(|applied| applied[..] == [0]));
    let Some(row) = refused else { return Ok(()) };
    let problem = Problem::new(Kind::PreconditionFailed, "the row is not as it has to be");
    // Without a row there is nothing but the word that says so.
    if page.names.len() == 1 {
        return Err(problem.with("current", Value::Array(Vec::new())));
    }
    let tag = options::value_of(tag_text(page.tag(row)));
    let current: Vec<Value> = page.rows.iter().map(|row| current(page, row)).collect();
    Err(problem.with("current", current).with_header(header::ETAG, tag))
}

/// An entity tag of a row's tag.
fn tag_text(tag: u128) -> String {
    format!("\"{tag:032x}\"")
}

/// `None`: no row has such an entity tag.
fn parse_tag(text: &str) -> Option<u128> {
    let digits = text.strip_prefix('"')?.strip_suffix('"').filter(|digits| digits.len() == 32)?;
    let tag = u128::from_str_radix(digits, 16).ok()?;
    (tag_text(tag) == text).then_some(tag)
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
        columns.remove(APPLIED);
    }
    shown
}

/// JSON as a literal of a CQL type.
fn literal(kind: &CqlType, value: &RawValue) -> Result<String, String> {
    json::term(kind, value).map(|term| term.to_string())
}
