use std::collections::BTreeSet;

use proptest::prelude::*;

use super::wire::Reader;
use super::*;
use crate::types::{ActorId, Dot, Hlc, Key, TableId};

fn dot(actor: u64, counter: u64) -> Dot {
    Dot { actor: ActorId(actor), counter }
}

#[derive(Clone, Debug)]
enum Add {
    One(Dot),
    UpTo(Dot),
}

fn adds() -> impl Strategy<Value = Vec<Add>> {
    let dots = || (1u64..4, 1u64..12).prop_map(|(actor, counter)| dot(actor, counter));
    let add = prop_oneof![4 => dots().prop_map(Add::One), 1 => dots().prop_map(Add::UpTo)];
    prop::collection::vec(add, 0..12)
}

/// Builds the set and the naive one: every dot by name.
fn build(adds: &[Add]) -> (CausalSet, BTreeSet<Dot>) {
    let (mut set, mut naive) = (CausalSet::default(), BTreeSet::new());
    for add in adds {
        match *add {
            Add::One(dot) => assert_eq!(set.insert(dot), naive.insert(dot)),
            Add::UpTo(last) => {
                let before = naive.len();
                naive.extend((1..=last.counter).map(|counter| Dot { counter, ..last }));
                assert_eq!(set.advance(last), naive.len() > before || !set.covers(last));
            }
        }
    }
    (set, naive)
}

fn encoded(set: &CausalSet) -> Vec<u8> {
    let mut out = Vec::new();
    set.encode(&set.actors(), &mut out);
    out
}

proptest! {
    #[test]
    fn a_causal_set_is_the_set_of_its_dots(a in adds(), b in adds()) {
        let ((a, dots_a), (b, dots_b)) = (build(&a), build(&b));
        for actor in 1..4 {
            for counter in 1..13 {
                let dot = dot(actor, counter);
                prop_assert_eq!(a.covers(dot), dots_a.contains(&dot));
            }
            let greatest = dots_a.iter().filter(|dot| dot.actor.0 == actor).max();
            prop_assert_eq!(a.max_counter(ActorId(actor)), greatest.map_or(0, |dot| dot.counter));
        }
        prop_assert_eq!(a.includes(&b), dots_a.is_superset(&dots_b));
        // One set, one form: however it came about.
        prop_assert_eq!(a == b, dots_a == dots_b);
        prop_assert_eq!(&a, &dots_a.iter().copied().collect());

        let mut union = a.clone();
        let changed = union.union(&b);
        let dots: BTreeSet<Dot> = dots_a.union(&dots_b).copied().collect();
        prop_assert_eq!(changed, dots.len() > dots_a.len());
        prop_assert_eq!(&union, &dots.iter().copied().collect());
    }

    #[test]
    fn sets_read_back_and_no_other_bytes_are_read(adds in adds(), at in any::<prop::sample::Index>(),
        byte in any::<u8>()) {
        let (set, _) = build(&adds);
        let mut bytes = encoded(&set);
        let (read, _) = CausalSet::decode(&mut Reader::new(&bytes)).unwrap();
        prop_assert_eq!(&read, &set);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut reader = Reader::new(&bytes);
        if let Ok((other, _)) = CausalSet::decode(&mut reader)
            && reader.end().is_ok()
        {
            prop_assert_eq!(encoded(&other), bytes);
        }
    }

    #[test]
    fn opening_a_random_token_never_panics(token in ".{0,80}", bytes in any::<Vec<u8>>()) {
        let _ = Context::decode(&bytes);
        prop_assert!(codec().open(TableId(1), &key("k"), &token).is_err());
    }
}

fn codec() -> ContextCodec {
    ContextCodec::new([7; 32])
}

fn key(text: &str) -> Key {
    Key::new(text.to_owned()).unwrap()
}

fn context() -> Context {
    Context::new([dot(9, 1), dot(9, 2), dot(9, 7), dot(3, 40)].into_iter().collect(), Hlc(1_000))
}

#[test]
fn a_token_opens_for_its_own_table_key_and_cluster_only() {
    let token = codec().seal(TableId(1), &key("k"), &context());
    assert_eq!(codec().open(TableId(1), &key("k"), &token), Ok(context()));
    let forged = Err(ContextError::Forged);
    assert_eq!(codec().open(TableId(2), &key("k"), &token), forged);
    assert_eq!(codec().open(TableId(1), &key("l"), &token), forged);
    assert_eq!(ContextCodec::new([8; 32]).open(TableId(1), &key("k"), &token), forged);
}

#[test]
fn every_changed_character_of_a_token_is_noticed() {
    let token = codec().seal(TableId(1), &key("k"), &context());
    for at in 0..token.len() {
        for other in ['A', '_', '='] {
            let mut changed: Vec<char> = token.chars().collect();
            if std::mem::replace(&mut changed[at], other) != other {
                let changed: String = changed.into_iter().collect();
                assert!(codec().open(TableId(1), &key("k"), &changed).is_err(), "{changed}");
            }
        }
        assert!(codec().open(TableId(1), &key("k"), &token[..at]).is_err());
    }
    assert!(codec().open(TableId(1), &key("k"), &format!("{token}A")).is_err());
}

#[test]
fn tokens_say_what_is_wrong_with_them() {
    let open = |token: &str| codec().open(TableId(1), &key("k"), token);
    assert_eq!(open(""), Err(ContextError::Malformed));
    assert_eq!(open("not base64!"), Err(ContextError::Malformed));
    let long = "A".repeat(MAX_TOKEN_CHARS + 1);
    assert_eq!(open(&long), Err(ContextError::TooLong { got: long.len(), max: MAX_TOKEN_CHARS }));
    assert_eq!(open(&"A".repeat(40)), Err(ContextError::Version(0)));
}

/// A client may hold a token for weeks: this one must open for as long as version 1 is accepted.
#[test]
fn a_token_of_version_1_still_opens() {
    let token = include_str!("../../tests/data/records/context_v1.token").trim();
    assert_eq!(codec().open(TableId(1), &key("k"), token), Ok(context()));
    assert_eq!(codec().seal(TableId(1), &key("k"), &context()), token);
}

/// R17: 200 actors on one key, as nodes come and go. Nothing is pruned, so nothing old looks new;
/// the vector is as long as there are actors, and its token still fits.
#[test]
fn r17_two_hundred_actors_make_a_bounded_vector_and_a_usable_token() {
    let mut set = CausalSet::default();
    for round in 1..=50u64 {
        for actor in 0..200u64 {
            set.advance(dot(actor << 32 | 5, round * 1_000_003));
        }
    }
    assert_eq!((set.vector().len(), set.cloud().len()), (200, 0));
    let token = codec().seal(TableId(1), &key("k"), &set.clone().into());
    assert!(token.len() < 4_000, "{}", token.len());
    assert_eq!(codec().open(TableId(1), &key("k"), &token), Ok(set.into()));
}

#[test]
fn the_example_of_the_essay() {
    let (a, b) = (1, 2);
    // A: x at (a,3), y at (a,17); the writer of y has seen only y.
    let mut seen_at_a = CausalSet::default();
    seen_at_a.advance(dot(a, 3));
    seen_at_a.advance(dot(a, 17));
    let wrote_y: CausalSet = [dot(a, 17)].into_iter().collect();
    assert!(!wrote_y.covers(dot(a, 3)));
    // B mints y' with that context.
    let mut seen_at_b = wrote_y;
    seen_at_b.advance(dot(b, 5));
    assert!(!seen_at_b.covers(dot(a, 3)) && seen_at_b.covers(dot(a, 17)));
    // Together, the cloud is absorbed.
    seen_at_a.union(&seen_at_b);
    assert!(seen_at_a.cloud().is_empty());
}
