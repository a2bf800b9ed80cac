//! Reads the file and the environment, checks the whole, and reports every problem at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use toml::de::DeTable;

use super::Config;
use super::keys::{KEYS, KeySpec, SECTIONS};
use super::value::Raw;

/// The most bytes that a configuration file may have: far more than any sensible one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Variables that begin with `HENGE_` and are no settings of a node.
const OTHER_VARIABLES: [&str; 6] = [
    "HENGE_PLANT",
    "HENGE_NODES",
    "HENGE_CONFIG",
    "HENGE_CLOCK_FILE",
    "HENGE_USER",
    "HENGE_PASSWORD",
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This line of the file, counted from 1.
    Line(usize),
    /// This environment variable.
    Variable(String),
    /// The built-in default.
    Default,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub source: Source,
    /// What, and how to cure it.
    pub message: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if there was one.
    pub file: Option<String>,
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().unwrap_or("configuration");
        let count = self.problems.len();
        write!(f, "{file}: {count} problem{}", if count == 1 { "" } else { "s" })?;
        for Problem { source, message } in &self.problems {
            match source {
                Source::Line(line) => write!(f, "\n  line {line}: {message}")?,
                Source::Variable(name) => write!(f, "\n  {name}: {message}")?,
                Source::Default => write!(f, "\n  {message}")?,
            }
        }
        Ok(())
    }
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is odd but no error; to be logged.
    pub warnings: Vec<String>,
}

/// `; did you mean "…"?` where one of `known` is close to `wrong`, else nothing.
pub(super) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let wrong = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&wrong, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

impl Config {
    /// Reads the file at `path`, applies the process's environment and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let file = path.display().to_string();
        let text = read_file(path).map_err(|message| ConfigError {
            file: Some(file.clone()),
            problems: vec![Problem { source: Source::Default, message }],
        })?;
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::parse(&text, variables).map_err(|problems| ConfigError { file: Some(file), problems })
    }

    /// Reads `text` as a configuration file and applies those of `variables` that begin with
    /// `HENGE_`.
    ///
    /// # Errors
    /// Every problem found.
    pub fn parse(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Vec<Problem>> {
        let mut reader = Reader::default();
        reader.file(text);
        for (name, value) in variables {
            if name.starts_with("HENGE_") {
                reader.variable(&name, value);
            }
        }
        reader.finish()
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| {
        format!("cannot read the file: {error} (config/henge.toml in the source is a good start)")
    };
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("the file has {length} bytes, at most {MAX_FILE_BYTES} are read"));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

/// Collects settings, where they came from, and problems.
#[derive(Default)]
struct Reader {
    config: Config,
    sources: BTreeMap<(&'static str, &'static str), Source>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Reader {
    fn problem(&mut self, source: Source, message: impl Into<String>) {
        self.problems.push(Problem { source, message: message.into() });
    }

    fn file(&mut self, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            self.problem(Source::Line(line), error.message());
        }
        for (section, body) in table.get_ref() {
            let line = line_of(text, section.span().start);
            let name: &str = section.get_ref();
            if !SECTIONS.iter().any(|(known, _)| *known == name) {
                let hint = did_you_mean(name, SECTIONS.iter().map(|(known, _)| *known));
                self.problem(Source::Line(line), format!("unknown section [{name}]{hint}"));
            } else if let Some(keys) = body.get_ref().as_table() {
                for (key, value) in keys {
                    let line = line_of(text, key.span().start);
                    self.key(name, key.get_ref(), &Raw::of(value.get_ref()), line);
                }
            } else {
                self.problem(Source::Line(line), format!("[{name}] is a section, not a value"));
            }
        }
    }

    fn key(&mut self, section: &str, key: &str, raw: &Raw, line: usize) {
        let source = Source::Line(line);
        match KEYS.iter().find(|spec| spec.section == section && spec.key == key) {
            Some(spec) => self.set(spec, raw, source),
            None => {
                let elsewhere = KEYS.iter().find(|spec| spec.key == key);
                let hint = match elsewhere {
                    Some(spec) => format!("; it belongs in [{}]", spec.section),
                    None => {
                        let of_section = KEYS.iter().filter(|spec| spec.section == section);
                        did_you_mean(key, of_section.map(|spec| spec.key))
                    }
                };
                self.problem(source, format!("unknown key {section}.{key}{hint}"));
            }
        }
    }

    fn set(&mut self, spec: &'static KeySpec, raw: &Raw, source: Source) {
        if let Err(message) = (spec.read)(&mut self.config, raw) {
            self.problem(source.clone(), format!("{spec:?}: {message}"));
        }
        self.sources.insert((spec.section, spec.key), source);
    }

    /// A variable that names a section of ours but no key is refused: an override that silently
    /// does nothing is worse than a node that does not start. Others (container platforms make up
    /// `HENGE_PORT`, `HENGE_SERVICE_HOST`, …) are only mentioned.
    fn variable(&mut self, name: &str, value: String) {
        if OTHER_VARIABLES.contains(&name) {
            return;
        }
        if let Some(spec) = KEYS.iter().find(|spec| spec.variable() == name) {
            self.set(spec, &Raw::Untyped(value), Source::Variable(name.to_owned()));
            return;
        }
        let known: Vec<String> = KEYS.iter().map(KeySpec::variable).collect();
        let hint = did_you_mean(name, known.iter().map(String::as_str));
        let ours = SECTIONS
            .iter()
            .any(|(section, _)| name.starts_with(&format!("HENGE_{}_", section.to_uppercase())));
        if ours {
            let message = format!("no setting has this variable{hint}");
            self.problem(Source::Variable(name.to_owned()), message);
        } else {
            self.warnings.push(format!("{name} is no setting of a node and is ignored{hint}"));
        }
    }

    fn source(&self, section: &'static str, key: &'static str) -> Source {
        self.sources.get(&(section, key)).cloned().unwrap_or(Source::Default)
    }

    fn finish(mut self) -> Result<Loaded, Vec<Problem>> {
        for spec in KEYS {
            if let Err(message) = (spec.check)(&self.config) {
                let source = self.source(spec.section, spec.key);
                self.problem(source, format!("{spec:?}: {message}"));
            }
        }
        self.check_doors();
        self.check_sizes();
        self.check_founding();
        if self.problems.is_empty() {
            return Ok(Loaded { config: self.config, warnings: self.warnings });
        }
        self.problems.sort_by_key(|problem| match problem.source {
            Source::Line(line) => line,
            Source::Variable(_) | Source::Default => usize::MAX,
        });
        Err(self.problems)
    }

    fn check_doors(&mut self) {
        let listen = self.config.listen.clone();
        let doors = [("http", listen.http), ("peer", listen.peer), ("cql", listen.cql)];
        for (key, address) in doors {
            let asks = self.config.auth.enabled && key != "peer";
            if !address.ip().is_loopback() && !listen.insecure && !asks {
                let (who, cure) = match key {
                    "peer" => ("nodes do not ask each other who they are yet", ""),
                    _ => ("nobody is asked who it is", "auth.enabled = true, or "),
                };
                let message = format!(
                    "listen.{key}: {address} can be reached from other machines and {who}: use a \
                     loopback address such as {}, or set {cure}listen.insecure = true where a \
                     firewall keeps strangers out",
                    SocketAddr::from(([127, 0, 0, 1], address.port())),
                );
                self.problem(self.source("listen", key), message);
            } else if !address.ip().is_loopback() && asks {
                self.warnings.push(format!(
                    "listen.{key}: passwords and data go over the network in the clear (there is \
                     no TLS yet): let only a private network reach {address}"
                ));
            }
        }
        for (index, (key, address)) in doors.iter().enumerate() {
            for (other, taken) in &doors[..index] {
                if address == taken && address.port() != 0 {
                    let message = format!("listen.{key}: {address} is taken by listen.{other}");
                    self.problem(self.source("listen", key), message);
                }
            }
        }
        if listen.peer.ip().is_unspecified() && listen.advertise_address.is_none() {
            let message = format!(
                "listen.peer: other nodes cannot dial {}: set listen.advertise_address to the \
                 \"host:port\" under which they reach this node",
                listen.peer
            );
            self.problem(self.source("listen", "peer"), message);
        }
    }

    fn check_sizes(&mut self) {
        let limits = self.config.limits.clone();
        let frame = limits.max_frame_mb.saturating_mul(1 << 20);
        // A frame carries the value, its key, its metadata and the record's causal history.
        let needed = (limits.max_value_bytes as u64).saturating_add(1 << 20);
        if needed > frame {
            let message = format!(
                "limits.max_value_bytes: a value of {} bytes does not fit into a message between \
                 nodes: raise limits.max_frame_mb to {} or more",
                limits.max_value_bytes,
                needed.div_ceil(1 << 20)
            );
            self.problem(self.source("limits", "max_value_bytes"), message);
        }
        for (key, megabytes, of) in [
            ("peer_queue_mb", limits.peer_queue_mb, "the largest message (limits.max_frame_mb)"),
            ("max_body_memory_mb", limits.max_body_memory_mb, "the largest value"),
        ] {
            let least = if key == "peer_queue_mb" {
                limits.max_frame_mb
            } else {
                (limits.max_value_bytes as u64).div_ceil(1 << 20)
            };
            if megabytes < least {
                let message =
                    format!("limits.{key}: {megabytes} MiB cannot hold {of}: {least} MiB");
                self.problem(self.source("limits", key), message);
            }
        }
    }

    fn check_founding(&mut self) {
        let me = &self.config.node.name;
        let Some(founder) = self.config.cluster.founders.iter().find(|f| f.name == *me) else {
            let message = format!(
                "cluster.founders does not name this node ({me:?}): add \"{me}={}\", on every \
                 founder alike (a node cannot yet join a founded cluster)",
                self.config.peer_address()
            );
            self.problem(self.source("cluster", "founders"), message);
            return;
        };
        if founder.address != self.config.peer_address() {
            self.warnings.push(format!(
                "cluster.founders says that this node is at {}, but it tells others {}",
                founder.address,
                self.config.peer_address()
            ));
        }
    }
}

/// The line, counted from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}
