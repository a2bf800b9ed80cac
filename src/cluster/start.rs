//! A start of a node: what the log says of it, and how it gets there (rule 17).
//!
//! A data directory that was put back from a copy is consistent in itself, and would vote where it
//! has voted already, answer "absent" to what it has acknowledged, and mint dots a second time. So
//! a start has to find out whether its directory is the newest there is:
//!
//! 1. *It asks around.* Every other member is asked how far it is in the log, and how far it has
//!    heard this directory to be (its *mark*: commits on stable storage, told by gossip). Whoever
//!    does not answer within a second is asked again later, beside everything else. Before the
//!    first round is over, this start votes on nothing.
//! 2. *It looks into the log*, at the start of this node that is on record. Each start draws a
//!    random nonce, and its directory remembers those of all starts before it. If the one on record
//!    is among them, this start may follow it. If not, the directory was copied before that start.
//! 3. *It has itself put on record*, in place of just that start. If another start was faster, the
//!    log says so, and the node looks again.
//!
//! The start on record is looked at again before each vote and each answer. As nobody votes on entry
//! n+1 before it has learnt n, an older copy that has learnt of a later start votes no more.
//!
//! What is not noticed: a copy made within the start on record, if none of those that answer has
//! heard of a later mark (marks are told once per gossip round, and noted every other second); and,
//! as long as everybody who knows of a later start is away, a copy made before it. Both take an old
//! copy *and* a second loss at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use crate::cluster::Cluster;
use crate::cluster::wire::{MetaRequest, MetaResponse};
use crate::meta::{ClusterState, Command, Verdict};
use crate::plants::{Plant, planted};
use crate::types::{Epoch, NodeId};

/// How long one try to get on record may take.
const TRY: Duration = Duration::from_secs(3);

/// Pauses between tries, shortest and longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long the others may take to say what they have heard.
const RECALL: Duration = Duration::from_secs(1);

/// What a state of the log says of this start.
pub(super) enum Standing {
    /// It is the one on record.
    OnRecord,
    /// It may take the place of the one on record.
    MayFollow {
        /// The nonce of that one.
        after: u64,
    },
    /// Its directory is an older copy.
    OlderCopy(String),
    /// This node is no member.
    NoMember,
}

impl Cluster {
    /// Brings this start to where it serves: founds the cluster if need be, asks around, and puts
    /// the start on record.
    pub(super) async fn enter(self: &Arc<Self>) {
        self.until_founded().await;
        let silent = self.ask_around(self.everybody()).await;
        self.asked.store(true, Ordering::Release);
        let task = self.clone();
        self.env.spawn("ask-around", async move { task.ask_the_silent(silent).await });
        self.go_on_record().await;
    }

    pub(super) fn standing(&self, state: &ClusterState) -> Standing {
        let config = &self.config;
        let Some(member) = state.member(self.me()) else { return Standing::NoMember };
        let on_record = (member.voter, member.actor, member.nonce);
        if on_record == (config.voter, config.actor, config.nonce) {
            return Standing::OnRecord;
        }
        if let Some(taken) = state.taken(self.me(), config.actor, config.voter) {
            return Standing::OlderCopy(taken.to_string());
        }
        let known = config.starts.contains(&member.nonce) || planted(Plant::P16);
        if member.voter == config.voter && !known {
            return Standing::OlderCopy(format!(
                "the data directory of this node is an older copy: it knows nothing of start {} of \
                 this node, which the cluster has seen",
                member.incarnation.0
            ));
        }
        Standing::MayFollow { after: member.nonce }
    }

    /// True when the log has this very start of this node.
    pub(super) fn is_on_record(&self, state: &ClusterState) -> bool {
        matches!(self.standing(state), Standing::OnRecord)
    }

    /// Why this start votes on nothing at present; `None` if it votes.
    pub(super) fn why_silent(&self) -> Option<String> {
        let state = self.state();
        if !state.is_founded() {
            return None;
        }
        if !self.asked.load(Ordering::Acquire) {
            return Some("this node asks what it may have forgotten".to_owned());
        }
        if self.is_to_begin_anew() {
            return Some("this node goes on as a new actor".to_owned());
        }
        match self.standing(&state) {
            Standing::OnRecord | Standing::MayFollow { .. } => None,
            Standing::OlderCopy(why) => Some(why),
            Standing::NoMember => Some("this node is no member".to_owned()),
        }
    }

    /// Appends this start to the log until it stands there, or is found to be that of a copy.
    async fn go_on_record(self: &Arc<Self>) {
        let mut pause = PAUSE.0;
        while !self.is_to_begin_anew() {
            let after = match self.standing(&self.state()) {
                Standing::OnRecord => return,
                Standing::OlderCopy(why) => return self.begin_anew(&why),
                Standing::MayFollow { after } => after,
                Standing::NoMember => 0,
            };
            let started = Command::NodeStarted {
                node: self.me(),
                voter: self.config.voter,
                actor: self.config.actor,
                incarnation: self.config.incarnation,
                nonce: self.config.nonce,
                after,
                addresses: self.config.addresses.clone(),
            };
            let deadline = self.env.mono() + TRY;
            match self.append(started, deadline).await {
                Ok(Verdict::NotDone(why)) => {
                    tracing::warn!(%why, "this start was not put on record");
                }
                Ok(_) => {}
                Err(error) => tracing::info!(%error, "this start is not on record yet"),
            }
            self.env.sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Asks `nodes` what they have heard of this node. Returns those that did not answer.
    async fn ask_around(self: &Arc<Self>, nodes: Vec<NodeId>) -> Vec<NodeId> {
        let deadline = self.env.mono() + RECALL;
        let request = MetaRequest::Recall { actor: self.config.actor, start: self.config.nonce };
        let answers = join_all(nodes.iter().map(|&node| self.ask(node, &request, deadline))).await;
        let (mut silent, mut furthest) = (Vec::new(), Epoch(0));
        for (node, answer) in nodes.into_iter().zip(answers) {
            match answer {
                Some(MetaResponse::Recalled { epoch, mark }) => {
                    furthest = furthest.max(epoch);
                    self.compare_mark(node, mark);
                }
                _ => silent.push(node),
            }
        }
        self.catch_up(furthest, self.env.mono() + RECALL).await;
        silent
    }

    /// `node` has heard this directory to be at `heard` in another life. If it held less when it was
    /// opened, it has forgotten some of that life.
    fn compare_mark(&self, node: NodeId, heard: u64) {
        // The plants that forget on purpose are for other checks to find.
        let forgets_on_purpose = planted(Plant::P16) || planted(Plant::P17);
        let held = self.config.mark;
        if heard > held && !forgets_on_purpose {
            self.begin_anew(&format!(
                "the data directory of this node is an older copy: it held {held} commits when it \
                 was opened, and node {node} has heard of {heard}"
            ));
        }
    }

    /// Goes on asking those that did not answer, until all have.
    async fn ask_the_silent(self: &Arc<Self>, mut silent: Vec<NodeId>) {
        while !silent.is_empty() {
            self.env.sleep(PAUSE.1).await;
            let members: BTreeSet<NodeId> = self.everybody().into_iter().collect();
            silent.retain(|node| members.contains(node));
            silent = self.ask_around(silent).await;
        }
    }
}
