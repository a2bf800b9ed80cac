//! The search for an order against another implementation: stateright's linearizability tester on
//! small random histories of the same register.

use proptest::prelude::*;
use serde_json::json;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::check::told;
use crate::workload::register_for_tests::{Did, apply, judge};

/// The register of the harness, for stateright.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Register(u32);

impl SequentialSpec for Register {
    /// What was done; its answer is part of it.
    type Op = (u8, u32, u32);
    type Ret = bool;

    fn invoke(&mut self, op: &Self::Op) -> bool {
        let did = match *op {
            (0, shown, _) => Did::Read(shown),
            (1, new, _) => Did::Wrote(new),
            (2, expected, new) => Did::Swapped { expected, new },
            (_, expected, stood) => Did::Refused { expected, stood },
        };
        match apply(self.0, &did) {
            Some(next) => {
                self.0 = next;
                true
            }
            None => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_agrees_with_stateright(
        drawn in proptest::collection::vec((0u8..4, 1u32..4, 0u32..4, 0usize..3), 1..7),
    ) {
        // Each of three threads does its operations in turn; between two steps any thread may go.
        // A thread's operation is called when it is drawn and answered when the thread is drawn
        // again, or never.
        let mut tester = LinearizabilityTester::new(Register(0));
        let mut text: Vec<(usize, u8, u32, u32, u64, Option<u64>)> = Vec::new();
        let mut open: [Option<usize>; 3] = [None; 3];
        let mut mark = 0;
        for (kind, a, b, thread) in drawn {
            if let Some(at) = open[thread].take() {
                mark += 1;
                text[at].5 = Some(mark);
                tester.on_return(thread, true).expect("it was called");
            }
            mark += 1;
            tester.on_invoke(thread, (kind, a, b)).expect("it has returned");
            open[thread] = Some(text.len());
            text.push((thread, kind, a, b, mark, None));
        }
        let value = |n: u32| if n == 0 { json!(null) } else { json!(n.to_string()) };
        let lines: Vec<String> = text.iter().map(|&(thread, kind, a, b, call, end)| {
            let (f, asked, learnt) = match kind {
                0 => ("read", json!(null), value(a)),
                1 => ("write", value(a), json!(true)),
                2 => ("cas", json!([value(a), value(b)]), json!(true)),
                _ => ("cas", json!([value(a), json!("z")]), json!({"refused": value(b)})),
            };
            let outcome = if end.is_some() { "ok" } else { "info" };
            let end = end.map_or("-".to_owned(), |end| end.to_string());
            let learnt = if outcome == "info" { json!(null) } else { learnt };
            format!("{thread} {f} {call} {end} {asked} {outcome} {learnt}")
        }).collect();
        // Without an answer, a read or a refusal says nothing; stateright lets it be left out.
        let open_refusal = text.iter().any(|op| op.1 == 3 && op.5.is_none());
        prop_assume!(!open_refusal);
        let ours = judge(&told(&lines.join("\n"))).breaches.is_empty();
        prop_assert_eq!(ours, tester.is_consistent(), "{}", lines.join("\n"));
    }
}
