//! Who a client is, and what it may do: the same for both doors.
//!
//! A door asks its [`Gate`] twice. Once who somebody is ([`Gate::log_in`]): a name and a password
//! become a [`Principal`], by a hash that is slow on purpose and computed away from the tasks
//! ([`password`]), few at a time. That a password was right is remembered ([`memory`]), so that a
//! client of HTTP, which sends it with every request, waits for it once. And then, for everything
//! that is to be done, whether this principal may ([`Gate::permit`]): judged by the roles that the
//! cluster has agreed on at that moment ([`crate::meta::Roles`]), so that a change takes effect on
//! connections that are open too.
//!
//! A principal is a role *since* an entry of the metadata log. Once the role's password or its
//! right to log in was set anew, or the role was dropped (and perhaps made again by that name), it
//! is nobody any more.

mod memory;
mod password;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cql::roles::{Permission, Resource, Secret};
use crate::env::Env;
use crate::meta::{ClusterState, Role};
use crate::types::Epoch;
use memory::Memory;
pub use password::{MAX_PASSWORD_BYTES, random as random_password};

/// Hashes that are computed at a time: each keeps a processor busy for a good part of 100 ms.
const HASHES: usize = 2;

/// Those that may wait for their turn.
const MAX_WAITING: usize = 128;

/// Keyspaces that everybody who has logged in may read: drivers and tools cannot do without. What
/// of `system_auth` is shown depends on who asks.
const READABLE: &[&str] = &[
    "system",
    "system_auth",
    "system_distributed",
    "system_schema",
    "system_traces",
    "system_virtual_schema",
];

/// On whose behalf a request runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Principal {
    /// Nobody has asked who it is, or nobody has said.
    #[default]
    Anonymous,
    /// The node itself: may do everything.
    Node,
    /// A role that has logged in.
    Role(Arc<Login>),
}

/// A role that has logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    name: String,
    /// See [`crate::meta::Role::since`].
    since: Epoch,
}

impl Principal {
    /// The principal of a request, as its door has established it.
    #[must_use]
    pub fn of(parts: &axum::http::request::Parts) -> &Self {
        parts.extensions.get().unwrap_or(&Self::Anonymous)
    }

    /// The same role as it is by now: for whoever has just set its own password.
    #[must_use]
    pub fn renewed(&self, state: &ClusterState) -> Self {
        let Self::Role(login) = self else { return self.clone() };
        let since = state.roles().get(&login.name).map_or(login.since, |role| role.since);
        Self::Role(Arc::new(Login { name: login.name.clone(), since }))
    }

    /// The role's name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Role(login) => Some(&login.name),
            Self::Anonymous | Self::Node => None,
        }
    }

    /// The role that is to have all rights on what it makes. None: a superuser has them anyway, as
    /// has everybody where nobody is asked.
    #[must_use]
    pub fn owner(&self, state: &ClusterState) -> Option<String> {
        let name = self.name().filter(|_| !self.is_superuser(state));
        name.map(str::to_owned)
    }

    /// True unless it is a role that would have to log in again.
    #[must_use]
    pub fn is_current(&self, state: &ClusterState) -> bool {
        let Self::Role(login) = self else { return true };
        let role = state.roles().get(&login.name);
        role.is_some_and(|role| role.since == login.since && role.login)
    }

    /// True of a superuser, and of the node itself.
    #[must_use]
    pub fn is_superuser(&self, state: &ClusterState) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Node => true,
            Self::Role(login) => self.is_current(state) && state.roles().is_superuser(&login.name),
        }
    }
}

/// Why somebody is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoEntry {
    /// No such name, or another password: which one of them is not said.
    #[error("Provided username and/or password are incorrect")]
    Wrong,
    /// The password is right, and the role may not log in.
    #[error("this role is not permitted to log in")]
    NoLogin,
    /// The address has guessed too often.
    #[error("too many failed logins from this address: wait a few seconds")]
    TooMany,
    /// Too many logins wait to be judged.
    #[error("too many logins at once: try again shortly")]
    Busy,
}

/// Why something is not done for a principal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// Who is let through, for all doors of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gate(Option<Arc<Keeper>>);

/// A gate, and who is through it. By default everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The gate.
    pub gate: Gate,
    /// Who is through it.
    pub principal: Principal,
}

/// What a closed gate knows.
struct Keeper {
    env: Env,
    memory: Mutex<Memory>,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper")
    }
}

impl Keeper {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place among those that compute.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, NoEntry> {
        let _waiting = Waiting::begin(&self.waiting).ok_or(NoEntry::Busy)?;
        self.places.clone().acquire_owned().await.map_err(|_| NoEntry::Busy)
    }

    /// Computes something with a hash, at this place: held until it is done, also if nobody waits
    /// for that any more.
    async fn compute<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoEntry> {
        let work = move || {
            let _place = place;
            work()
        };
        self.env.blocking("password", work).await.ok_or(NoEntry::Busy)
    }

    /// True if this is known to be the password of `name` since then.
    fn is_known(&self, name: &str, since: Epoch, digest: &blake3::Hash) -> bool {
        self.memory().is_known(name, since, digest)
    }

    /// Finds out by the hash whether a password is right.
    async fn is_right(
        &self,
        from: Option<IpAddr>,
        (name, role): (&str, Option<&Arc<Role>>),
        password: &str,
    ) -> Result<bool, NoEntry> {
        let since = since(role);
        let digest = self.memory().digest(name, password);
        if self.is_known(name, since, &digest) {
            return Ok(true);
        }
        // Who has none left does not keep others waiting.
        if !self.memory().has_guesses(from, self.env.mono()) {
            return Err(NoEntry::TooMany);
        }
        let place = self.turn().await?;
        // A pool of connections comes all at once: what the first one has shown holds for all.
        if self.is_known(name, since, &digest) {
            return Ok(true);
        }
        // Given back if the password is right.
        if !self.memory().may_guess(from, self.env.mono()) {
            return Err(NoEntry::TooMany);
        }
        let hash = role.and_then(|role| role.password.clone());
        let given = Secret(password.to_owned());
        // As long for a name that there is not, so that nobody learns which there are.
        let right = self.compute(place, move || password::is_right(&given, hash.as_ref())).await?;
        if right {
            let mut memory = self.memory();
            memory.guessed(from);
            memory.remember(name, since, digest);
        }
        Ok(right)
    }
}

/// What a login counts from; of a name that there is not, from no entry.
fn since(role: Option<&Arc<Role>>) -> Epoch {
    role.map_or(Epoch(0), |role| role.since)
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let this = Self(count);
        // It is taken back when this is dropped.
        (count.fetch_add(1, Ordering::AcqRel) < MAX_WAITING).then_some(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// Everybody may do everything, unasked.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// Only those who have said who they are come in, and do what their role may.
    #[must_use]
    pub fn closed(env: Env) -> Self {
        let memory = Mutex::new(Memory::new(|| env.random("password-memory")));
        let (places, waiting) = (Arc::new(Semaphore::new(HASHES)), AtomicUsize::new(0));
        Self(Some(Arc::new(Keeper { env, memory, places, waiting })))
    }

    /// True if clients are asked who they are.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_some()
    }

    /// Who it is that comes from the address `from` and says this name and this password.
    ///
    /// # Errors
    /// [`NoEntry`].
    pub async fn log_in(
        &self,
        state: &ClusterState,
        from: Option<IpAddr>,
        name: &str,
        password: &str,
    ) -> Result<Principal, NoEntry> {
        let Some(keeper) = &self.0 else { return Ok(Principal::Anonymous) };
        let role = state.roles().get(name);
        if !keeper.is_right(from, (name, role), password).await? {
            return Err(NoEntry::Wrong);
        }
        let role = role.ok_or(NoEntry::Wrong)?;
        if !role.login {
            return Err(NoEntry::NoLogin);
        }
        Ok(Principal::Role(Arc::new(Login { name: name.to_owned(), since: role.since })))
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// What is wrong with the password, or that too many hashes are under way.
    pub async fn hash(&self, password: Secret) -> Result<Secret, Denied> {
        password::check(&password).map_err(Denied)?;
        let Some(keeper) = &self.0 else { return Err(Denied(ANONYMOUS.to_owned())) };
        let salt = [keeper.env.random("salt"), keeper.env.random("salt")];
        let hashed = async {
            let place = keeper.turn().await?;
            keeper.compute(place, move || password::hash(&password, salt)).await
        };
        hashed.await.map_err(|busy: NoEntry| Denied(busy.to_string()))?.map_err(Denied)
    }

    /// Lets `principal` do something with `resource`, or says why not.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn permit(
        &self,
        state: &ClusterState,
        principal: &Principal,
        permission: Permission,
        resource: &Resource,
    ) -> Result<(), Denied> {
        if self.0.is_none() || *principal == Principal::Node {
            return Ok(());
        }
        let name = self.known(state, principal)?;
        if state.roles().may(name, permission, resource) || is_readable(permission, resource) {
            return Ok(());
        }
        Err(Denied(format!(
            "User {name} has no {permission} permission on {resource} or any of its parents"
        )))
    }

    /// As [`Gate::permit`], on a table. On the path of every request.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn permit_table(
        &self,
        state: &ClusterState,
        principal: &Principal,
        permission: Permission,
        (keyspace, table): (&str, &str),
    ) -> Result<(), Denied> {
        if self.0.is_none() || *principal == Principal::Node {
            return Ok(());
        }
        self.permit(state, principal, permission, &Resource::table(keyspace, table))
    }

    /// The name of a role that is logged in.
    ///
    /// # Errors
    /// [`Denied`]: it is nobody, or nobody any more.
    pub fn known<'a>(
        &self,
        state: &ClusterState,
        principal: &'a Principal,
    ) -> Result<&'a str, Denied> {
        let name = principal.name().ok_or_else(|| Denied(ANONYMOUS.to_owned()))?;
        if principal.is_current(state) {
            return Ok(name);
        }
        Err(Denied(CHANGED.to_owned()))
    }
}

/// Told to those whose role is not what it was when they logged in.
pub const CHANGED: &str = "this role was changed or dropped since it has logged in: log in again";

const ANONYMOUS: &str = "You have to be logged in and not anonymous to perform this request";

fn is_readable(permission: Permission, resource: &Resource) -> bool {
    let (Resource::Keyspace(keyspace) | Resource::Table(keyspace, _)) = resource else {
        return false;
    };
    permission == Permission::Select && READABLE.contains(&keyspace.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql::roles::Permissions;
    use crate::env::fixture::Staged;
    use crate::env::tokio_env;
    use crate::meta::fixture::{apply, create_keyspace, founded};
    use crate::meta::{Command, RoleChange, Verdict};

    struct Cluster(ClusterState);

    impl Cluster {
        fn new() -> Self {
            Self(founded(&["n1"]))
        }

        fn apply(&mut self, command: Command) {
            assert_eq!(apply(&mut self.0, command), Verdict::Done);
        }

        async fn role(&mut self, gate: &Gate, name: &str, password: &str) {
            let hash = gate.hash(Secret(password.to_owned())).await.unwrap();
            self.apply(Command::Role(RoleChange::Create {
                name: name.to_owned(),
                superuser: false,
                login: true,
                password: Some(hash),
                by: None,
            }));
        }
    }

    #[tokio::test]
    async fn a_role_is_let_in_by_its_password_until_that_is_another() {
        let (gate, mut cluster) = (Gate::closed(tokio_env()), Cluster::new());
        cluster.role(&gate, "eve", "apple").await;
        let wrong = gate.log_in(&cluster.0, None, "eve", "pear").await;
        assert_eq!(wrong, Err(NoEntry::Wrong));
        assert_eq!(gate.log_in(&cluster.0, None, "adam", "apple").await, Err(NoEntry::Wrong));
        let eve = gate.log_in(&cluster.0, None, "eve", "apple").await.unwrap();
        assert_eq!(gate.known(&cluster.0, &eve), Ok("eve"));
        assert_eq!(gate.log_in(&cluster.0, None, "eve", "apple").await.as_ref(), Ok(&eve));
        let hash = gate.hash(Secret("pear".to_owned())).await.unwrap();
        cluster.apply(Command::Role(RoleChange::Alter {
            name: "eve".to_owned(),
            superuser: None,
            login: None,
            password: Some(hash),
        }));
        assert_eq!(gate.known(&cluster.0, &eve), Err(Denied(CHANGED.to_owned())));
        let remembered = gate.log_in(&cluster.0, None, "eve", "apple").await;
        assert_eq!(remembered, Err(NoEntry::Wrong), "what was right is not remembered as right");
        assert!(gate.log_in(&cluster.0, None, "eve", "pear").await.is_ok());
        cluster.apply(Command::Role(RoleChange::Alter {
            name: "eve".to_owned(),
            superuser: None,
            login: Some(false),
            password: None,
        }));
        assert_eq!(gate.log_in(&cluster.0, None, "eve", "pear").await, Err(NoEntry::NoLogin));
    }

    #[tokio::test]
    async fn a_role_may_what_it_was_granted_and_nobody_may_anything() {
        let (gate, mut cluster) = (Gate::closed(tokio_env()), Cluster::new());
        cluster.role(&gate, "eve", "apple").await;
        let eve = gate.log_in(&cluster.0, None, "eve", "apple").await.unwrap();
        let may = |cluster: &Cluster, who: &Principal, table: (&str, &str)| {
            gate.permit_table(&cluster.0, who, Permission::Select, table).is_ok()
        };
        let table = ("shop", "stock");
        assert!(!may(&cluster, &eve, table));
        assert!(may(&cluster, &eve, ("system", "local")));
        assert!(!may(&cluster, &Principal::Anonymous, ("system", "local")));
        assert!(may(&cluster, &Principal::Node, table));
        cluster.apply(create_keyspace("shop"));
        cluster.apply(Command::Role(RoleChange::Grant {
            name: "eve".to_owned(),
            permissions: Permissions::of(&[Permission::Select]),
            on: Resource::Keyspace("shop".to_owned()),
        }));
        assert!(may(&cluster, &eve, table), "without logging in again");
        let open = Gate::open();
        assert!(
            open.permit_table(&cluster.0, &Principal::Anonymous, Permission::Drop, table).is_ok()
        );
    }

    /// An application starts again, with a pool of connections.
    #[tokio::test]
    async fn many_who_are_right_at_once_are_no_guessers() {
        let world = Arc::new(Staged::new(tokio::sync::watch::channel(false).1));
        let (gate, mut cluster) = (Gate::closed(Env::new(world.clone())), Cluster::new());
        cluster.role(&gate, "eve", "apple").await;
        let (from, before) = (Some(IpAddr::from([10, 0, 0, 1])), world.computed());
        let logins =
            (0..3 * memory::GUESSES).map(|_| gate.log_in(&cluster.0, from, "eve", "apple"));
        for answer in futures_util::future::join_all(logins).await {
            assert!(answer.is_ok(), "{answer:?}");
        }
        // Those at work when the first one was through, and who came into their places before it
        // could say so.
        let computed = world.computed() - before;
        assert!(computed <= 2 * HASHES, "{computed} hashes of one password");
    }

    #[tokio::test]
    async fn who_guesses_has_to_wait_and_nobody_else() {
        let (gate, mut cluster) = (Gate::closed(tokio_env()), Cluster::new());
        cluster.role(&gate, "eve", "apple").await;
        let from = |last| Some(IpAddr::from([10, 0, 0, last]));
        assert!(gate.log_in(&cluster.0, from(1), "eve", "apple").await.is_ok());
        // All at once, so that it does not matter how long a hash takes.
        let passwords: Vec<String> = (0..2 * memory::GUESSES).map(|n| format!("{n}")).collect();
        let state = &cluster.0;
        let guesses = passwords.iter().map(|guess| gate.log_in(state, from(1), "eve", guess));
        let answers = futures_util::future::join_all(guesses).await;
        let refused = answers.iter().filter(|answer| **answer == Err(NoEntry::TooMany)).count();
        assert!(refused > 0, "no guess was refused: {answers:?}");
        assert!(gate.log_in(&cluster.0, from(1), "eve", "apple").await.is_ok(), "known already");
        let other = gate.log_in(&cluster.0, from(2), "eve", "pear").await;
        assert_eq!(other, Err(NoEntry::Wrong), "judged: it comes from elsewhere");
    }
}
