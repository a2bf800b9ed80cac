//! The line editor: history, completion, statements of several lines.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::known::Known;
use super::{complete, split};
use crate::cql::roles::holds_password;

/// Statements that are kept from one session to the next.
const MAX_HISTORY: usize = 1_000;

/// Names the file of the history; empty: none is kept.
const HISTORY_VARIABLE: &str = "HENGE_CQL_HISTORY";

struct Help {
    known: Rc<RefCell<Known>>,
}

impl Completer for Help {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete::at_cursor(&self.known.borrow(), &line[..at]))
    }
}

impl Hinter for Help {
    type Hint = String;
}

impl Highlighter for Help {}

impl Validator for Help {
    /// Enter ends a statement that is whole, and a line of one that is not.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match split::split(context.input()).rest {
            Some(_) => ValidationResult::Incomplete,
            None => ValidationResult::Valid(None),
        })
    }
}

impl Helper for Help {}

/// What was typed.
#[derive(Debug)]
pub enum Typed {
    /// Statements, all whole.
    Text(String),
    /// Ctrl-C: begin anew.
    Again,
    /// Ctrl-D.
    End,
}

/// See the module.
pub struct LineEditor {
    inner: Editor<Help, FileHistory>,
    history: Option<PathBuf>,
}

fn history_file() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(HISTORY_VARIABLE) {
        return Some(PathBuf::from(given)).filter(|path| !path.as_os_str().is_empty());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("henge/cql_history"))
}

impl LineEditor {
    /// An editor that completes what is `known`.
    ///
    /// # Errors
    /// There is no terminal.
    pub fn new(known: Rc<RefCell<Known>>) -> Result<Self, String> {
        let shown = |error: ReadlineError| error.to_string();
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(MAX_HISTORY)
            .map_err(shown)?
            .auto_add_history(false)
            .build();
        let mut inner: Editor<Help, FileHistory> = Editor::with_config(config).map_err(shown)?;
        inner.set_helper(Some(Help { known }));
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            drop(inner.load_history(path));
        }
        Ok(Self { inner, history })
    }

    /// Lets somebody type.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn read(&mut self, prompt: &str) -> Result<Typed, String> {
        match self.inner.readline(prompt) {
            Ok(text) => {
                // What holds a password is not there to be found again.
                if !holds_password(&text) {
                    self.inner.add_history_entry(&text).map_err(|error| error.to_string())?;
                }
                Ok(Typed::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Again),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Keeps the history. That it cannot be kept changes nothing.
    pub fn keep(&mut self) {
        if let Some(path) = &self.history {
            if let Some(folder) = path.parent() {
                drop(std::fs::create_dir_all(folder));
            }
            drop(self.inner.append_history(path));
        }
    }
}
