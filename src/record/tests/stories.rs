use super::*;

fn stone(actor: u64) -> Stone {
    Stone::new(RecordKind::Siblings, actor)
}

#[test]
fn a_write_replaces_what_it_has_read_and_nothing_else() {
    let mut a = stone(1);
    assert!(a.record.is_blank() && !a.record.view(WallMicros(0)).tombstone);
    let x = a.mint(put(1, &blind(), "x"));
    assert!(x.created);
    let y = a.mint(put(2, &blind(), "y"));
    assert_eq!((y.created, y.siblings, y.superseded), (false, 2, 0));
    // The writer of y has not read x, so its next write leaves x alone.
    let y2 = a.mint(put(3, &y.writer_context, "y2"));
    assert_eq!((y2.siblings, y2.superseded), (2, 1));
    assert_eq!(a.shows(), ["x", "y2"]);
    let z = a.mint(put(4, &a.context(), "z"));
    assert_eq!((z.siblings, z.superseded), (1, 2));
    assert_eq!(a.shows(), ["z"]);
}

#[test]
fn a_delete_removes_what_it_has_read_and_a_concurrent_write_lives_on() {
    let (mut a, mut b) = (stone(1), stone(2));
    a.mint(put(1, &blind(), "x"));
    b.take(&a);
    let read = a.context();
    b.mint(put(2, &read, "y"));
    let gone = a.mint(delete(3, &read));
    assert_eq!((gone.created, gone.siblings, gone.superseded), (false, 0, 1));
    assert!(a.record.view(WallMicros(0)).tombstone && !a.record.is_blank());
    a.take(&b);
    assert_eq!(a.shows(), ["y"]);
    // And the deletion does not come undone by an old copy.
    let mut old = stone(3);
    old.record.clone_from(&b.record);
    assert_eq!(a.mint(delete(4, &a.context())).siblings, 0);
    assert!(a.take(&old).incoming_dominated);
    assert_eq!(a.shows(), [""; 0]);
}

#[test]
fn deleting_what_never_was_is_an_event_too() {
    let mut a = stone(1);
    let gone = a.mint(delete(1, &blind()));
    assert!(gone.created && gone.superseded == 0);
    assert!(a.record.view(WallMicros(0)).tombstone);
    assert!(a.mint(put(2, &gone.writer_context, "x")).created);
}

#[test]
fn merging_tells_changed_dominated_and_equal_apart() {
    let (mut a, mut b) = (stone(1), stone(2));
    a.mint(put(1, &blind(), "x"));
    let changed = Merged { changed: true, ..Merged::default() };
    let equal = Merged { equal: true, incoming_dominated: true, ..Merged::default() };
    let dominated = Merged { incoming_dominated: true, ..Merged::default() };
    assert_eq!((b.take(&a), b.take(&a)), (changed, equal));
    b.mint(put(2, &b.context(), "y"));
    assert_eq!((b.take(&a), a.take(&b)), (dominated, changed));

    let mut other = Record::empty(RecordKind::Lww);
    assert!(other.merge(&a.record).is_err() && other.is_blank());
}

/// Rule 3. X is minted at A; the coordinator gives up and has it minted at B; a client reads B and
/// replaces X by Y there. Then A's copy comes.
#[test]
fn an_operation_minted_twice_does_not_come_back_after_it_was_superseded() {
    let (mut a, mut b) = (stone(1), stone(2));
    let at_a = a.mint(put(7, &blind(), "x")).dot;
    b.mint(put(7, &blind(), "x"));
    let mut both = stone(3);
    both.take(&a);
    both.take(&b);
    assert_eq!(both.shows(), ["x"], "siblings of one operation show once");
    assert_eq!(both.record.value_count(), 2);

    b.mint(put(8, &b.context(), "y"));
    b.take(&a);
    assert_eq!(b.shows(), ["y"]);
    assert!(b.record.view(WallMicros(0)).context.covers(at_a));
    assert_eq!(b.record.value_count(), 2, "merging alone buries nothing");

    // The next write buries it for good, however little its writer has read.
    let next = b.mint(put(9, &blind(), "z"));
    assert_eq!((next.siblings, next.superseded), (2, 1));
    a.take(&b);
    assert_eq!((a.shows(), a.record.value_count()), (vec!["y", "z"], 2));
}

/// The same, but Y is written through A, which knows one twin while the writer has read the other.
#[test]
fn a_twin_is_hidden_as_soon_as_the_record_of_the_other_arrives() {
    let (mut a, mut b) = (stone(1), stone(2));
    a.mint(put(7, &blind(), "x"));
    let x = b.mint(put(7, &blind(), "x"));
    a.mint(put(8, &x.writer_context, "y"));
    assert_eq!(a.shows(), ["x", "y"], "A cannot know yet that its x is what the writer has read");
    a.take(&b);
    assert_eq!(a.shows(), ["y"]);
}

#[test]
fn superseding_one_twin_takes_the_other_along() {
    let (mut a, mut b) = (stone(1), stone(2));
    let x = a.mint(put(7, &blind(), "x"));
    b.mint(put(7, &blind(), "x"));
    a.take(&b);
    assert_eq!(a.mint(put(8, &x.writer_context, "y")).superseded, 2);
    // Long after, when the log has forgotten x, there is nothing that could reappear.
    for op in 100..150 {
        a.mint(put(op, &a.context(), "later"));
    }
    a.take(&b);
    assert_eq!(a.shows(), ["later"]);
}

/// A client that uses one id for two requests, through two replicas at once, loses neither.
#[test]
fn two_requests_under_one_id_do_not_hide_each_other() {
    let (mut a, mut b) = (stone(1), stone(2));
    a.mint(put(7, &blind(), "x"));
    b.mint(Mutation { request: 99, ..put(7, &blind(), "other") });
    a.take(&b);
    assert_eq!(a.shows(), ["x", "other"]);
    assert!(matches!(a.record.find_op(OpId(7), 70), OpMemory::Applied(e) if e.dot.actor.0 == 1));
    assert!(matches!(a.record.find_op(OpId(7), 99), OpMemory::Applied(e) if e.dot.actor.0 == 2));
}

#[test]
fn operations_are_remembered_reused_forgotten_or_unknown() {
    for kind in [RecordKind::Siblings, RecordKind::Lww] {
        let mut a = Stone::new(kind, 1);
        a.mint(put(10, &blind(), "x"));
        let find = |a: &Stone, op: u128| a.record.find_op(OpId(op), op as u64 * 10);
        let OpMemory::Applied(first) = find(&a, 10) else { panic!("forgotten at once") };
        assert!(first.created && !first.delete && first.request == 100);
        assert_eq!(a.record.find_op(OpId(10), 1), OpMemory::Reused);
        // Not full: even an older one would be remembered, had it been here.
        assert_eq!(find(&a, 9), OpMemory::Unknown);
        for op in 11..11 + OP_LOG_LEN as u128 {
            a.mint(delete(op, &a.context()));
        }
        assert_eq!(find(&a, 10), OpMemory::Forgotten);
        assert_eq!(find(&a, 9), OpMemory::Forgotten);
        assert!(matches!(find(&a, 11), OpMemory::Applied(OpEntry { delete: true, .. })));
        assert_eq!(find(&a, 1_000), OpMemory::Unknown);
        assert_eq!(a.record.op_entries().len(), OP_LOG_LEN);
    }
}

#[test]
fn an_expired_value_is_not_shown_and_stays_covered() {
    for kind in [RecordKind::Siblings, RecordKind::Lww] {
        let mut a = Stone::new(kind, 1);
        let mut mutation = put(1, &blind(), "x");
        mutation.action = Action::Put(Value { expires_at: Some(WallMicros(1_000)), ..value("x") });
        let x = a.mint(mutation);
        assert_eq!((shows(&a.record, 999), shows(&a.record, 1_000)), (vec!["x"], vec![]));
        let view = a.record.view(WallMicros(1_000));
        assert!(view.tombstone && view.context.covers(x.dot) && view.etag().is_some());
        // No live value stood here; the context of the reader who saw nothing replaces it.
        let context = view.context;
        let y = a.try_mint(put(2, &context, "y"), WallMicros(1_000)).unwrap();
        assert_eq!((y.created, y.siblings, y.superseded), (true, 1, 1));
    }
}

#[test]
fn an_expiry_at_the_end_of_time_is_no_expiry_now() {
    let far = Value { expires_at: Some(WallMicros(u64::MAX)), ..value("x") };
    assert!(!far.expired(WallMicros(u64::MAX - 1)) && far.expired(WallMicros(u64::MAX)));
}

#[test]
fn a_later_write_wins_however_slow_its_replica_s_clock() {
    let (mut fast, mut slow) = (Stone::new(RecordKind::Lww, 1), Stone::new(RecordKind::Lww, 2));
    (fast.clock, slow.clock) = (1_000_000, 5);
    fast.mint(put(1, &blind(), "early"));
    // It meets the other write on its own replica …
    slow.take(&fast);
    let late = slow.mint(put(2, &blind(), "late"));
    assert_eq!(late.stamp, Hlc(1_000_002));
    fast.take(&slow);
    assert_eq!(fast.shows(), ["late"]);
    // … or its writer has read it.
    let mut other = Stone::new(RecordKind::Lww, 3);
    other.clock = 7;
    other.mint(put(3, &fast.context(), "last"));
    fast.take(&other);
    assert_eq!(fast.shows(), ["last"]);
    // Of two that know nothing of each other the greater stamp stays.
    let mut unaware = Stone::new(RecordKind::Lww, 4);
    unaware.clock = 8;
    unaware.mint(put(4, &blind(), "unaware"));
    assert!(fast.take(&unaware).changed, "the operation is remembered");
    assert_eq!(fast.shows(), ["last"]);
}

#[test]
fn equal_stamps_are_decided_alike_everywhere() {
    let at = |actor: u64, m: Mutation| {
        let mut stone = Stone::new(RecordKind::Lww, actor);
        stone.clock = 41;
        stone.mint(m);
        stone
    };
    let (small, big) = (at(9, put(1, &blind(), "a")), at(1, put(2, &blind(), "b")));
    let gone = at(5, delete(3, &blind()));
    for order in [[&small, &big, &gone], [&gone, &big, &small], [&big, &gone, &small]] {
        let mut all = Stone::new(RecordKind::Lww, 7);
        order.iter().for_each(|stone| _ = all.take(stone));
        assert!(all.record.view(WallMicros(0)).tombstone, "deletions win");
    }
    for order in [[&small, &big], [&big, &small]] {
        let mut all = Stone::new(RecordKind::Lww, 7);
        order.iter().for_each(|stone| _ = all.take(stone));
        assert_eq!(all.shows(), ["b"], "then greater bytes");
    }
}

/// R11, R13, R15: a replica that forgot (damage, an old disk, a range that came back) must not
/// mint under its old actor. What one record can show of that, it refuses.
#[test]
fn r13_r15_a_dot_that_may_have_been_minted_before_is_refused() {
    for kind in [RecordKind::Siblings, RecordKind::Lww] {
        let mut a = Stone::new(kind, 1);
        for op in 1..4 {
            a.mint(put(op, &a.context(), "x"));
        }
        let before = a.record.clone();
        let mut restored = Stone::new(kind, 1);
        // It sees its own later events in the client's context …
        let refused = restored.try_mint(put(9, &a.context(), "y"), WallMicros(0));
        let dot = Dot { actor: ActorId(1), counter: 2 };
        assert_eq!(refused, Err(MintError::DotReused { dot, known: 6 }));
        assert!(restored.record.is_blank());
        // … or in the record that came back from a peer.
        restored.take(&a);
        assert!(restored.try_mint(put(9, &blind(), "y"), WallMicros(0)).is_err());
        assert_eq!(restored.record, before);
        assert_eq!(restored.record.max_counter(ActorId(1)), 6);
        assert_eq!(restored.record.max_counter(ActorId(2)), 0);
    }
}

/// If it happens all the same, the alarm rings, and all replicas keep the same value.
#[test]
fn one_dot_with_two_values_is_reported_and_settled_alike() {
    for kind in [RecordKind::Siblings, RecordKind::Lww] {
        let (mut a, mut b) = (Stone::new(kind, 1), Stone::new(kind, 1));
        let dot = a.mint(put(1, &blind(), "x")).dot;
        b.mint(put(2, &blind(), "y"));
        let (a_before, b_before) = (a.record.clone(), b.record.clone());
        assert_eq!(a.record.merge(&b_before).unwrap().dot_reused, Some(dot));
        assert_eq!(b.record.merge(&a_before).unwrap().dot_reused, Some(dot));
        assert_eq!(a.record, b.record);
    }
}

/// R12, "doomstone": a key is deleted and purged, a tombstone of it waits in a hint; the key is
/// born again. Its dots go on from the actor's one counter, so the tombstone cannot cover them.
#[test]
fn r12_a_late_tombstone_does_not_kill_a_key_born_again() {
    let mut a = stone(1);
    a.mint(put(1, &blind(), "x"));
    a.mint(delete(2, &a.context()));
    let hint = a.record.clone();
    a.record = Record::empty(RecordKind::Siblings); // purged
    a.mint(put(3, &blind(), "new"));
    assert!(a.record.merge(&hint).unwrap().changed);
    assert_eq!(a.shows(), ["new"]);
}

/// R16: Riak's sibling explosion. Two clients alternate, each reads right after its own write, so
/// that the other one's next write is missing from the context that it writes with.
#[test]
fn r16_two_clients_with_stale_contexts_make_at_most_two_siblings() {
    let (mut a, mut b) = (stone(1), stone(2));
    let mut held = [blind(), blind()];
    for round in 0..100u128 {
        let client = (round % 2) as usize;
        let minted = a.mint(put(round + 1, &held[client], "v"));
        held[client] = a.context();
        assert!(minted.siblings <= 2, "{} siblings in round {round}", minted.siblings);
        if round % 3 == 0 {
            std::mem::swap(&mut a, &mut b);
            a.take(&b);
        }
    }
    assert_eq!(a.record.value_count(), 2);
    // Two writers who never read and only carry what they wrote: one value each.
    let mut c = stone(3);
    let mut held = [blind(), blind()];
    for round in 0..100u128 {
        let client = (round % 2) as usize;
        let minted = c.mint(put(round + 1, &held[client], "v"));
        held[client] = minted.writer_context;
        assert!(minted.siblings <= 2);
    }
    assert_eq!(c.record.value_count(), 2);
}

/// R18 in a siblings table: clocks do not matter at all.
#[test]
fn r18_a_slow_clock_loses_nothing_in_a_siblings_record() {
    let (mut fast, mut slow) = (stone(1), stone(2));
    (fast.clock, slow.clock) = (1_000_000, 5);
    fast.mint(put(1, &blind(), "early"));
    slow.mint(put(2, &fast.context(), "late"));
    fast.take(&slow);
    assert_eq!(fast.shows(), ["late"]);
}

/// R19: five clients write the pair (v, -v) through five nodes whose stamps collide. Cassandra's
/// isolation test found cells of two batches side by side; a value here is one, and so every
/// replica shows the same whole pair, in whatever order the writes reach it.
#[test]
fn r19_writes_with_equal_stamps_are_never_mixed() {
    const PAIRS: [&str; 5] = ["1,-1", "2,-2", "3,-3", "4,-4", "5,-5"];
    let mut stones: Vec<Stone> = (1..=5).map(|at| Stone::new(RecordKind::Lww, at)).collect();
    for round in 1..=20_u64 {
        for (at, stone) in stones.iter_mut().enumerate() {
            stone.clock = round * 100;
            stone.mint(put(u128::from(round) << 8 | at as u128, &blind(), PAIRS[at]));
        }
        let written: Vec<Record> = stones.iter().map(|stone| stone.record.clone()).collect();
        for (at, stone) in stones.iter_mut().enumerate() {
            for other in 1..5 {
                let from = (at + other * (round as usize % 4 + 1)) % 5;
                stone.record.merge(&written[from]).unwrap();
                assert!(PAIRS.contains(&stone.shows()[0]), "{:?}", stone.shows());
            }
        }
        for stone in &stones {
            assert_eq!(stone.shows(), [PAIRS[4]], "the greatest bytes, everywhere, in {round}");
        }
    }
}

#[test]
fn entity_tags_name_versions_not_bytes() {
    let mut a = stone(1);
    let tag = |a: &Stone| a.record.view(WallMicros(0)).etag();
    assert_eq!(tag(&a), None);
    let x = a.mint(put(1, &blind(), "x"));
    let one = tag(&a).unwrap();
    assert_eq!(one, version_etag(x.dot));
    assert!(one.len() == 34 && one.starts_with('"') && one.ends_with('"'), "strong and quoted");
    let again = a.mint(put(2, &a.context(), "x"));
    assert_ne!(tag(&a).unwrap(), one, "the same bytes again are another version");
    let other = a.mint(put(3, &blind(), "x"));
    let both = tag(&a).unwrap();
    assert_eq!(both, etag([other.dot, again.dot]));
    a.mint(delete(4, &a.context()));
    let gone = tag(&a).unwrap();
    a.mint(delete(5, &a.context()));
    let tags = [one, both, gone, tag(&a).unwrap()];
    for (at, tag) in tags.iter().enumerate() {
        assert!(!tags[..at].contains(tag));
    }
}

#[test]
fn a_record_that_is_full_takes_no_more_values_but_can_be_resolved() {
    let mut a = stone(1);
    for op in 0..MAX_VALUES as u128 {
        a.counter += 1;
        let dot = Dot { actor: ActorId(1), counter: a.counter };
        let Body::Siblings(siblings) = &mut a.record.body else { panic!("a siblings record") };
        siblings.seen.advance(dot);
        siblings.values.push(Version { dot, op: OpId(op), value: value("x") });
    }
    let full = MintError::TooManyValues { got: MAX_VALUES, max: MAX_VALUES };
    assert_eq!(a.try_mint(put(1 << 64, &blind(), "y"), WallMicros(0)), Err(full));
    assert_eq!(a.mint(put(1 << 65, &a.context(), "y")).superseded, MAX_VALUES);
}

#[test]
fn the_greater_fence_wins_however_records_meet_and_a_record_with_one_never_dies() {
    for kind in [RecordKind::Siblings, RecordKind::Lww] {
        let mut a = Stone::new(kind, 1);
        a.mint(put(1, &blind(), "x"));
        let mut b = Stone::new(kind, 2);
        b.take(&a);
        a.record.raise_fence(8);
        b.record.raise_fence(3);
        b.record.raise_fence(2);
        assert_eq!(b.record.fence(), 3);
        let merged = b.take(&a);
        assert!(merged.changed && !merged.incoming_dominated && !merged.equal);
        assert_eq!((b.record.fence(), &b.record), (8, &a.record));
        assert!(b.take(&a).equal);
        a.mint(delete(2, &a.context()));
        let merged = a.take(&b);
        assert!(merged.incoming_dominated && !merged.changed);
        assert_eq!((a.record.fence(), a.record.dead_at()), (8, None));
        assert!(a.shows().is_empty());
    }
}
