//! The fold of the log.

mod indexes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use crate::cql::index::Index;
use crate::cql::roles::Resource;
use crate::cql::schema::Schema;
use crate::cql::types::UdtType;
use crate::meta::keyspace::MAX_KEYSPACES;
use crate::meta::{
    Command, ConflictMode, Founder, Keyspace, LogEntry, NotDone, RoleChange, Roles,
    SYSTEM_KEYSPACE, Table, TableName, TableSettings, Verdict, bounds,
};
use crate::ring::{Member, RingSnapshot, claim};
use crate::types::{ActorId, Addresses, Epoch, Incarnation, IndexId, NodeId, TableId, VoterId};

/// The most tables that a cluster may have: each costs every node memory.
const MAX_TABLES: usize = 10_000;

/// A member, as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberState {
    /// Its place in the ring.
    pub member: Member,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// Whose votes count for it.
    pub voter: VoterId,
    /// The actor that acts for it. Dots of any other of its actors are refused.
    pub actor: ActorId,
    /// How often its directory had been opened at the newest start on record.
    pub incarnation: Incarnation,
    /// Which start that was.
    pub nonce: u64,
    /// False while its data directory, which began anew, is being refilled: it counts for no read
    /// and no vote (rule 17).
    pub filled: bool,
}

/// What a cluster has agreed on at one epoch. Cheap to clone: the large parts are shared.
///
/// Invariants:
/// - before the founding there are no members and no tables, and the ring is empty;
/// - after it, the ring's members are exactly [`ClusterState::members`];
/// - table ids are epochs of their creating entries, so none returns;
/// - no two members share an actor or a voter, and neither returns once it was replaced
///   (invariant I24).
#[derive(Clone, Debug)]
pub struct ClusterState {
    epoch: Epoch,
    id: Option<u128>,
    name: String,
    secret: [u8; 32],
    ring: Arc<RingSnapshot>,
    members: BTreeMap<NodeId, Arc<MemberState>>,
    /// Actors that acted for a member once.
    replaced: BTreeSet<ActorId>,
    /// Voters that voted for a member once.
    replaced_voters: BTreeSet<VoterId>,
    tables: BTreeMap<TableId, Arc<Table>>,
    /// By keyspace, then by table.
    names: BTreeMap<String, BTreeMap<String, TableId>>,
    /// Those that CQL has made.
    keyspaces: BTreeMap<String, Arc<Keyspace>>,
    /// The entry that changed keyspaces, types or tables of rows last.
    schema_version: Epoch,
    roles: Arc<Roles>,
}

impl ClusterState {
    /// The state before any entry: a ring of one partition that the node `me` keeps by itself,
    /// so that everything has a ring to look at; no table exists on it.
    #[must_use]
    pub fn unfounded(me: Member) -> Self {
        let owner = me.id;
        #[allow(clippy::expect_used, reason = "one member that owns one partition is a ring")]
        let ring = RingSnapshot::new(Epoch(0), 1, vec![me], vec![owner]).expect("a ring of one");
        Self {
            epoch: Epoch(0),
            id: None,
            name: String::new(),
            secret: [0; 32],
            ring: Arc::new(ring),
            members: BTreeMap::new(),
            replaced: BTreeSet::new(),
            replaced_voters: BTreeSet::new(),
            tables: BTreeMap::new(),
            names: BTreeMap::new(),
            keyspaces: BTreeMap::new(),
            schema_version: Epoch(0),
            roles: Arc::default(),
        }
    }

    /// Entries applied.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// True once entry 1 is applied.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        self.id.is_some()
    }

    /// A digest of the founding entry: two clusters that share a name do not share this.
    /// `None` before the founding.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u128> {
        self.id
    }

    /// The cluster's name; empty before the founding.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        &self.name
    }

    /// The key that seals clients' contexts.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// The ring.
    #[must_use]
    pub fn ring(&self) -> &Arc<RingSnapshot> {
        &self.ring
    }

    /// All members; empty before the founding.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Arc<MemberState>> {
        &self.members
    }

    /// One member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Arc<MemberState>> {
        self.members.get(&node)
    }

    /// Who votes on the next entry (entry n fixes the voters of entry n+1: rule 20).
    #[must_use]
    pub fn voters(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    /// Whether votes that `voter` casts for `node` count. (An older copy of the voter's directory
    /// casts none: it sees in the log that it is one.)
    #[must_use]
    pub fn may_vote(&self, node: NodeId, voter: VoterId) -> bool {
        self.members.get(&node).is_some_and(|member| member.voter == voter)
    }

    /// Why `node` can never (again) act as `actor` and vote as `voter`; `None` if it can.
    #[must_use]
    pub fn taken(&self, node: NodeId, actor: ActorId, voter: VoterId) -> Option<NotDone> {
        let mut others = self.members.iter().filter(|(id, _)| **id != node);
        if self.replaced.contains(&actor) || others.clone().any(|(_, m)| m.actor == actor) {
            return Some(NotDone::ActorTaken(actor));
        }
        let taken = self.replaced_voters.contains(&voter) || others.any(|(_, m)| m.voter == voter);
        taken.then_some(NotDone::VoterTaken(voter))
    }

    /// Whether `actor`, acting for `node`, counts for reads and mints: it is the actor on record
    /// and lacks nothing that the node had acknowledged (rules 2 and 17).
    #[must_use]
    pub fn is_filled(&self, node: NodeId, actor: ActorId) -> bool {
        self.members.get(&node).is_some_and(|member| member.actor == actor && member.filled)
    }

    /// All tables, by id.
    #[must_use]
    pub fn tables(&self) -> &BTreeMap<TableId, Arc<Table>> {
        &self.tables
    }

    /// The table with this id.
    #[must_use]
    pub fn table(&self, id: TableId) -> Option<&Arc<Table>> {
        self.tables.get(&id)
    }

    /// The table with this name.
    #[must_use]
    pub fn table_named(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.table_of(&name.keyspace, &name.table)
    }

    /// The table with the name of these two parts. Every request asks, so it allocates nothing.
    #[must_use]
    pub fn table_of(&self, keyspace: &str, table: &str) -> Option<&Arc<Table>> {
        self.names.get(keyspace)?.get(table).and_then(|id| self.tables.get(id))
    }

    /// The keyspaces that CQL has made.
    #[must_use]
    pub fn keyspaces(&self) -> &BTreeMap<String, Arc<Keyspace>> {
        &self.keyspaces
    }

    /// The entry that changed keyspaces, types or tables of rows last.
    #[must_use]
    pub fn schema_version(&self) -> Epoch {
        self.schema_version
    }

    /// Who may log in, and what each may do.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Applies the next entry. Deterministic: equal states and equal entries give equal results.
    pub fn apply(&mut self, entry: &LogEntry) -> Verdict {
        self.epoch = self.epoch.next();
        let LogEntry { id, command } = entry;
        let done = bounds::check(command).and_then(|()| self.carry_out(*id, command));
        done.unwrap_or_else(Verdict::NotDone)
    }

    fn carry_out(&mut self, entry: u128, command: &Command) -> Result<Verdict, NotDone> {
        match command {
            Command::Found { cluster, secret, q, founders } => {
                self.found(entry, cluster, *secret, *q, founders)
            }
            Command::Nothing => Ok(Verdict::Done),
            _ if !self.is_founded() => Err(NotDone::NotFounded),
            Command::NodeStarted { node, voter, actor, incarnation, nonce, after, addresses } => {
                let start = (*voter, *actor, *incarnation, *nonce);
                self.started(*node, start, *after, addresses)
            }
            Command::Refilled { node, actor } => self.refilled(*node, *actor),
            Command::CreateTable { name, settings } => self.create(name, settings, None),
            Command::AlterTable { id, expected, settings } => self.alter(*id, *expected, settings),
            Command::DropTable { id } => {
                let name = self.table(*id).map(|table| table.name.clone());
                let verdict = self.drop_table(*id)?;
                if let Some(TableName { keyspace, table }) = name {
                    // A keyspace that a bucket made ends with its last table.
                    let is_last = !self.names.contains_key(&keyspace);
                    if is_last && !self.keyspaces.contains_key(&keyspace) {
                        self.forget(&Resource::Keyspace(keyspace));
                    } else {
                        self.forget(&Resource::Table(keyspace, table));
                    }
                }
                Ok(verdict)
            }
            Command::Owned { made, by } => {
                let verdict = self.carry_out(entry, &made.command())?;
                Arc::make_mut(&mut self.roles).own(by, &made.resource());
                Ok(verdict)
            }
            Command::Role(change) => {
                if let RoleChange::Grant { on, .. } = change {
                    self.must_exist(on)?;
                }
                Arc::make_mut(&mut self.roles).apply(change, self.epoch).map(|()| Verdict::Done)
            }
            Command::CreateKeyspace(_)
            | Command::AlterKeyspace { .. }
            | Command::DropKeyspace { .. }
            | Command::CreateRows { .. }
            | Command::AlterRows { .. }
            | Command::Truncate { .. }
            | Command::CreateType(_)
            | Command::AlterType { .. }
            | Command::DropType { .. }
            | Command::CreateIndex { .. }
            | Command::DropIndex { .. } => {
                let verdict = schema::carry_out(self, command)?;
                self.schema_version = self.epoch;
                Ok(verdict)
            }
        }
    }

    fn found(
        &mut self,
        entry: u128,
        cluster: &str,
        secret: [u8; 32],
        q: u32,
        founders: &[Founder],
    ) -> Result<Verdict, NotDone> {
        if self.is_founded() {
            return Err(NotDone::AlreadyFounded);
        }
        let actors: BTreeSet<ActorId> = founders.iter().map(|f| f.actor).collect();
        let voters: BTreeSet<VoterId> = founders.iter().map(|f| f.voter).collect();
        if actors.len() < founders.len() || voters.len() < founders.len() {
            return Err(NotDone::BadRing("two founders share an actor".to_owned()));
        }
        let members: Vec<Member> = founders.iter().map(|f| f.member.clone()).collect();
        let owners = claim(q, &members, None);
        let ring = RingSnapshot::new(self.epoch, q, members, owners)
            .map_err(|error| NotDone::BadRing(error.to_string()))?;
        let mut id = entry.to_be_bytes().to_vec();
        id.extend_from_slice(cluster.as_bytes());
        id.extend_from_slice(&secret);
        self.id = Some(xxh3_128(&id));
        self.name = cluster.to_owned();
        self.secret = secret;
        self.ring = Arc::new(ring);
        self.members = founders
            .iter()
            .map(|founder| {
                let state = MemberState {
                    member: founder.member.clone(),
                    addresses: founder.addresses.clone(),
                    voter: founder.voter,
                    actor: founder.actor,
                    incarnation: founder.incarnation,
                    nonce: founder.nonce,
                    filled: true,
                };
                (founder.member.id, Arc::new(state))
            })
            .collect();
        Ok(Verdict::Done)
    }

    fn member_mut(&mut self, node: NodeId) -> Result<&mut MemberState, NotDone> {
        self.members.get_mut(&node).map(Arc::make_mut).ok_or(NotDone::NoSuchMember(node))
    }

    fn started(
        &mut self,
        node: NodeId,
        (voter, actor, incarnation, nonce): (VoterId, ActorId, Incarnation, u64),
        after: u64,
        addresses: &Addresses,
    ) -> Result<Verdict, NotDone> {
        if let Some(taken) = self.taken(node, actor, voter) {
            return Err(taken);
        }
        let member = self.member_mut(node)?;
        let said_twice = (member.voter, member.actor, member.nonce) == (voter, actor, nonce);
        if member.nonce != after && !said_twice {
            return Err(NotDone::Overtaken { known: member.incarnation.0 });
        }
        let before = (member.actor, member.voter);
        if before.0 == actor && before.1 != voter {
            // Who has lost its votes has lost its dots.
            return Err(NotDone::ActorTaken(actor));
        }
        // Under a new actor the directory's history began anew: whatever the old one held may be
        // gone.
        member.filled &= before.0 == actor;
        member.voter = voter;
        member.actor = actor;
        member.incarnation = incarnation;
        member.nonce = nonce;
        member.addresses = addresses.clone();
        if before.0 != actor {
            self.replaced.insert(before.0);
        }
        if before.1 != voter {
            self.replaced_voters.insert(before.1);
        }
        Ok(Verdict::Done)
    }

    fn refilled(&mut self, node: NodeId, actor: ActorId) -> Result<Verdict, NotDone> {
        let member = self.member_mut(node)?;
        if member.actor != actor {
            return Err(NotDone::OldActor(actor));
        }
        member.filled = true;
        Ok(Verdict::Done)
    }

    fn create(
        &mut self,
        name: &TableName,
        settings: &TableSettings,
        rows: Option<Arc<Schema>>,
    ) -> Result<Verdict, NotDone> {
        if let Some(table) = self.table_named(name) {
            let same = table.settings == *settings && table.rows.is_some() == rows.is_some();
            return Err(NotDone::TableExists { id: table.id, same });
        }
        let full = NotDone::TooManyTables(MAX_TABLES);
        if self.tables.len() >= MAX_TABLES {
            return Err(full);
        }
        let id = TableId::of_entry(self.epoch.0, rows.is_some()).ok_or(full)?;
        let table =
            Table { id, name: name.clone(), settings: settings.clone(), version: self.epoch, rows };
        self.tables.insert(id, Arc::new(table));
        self.schema_version = self.epoch;
        self.names.entry(name.keyspace.clone()).or_default().insert(name.table.clone(), id);
        Ok(Verdict::Created(id))
    }

    fn alter(
        &mut self,
        id: TableId,
        expected: Epoch,
        settings: &TableSettings,
    ) -> Result<Verdict, NotDone> {
        let table = self.tables.get_mut(&id).filter(|table| table.rows.is_none());
        let table = table.ok_or(NotDone::NoSuchTable)?;
        if !table.settings.may_become(settings) {
            return Err(NotDone::Immutable);
        }
        if table.version != expected {
            return Err(NotDone::TableChanged { version: table.version });
        }
        let table = Arc::make_mut(table);
        table.settings = settings.clone();
        table.version = self.epoch;
        self.schema_version = self.epoch;
        Ok(Verdict::Done)
    }

    /// Refuses what was dropped while its grant was under way: else what comes after it under its
    /// name would have that. (What the nodes keep for themselves is made when it is used.)
    fn must_exist(&self, on: &Resource) -> Result<(), NotDone> {
        let of_nodes =
            |keyspace: &str| keyspace == SYSTEM_KEYSPACE || keyspace.starts_with("system");
        let (exists, why) = match on {
            Resource::AllKeyspaces | Resource::AllRoles => return Ok(()),
            Resource::Keyspace(name) => {
                let known = self.keyspaces.contains_key(name) || self.names.contains_key(name);
                (known || of_nodes(name), NotDone::NoSuchKeyspace)
            }
            Resource::Table(keyspace, table) => {
                let known = self.table_of(keyspace, table).is_some();
                (known || of_nodes(keyspace), NotDone::NoSuchTable)
            }
            Resource::Role(name) => {
                (self.roles.get(name).is_some(), NotDone::NoSuchRole(name.clone()))
            }
        };
        if exists { Ok(()) } else { Err(why) }
    }

    /// Rights on what was dropped do not come back with another one of its name.
    fn forget(&mut self, gone: &Resource) {
        Arc::make_mut(&mut self.roles).forget(gone);
    }

    fn drop_table(&mut self, id: TableId) -> Result<Verdict, NotDone> {
        let table = self.tables.remove(&id).ok_or(NotDone::NoSuchTable)?;
        self.schema_version = self.epoch;
        if let Some(tables) = self.names.get_mut(&table.name.keyspace) {
            tables.remove(&table.name.table);
            if tables.is_empty() {
                self.names.remove(&table.name.keyspace);
            }
        }
        Ok(Verdict::Done)
    }
}

/// Keyspaces, user types and tables of rows.
mod schema {
    use super::*;

    pub(super) fn carry_out(
        state: &mut ClusterState,
        command: &Command,
    ) -> Result<Verdict, NotDone> {
        match command {
            Command::CreateKeyspace(keyspace) => create_keyspace(state, keyspace),
            Command::AlterKeyspace { name, durable_writes } => {
                keyspace_mut(state, name)?.durable_writes = *durable_writes;
                Ok(Verdict::Done)
            }
            Command::DropKeyspace { name } => drop_keyspace(state, name),
            Command::CreateRows { name, schema } => create_rows(state, name, schema),
            Command::AlterRows { id, expected, schema } => {
                let epoch = state.epoch;
                let table = state.tables.get_mut(id).filter(|table| table.rows.is_some());
                let table = table.ok_or(NotDone::NoSuchTable)?;
                if table.version != *expected {
                    return Err(NotDone::TableChanged { version: table.version });
                }
                let table = Arc::make_mut(table);
                let mut schema = (**schema).clone();
                if let Some(old) = &table.rows {
                    schema = schema.with_indexes_of(old);
                }
                table.rows = Some(Arc::new(schema));
                table.version = epoch;
                Ok(Verdict::Done)
            }
            Command::Truncate { id } => {
                let table = state.tables.get(id).filter(|table| !table.name.is_system()).cloned();
                let table = table.ok_or(NotDone::NoSuchTable)?;
                state.drop_table(*id)?;
                state.create(&table.name, &table.settings, table.rows.clone())
            }
            Command::CreateType(udt) => {
                let types = &mut keyspace_mut(state, &udt.keyspace)?.types;
                if types.len() >= MAX_KEYSPACES {
                    return Err(NotDone::OutOfBounds("too many user types".to_owned()));
                }
                match types.contains_key(&udt.name) {
                    true => Err(NotDone::TypeExists),
                    false => {
                        types.insert(udt.name.clone(), udt.clone());
                        Ok(Verdict::Done)
                    }
                }
            }
            Command::AlterType { expected, new } => alter_type(state, expected, new),
            Command::DropType { keyspace, name } => drop_type(state, keyspace, name),
            Command::CreateIndex { table, expected, name, column, part, class } => {
                let index = Index {
                    id: IndexId(state.epoch.0),
                    name: name.clone(),
                    column: *column,
                    part: *part,
                    class: class.clone(),
                };
                indexes::create(state, *table, *expected, index)
            }
            Command::DropIndex { table, name } => indexes::drop(state, *table, name),
            _ => Ok(Verdict::Done),
        }
    }

    fn keyspace_mut<'a>(
        state: &'a mut ClusterState,
        name: &str,
    ) -> Result<&'a mut Keyspace, NotDone> {
        state.keyspaces.get_mut(name).map(Arc::make_mut).ok_or(NotDone::NoSuchKeyspace)
    }

    fn create_keyspace(
        state: &mut ClusterState,
        keyspace: &Arc<Keyspace>,
    ) -> Result<Verdict, NotDone> {
        if state.keyspaces.contains_key(&keyspace.name) {
            return Err(NotDone::KeyspaceExists);
        }
        if state.keyspaces.len() >= MAX_KEYSPACES {
            return Err(NotDone::OutOfBounds(format!("{MAX_KEYSPACES} keyspaces are allowed")));
        }
        state.keyspaces.insert(keyspace.name.clone(), keyspace.clone());
        Ok(Verdict::Done)
    }

    fn drop_keyspace(state: &mut ClusterState, name: &str) -> Result<Verdict, NotDone> {
        state.keyspaces.remove(name).ok_or(NotDone::NoSuchKeyspace)?;
        let ids: Vec<TableId> =
            state.names.get(name).into_iter().flatten().map(|(_, id)| *id).collect();
        let is_theirs = |id: &TableId| state.table(*id).is_some_and(|t| !t.name.is_system());
        for id in ids.into_iter().filter(is_theirs).collect::<Vec<_>>() {
            state.drop_table(id)?;
        }
        state.forget(&Resource::Keyspace(name.to_owned()));
        Ok(Verdict::Done)
    }

    fn create_rows(
        state: &mut ClusterState,
        name: &TableName,
        schema: &Arc<Schema>,
    ) -> Result<Verdict, NotDone> {
        let keyspace = state.keyspaces.get(&name.keyspace).ok_or(NotDone::NoSuchKeyspace)?;
        let settings = TableSettings {
            conflict: ConflictMode::Lww,
            ..TableSettings::new(keyspace.replication.clone())
        };
        state.create(name, &settings, Some(schema.clone()))
    }

    fn alter_type(
        state: &mut ClusterState,
        expected: &Arc<UdtType>,
        new: &Arc<UdtType>,
    ) -> Result<Verdict, NotDone> {
        let keyspace = keyspace_mut(state, &new.keyspace)?;
        // The new version has every field of the old one at its place.
        let grows = new.fields.len() >= expected.fields.len()
            && expected.fields.iter().zip(&new.fields).all(|(old, new)| old.1 == new.1);
        if keyspace.types.get(&new.name) != Some(expected) || new.name != expected.name || !grows {
            return Err(NotDone::NoSuchType);
        }
        keyspace.types.insert(new.name.clone(), new.clone());
        for udt in keyspace.types.values_mut() {
            if udt.name != new.name {
                let fields =
                    udt.fields.iter().map(|(name, kind)| (name.clone(), kind.with_udt(new)));
                *udt = Arc::new(UdtType { fields: fields.collect(), ..(**udt).clone() });
            }
        }
        let epoch = state.epoch;
        for table in state.tables.values_mut() {
            let Some(schema) = &table.rows else { continue };
            let mentions =
                |kind: &crate::cql::types::CqlType| kind.mentions(&new.keyspace, &new.name);
            if schema.columns().iter().any(|column| mentions(&column.kind)) {
                let mut schema = (**schema).clone();
                schema.renew_udt(new);
                let table = Arc::make_mut(table);
                table.rows = Some(Arc::new(schema));
                table.version = epoch;
            }
        }
        Ok(Verdict::Done)
    }

    fn drop_type(state: &mut ClusterState, keyspace: &str, name: &str) -> Result<Verdict, NotDone> {
        let types = &keyspace_mut(state, keyspace)?.types;
        if !types.contains_key(name) {
            return Err(NotDone::NoSuchType);
        }
        let user = types.values().find(|udt| {
            udt.name != name && udt.fields.iter().any(|(_, kind)| kind.mentions(keyspace, name))
        });
        if let Some(user) = user {
            return Err(NotDone::TypeInUse(user.name.clone()));
        }
        let user = state.tables.values().find(|table| {
            let columns = table.rows.iter().flat_map(|schema| schema.columns());
            columns.into_iter().any(|column| column.kind.mentions(keyspace, name))
        });
        if let Some(user) = user {
            return Err(NotDone::TypeInUse(user.name.to_string()));
        }
        keyspace_mut(state, keyspace)?.types.remove(name);
        Ok(Verdict::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cql::roles::Permission;
    use crate::meta::fixture::{self, apply, founder};

    fn unfounded() -> ClusterState {
        ClusterState::unfounded(founder("n1").member)
    }

    fn founded() -> ClusterState {
        fixture::founded(&["n1", "n2", "n3"])
    }

    fn found() -> Command {
        fixture::found(&["n1", "n2", "n3"])
    }

    fn create() -> Command {
        Command::CreateTable { name: "cart".parse().unwrap(), settings: TableSettings::bucket(3) }
    }

    /// A start of `n1` as (voter, actor), after the start `after`.
    fn started((voter, actor): (u64, u64), nonce: u64, after: u64) -> Command {
        Command::NodeStarted {
            node: NodeId::derive("c", "n1"),
            voter: VoterId(voter),
            actor: ActorId(actor),
            incarnation: Incarnation(nonce),
            nonce,
            after,
            addresses: Addresses::default(),
        }
    }

    #[test]
    fn a_cluster_is_founded_once() {
        let mut state = founded();
        let id = state.cluster_id();
        assert_eq!(apply(&mut state, found()), Verdict::NotDone(NotDone::AlreadyFounded));
        assert_eq!(state.cluster_id(), id);
        assert_eq!(state.epoch(), Epoch(2), "a refusal takes its place in the log");
    }

    #[test]
    fn what_somebody_makes_is_theirs_with_the_entry_that_makes_it() {
        let may = |state: &ClusterState, table: &str| {
            state.roles().may("eve", Permission::Select, &Resource::table("cart", table))
        };
        let role = |name: &str| {
            Command::Role(RoleChange::Create {
                name: name.to_owned(),
                superuser: false,
                login: true,
                password: None,
                by: None,
            })
        };
        let mut state = founded();
        apply(&mut state, role("eve"));
        let own = create().owned(Some("eve".to_owned()));
        let Verdict::Created(id) = apply(&mut state, own.clone()) else { panic!("not created") };
        assert!(may(&state, "kv"));
        let again = apply(&mut state, create().owned(Some("bob".to_owned())));
        assert!(matches!(again, Verdict::NotDone(NotDone::TableExists { .. })), "{again:?}");
        assert_eq!(apply(&mut state, Command::DropTable { id }), Verdict::Done);
        assert!(matches!(apply(&mut state, create()), Verdict::Created(_)));
        assert!(!may(&state, "kv"), "another one of that name");
        let keyspace = fixture::create_keyspace("shop").owned(Some("eve".to_owned()));
        assert_eq!(apply(&mut state, keyspace), Verdict::Done);
        assert!(state.roles().may("eve", Permission::Drop, &Resource::table("shop", "any")));
        let nobody = fixture::create_keyspace("more").owned(Some("carl".to_owned()));
        assert_eq!(apply(&mut state, nobody), Verdict::Done, "its maker is gone");
        let long = fixture::create_keyspace("k").owned(Some("x".repeat(1000)));
        let verdict = apply(&mut state, long);
        assert!(matches!(verdict, Verdict::NotDone(NotDone::OutOfBounds(_))), "{verdict:?}");
    }

    /// It was dropped while the statement was on its way.
    #[test]
    fn nothing_is_granted_on_what_is_gone() {
        let mut state = founded();
        let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
        let role = RoleChange::Create {
            name: "eve".to_owned(),
            superuser: false,
            login: true,
            password: None,
            by: None,
        };
        apply(&mut state, Command::Role(role));
        let grant = |on: Resource| {
            let (name, permissions) = ("eve".to_owned(), on.applicable());
            Command::Role(RoleChange::Grant { name, permissions, on })
        };
        let table = Resource::table("cart", "kv");
        assert_eq!(apply(&mut state, grant(table.clone())), Verdict::Done);
        apply(&mut state, Command::DropTable { id });
        for gone in [table, Resource::Keyspace("cart".to_owned()), Resource::Role("bob".to_owned())]
        {
            let verdict = apply(&mut state, grant(gone.clone()));
            assert!(matches!(verdict, Verdict::NotDone(_)), "{gone}: {verdict:?}");
        }
        for kept in [Resource::table("henge", "locks"), Resource::table("system", "local")] {
            assert_eq!(apply(&mut state, grant(kept)), Verdict::Done, "made when it is used");
        }
    }

    #[test]
    fn nothing_happens_before_the_founding() {
        let mut state = unfounded();
        assert_eq!(apply(&mut state, create()), Verdict::NotDone(NotDone::NotFounded));
    }

    #[test]
    fn a_table_created_twice_is_one_table_and_its_id_never_returns() {
        let mut state = founded();
        let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
        let again = Verdict::NotDone(NotDone::TableExists { id, same: true });
        assert_eq!(apply(&mut state, create()), again);
        assert_eq!(apply(&mut state, Command::DropTable { id }), Verdict::Done);
        let Verdict::Created(other) = apply(&mut state, create()) else { panic!("not created") };
        assert_ne!(id, other);
    }

    fn id_of(name: &str) -> u64 {
        NodeId::derive("c", name).0 as u64
    }

    #[test]
    fn a_start_takes_the_place_of_the_one_that_it_follows_and_of_no_other() {
        let mut state = founded();
        let me = (id_of("n1"), id_of("n1"));
        assert_eq!(apply(&mut state, started(me, 8, 7)), Verdict::Done);
        let restored = apply(&mut state, started(me, 9, 7));
        assert_eq!(restored, Verdict::NotDone(NotDone::Overtaken { known: 8 }));
        assert_eq!(apply(&mut state, started(me, 8, 7)), Verdict::Done, "said twice");
        assert_eq!(apply(&mut state, started(me, 9, 8)), Verdict::Done);
        let late = apply(&mut state, started(me, 8, 7));
        assert_eq!(late, Verdict::NotDone(NotDone::Overtaken { known: 9 }));
    }

    #[test]
    fn an_actor_that_was_replaced_or_is_anothers_never_acts_again() {
        let mut state = founded();
        let (n1, n2) = (id_of("n1"), id_of("n2"));
        let no_actor = |actor| Verdict::NotDone(NotDone::ActorTaken(ActorId(actor)));
        let no_voter = |voter| Verdict::NotDone(NotDone::VoterTaken(VoterId(voter)));
        assert_eq!(apply(&mut state, started((n2, n2), 9, 7)), no_actor(n2), "a copy of n2's");
        assert_eq!(apply(&mut state, started((n2, 5), 9, 7)), no_voter(n2), "and renewed");
        assert_eq!(apply(&mut state, started((5, n1), 9, 7)), no_actor(n1), "half a new history");
        assert_eq!(apply(&mut state, started((5, 5), 8, 7)), Verdict::Done, "emptied");
        assert_eq!(apply(&mut state, started((n1, n1), 9, 8)), no_actor(n1), "an old backup");
        assert_eq!(apply(&mut state, started((n1, 6), 9, 8)), no_voter(n1), "half renewed");
        assert_eq!(apply(&mut state, started((5, 5), 9, 8)), Verdict::Done);
    }

    #[test]
    fn an_emptied_directory_counts_for_nothing_until_refilled() {
        let mut state = founded();
        let node = NodeId::derive("c", "n1");
        let (voter, old) = (VoterId(id_of("n1")), ActorId(id_of("n1")));
        assert!(state.is_filled(node, old));
        assert!(state.may_vote(node, voter));
        assert!(!state.may_vote(node, VoterId(6)), "not named yet");
        assert_eq!(apply(&mut state, started((6, 5), 8, 7)), Verdict::Done);
        assert!(!state.is_filled(node, ActorId(5)));
        assert!(!state.is_filled(node, old));
        assert!(state.may_vote(node, VoterId(6)), "named by an entry");
        assert!(!state.may_vote(node, voter));
        let refilled = |actor| Command::Refilled { node, actor };
        assert!(matches!(apply(&mut state, refilled(old)), Verdict::NotDone(_)));
        assert_eq!(apply(&mut state, refilled(ActorId(5))), Verdict::Done);
        assert!(state.is_filled(node, ActorId(5)));
    }

    /// An unclean stop with periodic syncs: writes may be lost, votes are not.
    #[test]
    fn a_new_actor_under_the_same_voter_votes_at_once_and_is_refilled() {
        let mut state = founded();
        let node = NodeId::derive("c", "n1");
        let voter = VoterId(id_of("n1"));
        assert_eq!(apply(&mut state, started((voter.0, 5), 8, 7)), Verdict::Done);
        assert!(state.may_vote(node, voter));
        assert!(!state.is_filled(node, ActorId(5)));
    }

    #[test]
    fn what_a_table_is_cannot_change_but_how_it_behaves_may() {
        let mut state = founded();
        let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
        let settings = TableSettings { ttl_s: 60, ..TableSettings::bucket(3) };
        let expected = state.table(id).unwrap().version;
        let alter = Command::AlterTable { id, expected, settings: settings.clone() };
        assert_eq!(apply(&mut state, alter), Verdict::Done);
        let expected = state.table(id).unwrap().version;
        let settings = TableSettings { conflict: ConflictMode::Lww, ..settings };
        let alter = Command::AlterTable { id, expected, settings };
        assert_eq!(apply(&mut state, alter), Verdict::NotDone(NotDone::Immutable));
    }

    #[test]
    fn of_two_changes_of_a_table_at_once_the_second_is_told_of_the_first() {
        let mut state = founded();
        let Verdict::Created(id) = apply(&mut state, create()) else { panic!("not created") };
        let expected = state.table(id).unwrap().version;
        let change = |ttl_s, max_siblings| Command::AlterTable {
            id,
            expected,
            settings: TableSettings { ttl_s, max_siblings, ..TableSettings::bucket(3) },
        };
        assert_eq!(apply(&mut state, change(60, 64)), Verdict::Done);
        let overtaken = NotDone::TableChanged { version: state.epoch() };
        assert_eq!(apply(&mut state, change(0, 5)), Verdict::NotDone(overtaken));
        assert_eq!(state.table(id).unwrap().settings.ttl_s, 60, "the first one stands");
    }

    #[test]
    fn what_no_node_could_keep_for_ever_is_refused() {
        let out_of_bounds = |state: &mut ClusterState, command| {
            let verdict = apply(state, command);
            assert!(matches!(verdict, Verdict::NotDone(NotDone::OutOfBounds(_))), "{verdict:?}");
        };
        let long = || "x".repeat(1000);
        let mut state = unfounded();
        for change in [
            |founder: &mut Founder, long: String| founder.member.name = long,
            |founder: &mut Founder, long: String| founder.member.rack = long,
            |founder: &mut Founder, long: String| founder.addresses.http = long,
        ] {
            let Command::Found { cluster, secret, q, mut founders } = found() else { return };
            change(&mut founders[1], long());
            out_of_bounds(&mut state, Command::Found { cluster, secret, q, founders });
        }
        for partitions in [0, 48, 1 << 31] {
            let Command::Found { cluster, secret, founders, .. } = found() else { return };
            out_of_bounds(&mut state, Command::Found { cluster, secret, q: partitions, founders });
        }
        let mut state = founded();
        let addresses = Addresses { peer: long(), ..Addresses::default() };
        let mut start = started((id_of("n1"), id_of("n1")), 8, 7);
        if let Command::NodeStarted { addresses: named, .. } = &mut start {
            *named = addresses;
        }
        out_of_bounds(&mut state, start);
        let settings = TableSettings::bucket(3);
        let name = TableName { keyspace: long(), table: "kv".to_owned() };
        out_of_bounds(&mut state, Command::CreateTable { name, settings: settings.clone() });
        let factors = (0..1000).map(|n| (format!("dc{n}"), 1)).collect();
        let settings = TableSettings::new(crate::ring::Replication::NetworkTopology { factors });
        let name: TableName = "t".parse().unwrap();
        out_of_bounds(&mut state, Command::CreateTable { name, settings });
        assert!(state.tables().is_empty());
    }
}
