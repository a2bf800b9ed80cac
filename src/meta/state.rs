//! The fold of the log.

mod indexes;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use crate::cql::roles::Resource;
use crate::cql::schema::Schema;
use crate::meta::{
    Command, Founder, Keyspace, LogEntry, NotDone, RoleChange, Roles, SYSTEM_KEYSPACE, Table,
    TableName, TableSettings, Verdict, bounds,
};
use crate::ring::{Member, RingSnapshot, claim};
use crate::types::{ActorId, Addresses, Epoch, Incarnation, NodeId, TableId, VoterId};

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

#[cfg(test)]
mod tests;
