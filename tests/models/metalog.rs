//! MC5: the metadata log, one instance of Paxos for each place. Acceptors, proposers and electorates
//! are the real ones ([`henge::paxos`]); the thin rest of this file stands for what the cluster's log
//! does around them, for network and disks.
//!
//! Entry n fixes who votes on entry n + 1. One member's disk may be lost: it goes on as a new voter,
//! whose votes count from the place after the entry that says so. What must hold:
//!
//! - *one value per place*: of any two members' logs one begins with the other;
//! - *one place per entry*: no entry is in a log twice.
//!
//! A request and its answer are one step (see `register`). Requests arrive at any time, or never;
//! proposers give an attempt up at any time. A member learns from another one all that it lacks, at
//! any time: as the answer to a vote for a place that is taken, or by itself.

use std::collections::BTreeSet;

use henge::paxos::{AcceptReply, Acceptor, Ballot, Electorate, PrepareReply, Proposer, Step};
use henge::types::{ActorId, VoterId};
use stateright::{Model, Property};

const MEMBERS: usize = 3;

/// An entry: the number of the member that appends it. That of the member whose disk was lost says
/// that its new voter counts from now on.
type Entry = usize;

/// A mistake of what is around the real code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mistake {
    None,
    /// P16: who has lost its disk votes on as the voter that it was.
    SameVoter,
    /// The new voter's votes count as soon as there is one, before the log says so.
    CountsEarly,
    /// What was accepted for one place is kept for the next one.
    KeepsVote,
}

/// A model with its bounds.
#[derive(Clone, Debug)]
pub struct MetaLog {
    /// The members that append an entry each.
    pub appenders: Vec<usize>,
    /// The member whose disk may be lost.
    pub loses: Option<usize>,
    /// Attempts of all members together.
    pub attempts: u8,
    pub mistake: Mistake,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mail {
    Prepare(Ballot),
    Accept(Ballot, Entry),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// The member makes an attempt for the next place of its log, in place of an earlier one.
    Attempt(usize),
    /// A request for a place (the first number) arrives at a member (the second).
    Arrives(usize, Mail, usize),
    /// The second member learns what the first one knows.
    Learn(usize, usize),
    Lose(usize),
}

/// What a voter's answer does to the proposer that asked.
type Answer = Box<dyn FnOnce(&mut Proposer<Entry>) -> Step<Entry>>;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Member {
    log: Vec<Entry>,
    vote: Acceptor<Entry>,
    lost: bool,
    attempt: Option<(usize, Proposer<Entry>)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    members: Vec<Member>,
    mail: BTreeSet<(usize, Mail, usize)>,
    attempts: u8,
    /// Somebody learnt another entry for a place than it knew there.
    differs: bool,
}

fn voter(member: usize, lost: bool) -> VoterId {
    VoterId(member as u64 + if lost { 11 } else { 1 })
}

impl World {
    /// Whose vote counts for a member, by what `by` knows.
    fn voter_of(&self, model: &MetaLog, by: usize, member: usize) -> VoterId {
        let known = self.members[by].log.contains(&member) && model.loses == Some(member);
        let early = model.mistake == Mistake::CountsEarly && self.members[member].lost;
        voter(member, (known || early) && model.mistake != Mistake::SameVoter)
    }

    fn learns(&mut self, model: &MetaLog, at: usize, place: usize, entry: Entry) {
        let member = &mut self.members[at];
        match member.log.get(place) {
            Some(known) => self.differs |= *known != entry,
            None if place == member.log.len() => {
                member.log.push(entry);
                if model.mistake != Mistake::KeepsVote {
                    member.vote = Acceptor::default();
                }
            }
            None => {}
        }
    }

    /// What a proposer does next.
    fn steps(&mut self, model: &MetaLog, at: usize, place: usize, step: Step<Entry>) {
        match step {
            Step::SendAccept { ballot, value } => {
                let accept = Mail::Accept(ballot, value);
                self.mail.extend((0..MEMBERS).map(|to| (place, accept.clone(), to)));
            }
            Step::Chosen { value, .. } => {
                self.members[at].attempt = None;
                self.learns(model, at, place, value);
            }
            Step::Wait | Step::Restart { .. } => {}
        }
    }

    fn attempts(&mut self, model: &MetaLog, at: usize) {
        let voters = (0..MEMBERS).map(|member| self.voter_of(model, at, member));
        let electorate = Electorate::majority(voters, MEMBERS).expect("a voter each");
        let member = &mut self.members[at];
        let place = member.log.len();
        let above = match &member.attempt {
            Some((of, proposer)) if *of == place => proposer.above(),
            _ => Ballot::ZERO,
        };
        let time = above.max(member.vote.promised()).time + 1;
        let ballot = Ballot { time, actor: ActorId(voter(at, member.lost).0) };
        self.attempts -= 1;
        member.attempt = Some((place, Proposer::new(ballot, at, electorate)));
        self.mail.extend((0..MEMBERS).map(|to| (place, Mail::Prepare(ballot), to)));
        // Its own promise comes first, so that it uses no ballot twice.
        self.arrives(model, place, &Mail::Prepare(ballot), at);
    }

    fn arrives(&mut self, model: &MetaLog, place: usize, mail: &Mail, to: usize) {
        self.mail.remove(&(place, mail.clone(), to));
        let (Mail::Prepare(ballot) | Mail::Accept(ballot, _)) = mail;
        let is_its = |member: &Member| {
            let of = member.attempt.as_ref().map(|(place, proposer)| (*place, proposer.ballot()));
            of == Some((place, *ballot))
        };
        let from = self.members.iter().position(is_its);
        let member = &mut self.members[to];
        if member.log.len() != place {
            return;
        }
        let by = voter(to, member.lost && model.mistake != Mistake::SameVoter);
        let vote = &mut member.vote;
        let answer: Answer = match mail {
            Mail::Prepare(ballot) => match vote.on_prepare(*ballot).after_persist() {
                PrepareReply::Promise { ballot, accepted } => {
                    Box::new(move |proposer| proposer.on_promise(by, ballot, accepted))
                }
                PrepareReply::Reject { ballot, promised } => {
                    Box::new(move |proposer| proposer.on_reject(by, ballot, promised))
                }
            },
            Mail::Accept(ballot, entry) => match vote.on_accept(*ballot, *entry).after_persist() {
                AcceptReply::Accepted { ballot } => {
                    Box::new(move |proposer| proposer.on_accepted(by, ballot))
                }
                AcceptReply::Reject { ballot, promised } => {
                    Box::new(move |proposer| proposer.on_reject(by, ballot, promised))
                }
            },
        };
        let Some(from) = from else { return };
        if self.voter_of(model, from, to) != by {
            return;
        }
        if let Some((_, proposer)) = &mut self.members[from].attempt {
            let step = answer(proposer);
            self.steps(model, from, place, step);
        }
    }

    fn is_one_log(&self) -> bool {
        let one = |a: &Member, b: &Member| a.log.starts_with(&b.log) || b.log.starts_with(&a.log);
        !self.differs && self.members.iter().all(|a| self.members.iter().all(|b| one(a, b)))
    }
}

impl Model for MetaLog {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        let member =
            Member { log: Vec::new(), vote: Acceptor::default(), lost: false, attempt: None };
        let members = vec![member; MEMBERS];
        vec![World { members, mail: BTreeSet::new(), attempts: self.attempts, differs: false }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        for (at, member) in world.members.iter().enumerate() {
            let has_one = self.appenders.contains(&at) || member.lost;
            if has_one && world.attempts > 0 && !member.log.contains(&at) {
                actions.push(Act::Attempt(at));
            }
            if self.loses == Some(at) && !member.lost {
                actions.push(Act::Lose(at));
            }
            let behind = |from: &usize| world.members[*from].log.len() > member.log.len();
            actions.extend((0..MEMBERS).filter(behind).map(|from| Act::Learn(from, at)));
        }
        // A request for another place than its receiver's next one changes nothing.
        let due = |(place, _, to): &&(usize, _, usize)| world.members[*to].log.len() == *place;
        let mail = world.mail.iter().filter(due).cloned();
        actions.extend(mail.map(|(place, mail, to)| Act::Arrives(place, mail, to)));
    }

    fn next_state(&self, last: &World, action: Act) -> Option<World> {
        let mut world = last.clone();
        match action {
            Act::Attempt(at) => world.attempts(self, at),
            Act::Arrives(place, mail, to) => world.arrives(self, place, &mail, to),
            Act::Learn(from, at) => {
                for (place, entry) in last.members[from].log.iter().enumerate() {
                    world.learns(self, at, place, *entry);
                }
            }
            Act::Lose(at) => {
                let member = &mut world.members[at];
                (member.lost, member.attempt) = (true, None);
                (member.log, member.vote) = (Vec::new(), Acceptor::default());
            }
        }
        // No request comes too late to one who may yet begin anew.
        let members = &world.members;
        let anew = |to: usize| self.loses == Some(to) && !members[to].lost;
        world.mail.retain(|(place, _, to)| members[*to].log.len() <= *place || anew(*to));
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one value per place", |_, world: &World| world.is_one_log()),
            Property::always("one place per entry", |_, world: &World| {
                let once =
                    |log: &Vec<Entry>| log.iter().collect::<BTreeSet<_>>().len() == log.len();
                world.members.iter().all(|member| once(&member.log))
            }),
            Property::sometimes("all is appended", |model: &Self, world: &World| {
                let all = model.appenders.len() + usize::from(model.loses.is_some());
                world.members.iter().all(|member| member.log.len() == all)
            }),
        ]
    }
}
