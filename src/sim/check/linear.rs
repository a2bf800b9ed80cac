//! Linearizability of one object: is there an order of its operations, each between its call and
//! its answer, in which a sequential object gives every answer that was given?
//!
//! Wing and Gong's search (1993) with Lowe's memory of configurations (2017): of the operations
//! that may come next, that is those called before the first answer that is still outstanding,
//! one is tried after the other; a pair of (operations done, state) that has failed once is not
//! entered again. An operation without an answer may come at any place after its call, or never.
//!
//! Knows no database: the object is a function from (state, operation) to the next state.

use std::collections::BTreeSet;

/// The most operations of one object.
pub const MAX_CALLS: usize = 256;

/// An operation: between which instants, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O> {
    /// Before it had any effect.
    pub begun: u64,
    /// After its effect; `None`: it may take effect later, or never.
    pub ended: Option<u64>,
    /// What was done, and answered.
    pub what: O,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. These are the operations of the longest part of one, by their places in the
    /// list, and then those that could not come next.
    Broken {
        /// In order.
        longest: Vec<usize>,
        /// Called before the next answer, and impossible.
        stuck: Vec<usize>,
    },
    /// The search was too long, or there are too many operations.
    Unknown,
}

type Set = [u64; MAX_CALLS / 64];

fn has(set: &Set, at: usize) -> bool {
    set[at / 64] & 1 << (at % 64) != 0
}

/// Searches at most `budget` steps.
pub fn check<O, S: Clone + Ord>(
    calls: &[Call<O>],
    start: S,
    step: impl Fn(&S, &O) -> Option<S>,
    budget: u64,
) -> Verdict {
    if calls.len() > MAX_CALLS {
        return Verdict::Unknown;
    }
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|&at| calls[at].begun);
    let must = calls.iter().filter(|call| call.ended.is_some()).count();
    let mut search = Search {
        calls,
        order,
        seen: BTreeSet::new(),
        done: [0; MAX_CALLS / 64],
        path: Vec::new(),
        longest: Vec::new(),
        stuck: Vec::new(),
        answered: 0,
        must,
    };
    search.run(start, step, budget)
}

struct Search<'a, O, S> {
    calls: &'a [Call<O>],
    /// By call.
    order: Vec<usize>,
    seen: BTreeSet<(Set, S)>,
    done: Set,
    path: Vec<usize>,
    longest: Vec<usize>,
    stuck: Vec<usize>,
    /// Of those with an answer, how many are in the path.
    answered: usize,
    must: usize,
}

impl<O, S: Clone + Ord> Search<'_, O, S> {
    /// Those that may come next: called before any other outstanding one was answered.
    fn candidates(&self) -> Vec<usize> {
        let open = || self.order.iter().copied().filter(|&at| !has(&self.done, at));
        let first = open().filter_map(|at| self.calls[at].ended).min().unwrap_or(u64::MAX);
        open().take_while(|&at| self.calls[at].begun < first).collect()
    }

    fn run(&mut self, start: S, step: impl Fn(&S, &O) -> Option<S>, mut budget: u64) -> Verdict {
        // One entry per operation in the path, and one for what comes next: the state before it,
        // the candidates, and how many of them were tried.
        let mut stack = vec![(start, self.candidates(), 0)];
        while let Some((state, candidates, tried)) = stack.last_mut() {
            if self.answered == self.must {
                return Verdict::Linearizable;
            }
            let Some(&at) = candidates.get(*tried) else {
                if self.path.len() >= self.longest.len() {
                    self.longest.clone_from(&self.path);
                    self.stuck.clone_from(candidates);
                }
                stack.pop();
                if let Some(at) = self.path.pop() {
                    self.done[at / 64] &= !(1 << (at % 64));
                    self.answered -= usize::from(self.calls[at].ended.is_some());
                }
                continue;
            };
            *tried += 1;
            if budget == 0 {
                return Verdict::Unknown;
            }
            budget -= 1;
            let Some(next) = step(state, &self.calls[at].what) else { continue };
            self.done[at / 64] |= 1 << (at % 64);
            if !self.seen.insert((self.done, next.clone())) {
                self.done[at / 64] &= !(1 << (at % 64));
                continue;
            }
            self.path.push(at);
            self.answered += usize::from(self.calls[at].ended.is_some());
            let candidates = self.candidates();
            stack.push((next, candidates, 0));
        }
        Verdict::Broken { longest: self.longest.clone(), stuck: self.stuck.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A register: `Ok(v)` writes v, `Err(v)` reads v.
    type Op = Result<u8, u8>;

    fn register(state: &u8, op: &Op) -> Option<u8> {
        match op {
            Ok(value) => Some(*value),
            Err(read) => (state == read).then_some(*state),
        }
    }

    fn call(begun: u64, ended: u64, what: Op) -> Call<Op> {
        Call { begun, ended: (ended > 0).then_some(ended), what }
    }

    fn verdict(calls: &[Call<Op>]) -> Verdict {
        check(calls, 0, register, 100_000)
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_broken() {
        let history = [call(1, 2, Ok(1)), call(3, 4, Ok(2)), call(5, 6, Err(1))];
        assert_eq!(verdict(&history), Verdict::Broken { longest: vec![0, 1], stuck: vec![2] });
        let overlapping = [call(1, 2, Ok(1)), call(3, 7, Ok(2)), call(5, 6, Err(1))];
        assert_eq!(verdict(&overlapping), Verdict::Linearizable);
    }

    #[test]
    fn reads_do_not_go_back_and_forth() {
        let history = [call(1, 9, Ok(1)), call(2, 3, Err(1)), call(4, 5, Err(0))];
        assert!(matches!(verdict(&history), Verdict::Broken { .. }));
    }

    #[test]
    fn what_has_no_answer_may_come_late_or_never() {
        let never = [call(1, 0, Ok(1)), call(2, 3, Err(0))];
        assert_eq!(verdict(&never), Verdict::Linearizable);
        let late = [call(1, 0, Ok(1)), call(2, 3, Err(0)), call(4, 5, Err(1))];
        assert_eq!(verdict(&late), Verdict::Linearizable);
        let too_early = [call(4, 0, Ok(1)), call(2, 3, Err(1))];
        assert!(matches!(verdict(&too_early), Verdict::Broken { .. }));
    }

    #[test]
    fn a_search_without_time_knows_nothing() {
        let history = [call(1, 9, Ok(1)), call(2, 8, Ok(2)), call(3, 7, Err(1))];
        assert_eq!(check(&history, 0, register, 1), Verdict::Unknown);
    }

    /// Tries every order of every subset that holds all answered operations.
    fn brute(calls: &[Call<Op>], done: &mut Vec<usize>, state: u8) -> bool {
        let open = |at: &usize| !done.contains(at);
        let left: Vec<usize> = (0..calls.len()).filter(open).collect();
        if left.iter().all(|&at| calls[at].ended.is_none()) {
            return true;
        }
        left.iter().any(|&at| {
            let blocked = left.iter().any(|&other| {
                other != at && calls[other].ended.is_some_and(|ended| ended < calls[at].begun)
            });
            let Some(next) = register(&state, &calls[at].what).filter(|_| !blocked) else {
                return false;
            };
            done.push(at);
            let found = brute(calls, done, next);
            done.pop();
            found
        })
    }

    proptest! {
        #[test]
        fn it_says_what_trying_every_order_says(
            drawn in proptest::collection::vec((0u64..12, 0u64..8, any::<bool>(), 0u8..3, any::<bool>()), 0..7),
        ) {
            let calls: Vec<Call<Op>> = drawn
                .iter()
                .enumerate()
                .map(|(n, &(begun, took, answered, value, write))| {
                    // No two marks are equal.
                    let begun = begun * 20 + n as u64 * 2;
                    let ended = begun + took * 20 + 1;
                    let what = if write { Ok(value) } else { Err(value) };
                    Call { begun, ended: answered.then_some(ended), what }
                })
                .collect();
            let expected = brute(&calls, &mut Vec::new(), 0);
            prop_assert_eq!(verdict(&calls) == Verdict::Linearizable, expected);
        }
    }
}
