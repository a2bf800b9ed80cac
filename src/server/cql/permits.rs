//! What a principal must be allowed for a statement to run, as Cassandra asks it. (Statements about
//! roles judge for themselves: [`crate::server::cql::roles`].)

use crate::cql::ast::{Name, Statement};
use crate::cql::modify::Modify;
use crate::cql::roles::{Permission, Resource};
use crate::meta::ClusterState;
use crate::server::auth::{Denied, Gate, Principal};
use crate::server::cql::error::{CqlError, UNAUTHORIZED};
use crate::server::cql::statement::{Ready, Target, Work};

impl From<Denied> for CqlError {
    fn from(Denied(why): Denied) -> Self {
        Self::new(UNAUTHORIZED, why)
    }
}

/// Lets `principal` run what is `ready`, or says why not.
pub(super) fn check(
    gate: &Gate,
    state: &ClusterState,
    principal: &Principal,
    ready: &Ready,
) -> Result<(), CqlError> {
    let judge = Judge { gate, state, principal };
    match &ready.work {
        Work::Select(target, _) => judge.table(Permission::Select, target),
        Work::Modify(target, modify) => judge.write(target, modify),
        Work::Batch { writes, .. } => {
            writes.iter().try_for_each(|(target, modify)| judge.write(target, modify))
        }
        Work::Other(statement) => judge.other(ready.keyspace.as_deref(), statement),
    }
}

#[derive(Clone, Copy)]
struct Judge<'a> {
    gate: &'a Gate,
    state: &'a ClusterState,
    principal: &'a Principal,
}

impl Judge<'_> {
    fn on(&self, permission: Permission, resource: &Resource) -> Result<(), CqlError> {
        Ok(self.gate.permit(self.state, self.principal, permission, resource)?)
    }

    fn table(&self, permission: Permission, target: &Target) -> Result<(), CqlError> {
        let name = (target.keyspace.as_str(), target.name.as_str());
        Ok(self.gate.permit_table(self.state, self.principal, permission, name)?)
    }

    fn write(&self, target: &Target, modify: &Modify) -> Result<(), CqlError> {
        self.table(Permission::Modify, target)?;
        // Its answer shows what is there.
        if modify.condition().is_some() {
            self.table(Permission::Select, target)?;
        }
        Ok(())
    }

    fn named(
        &self,
        permission: Permission,
        keyspace: Option<&str>,
        name: &Name,
    ) -> Result<(), CqlError> {
        match name.keyspace.as_deref().or(keyspace) {
            Some(keyspace) => self.on(permission, &Resource::table(keyspace, &name.name)),
            // It will be refused for that.
            None => Ok(()),
        }
    }

    /// On the keyspace that something is in.
    fn inside(
        &self,
        permission: Permission,
        keyspace: Option<&str>,
        name: &Name,
    ) -> Result<(), CqlError> {
        match name.keyspace.as_deref().or(keyspace) {
            Some(keyspace) => self.on(permission, &Resource::Keyspace(keyspace.to_owned())),
            None => Ok(()),
        }
    }

    /// On the table that an index is of.
    fn of_index(&self, keyspace: Option<&str>, index: &Name) -> Result<(), CqlError> {
        let keyspace = index.keyspace.as_deref().or(keyspace);
        let mut tables = self.state.tables().values();
        let table = tables.find(|table| {
            let mut indexes = table.rows.iter().flat_map(|schema| schema.indexes());
            Some(table.name.keyspace.as_str()) == keyspace
                && indexes.any(|own| own.name == index.name)
        });
        match table {
            Some(table) => {
                let on = Resource::table(&table.name.keyspace, &table.name.table);
                self.on(Permission::Alter, &on)
            }
            None => self.logged_in(),
        }
    }

    fn logged_in(&self) -> Result<(), CqlError> {
        match self.principal {
            Principal::Node => Ok(()),
            other => Ok(self.gate.known(self.state, other).map(drop)?),
        }
    }

    fn other(&self, keyspace: Option<&str>, statement: &Statement) -> Result<(), CqlError> {
        use Permission::{Alter, Create, Drop, Modify};
        let whole = |name: &str| Resource::Keyspace(name.to_owned());
        match statement {
            Statement::Truncate(table) => self.named(Modify, keyspace, table),
            Statement::CreateKeyspace { .. } => self.on(Create, &Resource::AllKeyspaces),
            Statement::AlterKeyspace { name, .. } => self.on(Alter, &whole(name)),
            Statement::DropKeyspace { name, .. } => self.on(Drop, &whole(name)),
            Statement::CreateTable(create) => self.inside(Create, keyspace, &create.table),
            Statement::AlterTable { table, .. } => self.named(Alter, keyspace, table),
            Statement::DropTable { table, .. } => self.named(Drop, keyspace, table),
            Statement::CreateType { name, .. } => self.inside(Create, keyspace, name),
            Statement::AlterType { name, .. } => self.inside(Alter, keyspace, name),
            Statement::DropType { name, .. } => self.inside(Drop, keyspace, name),
            Statement::CreateIndex(create) => self.named(Alter, keyspace, &create.table),
            Statement::DropIndex { name, .. } => self.of_index(keyspace, name),
            // For everybody who has logged in; those about roles judge for themselves.
            Statement::Use(_)
            | Statement::Describe(_)
            | Statement::CreateRole { .. }
            | Statement::AlterRole { .. }
            | Statement::DropRole { .. }
            | Statement::GrantRole { .. }
            | Statement::RevokeRole { .. }
            | Statement::Grant { .. }
            | Statement::Revoke { .. }
            | Statement::ListRoles { .. }
            | Statement::ListUsers
            | Statement::ListPermissions { .. }
            | Statement::Refused(_) => self.logged_in(),
            // Never here by themselves: they have tables, which are judged above.
            Statement::Select(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Batch(_) => Ok(()),
        }
    }
}
