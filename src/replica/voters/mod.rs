//! The votes of this replica on the lightweight transactions of its keys: one [`Voter`] a key, in
//! a row of its own, on stable storage before any answer leaves (law L9), whatever the durability
//! of plain writes.
//!
//! - One step at a time per key: under the lock of the key's shard the newest row is read (staged
//!   ones included), changed and handed to the committer; the answer waits for its commit.
//! - *Prepare* shows the key's record too, read **after** the vote: a decision leaves the vote only
//!   once the record holds it, so of the two at least one shows it.
//! - Two rounds of different epochs may count different voters, so a voter answers only at its own
//!   epoch, looked at under the lock. Who then lists the open votes of a newer epoch
//!   ([`Replica::open_keys`]) misses none of an older one.
//! - What follows a decision that is known to be chosen waits for nobody and is waited for by nobody:
//!   the end of the vote, the row's removal and, in a `strong` table, where reads see votes, the
//!   decision's way into the data. They are submitted [`Pace::Lazily`]. Each keeps its place in the order,
//!   so after a crash the disk holds a state that was passed through.
//! - A row goes when its decision is on every replica ([`Forgotten`]); its promise goes into the
//!   *floor*, which stands for all keys without a row, in the same batch. So nothing is ever
//!   forgotten by age.
//! - A directory that was put back to an older state goes on as another voter (rule 17), and what it
//!   finds of the earlier one's votes is no vote of its.
//! - A row that fails its checksum is a lost vote: this replica votes on that key no more.

mod rows;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::binary;
use crate::meta::{ConflictMode, Table};
use crate::net::paxos::{MAX_ROUND_ROWS, PaxosAnswer, PaxosRequest, PaxosStep, read_rows};
use crate::net::{Refusal, Response};
use crate::paxos::{AcceptReply, Durable, Forgotten, PrepareReply, Voter};
use crate::plants::{Plant, planted};
use crate::record::{self, Record, RecordKind};
use crate::replica::update::{Change, MAX_RECORD_BYTES, Stop, Terms, answer, refuse_submit};
use crate::replica::{Place, Replica, SHARDS, shard_of};
use crate::ring::token_in;
use crate::storage::keys::{self, Kind};
use crate::storage::{Batch, CommitTicket, Pace, StorageError, SubmitError};
use crate::types::{Ballot, Epoch, Generation, Key, TableId, Token};

pub(crate) use rows::VoteRow;

/// Format byte of the floor's row. Predecessors: none.
const FLOOR_FORMAT: u8 = 1;

/// Rows that are staged and not yet acknowledged.
#[derive(Debug, Default)]
struct Shard {
    /// The newest version of each, with its commit; `None`: the row is dropped.
    staged: BTreeMap<Bytes, (u64, Option<Bytes>)>,
    order: VecDeque<(u64, Bytes)>,
}

impl Shard {
    fn stage(&mut self, row: Bytes, commit: u64, stored: Option<Bytes>) {
        self.order.push_back((commit, row.clone()));
        self.staged.insert(row, (commit, stored));
    }

    fn settle(&mut self, acked: u64) {
        while self.order.front().is_some_and(|(commit, _)| *commit <= acked)
            && let Some((commit, row)) = self.order.pop_front()
        {
            if self.staged.get(&row).is_some_and(|(newest, _)| *newest == commit) {
                self.staged.remove(&row);
            }
        }
    }
}

/// The votes that are under way, and the floor.
#[derive(Debug)]
pub(super) struct Voters {
    shards: Vec<Mutex<Shard>>,
    /// Read from the disk at its first use.
    floor: Mutex<Option<Ballot>>,
}

impl Default for Voters {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), floor: Mutex::default() }
    }
}

impl Voters {
    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what a full disk has refused.
    pub(super) fn roll_back(&self, acked: u64) {
        for shard in 0..self.shards.len() {
            let mut shard = self.lock(shard);
            shard.settle(acked);
            *shard = Shard::default();
        }
    }
}

/// A voter's reply, the voter after it, and the commit to wait for, if there is one.
type Staged<T> = (Durable<T>, Voter<Bytes>, Option<CommitTicket>);

/// A voter's row.
struct Seat {
    row: Bytes,
    shard: usize,
    /// What its bytes are bound to.
    address: u64,
}

impl Replica {
    /// Answers a step of the Paxos of one key, planned at `epoch`.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub async fn paxos(
        &self,
        table: &Table,
        token: Token,
        request: PaxosRequest,
        epoch: Epoch,
    ) -> Result<Response, Refusal> {
        let place = self.place(table, token, &request.key);
        let seat = Seat {
            row: keys::row(Kind::Paxos, table.id, token, &request.key, b""),
            shard: shard_of(token),
            address: xxhash_rust::xxh3::xxh3_64(&place.address),
        };
        let outcome = match request.step {
            PaxosStep::Peek => self.peek(&place, &seat, epoch).await,
            PaxosStep::Prepare { ballot, rows } => {
                let rows = self.places_of(table, token, &rows)?;
                self.prepare(&place, &seat, epoch, (ballot, &rows)).await
            }
            PaxosStep::Accept { ballot, record, next } => {
                if place.kind == RecordKind::Row {
                    self.rows_of_set(table, token, &record)?;
                } else {
                    record::verify(&record, &place.address)
                        .map_err(|e| Refusal::BadRequest { what: format!("record: {e}") })?;
                }
                self.accept(&seat, epoch, (ballot, record, next)).await
            }
            PaxosStep::Commit { ballot, record, generation } => {
                // Elsewhere an answer to a client waits for it.
                let is_strong = table.settings.conflict == ConflictMode::Strong;
                let pace = if is_strong { Pace::Lazily } else { Pace::Now };
                if place.kind == RecordKind::Row {
                    let rows = self.rows_of_set(table, token, &record)?;
                    self.commit_rows(&seat, ballot, (&rows, generation, pace)).await
                } else {
                    self.commit(&place, &seat, ballot, (&record, generation, pace)).await
                }
            }
            PaxosStep::Forget { ballot } => {
                self.forget_votes(&seat, ballot).map(|()| PaxosAnswer::Done).map_err(Stop::Refused)
            }
        };
        answer(outcome.map(Response::Paxos))
    }

    async fn peek(&self, place: &Place, seat: &Seat, epoch: Epoch) -> Result<PaxosAnswer, Stop> {
        // Nothing is promised, and yet the vote that is shown must be on the disk.
        let keep = |_: &mut Voter<Bytes>| Durable::new((), false);
        let ((), voter) = self.vote(seat, Some(epoch), Pace::Now, keep).await?;
        Ok(self.show(place, &[], &voter)?)
    }

    async fn prepare(
        &self,
        place: &Place,
        seat: &Seat,
        epoch: Epoch,
        (ballot, rows): (Ballot, &[Place]),
    ) -> Result<PaxosAnswer, Stop> {
        let pace = if planted(Plant::P02) { Pace::Lazily } else { Pace::Now };
        let prepare = |voter: &mut Voter<Bytes>| voter.on_prepare(ballot);
        let (reply, voter) = self.vote(seat, Some(epoch), pace, prepare).await?;
        match reply {
            PrepareReply::Promise { .. } => Ok(self.show(place, rows, &voter)?),
            PrepareReply::Reject { promised, .. } => Ok(PaxosAnswer::Reject { promised }),
        }
    }

    /// The vote, and then the records: in this order.
    fn show(
        &self,
        place: &Place,
        rows: &[Place],
        voter: &Voter<Bytes>,
    ) -> Result<PaxosAnswer, Refusal> {
        let generation = self.generation(place.leaf.tree).map_err(|e| self.refuse_storage(&e))?;
        let sound = |place: &Place| {
            let record = self.shown(place).map_err(|e| self.refuse_storage(&e))?;
            if let Some(bytes) = &record {
                record::verify(bytes, &place.address)
                    .map_err(|e| self.refuse_damaged(&place.row, &e))?;
            }
            Ok(record)
        };
        Ok(PaxosAnswer::Shown {
            accepted: voter.vote().cloned(),
            committed: voter.committed(),
            record: sound(place)?,
            rows: rows.iter().map(sound).collect::<Result<_, Refusal>>()?,
            generation,
        })
    }

    /// Where rows are that a round is to look at.
    fn places_of(&self, table: &Table, token: Token, keys: &[Key]) -> Result<Vec<Place>, Refusal> {
        let bad = |what: &str| Refusal::BadRequest { what: what.to_owned() };
        if keys.len() > MAX_ROUND_ROWS {
            return Err(bad("too many rows for one round"));
        }
        if keys.iter().any(|key| token_in(table.id, key) != token) {
            return Err(bad("a row of another partition"));
        }
        Ok(keys.iter().map(|key| self.place(table, token, key)).collect())
    }

    /// The rows of a set, each with its place.
    fn rows_of_set(
        &self,
        table: &Table,
        token: Token,
        set: &Bytes,
    ) -> Result<Vec<(Place, Record)>, Refusal> {
        let bad = |what: String| Refusal::BadRequest { what };
        let rows = read_rows(set).map_err(|e| bad(e.to_string()))?;
        let mut out = Vec::with_capacity(rows.len());
        for (key, bytes) in rows {
            if token_in(table.id, &key) != token {
                return Err(bad("a row of another partition".to_owned()));
            }
            let place = self.place(table, token, &key);
            let record = Record::decode(&bytes, &place.address);
            let record = record.map_err(|e| bad(format!("record: {e}")))?;
            if record.kind() != RecordKind::Row {
                return Err(bad("a record of another kind".to_owned()));
            }
            out.push((place, record));
        }
        Ok(out)
    }

    /// As [`Replica::commit`], for the rows of a partition: all of them in one commit.
    async fn commit_rows(
        &self,
        seat: &Seat,
        ballot: Ballot,
        (rows, generation, pace): (&[(Place, Record)], Generation, Pace),
    ) -> Result<PaxosAnswer, Stop> {
        self.merge_rows(rows, generation, pace).await?;
        self.flush_if_periodic(None).await?;
        // A round that names other rows must not lose these; see `crate::paxos`.
        self.end_vote(seat, ballot, rows.len() > 1).await
    }

    async fn accept(
        &self,
        seat: &Seat,
        epoch: Epoch,
        (ballot, record, next): (Ballot, Bytes, Option<Ballot>),
    ) -> Result<PaxosAnswer, Stop> {
        let pace = if planted(Plant::P03) { Pace::Lazily } else { Pace::Now };
        let accept = |voter: &mut Voter<Bytes>| voter.on_accept(ballot, record, next);
        match self.vote(seat, Some(epoch), pace, accept).await?.0 {
            AcceptReply::Accepted { .. } => Ok(PaxosAnswer::Done),
            AcceptReply::Reject { promised, .. } => Ok(PaxosAnswer::Reject { promised }),
        }
    }

    /// Stores a decision as data, and only then ends the vote on it.
    async fn commit(
        &self,
        place: &Place,
        seat: &Seat,
        ballot: Ballot,
        (record, generation, pace): (&Bytes, Generation, Pace),
    ) -> Result<PaxosAnswer, Stop> {
        let bad = |what: String| Stop::Refused(Refusal::BadRequest { what });
        let incoming =
            Record::decode(record, &place.address).map_err(|e| bad(format!("record: {e}")))?;
        // What is decided is stored, whatever this node's clock says of its stamps.
        let _ = self.take_in(&incoming);
        let generation = Some(generation);
        let terms = Terms { heals: false, max_bytes: MAX_RECORD_BYTES, generation, pace };
        let merge = |record: &mut Record| {
            let merged = record
                .merge(&incoming)
                .map_err(|_| Refusal::BadRequest { what: "a record of another kind".to_owned() })?;
            Ok(if merged.changed { Change::Store(()) } else { Change::Keep(()) })
        };
        self.update(place, terms, merge).await?;
        self.flush_if_periodic(None).await?;
        self.end_vote(seat, ballot, false).await
    }

    /// What was decided at `ballot` is stored as data: a vote on it is none any more, and stays
    /// only to be shown (`keeps`).
    async fn end_vote(
        &self,
        seat: &Seat,
        ballot: Ballot,
        keeps: bool,
    ) -> Result<PaxosAnswer, Stop> {
        let ended = |voter: &mut Voter<Bytes>| {
            let news = match keeps {
                true => voter.on_commit_keeping(ballot),
                false => voter.on_commit(ballot),
            };
            Durable::new((), news)
        };
        // The row's own change may be lost: then the decision is met, and finished, once more.
        self.vote(seat, None, Pace::Lazily, ended).await?;
        Ok(PaxosAnswer::Done)
    }

    fn forget_votes(&self, seat: &Seat, ballot: Ballot) -> Result<(), Refusal> {
        let mut shard = self.voters.lock(seat.shard);
        let Some(voter) = self.load(&mut shard, seat)?.0 else {
            return self.drop_stale(&mut shard, seat);
        };
        let Forgotten::Dropped { floor } = voter.forget(ballot) else { return Ok(()) };
        // Held until the batch has its place in the order: the row's last version is the highest.
        let mut lowest = self.voters.floor.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = self.read_floor(&mut lowest)?.max(floor);
        let mut batch = Batch::new();
        batch.delete(seat.row.clone());
        batch.put(floor_row(), binary::seal(FLOOR_FORMAT, &floor));
        let ticket = self.committer.submit_at(Pace::Lazily, batch);
        let ticket = ticket.map_err(|e| refuse_submit(&e))?;
        *lowest = Some(floor);
        shard.stage(seat.row.clone(), ticket.seq, None);
        Ok(())
    }

    /// Drops the row of an earlier voter, if it is one.
    fn drop_stale(&self, shard: &mut Shard, seat: &Seat) -> Result<(), Refusal> {
        let is_there = self.engine.get(&seat.row).map_err(|e| self.refuse_storage(&e))?.is_some();
        if is_there && !shard.staged.contains_key(&seat.row) {
            let mut batch = Batch::new();
            batch.delete(seat.row.clone());
            let ticket = self.committer.submit_at(Pace::Lazily, batch);
            let ticket = ticket.map_err(|e| refuse_submit(&e))?;
            shard.stage(seat.row.clone(), ticket.seq, None);
        }
        Ok(())
    }

    /// One step of a voter. Its answer is given when the row is durable, unless it may become so
    /// lazily.
    async fn vote<T>(
        &self,
        seat: &Seat,
        epoch: Option<Epoch>,
        pace: Pace,
        step: impl FnOnce(&mut Voter<Bytes>) -> Durable<T>,
    ) -> Result<(T, Voter<Bytes>), Stop> {
        let (reply, voter, ticket) = self.stage_vote(seat, epoch, pace, step)?;
        if let Some(ticket) = ticket.filter(|_| pace == Pace::Now) {
            let seq = ticket.seq;
            ticket.await.map_err(|error| match error {
                StorageError::Full => Stop::Refused(Refusal::DiskFull),
                error => Stop::Failed(error),
            })?;
            self.flush_if_periodic(Some(seq)).await?;
        }
        Ok((reply.after_persist(), voter))
    }

    fn stage_vote<T>(
        &self,
        seat: &Seat,
        epoch: Option<Epoch>,
        pace: Pace,
        step: impl FnOnce(&mut Voter<Bytes>) -> Durable<T>,
    ) -> Result<Staged<T>, Stop> {
        let mut shard = self.voters.lock(seat.shard);
        if let Some(epoch) = epoch
            && self.stamps.epoch() != epoch
        {
            let epoch = self.stamps.epoch();
            return Err(Refusal::StaleEpoch { epoch }.into());
        }
        let (stored, under_way) = self.load(&mut shard, seat)?;
        let mut voter = match stored {
            Some(voter) => voter,
            None => {
                let mut floor = self.voters.floor.lock().unwrap_or_else(PoisonError::into_inner);
                Voter::new(self.read_floor(&mut floor)?)
            }
        };
        let reply = step(&mut voter);
        let ticket = if reply.must_persist() {
            let bytes = Bytes::from(voter.encode(seat.address, self.actor.voter()));
            let mut batch = Batch::new();
            batch.put(seat.row.clone(), bytes.clone());
            let ticket = self.committer.submit_at(pace, batch).map_err(|e| refuse_submit(&e))?;
            shard.stage(seat.row.clone(), ticket.seq, Some(bytes));
            Some(ticket)
        } else if under_way && pace == Pace::Now {
            let barrier = self.committer.barrier().map_err(|error| match error {
                SubmitError::Stopped(error) => Stop::Failed(error),
                error => Stop::Refused(refuse_submit(&error)),
            });
            Some(barrier?)
        } else {
            None
        };
        Ok((reply, voter, ticket))
    }

    /// Whether there is a row of votes on `key` here, or one whose removal is not durable yet: then its
    /// record is not to be purged, as a vote may hold what the record's tombstone covers.
    pub(super) fn has_votes(
        &self,
        table: TableId,
        token: Token,
        key: &Key,
    ) -> Result<bool, Refusal> {
        let row = keys::row(Kind::Paxos, table, token, key, b"");
        let mut shard = self.voters.lock(shard_of(token));
        shard.settle(self.committer.acked_seq());
        if shard.staged.contains_key(&row) {
            return Ok(true);
        }
        Ok(self.engine.get(&row).map_err(|e| self.refuse_storage(&e))?.is_some())
    }

    /// The newest version of a row, and whether it is not acknowledged yet.
    fn load(
        &self,
        shard: &mut Shard,
        seat: &Seat,
    ) -> Result<(Option<Voter<Bytes>>, bool), Refusal> {
        shard.settle(self.committer.acked_seq());
        let staged = shard.staged.get(&seat.row).map(|(_, stored)| stored.clone());
        let under_way = staged.is_some();
        let stored = match staged {
            Some(stored) => stored,
            None => self.engine.get(&seat.row).map_err(|e| self.refuse_storage(&e))?,
        };
        let decode = |bytes: Bytes| Voter::decode(seat.address, self.actor.voter(), &bytes);
        let voter = stored.map(decode).transpose().map_err(|error| {
            tracing::error!(%error, "a vote is lost; this replica votes on its key no more");
            Refusal::Damaged
        })?;
        Ok((voter.flatten(), under_way))
    }

    fn read_floor(&self, floor: &mut Option<Ballot>) -> Result<Ballot, Refusal> {
        if let Some(floor) = *floor {
            return Ok(floor);
        }
        let stored = self.engine.get(&floor_row()).map_err(|e| self.refuse_storage(&e))?;
        let read = match stored {
            None => Ballot::ZERO,
            Some(bytes) => binary::unseal("the floor of all votes", FLOOR_FORMAT, &bytes)
                .map_err(|error| Refusal::Storage { message: error.to_string() })?,
        };
        *floor = Some(read);
        Ok(read)
    }

    /// With periodic durability a ticket resolves before its sync, and a vote must not.
    async fn flush_if_periodic(&self, seq: Option<u64>) -> Result<(), Stop> {
        let needed = seq.unwrap_or_else(|| self.committer.acked_seq());
        if self.committer.durable_seq() >= needed {
            return Ok(());
        }
        self.committer.flush().await.map_err(Stop::Failed)
    }
}

fn floor_row() -> Bytes {
    keys::node_row("paxos-floor")
}
