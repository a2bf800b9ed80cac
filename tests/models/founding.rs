//! MC5, its first entry: founding. Acceptors, proposers and electorates are the real ones; cards,
//! confirmations, network and disks are this file's, as `henge::cluster` has them.
//!
//! There is no entry before the first one to say who votes on it. A founder collects a card from
//! each of the three, has each of them confirm that set of cards, and then proposes it, by Paxos
//! among the voters on the cards. One founder's disk may be lost at any time: its card is another
//! one from then on. What must hold: *one cluster*: no two sets of cards are ever founded, by what
//! any founder has learnt at any time.

use std::collections::BTreeSet;

use henge::paxos::{AcceptReply, Acceptor, Ballot, Electorate, PrepareReply, Proposer, Step};
use henge::types::{ActorId, VoterId};
use stateright::{Model, Property};

const FOUNDERS: usize = 3;

/// Of each founder, whether the card is that of its second disk.
type Cards = [bool; FOUNDERS];

/// A mistake of what is around the real code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mistake {
    None,
    /// Who has confirmed one set of cards confirms, and votes for, another one.
    ConfirmsAgain,
    /// A majority's confirmations suffice.
    MajorityConfirms,
}

/// A model with its bounds.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The founder whose disk may be lost.
    pub loses: usize,
    /// Attempts of all founders together.
    pub attempts: u8,
    pub mistake: Mistake,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mail {
    Prepare(Ballot),
    Accept(Ballot, Cards),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    /// A founder begins to collect cards.
    Attempt(usize),
    /// The first is shown the second's card, or the founding, if the second knows it.
    Card(usize, usize),
    /// The first has the second confirm the cards that it has collected.
    Confirm(usize, usize),
    /// A request arrives.
    Arrives(Mail, usize),
    Lose(usize),
}

/// What a voter's answer does to the proposer that asked.
type Answer = Box<dyn FnOnce(&mut Proposer<Cards>) -> Step<Cards>>;

/// How far a founder's attempt is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Attempt {
    Cards([Option<bool>; FOUNDERS]),
    Confirmations(Cards, BTreeSet<usize>),
    Votes(Proposer<Cards>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Founder {
    lost: bool,
    confirmed: Option<Cards>,
    vote: Acceptor<Cards>,
    founded: Option<Cards>,
    attempt: Option<Attempt>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    founders: Vec<Founder>,
    mail: BTreeSet<(Mail, usize)>,
    attempts: u8,
    /// All that was ever founded.
    clusters: BTreeSet<Cards>,
}

fn voter(founder: usize, lost: bool) -> VoterId {
    VoterId(founder as u64 + if lost { 11 } else { 1 })
}

impl World {
    fn learns(&mut self, at: usize, cards: Cards) {
        self.clusters.insert(cards);
        self.founders[at].founded = Some(cards);
        self.founders[at].attempt = None;
    }

    fn shown_card(&mut self, at: usize, of: usize) {
        let (card, founded) = (self.founders[of].lost, self.founders[of].founded);
        if let Some(cards) = founded {
            return self.learns(at, cards);
        }
        let Some(Attempt::Cards(cards)) = &mut self.founders[at].attempt else { return };
        cards[of] = Some(card);
        if let [Some(a), Some(b), Some(c)] = *cards {
            self.founders[at].attempt = Some(Attempt::Confirmations([a, b, c], BTreeSet::new()));
        }
    }

    fn has_confirmed(&mut self, model: &Founding, at: usize, by: usize) {
        if let Some(cards) = self.founders[by].founded {
            return self.learns(at, cards);
        }
        let Some(Attempt::Confirmations(cards, _)) = self.founders[at].attempt else { return };
        let other = &mut self.founders[by];
        let is_own = cards[by] == other.lost;
        let again = model.mistake == Mistake::ConfirmsAgain;
        if !is_own || !again && other.confirmed.is_some_and(|known| known != cards) {
            return;
        }
        other.confirmed = Some(cards);
        let Some(Attempt::Confirmations(_, by_whom)) = &mut self.founders[at].attempt else {
            return;
        };
        by_whom.insert(by);
        let enough = if model.mistake == Mistake::MajorityConfirms { 2 } else { FOUNDERS };
        if by_whom.len() == enough {
            self.proposes(at, cards);
        }
    }

    fn proposes(&mut self, at: usize, cards: Cards) {
        let voters = (0..FOUNDERS).map(|founder| voter(founder, cards[founder]));
        let electorate = Electorate::majority(voters, FOUNDERS).expect("a voter each");
        let own = &mut self.founders[at];
        let ballot =
            Ballot { time: own.vote.promised().time + 1, actor: ActorId(voter(at, own.lost).0) };
        own.attempt = Some(Attempt::Votes(Proposer::new(ballot, cards, electorate)));
        self.mail.extend((0..FOUNDERS).map(|to| (Mail::Prepare(ballot), to)));
        // Its own promise comes first, so that it uses no ballot twice.
        self.mail.remove(&(Mail::Prepare(ballot), at));
        let reply = self.founders[at].vote.on_prepare(ballot).after_persist();
        let by = voter(at, self.founders[at].lost);
        if let (PrepareReply::Promise { ballot, accepted }, Some(Attempt::Votes(proposer))) =
            (reply, &mut self.founders[at].attempt)
        {
            let step = proposer.on_promise(by, ballot, accepted);
            self.steps(at, step);
        }
    }

    fn steps(&mut self, at: usize, step: Step<Cards>) {
        match step {
            Step::SendAccept { ballot, value } => {
                self.mail.extend((0..FOUNDERS).map(|to| (Mail::Accept(ballot, value), to)));
            }
            Step::Chosen { value, .. } => self.learns(at, value),
            Step::Wait | Step::Restart { .. } => {}
        }
    }

    fn arrives(&mut self, model: &Founding, mail: &Mail, to: usize) {
        self.mail.remove(&(mail.clone(), to));
        let (Mail::Prepare(ballot) | Mail::Accept(ballot, _)) = mail;
        let founder = &mut self.founders[to];
        if founder.founded.is_some() {
            return;
        }
        let by = voter(to, founder.lost);
        let vote = &mut founder.vote;
        let is_its = |founder: &Founder| matches!(&founder.attempt, Some(Attempt::Votes(p)) if p.ballot() == *ballot);
        let answered: Answer = match mail {
            Mail::Prepare(ballot) => match vote.on_prepare(*ballot).after_persist() {
                PrepareReply::Promise { ballot, accepted } => {
                    Box::new(move |proposer| proposer.on_promise(by, ballot, accepted))
                }
                PrepareReply::Reject { ballot, promised } => {
                    Box::new(move |proposer| proposer.on_reject(by, ballot, promised))
                }
            },
            Mail::Accept(ballot, cards) => {
                let again = model.mistake == Mistake::ConfirmsAgain;
                let majority = model.mistake == Mistake::MajorityConfirms;
                let agrees = match founder.confirmed {
                    Some(known) => known == *cards || again,
                    None => majority && cards[to] == founder.lost,
                };
                if !agrees {
                    return;
                }
                match vote.on_accept(*ballot, *cards).after_persist() {
                    AcceptReply::Accepted { ballot } => {
                        Box::new(move |proposer| proposer.on_accepted(by, ballot))
                    }
                    AcceptReply::Reject { ballot, promised } => {
                        Box::new(move |proposer| proposer.on_reject(by, ballot, promised))
                    }
                }
            }
        };
        let Some(from) = self.founders.iter().position(is_its) else { return };
        if let Some(Attempt::Votes(proposer)) = &mut self.founders[from].attempt {
            let step = answered(proposer);
            self.steps(from, step);
        }
    }
}

impl Model for Founding {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            founders: vec![Founder::default(); FOUNDERS],
            mail: BTreeSet::new(),
            attempts: self.attempts,
            clusters: BTreeSet::new(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Act>) {
        for (at, founder) in world.founders.iter().enumerate() {
            if world.attempts > 0 && founder.founded.is_none() {
                actions.push(Act::Attempt(at));
            }
            if self.loses == at && !founder.lost {
                actions.push(Act::Lose(at));
            }
            match &founder.attempt {
                Some(Attempt::Cards(cards)) => {
                    let open = (0..FOUNDERS).filter(|of| cards[*of].is_none());
                    actions.extend(open.map(|of| Act::Card(at, of)));
                }
                Some(Attempt::Confirmations(_, by)) => {
                    let open = (0..FOUNDERS).filter(|of| !by.contains(of));
                    actions.extend(open.map(|of| Act::Confirm(at, of)));
                }
                Some(Attempt::Votes(_)) | None => {}
            }
        }
        actions.extend(world.mail.iter().map(|(mail, to)| Act::Arrives(mail.clone(), *to)));
    }

    fn next_state(&self, last: &World, action: Act) -> Option<World> {
        let mut world = last.clone();
        match action {
            Act::Attempt(at) => {
                world.attempts -= 1;
                world.founders[at].attempt = Some(Attempt::Cards([None; FOUNDERS]));
            }
            Act::Card(at, of) => world.shown_card(at, of),
            Act::Confirm(at, by) => world.has_confirmed(self, at, by),
            Act::Arrives(mail, to) => world.arrives(self, &mail, to),
            Act::Lose(at) => {
                world.founders[at] = Founder { lost: true, ..Founder::default() };
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one cluster", |_, world: &World| world.clusters.len() <= 1),
            Property::sometimes("another one hears of it", |_, world: &World| {
                world.founders.iter().filter(|founder| founder.founded.is_some()).count() > 1
            }),
            Property::sometimes("founded with the second disk", |model: &Self, world: &World| {
                world.clusters.iter().any(|cards| cards[model.loses])
            }),
        ]
    }
}
