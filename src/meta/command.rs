//! The entries of the log.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cql::index::IndexPart;
use crate::cql::roles::Resource;
use crate::cql::schema::Schema;
use crate::cql::types::UdtType;
use crate::meta::{Keyspace, RoleChange, TableName, TableSettings};
use crate::ring::Member;
use crate::types::{ActorId, Addresses, Epoch, Incarnation, NodeId, TableId, VoterId};

/// A member of the founding list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Founder {
    /// Its place in the ring.
    pub member: Member,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// The voter of its data directory.
    pub voter: VoterId,
    /// The actor of its data directory.
    pub actor: ActorId,
    /// How often that directory had been opened.
    pub incarnation: Incarnation,
    /// Which start it was.
    pub nonce: u64,
}

/// One change of what the cluster has agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Command {
    /// Entry 1: the cluster begins.
    Found {
        /// Its name.
        cluster: String,
        /// Keys the contexts that clients carry.
        secret: [u8; 32],
        /// How many partitions the ring is cut into, for ever.
        q: u32,
        /// Every member; each has confirmed this very list (rule 20).
        founders: Vec<Founder>,
    },
    /// A member has started (rule 17). Takes effect only if the start on record is the one that
    /// this one means to follow: whoever proposes it has looked whether its directory knows of
    /// that start.
    NodeStarted {
        /// Which.
        node: NodeId,
        /// The voter of its data directory.
        voter: VoterId,
        /// The actor of its data directory.
        actor: ActorId,
        /// How often that directory has been opened.
        incarnation: Incarnation,
        /// Which start this is: random.
        nonce: u64,
        /// The nonce of the start that it follows.
        after: u64,
        /// Where it can be reached now.
        addresses: Addresses,
    },
    /// A member whose directory had begun anew has exchanged data with all other replicas, and
    /// counts again.
    Refilled {
        /// Which.
        node: NodeId,
        /// The actor that was refilled.
        actor: ActorId,
    },
    /// A new table.
    CreateTable {
        /// Its name.
        name: TableName,
        /// Its settings.
        settings: TableSettings,
    },
    /// Other settings for a table.
    AlterTable {
        /// Which.
        id: TableId,
        /// The entry that had last set its settings when these were made from them: of two
        /// changes made at once, the second one is told that it missed the first.
        expected: Epoch,
        /// All its settings from now on.
        settings: TableSettings,
    },
    /// A table ends, and its id with it.
    DropTable {
        /// Which.
        id: TableId,
    },
    /// Nothing. Fills a place in the log, so that an earlier entry can be learnt to be final.
    Nothing,
    /// A new keyspace, without tables and types.
    CreateKeyspace(Arc<Keyspace>),
    /// Other settings for a keyspace; its replication stays.
    AlterKeyspace {
        /// Which.
        name: String,
        /// What it says of itself.
        durable_writes: bool,
    },
    /// A keyspace ends, with its types and its tables of rows.
    DropKeyspace {
        /// Which.
        name: String,
    },
    /// A new table of rows, in a keyspace that there is.
    CreateRows {
        /// Its name.
        name: TableName,
        /// Its columns.
        schema: Arc<Schema>,
    },
    /// Other columns or options for a table of rows.
    AlterRows {
        /// Which.
        id: TableId,
        /// The entry that had last set its columns when these were made from them.
        expected: Epoch,
        /// All its columns from now on.
        schema: Arc<Schema>,
    },
    /// A table gets another id, under which it is empty.
    Truncate {
        /// Which.
        id: TableId,
    },
    /// A new user type.
    CreateType(Arc<UdtType>),
    /// A user type has other fields. What there was keeps its place.
    AlterType {
        /// As it was when the change was made from it.
        expected: Arc<UdtType>,
        /// As it is from now on.
        new: Arc<UdtType>,
    },
    /// A user type ends.
    DropType {
        /// Its keyspace.
        keyspace: String,
        /// Its name.
        name: String,
    },
    /// A new index of a table of rows.
    CreateIndex {
        /// The table.
        table: TableId,
        /// The entry that had last set its columns when the index was planned.
        expected: Epoch,
        /// The index's name.
        name: String,
        /// The id of the column.
        column: u16,
        /// What of the column.
        part: IndexPart,
        /// The class that the client named.
        class: Option<String>,
    },
    /// An index ends.
    DropIndex {
        /// Its table.
        table: TableId,
        /// Its name.
        name: String,
    },
    /// A change of who may log in, and what each may do.
    Role(RoleChange),
    /// Something new, and all rights on it for the role that makes it: at once, so that nobody is
    /// left with a table of their own that they may not use.
    Owned {
        /// What.
        made: Made,
        /// Who makes it. A role that is gone by then, or has no room for it, goes without.
        by: String,
    },
}

impl Command {
    /// The same on behalf of the role `by`, where there is one, and if it makes something that can
    /// be somebody's own.
    #[must_use]
    pub fn owned(self, by: Option<String>) -> Self {
        let Some(by) = by else { return self };
        let made = match self {
            Self::CreateKeyspace(keyspace) => Made::Keyspace(keyspace),
            Self::CreateTable { name, settings } => Made::Table { name, settings },
            Self::CreateRows { name, schema } => Made::Rows { name, schema },
            other => return other,
        };
        Self::Owned { made, by }
    }
}

/// What can be somebody's own: as the commands of these names make it.
// No command within a command: a peer could nest them deeper than the stack.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "as of the commands")]
pub enum Made {
    /// [`Command::CreateKeyspace`].
    Keyspace(Arc<Keyspace>),
    /// [`Command::CreateTable`].
    Table { name: TableName, settings: TableSettings },
    /// [`Command::CreateRows`].
    Rows { name: TableName, schema: Arc<Schema> },
}

impl Made {
    /// What it is to those who grant.
    #[must_use]
    pub fn resource(&self) -> Resource {
        match self {
            Self::Keyspace(keyspace) => Resource::Keyspace(keyspace.name.clone()),
            Self::Table { name, .. } | Self::Rows { name, .. } => {
                Resource::table(&name.keyspace, &name.table)
            }
        }
    }

    /// The command that makes it nobody's.
    pub(super) fn command(&self) -> Command {
        match self.clone() {
            Self::Keyspace(keyspace) => Command::CreateKeyspace(keyspace),
            Self::Table { name, settings } => Command::CreateTable { name, settings },
            Self::Rows { name, schema } => Command::CreateRows { name, schema },
        }
    }
}

/// A command with the id under which its proposer will look for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Random; tells equal commands of two proposers apart.
    pub id: u128,
    /// What to do.
    pub command: Command,
}

/// Why a command took its place in the log without an effect.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NotDone {
    /// The cluster had been founded.
    #[error("the cluster is founded already")]
    AlreadyFounded,
    /// Nothing can be done before the founding.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// The founding list makes no ring.
    #[error("the founding list makes no ring: {0}")]
    BadRing(String),
    /// The node is no member.
    #[error("node {0} is no member of this cluster")]
    NoSuchMember(NodeId),
    /// Another start of the node stands on record than the one that this one follows.
    #[error("another start of this node is on record by now: number {known}")]
    Overtaken {
        /// The incarnation of that start.
        known: u64,
    },
    /// The actor is another member's, or was replaced by a later one: its data directory is an
    /// older copy, or a copy of another node's, and would mint dots a second time (law L3).
    #[error("actor {0} is another member's, or was replaced: this data directory is a copy")]
    ActorTaken(ActorId),
    /// The same of the voter: it would vote a second time where it has voted before.
    #[error("voter {0} is another member's, or was replaced: this data directory is a copy")]
    VoterTaken(VoterId),
    /// The actor is not the member's present one.
    #[error("actor {0} is not this member's present one")]
    OldActor(ActorId),
    /// The table exists, with these settings or others.
    #[error("the table exists already")]
    TableExists {
        /// Its id.
        id: TableId,
        /// Whether its settings are the ones that were asked for.
        same: bool,
    },
    /// No such table.
    #[error("there is no such table")]
    NoSuchTable,
    /// Replication and conflict mode are for ever.
    #[error("a table's replication and conflict mode cannot change")]
    Immutable,
    /// Too many tables.
    #[error("the cluster has {0} tables, which is the most it may have")]
    TooManyTables(usize),
    /// The table's settings were changed since they were read.
    #[error("the table's settings were changed meanwhile, by entry {version} of the metadata log")]
    TableChanged {
        /// The entry that set them.
        version: Epoch,
    },
    /// The keyspace exists.
    #[error("the keyspace exists already")]
    KeyspaceExists,
    /// No such keyspace.
    #[error("there is no such keyspace")]
    NoSuchKeyspace,
    /// The user type exists.
    #[error("the user type exists already")]
    TypeExists,
    /// No such user type, or it was changed meanwhile.
    #[error("there is no such user type, or it was changed meanwhile")]
    NoSuchType,
    /// Tables or types are made of the user type.
    #[error("the user type is used by {0}")]
    TypeInUse(String),
    /// The command holds more than a node may be made to keep.
    #[error("out of bounds: {0}")]
    OutOfBounds(String),
    /// The keyspace has an index of that name.
    #[error("the index exists already")]
    IndexExists,
    /// No such index.
    #[error("there is no such index")]
    NoSuchIndex,
    /// The role exists.
    #[error("{0} already exists")]
    RoleExists(String),
    /// No such role.
    #[error("{0} doesn't exist")]
    NoSuchRole(String),
    /// The membership would be one twice, or close a circle.
    #[error("{name} is a member of {of}")]
    IsMember {
        /// The member.
        name: String,
        /// Of which role.
        of: String,
    },
    /// There is no such membership.
    #[error("{name} is not a member of {of}")]
    NoMember {
        /// Who is no member.
        name: String,
        /// Of which role.
        of: String,
    },
    /// Nobody could ever change a role again.
    #[error("{0} is the only superuser who can log in: make another one first")]
    LastSuperuser(String),
}

/// What became of an entry when it was applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// It took effect.
    Done,
    /// It created this table.
    Created(TableId),
    /// It had no effect.
    NotDone(NotDone),
}
