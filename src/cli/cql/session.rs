//! A session: what was set, the connection, and what is done with a statement.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use super::command::{self, Capture, Command, Show, level_name};
use super::known::{self, Known};
use super::nodes::Nodes;
use super::render::{self, Form, Renderer};
use super::table::Paint;
use super::{caret, copy, help, receipt, split, tracing};
use crate::cli::exit::Exit;
use crate::client::{
    BAD_CREDENTIALS, CqlAnswer, CqlAsk, CqlConnection, CqlFailure, CqlPage, CqlReply,
};
use crate::cql::types::quote;

/// How deep files may name files (SOURCE).
const MAX_SOURCES: usize = 16;

/// Why a statement did not succeed.
#[derive(Debug)]
pub struct Failed {
    /// The exit code that a script ends with.
    pub exit: Exit,
    /// What is shown.
    pub message: String,
}

impl Failed {
    fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    fn plain(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, message: message.into() }
    }

    fn of(failure: &CqlFailure) -> Self {
        let exit = match failure {
            CqlFailure::Io(_) => Exit::Unavailable,
            CqlFailure::Refused { code, .. } => match code {
                0x1000..=0x1002 => Exit::Unavailable,
                // Of a write: it may have happened.
                0x1100 | 0x1500 | 0x1700 => Exit::Unknown,
                _ => Exit::Failure,
            },
        };
        Self { exit, message: failure.to_string() }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        let broken = error.kind() == std::io::ErrorKind::BrokenPipe;
        let exit = if broken { Exit::BrokenPipe } else { Exit::Failure };
        Self { exit, message: if broken { String::new() } else { error.to_string() } }
    }
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is.
    Go,
    /// EXIT was said.
    End,
}

/// How a session begins.
#[derive(Debug)]
pub struct Start {
    /// Whom it talks to.
    pub nodes: Nodes,
    /// The form of rows.
    pub form: Form,
    /// Colours.
    pub paint: Paint,
    /// Somebody sits before it: pages wait, and what was set is confirmed.
    pub interactive: bool,
    /// The keyspace to begin with.
    pub keyspace: Option<String>,
    /// The level to begin with.
    pub level: u16,
}

/// See the module.
pub struct Session {
    nodes: Nodes,
    /// Which of them is asked.
    at: usize,
    connection: Option<CqlConnection>,
    keyspace: Option<String>,
    level: u16,
    serial: u16,
    page: u32,
    traced: bool,
    receipts: bool,
    timed: bool,
    expanded: bool,
    form: Form,
    paint: Paint,
    interactive: bool,
    capture: Option<(String, std::fs::File)>,
    sources: usize,
    /// For completion too.
    pub known: Rc<RefCell<Known>>,
}

impl Session {
    /// A session, not connected yet.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self {
            nodes: start.nodes,
            at: 0,
            connection: None,
            keyspace: start.keyspace,
            level: start.level,
            serial: 8,
            page: command::PAGE_SIZE,
            traced: false,
            receipts: false,
            timed: false,
            expanded: false,
            form: start.form,
            paint: start.paint,
            interactive: start.interactive,
            capture: None,
            sources: 0,
            known: Rc::default(),
        }
    }

    /// The keyspace in use.
    #[must_use]
    pub fn keyspace(&self) -> Option<&str> {
        self.keyspace.as_deref()
    }

    /// Connects, if it is not connected.
    ///
    /// # Errors
    /// No node can be reached, or the keyspace is gone.
    pub async fn connect(&mut self) -> Result<&mut CqlConnection, Failed> {
        if self.connection.is_none() {
            let opened = self.nodes.open(self.at).await;
            let mut open = opened.map_err(|failure| match &failure {
                CqlFailure::Refused { code: BAD_CREDENTIALS, message } => {
                    Failed::plain(format!("{message} (-u ROLE, -p PASSWORD or HENGE_PASSWORD)"))
                }
                _ => Failed {
                    exit: Exit::Unavailable,
                    message: format!("cannot reach {}: {failure}", self.nodes.name(self.at)),
                },
            })?;
            if let Some(keyspace) = &self.keyspace {
                let used = open.ask(known::plain(&format!("USE {}", quote(keyspace)))).await;
                used.map_err(|failure| Failed::of(&failure))?;
            }
            self.connection = Some(open);
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            None => Err(Failed::plain("not connected")),
        }
    }

    /// Forgets the connection: an answer that was not waited for may still come on it.
    pub fn disconnect(&mut self) {
        self.connection = None;
        self.at += 1;
    }

    /// Reads the schema for completion; without it there is less to complete.
    pub async fn learn(&mut self) {
        let known = self.known.clone();
        let keyspace = self.keyspace.clone();
        let mut fresh = Known { keyspace, ..Known::default() };
        if let Ok(connection) = self.connect().await
            && fresh.load(connection).await.is_ok()
        {
            *known.borrow_mut() = fresh;
        }
    }

    /// What a session on a terminal begins with.
    ///
    /// # Errors
    /// No node can be reached.
    pub async fn greeting(&mut self) -> Result<String, Failed> {
        self.show(Show::Host).await
    }

    /// Runs all statements of `text`; `origin`: where it stands, for errors.
    ///
    /// # Errors
    /// The first statement's that fails, with its place.
    pub async fn run_all(&mut self, text: &str, origin: &str) -> Result<Next, Failed> {
        let pieces = split::split(text);
        // Outside of a terminal the last `;` may be left out.
        for piece in pieces.whole.into_iter().chain(pieces.rest) {
            match Box::pin(self.run(&piece.text)).await {
                Ok(Next::Go) => {}
                Ok(Next::End) => return Ok(Next::End),
                Err(failed) if failed.message.is_empty() => return Err(failed),
                Err(failed) => {
                    let place = if text.lines().count() > 1 || origin != "-e" {
                        format!("{origin}:{}: ", piece.line)
                    } else {
                        String::new()
                    };
                    return Err(Failed { message: place + &failed.message, ..failed });
                }
            }
        }
        Ok(Next::Go)
    }

    /// Runs one statement or command.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn run(&mut self, text: &str) -> Result<Next, Failed> {
        let command = command::parse(text).map_err(Failed::usage)?;
        match command {
            Command::Cql => self.statement(text).await?,
            Command::Consistency(level) => {
                self.level = level.unwrap_or(self.level);
                self.say("Consistency level", level_name(self.level), level.is_some())?;
            }
            Command::Serial(level) => {
                self.serial = level.unwrap_or(self.serial);
                self.say("Serial consistency level", level_name(self.serial), level.is_some())?;
            }
            Command::Tracing(on) => self.turn("Tracing", on, |own| &mut own.traced)?,
            Command::Receipt(on) => self.turn("Receipts", on, |own| &mut own.receipts)?,
            Command::Expand(on) => self.turn("Expanded output", on, |own| &mut own.expanded)?,
            Command::Timing(on) => self.turn("Timing", on, |own| &mut own.timed)?,
            Command::Paging(size) => {
                self.page = size.unwrap_or(self.page);
                let shown = match self.page {
                    0 => "off".to_owned(),
                    rows => format!("{rows} rows a page"),
                };
                self.say("Paging", &shown, size.is_some())?;
            }
            Command::Source(path) => return self.source(&path).await,
            Command::Capture(capture) => self.capture(capture)?,
            Command::Copy(copy) => self.copy(&copy).await?,
            Command::Help(topic) => self.put(&help::text(&topic))?,
            Command::Show(what) => {
                let shown = self.show(what).await?;
                self.put(&shown)?;
            }
            Command::Clear => {
                if self.interactive {
                    self.put("\x1b[2J\x1b[H")?;
                }
            }
            Command::Exit => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    /// Writes to the terminal, or to where output is captured.
    fn put(&mut self, text: &str) -> Result<(), Failed> {
        match &mut self.capture {
            Some((_, file)) => file.write_all(text.as_bytes())?,
            None => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
        }
        Ok(())
    }

    /// Shows or sets something that is on or off.
    fn turn(
        &mut self,
        what: &str,
        on: Option<bool>,
        own: impl Fn(&mut Self) -> &mut bool,
    ) -> Result<(), Failed> {
        let own = own(self);
        *own = on.unwrap_or(*own);
        let now = switch(*own);
        self.say(what, now, on.is_some())
    }

    /// Confirms what was set to a user; a script hears only what it asks for.
    fn say(&mut self, what: &str, now: &str, is_set: bool) -> Result<(), Failed> {
        if is_set && !self.interactive {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{what}: {now}")?;
        Ok(())
    }

    async fn source(&mut self, path: &str) -> Result<Next, Failed> {
        if self.sources == MAX_SOURCES {
            return Err(Failed::usage(format!("{MAX_SOURCES} files name one another: {path}")));
        }
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Failed::usage(format!("{path}: {error}")))?;
        self.sources += 1;
        let done = self.run_all(&text, path).await;
        self.sources -= 1;
        done
    }

    fn capture(&mut self, capture: Capture) -> Result<(), Failed> {
        let is_set = capture != Capture::Show;
        match capture {
            Capture::Off => self.capture = None,
            Capture::To(path) => {
                let file = std::fs::File::options().create(true).append(true).open(&path);
                let file = file.map_err(|error| Failed::usage(format!("{path}: {error}")))?;
                self.capture = Some((path, file));
            }
            Capture::Show => {}
        }
        let shown = self.capture.as_ref().map_or("off".to_owned(), |(path, _)| path.clone());
        self.say("Capture", &shown, is_set)
    }

    async fn show(&mut self, what: Show) -> Result<String, Failed> {
        let (at, version) = (self.at, env!("CARGO_PKG_VERSION"));
        let connection = self.connect().await?;
        let local = "SELECT cluster_name, release_version, cql_version FROM system.local";
        let page = known::page(connection, local).await.map_err(|failure| Failed::of(&failure))?;
        let text = |at: usize| {
            let cell = page.rows.first().and_then(|row| row.get(at)?.as_deref());
            String::from_utf8_lossy(cell.unwrap_or_default()).into_owned()
        };
        Ok(match what {
            Show::Host => format!("Connected to {} at {}.\n", text(0), self.nodes.name(at)),
            Show::Version => format!(
                "henge {version}, as Cassandra {}, CQL {}, native protocol v4\n",
                text(1),
                text(2)
            ),
        })
    }

    async fn copy(&mut self, what: &copy::Copy) -> Result<(), Failed> {
        let given = what.keyspace.as_deref().or(self.keyspace.as_deref());
        let keyspace = given.map(str::to_owned).ok_or_else(|| {
            Failed::usage("no keyspace is in use: write COPY keyspace.table, or USE one")
        })?;
        self.learn().await;
        let level = self.level;
        let names: Vec<String> = what.columns.iter().map(|name| quote(name)).collect();
        let names = if names.is_empty() { "*".to_owned() } else { names.join(", ") };
        let table = format!("{}.{}", quote(&keyspace), quote(&what.table));
        let first = format!("SELECT {names} FROM {table} LIMIT 1");
        let connection = self.connect().await?;
        let page = known::page(connection, &first).await.map_err(|failure| Failed::of(&failure))?;
        let others = "SELECT native_address, native_port FROM system.peers_v2";
        if let Ok(peers) = known::page(connection, others).await {
            self.add_nodes(&peers);
        }
        let key = self.known.borrow().partition_key(&keyspace, &what.table);
        let nodes = &self.nodes;
        let copied = if what.from {
            copy::from::run(nodes, &keyspace, what, page.columns, level).await
        } else {
            copy::to::run(nodes, &keyspace, what, &page.columns, &key, level).await
        };
        let copied = copied.map_err(Failed::plain)?;
        if copied.refused > 0 {
            let many = if copied.refused == 1 { "row was" } else { "rows were" };
            let message = format!("{} {many} refused", copied.refused);
            return Err(Failed { exit: Exit::Partial, message });
        }
        Ok(())
    }

    fn add_nodes(&mut self, peers: &CqlPage) {
        use crate::cql::value;
        for row in &peers.rows {
            let [Some(address), Some(port)] = row.as_slice() else { continue };
            if let (Some(address), Some(port)) = (value::inet(address), value::integer(port)) {
                let port = u16::try_from(port).unwrap_or_default();
                self.nodes.add(std::net::SocketAddr::new(address, port).to_string());
            }
        }
    }

    /// Sends a statement; a connection that has ended is made anew, for the next one.
    async fn ask(&mut self, text: &str, state: Option<&[u8]>) -> Result<CqlReply, Failed> {
        let ask = CqlAsk {
            text,
            level: self.level,
            serial: self.serial,
            page_size: Some(self.page).filter(|size| *size > 0),
            paging_state: state,
            trace: self.traced,
            receipt: self.receipts,
        };
        match self.connect().await?.ask(ask).await {
            Ok(reply) => Ok(reply),
            Err(failure) => {
                if matches!(failure, CqlFailure::Io(_)) {
                    self.disconnect();
                }
                let failed = Failed::of(&failure);
                if let CqlFailure::Refused { message, .. } = &failure {
                    return Err(self.explained(text, message, failed.exit).await);
                }
                // It was sent, and nobody can tell how far it came.
                let reads = ["select", "describe", "desc"];
                let reads = reads.contains(&split::first_word(text).as_str());
                let exit = if reads { Exit::Unavailable } else { Exit::Unknown };
                Err(Failed { exit, message: format!("the connection is lost: {failure}") })
            }
        }
    }

    /// An error with its place in the statement, and what may have been meant.
    async fn explained(&mut self, text: &str, message: &str, exit: Exit) -> Failed {
        let mut out = message.to_owned();
        // A script has not needed the schema so far.
        if self.known.borrow().keyspaces.is_empty() {
            Box::pin(self.learn()).await;
        }
        if let Some(meant) = self.known.borrow().meant(message) {
            out.push_str(&format!(" (did you mean {meant}?)"));
        }
        if let Some(shown) = caret::shown(text, message) {
            out.push('\n');
            out.push_str(&shown);
        }
        Failed { exit, message: out }
    }

    #[allow(clippy::disallowed_methods, reason = "a command lives on the real clock")]
    async fn statement(&mut self, text: &str) -> Result<(), Failed> {
        let began = std::time::Instant::now();
        let describes = matches!(split::first_word(text).as_str(), "describe" | "desc");
        let form = match self.form {
            Form::Aligned if self.expanded => Form::Expanded,
            form => form,
        };
        let paint = if self.capture.is_some() { Paint(false) } else { self.paint };
        let waits = self.interactive && self.capture.is_none();
        let (mut renderer, mut state, mut pages) = (Renderer::default(), None, Vec::new());
        let (mut traces, mut receipts) = (Vec::new(), Vec::new());
        loop {
            let reply = self.ask(text, state.as_deref()).await?;
            for warning in &reply.warnings {
                crate::cli::output::note(format!("warning: {warning}"));
            }
            traces.extend(reply.trace);
            receipts.extend(reply.receipts);
            match reply.answer {
                CqlAnswer::Page(page) if describes => {
                    state.clone_from(&page.paging_state);
                    pages.push(page);
                }
                CqlAnswer::Page(page) => {
                    let again = waits && state.is_some();
                    let shown = renderer.page(&page, form, paint, again);
                    self.put(&shown)?;
                    state = page.paging_state;
                    if state.is_some() && waits && !more()? {
                        state = None;
                    }
                    if state.is_none() {
                        let end = renderer.end(form);
                        self.put(&end)?;
                    }
                }
                CqlAnswer::Keyspace(name) => {
                    self.known.borrow_mut().keyspace = Some(name.clone());
                    self.keyspace = Some(name);
                }
                CqlAnswer::SchemaChange if self.interactive => self.learn().await,
                CqlAnswer::SchemaChange | CqlAnswer::Done | CqlAnswer::Prepared(_) => {}
            }
            if state.is_none() {
                break;
            }
        }
        if describes {
            let shown = render::described(&pages, self.keyspace.is_some(), 80);
            self.put(&shown)?;
        }
        let took = began.elapsed();
        if self.receipts {
            let shown = receipt::shown(&receipts);
            self.put(&shown)?;
        }
        for trace in traces {
            let shown = tracing::shown(self.connect().await?, &trace, paint).await;
            let shown = shown.map_err(|failure| Failed::of(&failure))?;
            self.put(&shown)?;
        }
        if self.timed {
            self.put(&format!("Time: {:.3} ms\n", took.as_secs_f64() * 1e3))?;
        }
        Ok(())
    }
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Waits before the next page; false: no more.
fn more() -> Result<bool, Failed> {
    print!("---MORE--- (Enter; q ends) ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    let len = std::io::stdin().read_line(&mut line)?;
    Ok(len > 0 && !line.trim().eq_ignore_ascii_case("q"))
}
