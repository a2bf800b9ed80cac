//! Who a command is: a role's name, and its password from the command line, a file, the
//! environment, or somebody at the terminal.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::exit::{Exit, Failure};
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
///
/// Signals are keys like others meanwhile: Ctrl-C would end the process and leave the terminal as it
/// is, showing nothing of what is typed.
fn ask(user: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    eprint!("Password for {user}: ");
    io::stderr().flush()?;
    let before = tcgetattr(&stdin).map_err(io::Error::from)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
    hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(io::Error::from)?;
    let typed = typed(stdin.lock().bytes());
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(io::Error::from)?;
    eprintln!();
    match typed? {
        Some(line) => Ok(String::from_utf8_lossy(&line).into_owned()),
        None => Err(Failure::silent(Exit::Interrupted)),
    }
}

/// What is typed up to the end of the line, as the line stands then; `None`: Ctrl-C, or the end of
/// the input and nothing typed.
fn typed(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<Vec<u8>>> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const ERASE: [u8; 2] = [8, 127];
    let mut line = Vec::new();
    for key in keys {
        match key? {
            b'\r' | b'\n' => return Ok(Some(line)),
            CTRL_C => return Ok(None),
            CTRL_D => break,
            CTRL_U => line.clear(),
            // A character is a byte, and those that go on with it.
            key if ERASE.contains(&key) => {
                while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {}
            }
            key => line.push(key),
        }
    }
    Ok((!line.is_empty()).then_some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(keys: &[u8]) -> Option<String> {
        let typed = typed(keys.iter().map(|key| Ok(*key))).unwrap();
        typed.map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn a_password_is_edited_as_it_is_typed() {
        assert_eq!(line(b"pw\nmore").as_deref(), Some("pw"));
        assert_eq!(
            line("wé\u{7f}rong\u{15}pé\u{7f}\u{8}\u{8}pw\r".as_bytes()).as_deref(),
            Some("pw")
        );
        assert_eq!(line(b"\n").as_deref(), Some(""));
        assert_eq!(line(b"pw\x04").as_deref(), Some("pw"));
        assert_eq!(line(b"\x04"), None);
        assert_eq!(line(b"pw\x03\n"), None, "Ctrl-C");
    }
}
