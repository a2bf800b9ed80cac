//! Founding a cluster.
//!
//! Entry 1 has no entry before it, so its voters come from the configuration: the founding list.
//! Two halves of a cluster, or two nodes with different lists, must never found two clusters. So
//! founding takes the agreement of *every* listed node, in two steps:
//!
//! 1. *Cards.* Each founder shows its card: name, place, voter. A founder whose configuration
//!    lists others shows none.
//! 2. *Confirmation.* Each is shown all cards and stores, durably, that it will help to found this
//!    very cluster and no other. From then on it votes on entry 1 only for these cards. A founder
//!    whose disk was wiped in between has another voter, hence another card, which the others do
//!    not confirm any more: the founding stops with a message instead of splitting in two. (They
//!    could not even go on as a majority: they cannot know whether the one that was wiped had
//!    confirmed, or had listed others.)
//!
//! Then any founder proposes entry 1 by Paxos among those cards' voters.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::binary;
use crate::cluster::Cluster;
use crate::cluster::wire::{MetaRequest, MetaResponse};
use crate::meta::{Command, Founder, LogEntry};
use crate::types::{Digest, NodeId};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(3);

/// Pauses between tries, shortest and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a hindrance is logged: once per so many tries.
const LOG_EVERY: u32 = 16;

/// How long the other founders may take to come up before that is worth a warning: those that are
/// started together never do so in one moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a try did not found the cluster.
#[derive(Debug)]
pub(super) enum Hindrance {
    /// Others are not there yet, or are about to found it.
    Waiting(String),
    /// Somebody has to put it right.
    Wrong(String),
}

impl std::fmt::Display for Hindrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Waiting(why) | Self::Wrong(why)) = self;
        f.write_str(why)
    }
}

impl Hindrance {
    /// True of what happens in every founding, when tries have been made for so long.
    fn is_usual(&self, tried: Duration) -> bool {
        matches!(self, Self::Waiting(_)) && tried < PATIENCE
    }
}

impl Cluster {
    /// Founds the cluster if need be.
    pub(super) async fn until_founded(self: &Arc<Self>) {
        let mut pause = PAUSE.0;
        let (began, mut tries) = (self.env.mono(), 0);
        while !self.state().is_founded() {
            if let Err(hindrance) = self.found().await {
                if hindrance.is_usual(self.env.mono().since(began)) {
                    tracing::debug!(%hindrance, "the cluster is not founded yet");
                } else {
                    if tries % LOG_EVERY == 0 {
                        tracing::warn!(%hindrance, "the cluster is not founded yet");
                    }
                    tries += 1;
                }
            }
            if !self.state().is_founded() {
                self.env.sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Digest of what this node's configuration says of the founding.
    fn names(&self) -> u128 {
        let mut names: Vec<&str> =
            self.config.founders.iter().map(|founder| founder.name.as_str()).collect();
        names.sort_unstable();
        Digest::of(&binary::body(&(&self.config.cluster, names, self.config.partitions))).0
    }

    fn card(&self) -> Founder {
        Founder {
            member: self.config.member.clone(),
            addresses: self.config.addresses.clone(),
            voter: self.config.voter,
            actor: self.config.actor,
            incarnation: self.config.incarnation,
            nonce: self.config.nonce,
        }
    }

    pub(super) fn show_card(&self, names: u128) -> MetaResponse {
        if self.state().is_founded() {
            return self.entries_after(crate::types::Epoch(0));
        }
        if names != self.names() {
            let why = format!(
                "node {} lists other founders, another cluster name or another number of \
                 partitions: make cluster.founders, cluster.name and cluster.partitions the same \
                 on every founder",
                self.config.member.name
            );
            return MetaResponse::No { why };
        }
        MetaResponse::Card(self.card())
    }

    pub(super) async fn confirm(&self, cards: &[Founder]) -> MetaResponse {
        let _turn = self.turn.lock().await;
        if self.state().is_founded() {
            return self.entries_after(crate::types::Epoch(0));
        }
        let digest = self.digest_of(cards);
        let known = self.log().founding;
        let no =
            |why: &str| MetaResponse::No { why: format!("{}: {why}", self.config.member.name) };
        if known.is_some_and(|known| known != digest) {
            return no(
                "it has agreed to found this cluster with other data directories than the founders \
                 have now, so one of them was emptied or replaced before the founding was over. \
                 Nothing is stored yet. Put that directory back, or stop all founders, empty the \
                 data directory (node.data_dir) of each, and start them again",
            );
        }
        let mut names: Vec<&str> = cards.iter().map(|card| card.member.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> =
            self.config.founders.iter().map(|founder| founder.name.as_str()).collect();
        expected.sort_unstable();
        let mine = cards
            .iter()
            .any(|card| card.voter == self.config.voter && card.member == self.config.member);
        if names != expected || !mine {
            return no("these are not the founders that its configuration lists");
        }
        if known.is_none() {
            if let Err(error) = self.store.save_founding(digest).await {
                return no(&error.to_string());
            }
            self.log().founding = Some(digest);
        }
        MetaResponse::Confirmed
    }

    /// What a founder agrees to: names, places and voters, but neither addresses, actors nor starts,
    /// which may change before the founding is over.
    fn digest_of(&self, cards: &[Founder]) -> u128 {
        let mut essence: Vec<_> = cards.iter().map(|card| (&card.member, card.voter)).collect();
        essence.sort_by_key(|(member, _)| member.id);
        Digest::of(&binary::body(&(self.names(), essence))).0
    }

    /// True when `entry` founds the cluster of the cards whose digest is `founding`.
    pub(super) fn is_founding(&self, entry: &LogEntry, founding: u128) -> bool {
        match &entry.command {
            Command::Found { founders, .. } => self.digest_of(founders) == founding,
            _ => false,
        }
    }

    /// Whether the cluster that `entry` founds is the one of this node's configuration. A node
    /// that names other founders, another name or another number of partitions never joins.
    pub(super) fn belongs(&self, entry: &LogEntry) -> Result<(), String> {
        let Command::Found { cluster, q, founders, .. } = &entry.command else {
            return Err("its log does not begin with a founding".to_owned());
        };
        let mut theirs: Vec<&str> = founders.iter().map(|f| f.member.name.as_str()).collect();
        let mut ours: Vec<&str> = self.config.founders.iter().map(|f| f.name.as_str()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        if (cluster, *q, &theirs) == (&self.config.cluster, self.config.partitions, &ours) {
            return Ok(());
        }
        Err(format!(
            "it is called {cluster:?}, has {q} partitions and was founded by {}; this node is \
             configured for {:?}, {} and {}: correct cluster.name, cluster.partitions or \
             cluster.founders",
            theirs.join(", "),
            self.config.cluster,
            self.config.partitions,
            ours.join(", "),
        ))
    }

    /// One try to found the cluster.
    pub(super) async fn found(self: &Arc<Self>) -> Result<(), Hindrance> {
        if !self.config.founders.iter().any(|f| self.founder_id(f) == self.me()) {
            self.fetch_once(self.env.mono() + TRY).await;
            let why = "this node is not a founder and has heard from none yet";
            return Err(Hindrance::Waiting(why.to_owned()));
        }
        let silent = |name: &str| Hindrance::Waiting(format!("founder {name} does not answer"));
        let deadline = self.env.mono() + TRY;
        let nodes: Vec<NodeId> = self.config.founders.iter().map(|f| self.founder_id(f)).collect();
        let request = MetaRequest::Card { names: self.names() };
        let mut cards = Vec::new();
        for (at, answer) in self.ask_each(&nodes, &request).await.into_iter().enumerate() {
            let name = &self.config.founders[at].name;
            match answer {
                Some(MetaResponse::Card(card)) if card.member.id == nodes[at] => cards.push(card),
                Some(MetaResponse::Entries { first, entries }) => {
                    self.learn(first, entries).await;
                    return Ok(());
                }
                Some(MetaResponse::No { why }) => return Err(Hindrance::Wrong(why)),
                _ => return Err(silent(name)),
            }
        }
        cards.sort_by_key(|card| card.member.id);
        let request = MetaRequest::Confirm { cards: cards.clone() };
        for (at, answer) in self.ask_each(&nodes, &request).await.into_iter().enumerate() {
            match answer {
                Some(MetaResponse::Confirmed) => {}
                Some(MetaResponse::Entries { first, entries }) => {
                    self.learn(first, entries).await;
                    return Ok(());
                }
                Some(MetaResponse::No { why }) => return Err(Hindrance::Wrong(why)),
                _ => return Err(silent(&self.config.founders[at].name)),
            }
        }
        self.yield_to_earlier(&cards).await;
        if self.state().is_founded() {
            return Ok(());
        }
        let founding = self.digest_of(&cards);
        let voters: Vec<_> = cards.iter().map(|card| card.voter).collect();
        let entry = LogEntry {
            id: (u128::from(self.env.random("entry-id")) << 64)
                | u128::from(self.env.random("entry-id")),
            command: Command::Found {
                cluster: self.config.cluster.clone(),
                secret: self.new_secret(),
                q: self.config.partitions,
                founders: cards,
            },
        };
        self.propose_founding(entry, nodes, &voters, founding, deadline).await;
        if self.state().is_founded() {
            return Ok(());
        }
        Err(Hindrance::Waiting("founders compete".to_owned()))
    }

    /// All founders could propose at once. Each waits a little longer than the one before it in
    /// the list, so that as a rule only the first has to.
    async fn yield_to_earlier(&self, cards: &[Founder]) {
        let me = self.me();
        let rank = cards.iter().position(|card| card.member.id == me).unwrap_or(0);
        let wait = Duration::from_millis(50) * u32::try_from(rank).unwrap_or(u32::MAX).min(20);
        let mut epochs = self.epochs();
        if !wait.is_zero() {
            let founded = epochs.wait_for(|epoch| epoch.0 > 0);
            let _ = self.env.timeout(wait, founded).await;
        }
    }

    async fn ask_each(
        self: &Arc<Self>,
        nodes: &[NodeId],
        request: &MetaRequest,
    ) -> Vec<Option<MetaResponse>> {
        let deadline = self.env.mono() + TRY;
        join_all(nodes.iter().map(|&node| self.ask(node, request, deadline))).await
    }

    fn new_secret(&self) -> [u8; 32] {
        let mut secret = [0; 32];
        for chunk in secret.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.env.random("secret").to_be_bytes());
        }
        secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_waiting_is_usual_and_only_for_a_while() {
        let waiting = Hindrance::Waiting("founder b does not answer".to_owned());
        assert!(waiting.is_usual(Duration::ZERO) && waiting.is_usual(PATIENCE / 2));
        assert!(!waiting.is_usual(PATIENCE));
        let wrong = Hindrance::Wrong("node b lists other founders".to_owned());
        assert!(!wrong.is_usual(Duration::ZERO));
    }
}
