//! Conversations between proposers and acceptors, to be read aloud.

use crate::paxos::{AcceptReply, Acceptor, Electorate, PrepareReply, Proposer, Step};
use crate::types::{ActorId, Ballot, VoterId};

const A: VoterId = VoterId(1);
const B: VoterId = VoterId(2);
const C: VoterId = VoterId(3);

fn ballot(time: u64, actor: VoterId) -> Ballot {
    Ballot { time, actor: ActorId(actor.0) }
}

fn three() -> Electorate {
    Electorate::majority([A, B, C], 3).unwrap()
}

/// Three acceptors whose replies are stored at once.
#[derive(Default)]
struct Table {
    a: Acceptor<&'static str>,
    b: Acceptor<&'static str>,
    c: Acceptor<&'static str>,
}

impl Table {
    fn seat(&mut self, who: VoterId) -> &mut Acceptor<&'static str> {
        match who {
            A => &mut self.a,
            B => &mut self.b,
            _ => &mut self.c,
        }
    }

    fn prepare(&mut self, p: &mut Proposer<&'static str>, who: VoterId) -> Step<&'static str> {
        match self.seat(who).on_prepare(p.ballot()).after_persist() {
            PrepareReply::Promise { ballot, accepted } => p.on_promise(who, ballot, accepted),
            PrepareReply::Reject { ballot, promised } => p.on_reject(who, ballot, promised),
        }
    }

    fn accept(
        &mut self,
        p: &mut Proposer<&'static str>,
        who: VoterId,
        value: &'static str,
    ) -> Step<&'static str> {
        match self.seat(who).on_accept(p.ballot(), value).after_persist() {
            AcceptReply::Accepted { ballot } => p.on_accepted(who, ballot),
            AcceptReply::Reject { ballot, promised } => p.on_reject(who, ballot, promised),
        }
    }
}

#[test]
fn a_lone_proposer_gets_its_own_value_chosen_in_two_rounds() {
    let mut table = Table::default();
    let mut p = Proposer::new(ballot(1, A), "x", three());
    assert_eq!(table.prepare(&mut p, A), Step::Wait);
    assert_eq!(table.prepare(&mut p, B), Step::SendAccept { ballot: ballot(1, A), value: "x" });
    assert_eq!(table.accept(&mut p, A, "x"), Step::Wait);
    assert_eq!(table.accept(&mut p, B, "x"), Step::Chosen { value: "x", own: true });
    assert_eq!(table.accept(&mut p, C, "x"), Step::Wait, "it is said once");
}

#[test]
fn an_accepted_uncommitted_value_is_finished_before_ones_own() {
    // The story of the module's essay: A's accept reached only acceptor a, then A stopped.
    let mut table = Table::default();
    let mut first = Proposer::new(ballot(1, A), "x", three());
    let _ = table.prepare(&mut first, A);
    let _ = table.prepare(&mut first, B);
    let _ = table.accept(&mut first, A, "x");

    let mut second = Proposer::new(ballot(2, B), "y", three());
    assert_eq!(table.prepare(&mut second, B), Step::Wait);
    assert_eq!(
        table.prepare(&mut second, A),
        Step::SendAccept { ballot: ballot(2, B), value: "x" }
    );
    assert_eq!(table.accept(&mut second, A, "x"), Step::Wait);
    assert_eq!(table.accept(&mut second, B, "x"), Step::Chosen { value: "x", own: false });
}

#[test]
fn of_two_accepted_values_the_one_of_the_higher_ballot_is_taken() {
    let mut p = Proposer::new(ballot(9, C), "z", three());
    assert_eq!(p.on_promise(A, ballot(9, C), Some((ballot(2, B), "newer"))), Step::Wait);
    assert_eq!(
        p.on_promise(B, ballot(9, C), Some((ballot(1, A), "older"))),
        Step::SendAccept { ballot: ballot(9, C), value: "newer" }
    );
}

#[test]
fn a_voter_that_answers_twice_counts_once_and_a_stranger_never() {
    let mut p = Proposer::new(ballot(1, A), "x", three());
    assert_eq!(p.on_promise(A, ballot(1, A), None), Step::Wait);
    assert_eq!(p.on_promise(A, ballot(1, A), None), Step::Wait);
    assert_eq!(p.on_promise(VoterId(77), ballot(1, A), None), Step::Wait);
    assert!(matches!(p.on_promise(B, ballot(1, A), None), Step::SendAccept { .. }));
    assert_eq!(p.on_accepted(B, ballot(1, A)), Step::Wait);
    assert_eq!(p.on_accepted(B, ballot(1, A)), Step::Wait);
    assert_eq!(p.on_accepted(VoterId(77), ballot(1, A)), Step::Wait);
    assert!(matches!(p.on_accepted(C, ballot(1, A)), Step::Chosen { .. }));
}

#[test]
fn replies_to_an_older_ballot_are_not_taken_for_replies_to_this_one() {
    let mut p = Proposer::new(ballot(5, A), "x", three());
    assert_eq!(p.on_promise(A, ballot(4, A), None), Step::Wait);
    assert_eq!(p.on_promise(B, ballot(4, A), None), Step::Wait);
    assert!(!p.has_proposed());
}

#[test]
fn one_refusal_is_not_the_end_but_a_majority_of_them_is() {
    let mut p = Proposer::new(ballot(1, A), "x", three());
    assert_eq!(p.on_reject(B, ballot(1, A), ballot(7, B)), Step::Wait);
    assert_eq!(p.on_reject(B, ballot(1, A), ballot(8, B)), Step::Wait, "the same one, doubled");
    assert_eq!(
        p.on_reject(C, ballot(1, A), ballot(3, C)),
        Step::Restart { above: ballot(8, B) },
        "above the highest that was seen"
    );
}

#[test]
fn members_whose_votes_do_not_count_still_raise_the_quorum() {
    // C was wiped: two voters of three members, and both are needed.
    let electorate = Electorate::majority([A, B], 3).unwrap();
    assert_eq!(electorate.quorum(), 2);
    let mut p = Proposer::new(ballot(1, A), "x", electorate);
    assert_eq!(p.on_promise(C, ballot(1, A), None), Step::Wait);
    assert_eq!(p.on_promise(A, ballot(1, A), None), Step::Wait);
    assert_eq!(
        p.on_reject(B, ballot(1, A), ballot(2, B)),
        Step::Restart { above: ballot(2, B) },
        "with B against it, no quorum is left"
    );
    assert!(Electorate::majority([A, B], 1).is_err());
    assert!(Electorate::majority([], 0).is_err());
}

#[test]
fn a_doubled_prepare_is_promised_again_and_needs_no_second_sync() {
    let mut acceptor = Acceptor::<&str>::default();
    let first = acceptor.on_prepare(ballot(3, A));
    assert!(first.must_persist());
    let _ = first.after_persist();
    let second = acceptor.on_prepare(ballot(3, A));
    assert!(!second.must_persist());
    let expected = PrepareReply::Promise { ballot: ballot(3, A), accepted: None };
    assert_eq!(second.after_persist(), expected);
}

#[test]
fn an_acceptor_refuses_below_its_promise_and_keeps_its_vote() {
    let mut acceptor = Acceptor::default();
    let _ = acceptor.on_accept(ballot(4, A), "x").after_persist();
    let _ = acceptor.on_prepare(ballot(6, B)).after_persist();
    let refused = AcceptReply::Reject { ballot: ballot(5, C), promised: ballot(6, B) };
    assert_eq!(acceptor.on_accept(ballot(5, C), "y").after_persist(), refused);
    let refused = PrepareReply::Reject { ballot: ballot(5, C), promised: ballot(6, B) };
    assert_eq!(acceptor.on_prepare(ballot(5, C)).after_persist(), refused);
    assert_eq!(acceptor.accepted(), Some(&(ballot(4, A), "x")));
}

#[test]
fn a_second_value_at_one_ballot_is_refused() {
    let mut acceptor = Acceptor::default();
    let _ = acceptor.on_accept(ballot(4, A), "x").after_persist();
    let again = acceptor.on_accept(ballot(4, A), "x");
    assert_eq!(again.after_persist(), AcceptReply::Accepted { ballot: ballot(4, A) });
    let other = acceptor.on_accept(ballot(4, A), "y").after_persist();
    assert!(matches!(other, AcceptReply::Reject { .. }));
    assert_eq!(acceptor.accepted(), Some(&(ballot(4, A), "x")));
}

#[test]
fn an_acceptor_reads_back_from_disk_and_impossible_ones_are_refused() {
    let mut acceptor = Acceptor::<String>::default();
    let _ = acceptor.on_accept(ballot(4, A), "x".to_owned()).after_persist();
    let _ = acceptor.on_prepare(ballot(6, B)).after_persist();
    assert_eq!(Acceptor::decode(&acceptor.encode()), Ok(acceptor));
    assert!(Acceptor::restore(ballot(1, A), Some((ballot(2, A), 0u8))).is_err());
    let forged = crate::binary::seal(1, &(ballot(1, A), Some((ballot(2, A), "x".to_owned()))));
    assert!(Acceptor::<String>::decode(&forged).is_err());
}

/// The stored form of format 1. If this fails, old data directories can no longer be read: add a
/// format, do not change this one.
#[test]
fn the_stored_form_of_format_1_is_what_it_was() {
    let acceptor = Acceptor::restore(ballot(300, A), Some((ballot(7, B), "x".to_owned()))).unwrap();
    let hex: String = acceptor.encode().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "01fb2c0101010702017898bf9c419e257e3e");
}
