//! Who a command is: a role's name, and its password from the command line, a file, the
//! environment, or somebody at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::exit::Failure;
use crate::client::Credentials;

/// Who to be, on a cluster that asks.
#[derive(Clone, Args)]
pub struct LoginArgs {
    /// The role to log in as, on a cluster that asks (auth.enabled).
    #[arg(short = 'u', long = "user", alias = "username", value_name = "ROLE")]
    #[arg(env = "HENGE_USER", global = true)]
    user: Option<String>,
    /// Its password: others see it in the list of processes. Better in the environment, a file, or
    /// typed when it is asked for.
    #[arg(short = 'p', long, value_name = "PASSWORD", env = "HENGE_PASSWORD")]
    #[arg(hide_env_values = true, global = true)]
    password: Option<String>,
    /// A file whose first line is the password, instead.
    #[arg(long, value_name = "FILE", global = true)]
    password_file: Option<PathBuf>,
}

impl std::fmt::Debug for LoginArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginArgs").field("user", &self.user).finish_non_exhaustive()
    }
}

impl LoginArgs {
    /// Who to be; `None`: nobody in particular.
    ///
    /// # Errors
    /// There is a name and no password can be had for it.
    pub fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match (&self.password_file, &self.password) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path);
                let text =
                    text.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            (None, Some(password)) => password.clone(),
            (None, None) if io::stdin().is_terminal() => ask(user)?,
            (None, None) => {
                let why = "--user needs a password: HENGE_PASSWORD, --password-file or --password";
                return Err(Failure::usage(why));
            }
        };
        Ok(Some(Credentials::new(user.clone(), password)))
    }
}

/// Has a password typed that is not shown.
fn ask(user: &str) -> io::Result<String> {
    let stdin = io::stdin();
    eprint!("Password for {user}: ");
    io::stderr().flush()?;
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &shown)?;
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
