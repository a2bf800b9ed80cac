//! Roles and permissions: statements turned into entries of the metadata log, lists, and the tables
//! of `system_auth`.
//!
//! Who may do what with a role, and the words of refusals, are Cassandra's, with two additions:
//! nobody but a superuser changes a superuser's role or hands it on (else whoever may alter it
//! could become one), and the last superuser who can log in stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::cql::ast::{On, RoleOptions, Statement};
use crate::cql::roles::{Permission, Permissions, Resource, Secret};
use crate::cql::types::CqlType;
use crate::meta::{ClusterState, Command, NotDone, Role, RoleChange, Verdict, is_hash};
use crate::server::auth::{Gate, Principal};
use crate::server::cql::error::{CqlError, SERVER, UNAUTHORIZED};
use crate::server::cql::response::{Answer, ColumnSpec, Metadata, Rows};
use crate::server::cql::statement::has_keyspace;
use crate::server::cql::store::Store;
use crate::server::cql::system::{self, Named};

const KEYSPACE: &str = "system_auth";

/// A statement about roles is to be run.
pub(super) struct Ask<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) gate: &'a Gate,
    pub(super) principal: &'a Principal,
    /// The keyspace in use.
    pub(super) keyspace: Option<&'a str>,
}

fn denied(why: impl Into<String>) -> CqlError {
    CqlError::new(UNAUTHORIZED, why)
}

fn missing(name: &str) -> CqlError {
    CqlError::invalid(format!("{name} doesn't exist"))
}

impl Ask<'_> {
    /// Runs it.
    pub(super) async fn run(&self, statement: &Statement) -> Result<Answer, CqlError> {
        let state = self.store.state();
        let me = self.gate.known(&state, self.principal)?;
        let judge = Judge { ask: self, state: &state, me };
        match statement {
            Statement::CreateRole { name, if_not_exists, options } => {
                judge.create(name, *if_not_exists, options).await
            }
            Statement::AlterRole { name, if_exists, options } => {
                judge.alter(name, *if_exists, options).await
            }
            Statement::DropRole { name, if_exists } => judge.drop(name, *if_exists).await,
            Statement::GrantRole { role, to: name } => {
                judge.hand_on(role, name)?;
                judge.done(RoleChange::Join { name: name.clone(), of: role.clone() }).await
            }
            Statement::RevokeRole { role, from: name } => {
                judge.hand_on(role, name)?;
                judge.done(RoleChange::Leave { name: name.clone(), of: role.clone() }).await
            }
            Statement::Grant { permissions, on, to: name } => {
                let (permissions, on) = judge.handed_on(*permissions, on, name)?;
                judge.done(RoleChange::Grant { name: name.clone(), permissions, on }).await
            }
            Statement::Revoke { permissions, on, from: name } => {
                let (permissions, on) = judge.handed_on(*permissions, on, name)?;
                judge.done(RoleChange::Revoke { name: name.clone(), permissions, on }).await
            }
            Statement::ListRoles { of, recursive } => {
                judge.list_roles(of.as_deref(), *recursive).map(Answer::Rows)
            }
            Statement::ListUsers => judge.list_users().map(Answer::Rows),
            Statement::ListPermissions { permissions, on, of, recursive } => {
                let rows = judge.list(*permissions, on.as_ref(), of.as_deref(), *recursive)?;
                Ok(rows.map_or(Answer::Void, Answer::Rows))
            }
            _ => Err(CqlError::new(SERVER, "no statement about roles")),
        }
    }
}

/// Who asks, and by which state it is judged.
struct Judge<'a> {
    ask: &'a Ask<'a>,
    state: &'a ClusterState,
    me: &'a str,
}

impl<'a> Judge<'a> {
    fn am_super(&self) -> bool {
        self.state.roles().is_superuser(self.me)
    }

    fn may(&self, permission: Permission, on: &Resource) -> bool {
        self.state.roles().may(self.me, permission, on)
    }

    fn need(&self, permission: Permission, on: &Resource) -> Result<(), CqlError> {
        Ok(self.ask.gate.permit(self.state, self.ask.principal, permission, on)?)
    }

    fn role(&self, name: &str) -> Result<&'a Arc<Role>, CqlError> {
        self.state.roles().get(name).ok_or_else(|| missing(name))
    }

    async fn append(&self, change: RoleChange) -> Result<Verdict, CqlError> {
        let verdict = self.ask.store.append(Command::Role(change)).await;
        verdict.map_err(|error| CqlError::of_operation(&error, Some("SIMPLE")))
    }

    async fn done(&self, change: RoleChange) -> Result<Answer, CqlError> {
        match self.append(change).await? {
            Verdict::NotDone(why) => Err(CqlError::invalid(why.to_string())),
            Verdict::Done | Verdict::Created(_) => Ok(Answer::Void),
        }
    }

    /// The hash of the password that is given, if one is.
    async fn hash(&self, options: &RoleOptions) -> Result<Option<Secret>, CqlError> {
        match (&options.password, &options.hashed) {
            (Some(_), Some(_)) => {
                Err(CqlError::invalid("give either PASSWORD or HASHED PASSWORD, not both"))
            }
            (Some(password), None) => {
                let hashed = self.ask.gate.hash(password.clone()).await;
                hashed.map(Some).map_err(|why| CqlError::invalid(why.0))
            }
            (None, Some(hash)) if !is_hash(&hash.0) => Err(CqlError::invalid(
                "Invalid hashed password value. Please use jBcrypt, with a cost of 4 to 14.",
            )),
            (None, hash) => Ok(hash.clone()),
        }
    }

    async fn create(
        &self,
        name: &str,
        if_not_exists: bool,
        options: &RoleOptions,
    ) -> Result<Answer, CqlError> {
        options.refused.map_or(Ok(()), |why| Err(CqlError::invalid(why)))?;
        self.need(Permission::Create, &Resource::AllRoles)?;
        if options.superuser == Some(true) && !self.am_super() {
            return Err(denied("Only superusers can create a role with superuser status"));
        }
        if self.state.roles().get(name).is_some() {
            return match if_not_exists {
                true => Ok(Answer::Void),
                false => Err(CqlError::invalid(format!("{name} already exists"))),
            };
        }
        let change = RoleChange::Create {
            name: name.to_owned(),
            superuser: options.superuser.unwrap_or(false),
            login: options.login.unwrap_or(false),
            password: self.hash(options).await?,
            by: (!self.am_super()).then(|| self.me.to_owned()),
        };
        match self.append(change).await? {
            Verdict::NotDone(NotDone::RoleExists(_)) if if_not_exists => Ok(Answer::Void),
            Verdict::NotDone(why) => Err(CqlError::invalid(why.to_string())),
            Verdict::Done | Verdict::Created(_) => Ok(Answer::Void),
        }
    }

    async fn alter(
        &self,
        name: &str,
        if_exists: bool,
        options: &RoleOptions,
    ) -> Result<Answer, CqlError> {
        options.refused.map_or(Ok(()), |why| Err(CqlError::invalid(why)))?;
        if *options == RoleOptions::default() {
            return Err(CqlError::invalid("ALTER [ROLE|USER] can't be empty"));
        }
        let others_rights = !self.am_super() && name != self.me;
        if others_rights {
            self.need(Permission::Alter, &Resource::Role(name.to_owned()))?;
        }
        if self.state.roles().get(name).is_none() {
            return if if_exists { Ok(Answer::Void) } else { Err(missing(name)) };
        }
        if options.superuser.is_some() {
            if self.state.roles().all_of(self.me).contains_key(name) {
                return Err(denied(
                    "You aren't allowed to alter your own superuser status or that of a role \
                     granted to you",
                ));
            }
            if !self.am_super() {
                return Err(denied("Only superusers are allowed to alter superuser status"));
            }
        }
        if !self.am_super() {
            if name == self.me && options.login.is_some() {
                return Err(denied("You aren't allowed to alter LOGIN of your own role"));
            }
            if name != self.me && self.state.roles().is_superuser(name) {
                return Err(denied("Only superusers can alter a role with superuser status"));
            }
        }
        self.done(RoleChange::Alter {
            name: name.to_owned(),
            superuser: options.superuser,
            login: options.login,
            password: self.hash(options).await?,
        })
        .await
    }

    async fn drop(&self, name: &str, if_exists: bool) -> Result<Answer, CqlError> {
        self.need(Permission::Drop, &Resource::Role(name.to_owned()))?;
        if self.state.roles().get(name).is_none() {
            return if if_exists { Ok(Answer::Void) } else { Err(missing(name)) };
        }
        if self.state.roles().is_superuser(name) && !self.am_super() {
            return Err(denied("Only superusers can drop a role with superuser status"));
        }
        if name == self.me {
            return Err(CqlError::invalid("Cannot DROP primary role for current login"));
        }
        self.done(RoleChange::Drop { name: name.to_owned() }).await
    }

    /// Whether one may give `role` to `name`, or take it away.
    fn hand_on(&self, role: &str, name: &str) -> Result<(), CqlError> {
        self.need(Permission::Authorize, &Resource::Role(role.to_owned()))?;
        self.role(role)?;
        self.role(name)?;
        if self.state.roles().is_superuser(role) && !self.am_super() {
            return Err(denied("Only superusers can hand on a role with superuser status"));
        }
        Ok(())
    }

    /// Whether one may give or take these permissions: which of them, and on what.
    fn handed_on(
        &self,
        permissions: Permissions,
        on: &On,
        name: &str,
    ) -> Result<(Permissions, Resource), CqlError> {
        let on = self.resource(on)?;
        let permissions = permissions.and(on.applicable());
        if permissions.is_empty() {
            let why = format!("{on} does not support any of the requested permissions");
            return Err(CqlError::invalid(why));
        }
        self.need(Permission::Authorize, &on)?;
        // Nobody hands on what is not theirs.
        permissions.iter().try_for_each(|one| self.need(one, &on))?;
        self.role(name)?;
        Ok((permissions, on))
    }

    /// What is written, if it exists.
    fn resource(&self, on: &On) -> Result<Resource, CqlError> {
        let resource = match on {
            On::Resource(resource) => resource.clone(),
            On::Table(name) => {
                let keyspace = name.keyspace.as_deref().or(self.ask.keyspace);
                let keyspace = keyspace.ok_or_else(|| {
                    CqlError::invalid(
                        "No keyspace has been specified. USE a keyspace, or explicitly specify \
                         keyspace.tablename",
                    )
                })?;
                Resource::table(keyspace, &name.name)
            }
        };
        let exists = match &resource {
            Resource::AllKeyspaces | Resource::AllRoles => true,
            Resource::Keyspace(name) => has_keyspace(self.state, name),
            Resource::Table(keyspace, name) => {
                self.state.table_of(keyspace, name).is_some()
                    || system::schema(keyspace, name).is_some()
                    || is_made_when_used(keyspace, name)
            }
            Resource::Role(name) => self.state.roles().get(name).is_some(),
        };
        if exists {
            return Ok(resource);
        }
        Err(CqlError::invalid(format!("Resource {resource} doesn't exist")))
    }

    fn list_roles(&self, of: Option<&str>, recursive: bool) -> Result<Rows, CqlError> {
        let roles = self.state.roles();
        let may_all = self.may(Permission::Describe, &Resource::AllRoles);
        if let Some(of) = of {
            self.role(of)?;
            if !may_all && !roles.all_of(self.me).contains_key(of) {
                return Err(denied(format!(
                    "You are not authorized to view roles granted to {of}"
                )));
            }
        }
        let names: Vec<&str> = match of {
            None if may_all => roles.iter().map(|(name, _)| name).collect(),
            None => roles.all_of(self.me).into_keys().collect(),
            Some(of) if recursive => roles.all_of(of).into_keys().collect(),
            Some(of) => {
                let direct = self.role(of)?.member_of.iter().map(String::as_str);
                let mut names: Vec<&str> = direct.chain([of]).collect();
                names.sort_unstable();
                names
            }
        };
        let options = CqlType::Map(Box::new(CqlType::Text), Box::new(CqlType::Text));
        let columns = [
            ("role", CqlType::Text),
            ("super", CqlType::Boolean),
            ("login", CqlType::Boolean),
            ("options", options),
            ("datacenters", CqlType::Text),
        ];
        let row = |name: &str| {
            let login = roles.get(name).is_some_and(|role| role.login);
            vec![
                system::text(name),
                system::boolean(roles.is_superuser(name)),
                system::boolean(login),
                system::map([]),
                system::text("ALL"),
            ]
        };
        Ok(rows("roles", columns, names.into_iter().map(row)))
    }

    fn list_users(&self) -> Result<Rows, CqlError> {
        let roles = self.state.roles();
        let may_all = self.may(Permission::Describe, &Resource::AllRoles);
        let own = roles.all_of(self.me);
        let shown = roles
            .iter()
            .filter(|(name, role)| role.login && (may_all || own.contains_key(name)))
            .map(|(name, _)| {
                let is_super = system::boolean(roles.is_superuser(name));
                vec![system::text(name), is_super, system::text("ALL")]
            });
        let columns =
            [("name", CqlType::Text), ("super", CqlType::Boolean), ("datacenters", CqlType::Text)];
        Ok(rows("users", columns, shown))
    }

    /// `None`: there is nothing to list.
    fn list(
        &self,
        permissions: Permissions,
        on: Option<&On>,
        of: Option<&str>,
        recursive: bool,
    ) -> Result<Option<Rows>, CqlError> {
        let on = on.map(|on| self.resource(on)).transpose()?;
        let roles = self.state.roles();
        let may_see = match of {
            Some(of) => {
                roles.all_of(self.me).contains_key(of)
                    || self.may(Permission::Describe, &Resource::Role(of.to_owned()))
            }
            None => self.may(Permission::Describe, &Resource::AllRoles),
        };
        if let Some(of) = of {
            self.role(of)?;
        }
        if !may_see {
            let whose = of.unwrap_or("everyone");
            return Err(denied(format!("You are not authorized to view {whose}'s permissions")));
        }
        let whose: BTreeMap<&str, &Role> = match of {
            None => roles.iter().map(|(name, role)| (name, &**role)).collect(),
            Some(of) if recursive => roles.all_of(of),
            Some(of) => roles.get(of).map(|role| (of, &**role)).into_iter().collect(),
        };
        let mut wanted: Option<Vec<Resource>> = on.map(|on| vec![on]);
        while let Some(wanted) = wanted.as_mut().filter(|_| recursive)
            && let Some(parent) = wanted.last().and_then(Resource::parent)
        {
            wanted.push(parent);
        }
        let mut found = Vec::new();
        for (name, role) in whose {
            for (resource, granted) in &role.grants {
                if wanted.as_ref().is_none_or(|wanted| wanted.contains(resource)) {
                    let shown = granted.and(permissions);
                    found.extend(shown.iter().map(|one| (name, resource.to_string(), one)));
                }
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        found.sort();
        let columns =
            ["role", "username", "resource", "permission"].map(|name| (name, CqlType::Text));
        let row = |(name, resource, one): (&str, String, Permission)| {
            vec![
                system::text(name),
                system::text(name),
                system::text(resource),
                system::text(one.word()),
            ]
        };
        Ok(Some(rows("permissions", columns, found.into_iter().map(row))))
    }
}

/// Tables that the HTTP door makes when somebody uses them first.
fn is_made_when_used(keyspace: &str, name: &str) -> bool {
    keyspace == "henge" && ["locks", "elections"].contains(&name)
}

fn rows<const N: usize>(
    table: &str,
    columns: [(&str, CqlType); N],
    rows: impl Iterator<Item = Vec<Bytes>>,
) -> Rows {
    let columns =
        columns.into_iter().map(|(name, kind)| ColumnSpec { name: name.to_owned(), kind });
    let metadata = Metadata {
        keyspace: KEYSPACE.to_owned(),
        table: table.to_owned(),
        columns: columns.collect(),
    };
    Rows {
        metadata: Arc::new(metadata),
        rows: rows.map(|row| row.into_iter().map(Some).collect()).collect(),
        ..Rows::default()
    }
}

/// The rows of a table of `system_auth`, as far as `viewer` may see them: a superuser all of them,
/// whoever may describe all roles all but the hashes, anybody else its own roles.
pub(super) fn system_rows(state: &ClusterState, viewer: &Principal, table: &str) -> Vec<Named> {
    let roles = state.roles();
    let is_super = viewer.is_superuser(state);
    let own = viewer.name().map(|name| roles.all_of(name));
    let may_all = match viewer.name() {
        Some(name) => roles.may(name, Permission::Describe, &Resource::AllRoles),
        // Nobody is asked who it is.
        None => true,
    };
    let is_shown = |name: &str| may_all || own.as_ref().is_some_and(|own| own.contains_key(name));
    let shown = roles.iter().filter(|(name, _)| is_shown(name));
    match table {
        "roles" => shown.map(|(name, role)| role_row(name, role, is_super)).collect(),
        "role_members" => {
            let mut all: Vec<(&str, &str)> = shown
                .flat_map(|(name, role)| role.member_of.iter().map(move |of| (of.as_str(), name)))
                .collect();
            all.sort_unstable();
            let row = |(role, member)| {
                Named::from([("role", system::text(role)), ("member", system::text(member))])
            };
            all.into_iter().map(row).collect()
        }
        "role_permissions" => shown
            .flat_map(|(name, role)| {
                role.grants.iter().map(move |(on, granted)| {
                    let mut words: Vec<&str> = granted.iter().map(Permission::word).collect();
                    words.sort_unstable();
                    Named::from([
                        ("role", system::text(name)),
                        ("resource", system::text(on.path())),
                        ("permissions", system::texts(&words)),
                    ])
                })
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn role_row(name: &str, role: &Role, with_hash: bool) -> Named {
    let mut row = Named::from([
        ("role", system::text(name)),
        ("can_login", system::boolean(role.login)),
        ("is_superuser", system::boolean(role.superuser)),
    ]);
    if !role.member_of.is_empty() {
        let of: Vec<&String> = role.member_of.iter().collect();
        row.insert("member_of", system::texts(&of));
    }
    if let Some(hash) = role.password.as_ref().filter(|_| with_hash) {
        row.insert("salted_hash", system::text(&hash.0));
    }
    row
}
