//! Requests to answers.

mod batch;
mod writes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use self::writes::{How, Writes};
use crate::coordinator::Receipts;
use crate::cql::ast::Statement;
use crate::cql::conditions::If;
use crate::cql::functions::Now;
use crate::cql::modify::Modify;
use crate::cql::term::{Binds, Bound};
use crate::meta::{Command, NotDone, Verdict};
use crate::server::auth::{Gate, Principal};
use crate::server::cql::buckets;
use crate::server::cql::conditional::{Conditional, Write};
use crate::server::cql::ddl;
use crate::server::cql::describe;
use crate::server::cql::error::{BOOTSTRAPPING, CqlError, PROTOCOL, SERVER};
use crate::server::cql::permits;
use crate::server::cql::point::PointRead;
use crate::server::cql::reads::{self, Ask};
use crate::server::cql::request::{Parameters, Request};
use crate::server::cql::response::{Answer, Reply, Rows};
use crate::server::cql::roles;
use crate::server::cql::statement::{Ready, Work, has_keyspace, target};
use crate::server::cql::store::Store;
use crate::server::cql::system;
use crate::server::cql::traces::{self, About, Traced};
use crate::server::cql::warnings;
use crate::types::{Consistency, WallMicros};

/// The most prepared statements that are kept. A client whose statement was dropped is told so,
/// and prepares it again.
const MAX_PREPARED: usize = 10_000;

/// What one connection has said of itself.
#[derive(Debug, Default)]
pub(super) struct Session {
    keyspace: Mutex<Option<String>>,
    principal: ArcSwap<Principal>,
}

impl Session {
    /// One of somebody who is known.
    pub(super) fn of(principal: Principal) -> Self {
        Self { keyspace: Mutex::default(), principal: ArcSwap::from_pointee(principal) }
    }

    /// On whose behalf its requests run.
    pub(super) fn principal(&self) -> Arc<Principal> {
        self.principal.load_full()
    }

    /// Somebody has logged in.
    pub(super) fn log_in(&self, principal: Principal) {
        self.principal.store(Arc::new(principal));
    }

    fn keyspace(&self) -> Option<String> {
        self.keyspace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_keyspace(&self, name: &str) {
        *self.keyspace.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
    }
}

/// What a request asks for beside its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What was done for it, kept as rows.
    pub(super) trace: bool,
    /// The consistency receipts of what it did.
    pub(super) receipt: bool,
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) client: Option<SocketAddr>,
}

/// Answers requests, for all connections of a node.
#[derive(Debug)]
pub struct CqlService {
    store: Arc<dyn Store>,
    gate: Gate,
    prepared: Arc<Mutex<BTreeMap<[u8; 16], Arc<Ready>>>>,
}

fn with_warning(mut reply: Reply, warning: Option<String>) -> Reply {
    reply.warnings.extend(warning);
    reply
}

/// Tells a client whose result metadata are others (`known` is their id) of the columns.
fn with_news(answer: Answer, ready: &Ready, known: Option<&[u8]>) -> Answer {
    match answer {
        Answer::Rows(rows) => Answer::Rows(Rows { changed: ready.news_for(known), ..rows }),
        answer => answer,
    }
}

/// Values that come with a statement.
struct Given<'a> {
    binds: Vec<Bound>,
    parameters: &'a Parameters,
}

impl CqlService {
    /// A service of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, gate: Gate::open(), prepared: Arc::default() }
    }

    /// The same, for those only whom `gate` lets in.
    #[must_use]
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gate, ..self }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The node behind it.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Answers one request of a connection that has started up.
    pub(super) async fn answer(
        &self,
        session: &Session,
        request: Request,
        origin: Origin,
        wanted: Wanted,
    ) -> Reply {
        let text_of = |id: &[u8]| self.find(id).map(|ready| ready.text.clone()).unwrap_or_default();
        let about = wanted.trace.then(|| About::new(&request, text_of)).flatten();
        let warning = match &request {
            Request::Batch(batch) => warnings::of_batch(batch),
            _ => None,
        };
        if about.is_none() && !wanted.receipt {
            let reply = self.answer_untraced(session, request).await.into();
            return with_warning(reply, warning);
        }
        let receipts = wanted.receipt.then(Arc::<Receipts>::default);
        let store = Arc::new(Traced::new(self.store.clone(), receipts.clone()));
        let id = Now::new(self.store.wall().0, self.store.random()).timeuuid();
        let noting =
            Self { store: store.clone(), gate: self.gate.clone(), prepared: self.prepared.clone() };
        store.note("Parsing the request and binding its values");
        let answer = noting.answer_untraced(session, request).await;
        store.note("Request complete");
        let mut reply = Reply::from(answer);
        if let Some(about) = about {
            reply.trace = Some(id);
            // Without its trace the answer is as good.
            if let Err(error) = self.keep(&store, id, &about, origin).await {
                tracing::debug!(error = ?error, "a trace could not be kept");
            }
        }
        reply.receipts = receipts.and_then(|receipts| serde_json::to_vec(&receipts.take()).ok());
        with_warning(reply, warning)
    }

    /// Keeps a trace where clients look for it.
    async fn keep(
        &self,
        traced: &Traced,
        id: [u8; 16],
        about: &About,
        origin: Origin,
    ) -> Result<(), CqlError> {
        let made = traces::prepare(&*self.store).await;
        made.map_err(|error| CqlError::of_operation(&error, None))?;
        let client = origin.client.map(|address| address.ip());
        for batch in traces::rows(traced, id, about, client) {
            self.batch(&Session::of(Principal::Node), batch).await?;
        }
        Ok(())
    }

    /// The read of one row by its key that `request` is; `None`: it is something else, or not
    /// allowed.
    pub(super) fn point(&self, session: &Session, request: &Request) -> Option<PointRead> {
        let Request::Execute { id, result, parameters } = request else { return None };
        let ready = self.find(id).ok()?;
        self.permit(session, &ready).ok()?;
        PointRead::new(ready, result.as_deref(), parameters)
    }

    /// Lets the session's principal run a statement, or says why not.
    fn permit(&self, session: &Session, ready: &Ready) -> Result<(), CqlError> {
        if !self.gate.is_closed() {
            return Ok(());
        }
        permits::check(&self.gate, &self.store.state(), &session.principal(), ready)
    }

    /// Answers such a read.
    pub(super) async fn read_point(&self, read: PointRead) -> Answer {
        let done = read.run(&*self.store).await;
        done.map_or_else(|error| error.with_addresses(&*self.store).into(), Answer::Rows)
    }

    /// Answers such a read, if this node alone can do that at once.
    pub(super) fn read_point_at_once(&self, read: &PointRead) -> Option<Answer> {
        let done = read.run_at_once(&*self.store)?;
        Some(done.map_or_else(|error| error.with_addresses(&*self.store).into(), Answer::Rows))
    }

    /// Answers a request without noting what is done for it.
    pub(super) async fn answer_untraced(&self, session: &Session, request: Request) -> Answer {
        let done = match request {
            Request::Options => Ok(Answer::Supported),
            Request::Prepare { text, keyspace } => {
                self.prepare(session, keyspace.as_deref(), &text)
            }
            Request::Query { text, parameters } => self.query(session, &text, parameters).await,
            Request::Execute { id, result, parameters } => {
                let asked = self.execute(session, &id, parameters).await;
                asked.map(|(answer, ready)| with_news(answer, &ready, result.as_deref()))
            }
            Request::Batch(batch) => self.batch(session, batch).await,
            Request::Startup(_) | Request::Register(_) | Request::AuthResponse(_) => {
                Err(CqlError::new(PROTOCOL, "this request has no place here"))
            }
        };
        done.unwrap_or_else(|error| Answer::Error(error.with_addresses(&*self.store)))
    }

    /// `keyspace`: instead of the session's.
    pub(super) fn make_ready(
        &self,
        session: &Session,
        keyspace: Option<&str>,
        text: &str,
    ) -> Result<Ready, CqlError> {
        self.store.ready().map_err(|why| CqlError::new(BOOTSTRAPPING, why))?;
        let keyspace = keyspace.map(str::to_owned).or_else(|| session.keyspace());
        Ready::new(&self.store.state(), keyspace.as_deref(), text)
    }

    fn prepare(
        &self,
        session: &Session,
        keyspace: Option<&str>,
        text: &str,
    ) -> Result<Answer, CqlError> {
        let ready = Arc::new(self.make_ready(session, keyspace, text)?);
        let answer = Answer::Prepared {
            id: ready.id,
            binds: ready.binds.clone(),
            key: ready.key.clone(),
            result: ready.result.clone(),
        };
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() >= MAX_PREPARED {
            prepared.pop_first();
        }
        prepared.insert(ready.id, ready);
        Ok(answer)
    }

    /// The statement with this id, if its tables are still what they were.
    fn find(&self, id: &[u8]) -> Result<Arc<Ready>, CqlError> {
        let key = <[u8; 16]>::try_from(id).map_err(|_| CqlError::unprepared(id))?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let found = prepared.get(&key).cloned().ok_or_else(|| CqlError::unprepared(id))?;
        if !found.is_current(&self.store.state()) {
            prepared.remove(&key);
            return Err(CqlError::unprepared(id));
        }
        Ok(found)
    }

    async fn query(
        &self,
        session: &Session,
        text: &str,
        mut parameters: Parameters,
    ) -> Result<Answer, CqlError> {
        let ready = self.make_ready(session, parameters.keyspace.as_deref(), text)?;
        let values = std::mem::take(&mut parameters.values);
        let binds = ready.bind(values, parameters.names.as_deref())?;
        self.run(session, &ready, Given { binds, parameters: &parameters }).await
    }

    async fn execute(
        &self,
        session: &Session,
        id: &[u8],
        mut parameters: Parameters,
    ) -> Result<(Answer, Arc<Ready>), CqlError> {
        let ready = self.find(id)?;
        let values = std::mem::take(&mut parameters.values);
        let binds = ready.bind(values, parameters.names.as_deref())?;
        let answer = self.run(session, &ready, Given { binds, parameters: &parameters }).await?;
        Ok((answer, ready))
    }

    /// What time it is for a request that may have said so itself.
    fn wall(&self, given: Option<WallMicros>) -> WallMicros {
        given.unwrap_or_else(|| self.store.wall())
    }

    async fn run(
        &self,
        session: &Session,
        ready: &Ready,
        given: Given<'_>,
    ) -> Result<Answer, CqlError> {
        self.permit(session, ready)?;
        let moment = Now::new(self.store.wall().0, self.store.random());
        let binds = Binds { values: &given.binds, now: &moment };
        let parameters = given.parameters;
        match &ready.work {
            Work::Select(target, query) => {
                let ask = Ask {
                    query,
                    schema: &target.schema,
                    binds,
                    page_size: parameters.page_size,
                    paging_state: parameters.paging_state.as_deref(),
                    digest: ready.digest,
                    level: parameters.level,
                    now: self.wall(parameters.now),
                };
                let page = match &target.table {
                    None => {
                        let viewer =
                            system::Viewer { store: &*self.store, principal: &session.principal() };
                        let rows =
                            system::rows(viewer, &target.keyspace, &target.name, &target.schema);
                        reads::select_from(&ask, rows)?
                    }
                    Some(table) => reads::select(&ask, &*self.store, table).await?,
                };
                Ok(Answer::Rows(Rows {
                    metadata: ready.result.clone().unwrap_or_default(),
                    skip_metadata: parameters.skip_metadata,
                    changed: None,
                    rows: page.rows,
                    paging_state: page.paging_state,
                    warning: page.warning,
                }))
            }
            Work::Modify(target, modify) if buckets::is_bucket(target) => {
                let when = (parameters.level, self.wall(parameters.now));
                let mut parts = buckets::Parts::default();
                parts.add(&*self.store, target, (modify, binds), when)?;
                let rows = parts.write(&*self.store, "SIMPLE").await?;
                Ok(rows.map_or(Answer::Void, Answer::Rows))
            }
            Work::Modify(target, modify) if modify.condition().is_some() || target.is_strong() => {
                let write = self.write_of(modify, given.binds.clone(), parameters.now);
                let all = Conditional::new(vec![(target.clone(), write)], false)?;
                self.write_if(all, parameters.serial).await
            }
            Work::Modify(target, modify) => {
                let stamp = parameters.timestamp;
                let mut writes = Writes::default();
                let how = How { stamp, level: parameters.level, now: parameters.now };
                self.gather(&mut writes, target, modify, binds, how).await?;
                self.write(writes, parameters.level, "SIMPLE").await?;
                Ok(Answer::Void)
            }
            Work::Batch { kind, using, writes } => {
                self.run_batch((*kind, using), writes, &given, binds).await
            }
            Work::Other(Statement::Describe(what)) => {
                describe::run(&*self.store, ready.keyspace.as_deref(), what, parameters)
                    .map(Answer::Rows)
            }
            Work::Other(statement) => self.other(session, ready, statement).await,
        }
    }

    fn stamp(&self) -> i64 {
        i64::try_from(self.store.stamp()).unwrap_or(i64::MAX)
    }

    async fn other(
        &self,
        session: &Session,
        ready: &Ready,
        statement: &Statement,
    ) -> Result<Answer, CqlError> {
        let state = self.store.state();
        let (keyspace, principal) = (ready.keyspace.as_deref(), session.principal());
        match statement {
            Statement::Use(name) => {
                if !has_keyspace(&state, name) {
                    return Err(CqlError::invalid(format!("Keyspace '{name}' does not exist")));
                }
                session.set_keyspace(name);
                Ok(Answer::SetKeyspace(name.clone()))
            }
            Statement::Truncate(name) => {
                let target = target(&state, keyspace, name)?;
                let Some(table) = target.table.filter(|table| !table.name.is_system()) else {
                    return Err(system::read_only(&target.keyspace));
                };
                let verdict = self.store.append(Command::Truncate { id: table.id }).await;
                match verdict.map_err(|error| CqlError::of_operation(&error, Some("SIMPLE")))? {
                    Verdict::NotDone(NotDone::NoSuchTable) => {
                        Err(CqlError::invalid(format!("unconfigured table {}", name.name)))
                    }
                    Verdict::NotDone(why) => Err(CqlError::new(SERVER, why.to_string())),
                    Verdict::Done | Verdict::Created(_) => Ok(Answer::Void),
                }
            }
            Statement::CreateRole { .. }
            | Statement::AlterRole { .. }
            | Statement::DropRole { .. }
            | Statement::GrantRole { .. }
            | Statement::RevokeRole { .. }
            | Statement::Grant { .. }
            | Statement::Revoke { .. }
            | Statement::ListRoles { .. }
            | Statement::ListUsers
            | Statement::ListPermissions { .. } => {
                let store = &*self.store;
                let ask = roles::Ask { store, gate: &self.gate, principal: &principal, keyspace };
                let answer = ask.run(statement).await?;
                if let Statement::AlterRole { name, .. } = statement
                    && principal.name() == Some(name)
                {
                    // Who sets its own password knows it, and need not say it again.
                    session.log_in(principal.renewed(&store.state()));
                }
                Ok(answer)
            }
            other => ddl::run(&*self.store, keyspace, other, principal.owner(&state)).await,
        }
    }

    /// A statement with its values, at this moment.
    fn write_of(&self, modify: &Modify, values: Vec<Bound>, now: Option<WallMicros>) -> Write {
        Write { modify: modify.clone(), values, at: (self.wall(now), self.store.random()) }
    }

    /// Carries out a statement that writes one row, if `condition` holds of that row.
    pub(super) async fn write_row_if(
        &self,
        session: &Session,
        text: &str,
        condition: If,
    ) -> Answer {
        let done = async {
            let mut ready = self.make_ready(session, None, text)?;
            let Work::Modify(target, modify) = &mut ready.work else {
                return Err(CqlError::invalid("only a write of one row has such a condition"));
            };
            let conditional = modify.clone().only_if(&target.schema, condition);
            *modify = conditional.map_err(CqlError::invalid)?;
            let write = (target.clone(), self.write_of(modify, Vec::new(), None));
            self.permit(session, &ready)?;
            self.write_if(Conditional::new(vec![write], false)?, Consistency::Serial).await
        };
        done.await.unwrap_or_else(Answer::Error)
    }

    /// Has statements with conditions decided.
    async fn write_if(&self, all: Conditional, level: Consistency) -> Result<Answer, CqlError> {
        let all = Arc::new(all);
        let outcome = self.store.write_if(all.operation(level)?).await;
        let outcome = outcome.map_err(|error| CqlError::of_operation(&error, Some("CAS")))?;
        if !all.has_conditions() {
            return Ok(Answer::Void);
        }
        Ok(Answer::Rows(if outcome.applied { all.applied() } else { all.refusal(&outcome)? }))
    }
}
