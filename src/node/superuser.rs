//! The first role: a superuser, without whom a node that asks who its clients are would let in
//! nobody, for ever.
//!
//! A name and a password that everybody knows (Cassandra's `cassandra`) would stay in place on
//! half of all clusters. So the first password is the operator's (`auth.first_password_file`), or
//! a random one, which is written to a file in the data directory that only its owner can read,
//! *before* the role is proposed. Every node tries, the founders one after the other; the
//! metadata log lets one of them win, and the others drop what they have written.
//!
//! Nothing is done where there is a superuser who can log in, so it happens once in the life of a
//! cluster: at its founding, or when roles are switched on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Config;
use crate::cql::roles::Secret;
use crate::env::Env;
use crate::meta::{ClusterState, Command, RoleChange, Verdict};
use crate::node::{Node, NodeBackend};
use crate::server::auth::{Gate, random_password};

/// The file of a random password, in the data directory.
const FILE: &str = "first-password";

/// By how much each founder lets the one before it go first.
const HEAD_START: Duration = Duration::from_millis(500);

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest file of a password that is read.
const MAX_FILE_BYTES: u64 = 1_024;

/// What the first role is to be.
#[derive(Debug)]
pub(super) struct FirstRole {
    name: String,
    /// Where its password stands.
    file: PathBuf,
    /// The operator has written that file.
    is_given: bool,
    /// This node's place among the founders.
    rank: u32,
}

impl FirstRole {
    pub(super) fn of(config: &Config) -> Self {
        let founders = &config.cluster.founders;
        let rank = founders.iter().position(|founder| founder.name == config.node.name);
        let given = config.auth.first_password_file.as_ref();
        Self {
            name: config.auth.superuser.clone(),
            file: given.map_or_else(|| config.node.data_dir.join(FILE), PathBuf::from),
            is_given: given.is_some(),
            rank: rank.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(u32::MAX).min(64),
        }
    }

    /// Sees to it that there is a superuser.
    pub(super) async fn make(self, node: Node, gate: Gate) {
        let env = node.env().clone();
        let mut epochs = node.cluster().epochs();
        if epochs.wait_for(|epoch| epoch.0 > 0).await.is_err() {
            return;
        }
        if has_superuser(&node.cluster().state()) {
            return;
        }
        env.sleep(HEAD_START * self.rank).await;
        let mut made: Option<Secret> = None;
        loop {
            let state = node.cluster().state();
            if has_superuser(&state) {
                let own = state.roles().get(&self.name).is_some_and(|role| role.password == made);
                return self.settled(own && made.is_some(), made.is_some());
            }
            match self.propose(&node, &gate, &env, &mut made).await {
                Ok(()) => {}
                Err(why) => tracing::warn!(why, "the first superuser cannot be made yet"),
            }
            if !has_superuser(&node.cluster().state()) {
                env.sleep(PAUSE).await;
            }
        }
    }

    /// `made`: the hash that was proposed.
    async fn propose(
        &self,
        node: &Node,
        gate: &Gate,
        env: &Env,
        made: &mut Option<Secret>,
    ) -> Result<(), String> {
        let hash = match made {
            Some(hash) => hash.clone(),
            None => {
                let password = self.password(env).map_err(|error| {
                    format!("{}: {error} (auth.first_password_file)", self.file.display())
                })?;
                gate.hash(password).await.map_err(|why| why.0)?
            }
        };
        *made = Some(hash.clone());
        let change = RoleChange::Create {
            name: self.name.clone(),
            superuser: true,
            login: true,
            password: Some(hash),
            by: None,
        };
        let verdict = NodeBackend::new(node.clone()).append(Command::Role(change)).await;
        match verdict.map_err(|error| error.to_string())? {
            Verdict::NotDone(why) => Err(why.to_string()),
            Verdict::Done | Verdict::Created(_) => Ok(()),
        }
    }

    fn settled(&self, own: bool, written: bool) {
        let file = self.file.display();
        if own {
            let name = &self.name;
            tracing::info!(role = %name, %file, "a superuser was made; its password stands in that file");
        } else if written && !self.is_given {
            // Another node's password is the right one.
            drop(fs::remove_file(&self.file));
        }
    }

    /// The password in the file; if there is none yet and nobody has promised one, a random one,
    /// which is there afterwards.
    fn password(&self, env: &Env) -> io::Result<Secret> {
        match read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_given => {
                let password = random_password(|| env.random("first-password"));
                write_secret(&self.file, &password)?;
                Ok(password)
            }
            other => other,
        }
    }
}

fn has_superuser(state: &ClusterState) -> bool {
    state.roles().iter().any(|(_, role)| role.superuser && role.login && role.password.is_some())
}

/// The first line of a file.
fn read(path: &Path) -> io::Result<Secret> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, MAX_FILE_BYTES), &mut text)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no password")),
    }
}

/// Writes a password to a new file that only its owner can read.
///
/// # Errors
/// The system's: there is a file already, or none can be made.
pub fn write_secret(path: &Path, password: &Secret) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", password.0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::env::tokio_env;

    fn first(file: PathBuf, is_given: bool) -> FirstRole {
        FirstRole { name: "admin".to_owned(), file, is_given, rank: 0 }
    }

    #[tokio::test]
    async fn a_random_password_is_its_owners_to_read_and_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("n1").join(FILE);
        let role = first(file.clone(), false);
        let password = role.password(&tokio_env()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(role.password(&tokio_env()).unwrap(), password, "as it was written");
        role.settled(true, true);
        assert!(file.exists(), "whoever wants to log in reads it");
        role.settled(false, true);
        assert!(!file.exists(), "it is nobody's password");
    }

    #[tokio::test]
    async fn a_password_that_was_promised_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let role = first(file.clone(), true);
        assert!(role.password(&tokio_env()).is_err() && !file.exists());
        fs::write(&file, "").unwrap();
        assert!(role.password(&tokio_env()).is_err(), "an empty one is none");
        fs::write(&file, "apple\n").unwrap();
        assert_eq!(role.password(&tokio_env()).unwrap(), Secret("apple".to_owned()));
        role.settled(false, true);
        assert!(file.exists(), "it is the operator's");
    }
}
