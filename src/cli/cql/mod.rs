//! `henge cql`: a shell for CQL.
//!
//! ```text
//! typed (editor), -e, -f ─ split ─▶ command ─ session ─▶ client ─▶ render ─▶ stdout
//! ```
//!
//! [`split`], [`command`], [`caret`], [`table`], [`render`], [`complete`] and [`help`] are pure;
//! [`session`] has the connection; [`copy`] has connections of its own.

mod caret;
mod command;
mod complete;
mod copy;
mod editor;
mod help;
mod known;
mod nodes;
mod receipt;
mod render;
mod session;
mod split;
mod table;
mod tracing;

use std::io::{IsTerminal, Read};

use clap::Args;

use self::editor::{LineEditor, Typed};
use self::nodes::Nodes;
use self::render::Form;
use self::session::{Failed, Next, Session, Start};
use self::table::Paint;
use super::args::ClientArgs;
use super::exit::{Exit, Failure};
use super::output;

/// Arguments of `henge cql`.
#[derive(Debug, Args)]
pub struct CqlArgs {
    /// Nodes to talk to, tried in turn: host or host:port.
    #[arg(
        value_name = "HOST",
        env = "HENGE_CQL",
        value_delimiter = ',',
        default_value = "127.0.0.1:9042"
    )]
    pub hosts: Vec<String>,
    /// Run these statements and end.
    #[arg(
        short = 'e',
        long,
        value_name = "STATEMENTS",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    pub execute: Option<String>,
    /// Run the statements of this file and end; `-`: of the standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<String>,
    /// The keyspace to begin with.
    #[arg(short = 'k', long)]
    pub keyspace: Option<String>,
    /// The consistency level to begin with.
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    pub consistency: String,
    /// Show rows as CSV.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Colours: never, always, or auto (on a terminal).
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "always", "never"])]
    pub color: String,
}

/// `henge cql`.
pub async fn cql(client: &ClientArgs, args: CqlArgs) -> Result<(), Failure> {
    let level = match command::parse(&format!("CONSISTENCY {}", args.consistency)) {
        Ok(command::Command::Consistency(Some(level))) => level,
        Ok(_) => return Err(Failure::usage("--consistency names a level")),
        Err(why) => return Err(Failure::usage(why)),
    };
    let form = match (client.json, args.csv) {
        (true, _) => Form::Json,
        (_, true) => Form::Csv,
        _ => Form::Aligned,
    };
    let terminal = std::io::stdout().is_terminal();
    let scripted = args.execute.is_some() || args.file.is_some();
    let interactive = !scripted && terminal && std::io::stdin().is_terminal();
    let paint = Paint(match args.color.as_str() {
        "always" => true,
        "never" => false,
        _ => terminal && std::env::var_os("NO_COLOR").is_none(),
    });
    let nodes = Nodes::new(&args.hosts).with_credentials(client.login.credentials()?);
    let start = Start { nodes, form, paint, interactive, keyspace: args.keyspace, level };
    let mut session = Session::new(start);
    if interactive {
        return talk(&mut session).await;
    }
    let (text, origin) = match (args.execute, args.file.as_deref()) {
        (Some(text), _) => (text, "-e"),
        (None, None | Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            (text, "stdin")
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            (text.map_err(|error| Failure::usage(format!("{path}: {error}")))?, path)
        }
    };
    match session.run_all(&text, origin).await {
        Ok(_) => Ok(()),
        Err(failed) => Err(ended(failed)),
    }
}

fn ended(failed: Failed) -> Failure {
    let mut failure = Failure::new(failed.exit, failed.message);
    if failed.exit == Exit::Unavailable {
        failure.hint = Some(
            "is a node running, and is this its CQL address? `henge dev` starts a cluster and \
             shows the addresses",
        );
    } else if failed.exit == Exit::Unknown {
        failure.hint = Some("the write may or may not have happened: read, then decide");
    }
    failure
}

/// Statements from a terminal, until its end.
async fn talk(session: &mut Session) -> Result<(), Failure> {
    let greeting = session.greeting().await.map_err(ended)?;
    output::line(format!("{greeting}HELP lists what there is; Tab completes; Ctrl-D ends."))?;
    session.learn().await;
    let editor = LineEditor::new(session.known.clone());
    let mut editor = editor.map_err(|error| Failure::new(Exit::Failure, error))?;
    loop {
        let prompt = match session.keyspace() {
            Some(keyspace) => format!("cql:{keyspace}> "),
            None => "cql> ".to_owned(),
        };
        match editor.read(&prompt).map_err(|error| Failure::new(Exit::Failure, error))? {
            Typed::End => break,
            Typed::Again => {}
            Typed::Text(text) => {
                editor.keep();
                if run(session, &text).await? == Next::End {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Runs what was typed; Ctrl-C ends the waiting for it.
async fn run(session: &mut Session, text: &str) -> Result<Next, Failure> {
    for piece in split::split(text).whole {
        let done = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => None,
            done = session.run(&piece.text) => Some(done),
        };
        match done {
            Some(Ok(Next::Go)) => {}
            Some(Ok(Next::End)) => return Ok(Next::End),
            Some(Err(failed)) if failed.exit == Exit::BrokenPipe => return Err(ended(failed)),
            Some(Err(failed)) => {
                output::note(failed.message);
                break;
            }
            None => {
                session.disconnect();
                output::note("interrupted: a write may or may not have happened");
                break;
            }
        }
    }
    Ok(Next::Go)
}
