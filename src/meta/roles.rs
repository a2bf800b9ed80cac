//! Roles: who may log in, who is a member of what, and what each may do.
//!
//! They are kept in the log like tables, so that no two nodes ever judge by different roles for
//! longer than the log takes to reach them: there is no replicated table of passwords that one
//! replica has lost (Cassandra's `system_auth`), and no cache of permissions that has to run out.
//! Whoever asks judges by the state at hand ([`Roles::may`]), so a change takes effect with the
//! epoch that it makes, on connections that are open too.
//!
//! Invariants:
//! - memberships and grants name roles that exist, and memberships have no circle;
//! - once there is a superuser who can log in there always is one (nobody could undo that).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cql::roles::{Permission, Permissions, Resource, Secret};
use crate::meta::NotDone;
use crate::types::Epoch;

/// The most roles, and the most grants and memberships of one: each node keeps them in memory.
const MAX_ROLES: usize = 10_000;
const MAX_GRANTS: usize = 10_000;
const MAX_MEMBERSHIPS: usize = 100;

/// Longest name of a role, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Rounds of a stored hash, as powers of two: fewer are broken at once, more keep a processor busy
/// for seconds at each login.
const ROUNDS: std::ops::RangeInclusive<u32> = 4..=14;

/// One role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// May do everything.
    pub superuser: bool,
    /// May log in, given a password.
    pub login: bool,
    /// What is kept of its password (bcrypt's own form, as in Cassandra); none: no password is
    /// the right one.
    pub password: Option<Secret>,
    /// The entry that made it, or set last whether and by which password it logs in. Whoever has
    /// logged in before is not logged in any more.
    pub since: Epoch,
    /// The roles whose rights it has too.
    pub member_of: BTreeSet<String>,
    /// Its own rights.
    pub grants: BTreeMap<Resource, Permissions>,
}

/// A change of roles.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RoleChange {
    /// A new role.
    Create {
        /// Its name.
        name: String,
        /// May do everything.
        superuser: bool,
        /// May log in.
        login: bool,
        /// The hash of its password.
        password: Option<Secret>,
        /// Who makes it, and may do everything with it.
        by: Option<String>,
    },
    /// Other properties; what is `None` stays.
    Alter {
        /// Whose.
        name: String,
        /// May do everything.
        superuser: Option<bool>,
        /// May log in.
        login: Option<bool>,
        /// The hash of its password.
        password: Option<Secret>,
    },
    /// A role ends, with what it was granted and what was granted on it.
    Drop {
        /// Which.
        name: String,
    },
    /// A role becomes a member of another.
    Join {
        /// The member.
        name: String,
        /// The other one.
        of: String,
    },
    /// A role is no longer a member of another.
    Leave {
        /// The member.
        name: String,
        /// The other one.
        of: String,
    },
    /// A role gets rights.
    Grant {
        /// Which.
        name: String,
        /// Which rights.
        permissions: Permissions,
        /// On what.
        on: Resource,
    },
    /// A role loses rights.
    Revoke {
        /// Which.
        name: String,
        /// Which rights.
        permissions: Permissions,
        /// On what.
        on: Resource,
    },
}

/// All roles.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roles(BTreeMap<String, Arc<Role>>);

fn missing(name: &str) -> NotDone {
    NotDone::NoSuchRole(name.to_owned())
}

fn out_of_bounds(what: String) -> NotDone {
    NotDone::OutOfBounds(what)
}

/// True of the form in which bcrypt writes a hash, at bearable cost.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    let is_version = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|head| text.starts_with(head));
    let rounds = text.get(4..6).and_then(|digits| digits.parse().ok());
    let rest = text.get(6..).unwrap_or_default().as_bytes();
    is_version
        && rounds.is_some_and(|rounds| ROUNDS.contains(&rounds))
        && rest.len() == 54
        && rest[0] == b'$'
        && rest[1..].iter().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(byte))
}

impl Roles {
    /// The role called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Role>> {
        self.0.get(name)
    }

    /// All roles, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Role>)> {
        self.0.iter().map(|(name, role)| (name.as_str(), role))
    }

    /// The role `name` and all that it is a member of, directly or not; empty if there is none.
    #[must_use]
    pub fn all_of<'a>(&'a self, name: &'a str) -> BTreeMap<&'a str, &'a Role> {
        let mut found = BTreeMap::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if let Some((name, role)) = self.0.get_key_value(name)
                && found.insert(name.as_str(), &**role).is_none()
            {
                open.extend(role.member_of.iter().map(String::as_str));
            }
        }
        found
    }

    /// True if it is a superuser, or a member of one.
    #[must_use]
    pub fn is_superuser(&self, name: &str) -> bool {
        self.all_of(name).values().any(|role| role.superuser)
    }

    /// What `name` may do with `resource`: by its own rights or those of a role that it is a member
    /// of, on the resource or on what that is a part of.
    #[must_use]
    pub fn permissions(&self, name: &str, resource: &Resource) -> Permissions {
        let roles = self.all_of(name);
        if roles.values().any(|role| role.superuser) {
            return resource.applicable();
        }
        let mut found = Permissions::default();
        let mut next = Some(resource.clone());
        while let Some(on) = next {
            for role in roles.values() {
                found = found.with(role.grants.get(&on).copied().unwrap_or_default());
            }
            next = on.parent();
        }
        found
    }

    /// Whether `name` may do it.
    #[must_use]
    pub fn may(&self, name: &str, permission: Permission, resource: &Resource) -> bool {
        self.permissions(name, resource).has(permission)
    }

    /// Carries out a change, or says why not; then nothing has changed. `epoch`: of its entry.
    pub(super) fn apply(&mut self, change: &RoleChange, epoch: Epoch) -> Result<(), NotDone> {
        match change {
            RoleChange::Create { name, superuser, login, password, by } => {
                if self.0.contains_key(name) {
                    return Err(NotDone::RoleExists(name.clone()));
                }
                if self.0.len() >= MAX_ROLES {
                    return Err(out_of_bounds(format!("{MAX_ROLES} roles are allowed")));
                }
                let role = Role {
                    superuser: *superuser,
                    login: *login,
                    password: password.clone(),
                    since: epoch,
                    member_of: BTreeSet::new(),
                    grants: BTreeMap::new(),
                };
                self.0.insert(name.clone(), Arc::new(role));
                if let Some(by) = by {
                    self.own(by, &Resource::Role(name.clone()));
                }
                Ok(())
            }
            RoleChange::Alter { name, superuser, login, password } => {
                let mut role = (**self.0.get(name).ok_or_else(|| missing(name))?).clone();
                role.superuser = superuser.unwrap_or(role.superuser);
                if login.is_some_and(|login| login != role.login) || password.is_some() {
                    role.since = epoch;
                }
                role.login = login.unwrap_or(role.login);
                role.password = password.clone().or(role.password);
                self.keep_one(name, Some(&role))?;
                self.0.insert(name.clone(), Arc::new(role));
                Ok(())
            }
            RoleChange::Drop { name } => {
                if !self.0.contains_key(name) {
                    return Err(missing(name));
                }
                self.keep_one(name, None)?;
                self.0.remove(name);
                self.each(
                    |role| role.member_of.retain(|of| of != name),
                    |role| role.member_of.contains(name),
                );
                self.forget(&Resource::Role(name.clone()));
                Ok(())
            }
            RoleChange::Join { name, of } => {
                self.0.get(of).ok_or_else(|| missing(of))?;
                let own = self.0.get(name).ok_or_else(|| missing(name))?;
                // Into a circle, or what it is already.
                for (member, group) in [(name, of), (of, name)] {
                    if self.all_of(member).contains_key(group.as_str()) {
                        let (name, of) = (member.clone(), group.clone());
                        return Err(NotDone::IsMember { name, of });
                    }
                }
                if own.member_of.len() >= MAX_MEMBERSHIPS {
                    return Err(out_of_bounds(format!(
                        "{MAX_MEMBERSHIPS} memberships are allowed"
                    )));
                }
                self.role_mut(name)?.member_of.insert(of.clone());
                Ok(())
            }
            RoleChange::Leave { name, of } => {
                if self.role_mut(name)?.member_of.remove(of) {
                    return Ok(());
                }
                Err(NotDone::NoMember { name: name.clone(), of: of.clone() })
            }
            RoleChange::Grant { name, permissions, on } => self.grant(name, *permissions, on),
            RoleChange::Revoke { name, permissions, on } => {
                let grants = &mut self.role_mut(name)?.grants;
                if let Some(own) = grants.get_mut(on) {
                    *own = own.without(*permissions);
                    if own.is_empty() {
                        grants.remove(on);
                    }
                }
                Ok(())
            }
        }
    }

    /// Gives whoever has made something all rights on it.
    pub(super) fn own(&mut self, name: &str, made: &Resource) {
        // Who has no room for it goes without.
        let _ = self.grant(name, made.applicable(), made);
    }

    fn grant(
        &mut self,
        name: &str,
        permissions: Permissions,
        on: &Resource,
    ) -> Result<(), NotDone> {
        let grants = &mut self.role_mut(name)?.grants;
        if grants.len() >= MAX_GRANTS && !grants.contains_key(on) {
            return Err(out_of_bounds(format!("{MAX_GRANTS} grants of one role are allowed")));
        }
        let own = grants.entry(on.clone()).or_default();
        *own = own.with(permissions.and(on.applicable()));
        if own.is_empty() {
            grants.remove(on);
        }
        Ok(())
    }

    fn role_mut(&mut self, name: &str) -> Result<&mut Role, NotDone> {
        self.0.get_mut(name).map(Arc::make_mut).ok_or_else(|| missing(name))
    }

    /// Refuses a change of `name` into `to` that leaves no superuser who can log in, if there is
    /// one.
    fn keep_one(&self, name: &str, to: Option<&Role>) -> Result<(), NotDone> {
        let can = |role: &Role| role.superuser && role.login && role.password.is_some();
        let one = self.0.get(name).is_some_and(|role| can(role));
        let others = self.0.iter().any(|(other, role)| other != name && can(role));
        if one && !others && !to.is_some_and(can) {
            return Err(NotDone::LastSuperuser(name.to_owned()));
        }
        Ok(())
    }

    /// Changes the roles that `concerns` holds of.
    fn each(&mut self, change: impl Fn(&mut Role), concerns: impl Fn(&Role) -> bool) {
        self.0
            .values_mut()
            .filter(|role| concerns(role))
            .for_each(|role| change(Arc::make_mut(role)));
    }

    /// Nobody has rights on `gone` any more, nor on parts of it.
    pub(super) fn forget(&mut self, gone: &Resource) {
        let is_gone = |on: &Resource| on == gone || on.parent().as_ref() == Some(gone);
        self.each(
            |role| role.grants.retain(|on, _| !is_gone(on)),
            |role| role.grants.keys().any(is_gone),
        );
    }
}

/// What an entry about roles may hold.
pub(super) fn check(change: &RoleChange) -> Result<(), NotDone> {
    let (name, password) = match change {
        RoleChange::Create { name, password, .. } | RoleChange::Alter { name, password, .. } => {
            (name, password.as_ref())
        }
        RoleChange::Drop { name }
        | RoleChange::Join { name, .. }
        | RoleChange::Leave { name, .. }
        | RoleChange::Revoke { name, .. } => (name, None),
        RoleChange::Grant { name, on, .. } => {
            if on.path().len() > 2 * MAX_NAME_BYTES {
                return Err(out_of_bounds("a grant on what has too long a name".to_owned()));
            }
            (name, None)
        }
    };
    check_name(name)?;
    if password.is_some_and(|password| !is_hash(&password.0)) {
        return Err(out_of_bounds("a password's hash that is none".to_owned()));
    }
    Ok(())
}

/// What a role may be called.
pub(super) fn check_name(name: &str) -> Result<(), NotDone> {
    match name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        len => Err(out_of_bounds(format!(
            "a role's name of {len} bytes, 1 to {MAX_NAME_BYTES} are allowed"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2a$04$TNnQxQ5pyNJIcP5.LDfEOeTvDPDGMoUFAzVVxsX3x8hMs9y2XpIOK";

    fn create(name: &str, superuser: bool) -> RoleChange {
        RoleChange::Create {
            name: name.to_owned(),
            superuser,
            login: true,
            password: Some(Secret(HASH.to_owned())),
            by: None,
        }
    }

    fn join(name: &str, of: &str) -> RoleChange {
        RoleChange::Join { name: name.to_owned(), of: of.to_owned() }
    }

    fn grant(name: &str, one: Permission, on: &Resource) -> RoleChange {
        RoleChange::Grant {
            name: name.to_owned(),
            permissions: Permissions::of(&[one]),
            on: on.clone(),
        }
    }

    fn with(changes: &[RoleChange]) -> Roles {
        let mut roles = Roles::default();
        for (at, change) in changes.iter().enumerate() {
            roles.apply(change, Epoch(at as u64 + 1)).unwrap();
        }
        roles
    }

    #[test]
    fn rights_come_from_memberships_and_from_the_whole() {
        let keyspace = Resource::Keyspace("shop".to_owned());
        let mut roles = with(&[
            create("readers", false),
            create("staff", false),
            create("eve", false),
            join("staff", "readers"),
            join("eve", "staff"),
            grant("readers", Permission::Select, &keyspace),
            grant("staff", Permission::Modify, &Resource::table("shop", "stock")),
        ]);
        let may =
            |roles: &Roles, one, table| roles.may("eve", one, &Resource::table("shop", table));
        assert!(may(&roles, Permission::Select, "bills"));
        assert!(may(&roles, Permission::Modify, "stock"));
        assert!(!may(&roles, Permission::Modify, "bills"));
        assert!(!roles.may("readers", Permission::Modify, &Resource::table("shop", "stock")));
        assert!(!roles.may("nobody", Permission::Select, &keyspace));
        let leave = RoleChange::Leave { name: "staff".to_owned(), of: "readers".to_owned() };
        roles.apply(&leave, Epoch(9)).unwrap();
        assert!(!may(&roles, Permission::Select, "bills"), "at once");
        let circle = roles.apply(&join("readers", "readers"), Epoch(10));
        assert!(matches!(circle, Err(NotDone::IsMember { .. })), "{circle:?}");
        let circle = roles.apply(&join("staff", "eve"), Epoch(10));
        assert!(matches!(circle, Err(NotDone::IsMember { .. })), "{circle:?}");
    }

    #[test]
    fn what_is_gone_leaves_no_rights_to_what_comes_after_it() {
        let table = Resource::table("shop", "stock");
        let mut roles = with(&[
            create("a", false),
            create("b", false),
            create("admin", true),
            join("a", "b"),
            grant("a", Permission::Select, &table),
            grant("a", Permission::Alter, &Resource::Role("b".to_owned())),
        ]);
        roles.forget(&Resource::Keyspace("shop".to_owned()));
        assert!(!roles.may("a", Permission::Select, &table));
        let since = roles.get("b").unwrap().since;
        roles.apply(&RoleChange::Drop { name: "b".to_owned() }, Epoch(7)).unwrap();
        roles.apply(&create("b", true), Epoch(8)).unwrap();
        assert!(!roles.is_superuser("a"), "a member of the b that was");
        assert!(!roles.may("a", Permission::Alter, &Resource::Role("b".to_owned())));
        assert!(roles.get("b").unwrap().since > since, "who had logged in as it no longer has");
    }

    #[test]
    fn the_last_superuser_who_can_log_in_stays() {
        let mut roles = with(&[create("admin", true), create("b", false), join("b", "admin")]);
        let last = Err(NotDone::LastSuperuser("admin".to_owned()));
        let alter = |name: &str, superuser, login| RoleChange::Alter {
            name: name.to_owned(),
            superuser,
            login,
            password: None,
        };
        assert_eq!(roles.apply(&RoleChange::Drop { name: "admin".to_owned() }, Epoch(4)), last);
        assert_eq!(roles.apply(&alter("admin", Some(false), None), Epoch(4)), last);
        assert_eq!(roles.apply(&alter("admin", None, Some(false)), Epoch(4)), last);
        roles.apply(&alter("b", Some(true), None), Epoch(4)).unwrap();
        assert_eq!(roles.get("b").unwrap().since, Epoch(2), "it logs in as ever");
        roles.apply(&RoleChange::Drop { name: "admin".to_owned() }, Epoch(5)).unwrap();
        assert!(roles.get("b").unwrap().member_of.is_empty());
    }

    #[test]
    fn a_hash_is_bcrypts_and_of_bearable_cost() {
        assert!(is_hash(HASH));
        let costly = HASH.replace("$04$", "$31$");
        for bad in ["", "secret", &HASH[1..], &HASH[..59], &costly, "$2a$04$é"] {
            assert!(!is_hash(bad), "{bad}");
        }
        let long = RoleChange::Drop { name: "x".repeat(1000) };
        assert!(check(&long).is_err());
        assert!(check(&create("a", true)).is_ok());
    }
}
