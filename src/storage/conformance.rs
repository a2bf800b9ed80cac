//! What every [`Engine`] must do. One suite for all of them, the simulator's included.
//!
//! `open` opens the same store each time, which is empty at the first call; the suite drops an
//! engine before it opens the next. Loss of power is the business of `tests/power_loss.rs` and of
//! the simulator: here every stop is a clean one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::{
    Batch, BatchOp, Engine, KeyRange, MAX_STORAGE_KEY_BYTES, MAX_STORAGE_VALUE_BYTES, StorageError,
};

/// Opens the store under test.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Engine>;

/// The value sizes at which something changes in one engine or another.
pub const VALUE_SIZES: [usize; 14] = [
    0,
    1,
    4 << 10,
    (16 << 10) - 1,
    16 << 10,
    (16 << 10) + 1,
    64 << 10,
    (128 << 10) - 1,
    128 << 10,
    (128 << 10) + 1,
    256 << 10,
    1 << 20,
    (1 << 20) + 1,
    8 << 20,
];

/// Runs the whole suite.
///
/// # Panics
/// When the engine breaks the contract, with what it did.
pub fn run(open: Open<'_>) {
    puts_and_deletes(open);
    later_changes_of_a_batch_win(open);
    scans_are_ordered_and_bounded(open);
    a_visitor_may_use_the_engine(open);
    the_way_back_over_zero(open);
    bounds_are_enforced(open);
    values_of_every_size(open);
    large_values_leave_nothing_behind(open);
    long_keys(open);
    for seed in 0..4 {
        model(open, seed, 60);
    }
}

/// Bytes that depend on `seed` and do not compress to nothing.
#[must_use]
pub fn filler(seed: u64, len: usize) -> Bytes {
    let mut draw = Draw(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&draw.next().to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

/// A small generator (splitmix64), so that a seed gives the same run everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn put(engine: &dyn Engine, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    engine.apply(&batch).expect("a put");
}

fn delete(engine: &dyn Engine, key: &[u8]) {
    let mut batch = Batch::new();
    batch.delete(Bytes::copy_from_slice(key));
    engine.apply(&batch).expect("a delete");
}

fn get(engine: &dyn Engine, key: &[u8]) -> Option<Bytes> {
    engine.get(key).expect("a get")
}

/// All entries of `range`.
///
/// # Panics
/// When the scan fails, or shows something else from the end.
#[must_use]
pub fn entries(engine: &dyn Engine, range: &KeyRange) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    engine
        .scan(range, &mut |key, value| {
            let value = value.expect("a sound value");
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })
        .expect("a scan");
    let mut left = found.iter();
    engine
        .scan_back(range, &mut |key, value| {
            let wanted = left.next_back().map(|(key, value)| (&key[..], &value[..]));
            assert!(value == Ok(wanted.expect("no more entries").1), "another value, from the end");
            assert_eq!(Some(key), wanted.map(|(key, _)| key), "from the end");
            ControlFlow::Continue(())
        })
        .expect("a scan from the end");
    assert_eq!(left.len(), 0, "entries that were not shown from the end");
    found
}

fn keys(engine: &dyn Engine, range: &KeyRange) -> Vec<Bytes> {
    entries(engine, range).into_iter().map(|(key, _)| key).collect()
}

fn all() -> KeyRange {
    KeyRange { start: Bytes::new(), end: None }
}

fn clear(engine: &dyn Engine) {
    for key in keys(engine, &all()) {
        delete(engine, &key);
    }
    engine.sync().expect("a sync");
}

fn puts_and_deletes(open: Open<'_>) {
    let engine = open();
    assert_eq!(entries(&*engine, &all()), [], "the suite begins with an empty store");
    assert_eq!(get(&*engine, b"a"), None);
    delete(&*engine, b"a");
    put(&*engine, b"a", b"1");
    put(&*engine, b"b", b"");
    assert_eq!(get(&*engine, b"a").as_deref(), Some(&b"1"[..]), "visible before any sync");
    assert_eq!(get(&*engine, b"b").as_deref(), Some(&b""[..]), "empty is not absent");
    assert_eq!(get(&*engine, b"").as_deref(), None, "no row has an empty key");
    put(&*engine, b"a", b"2");
    delete(&*engine, b"b");
    engine.apply(&Batch::new()).expect("an empty batch");
    let syncs = engine.stats().syncs;
    engine.sync().expect("a sync");
    engine.sync().expect("a second sync");
    assert!(engine.stats().syncs == syncs + 2 || engine.stats().syncs == 0, "syncs are counted");
    drop(engine);

    let engine = open();
    assert_eq!(get(&*engine, b"a").as_deref(), Some(&b"2"[..]), "what was synced is there again");
    assert_eq!(get(&*engine, b"b"), None, "what was deleted stays so");
    clear(&*engine);
}

fn later_changes_of_a_batch_win(open: Open<'_>) {
    let engine = open();
    put(&*engine, b"kept", b"old");
    put(&*engine, b"gone", b"old");
    let mut batch = Batch::new();
    batch.put("kept", "first").delete("kept").put("kept", "last");
    batch.put("gone", "first").put("gone", filler(1, 100_000)).delete("gone");
    batch.put("large", filler(2, 100_000)).put("large", "small");
    batch.put("small", "small").put("small", filler(3, 100_000));
    engine.apply(&batch).expect("a batch");
    assert_eq!(get(&*engine, b"kept").as_deref(), Some(&b"last"[..]));
    assert_eq!(get(&*engine, b"gone"), None);
    assert_eq!(get(&*engine, b"large").as_deref(), Some(&b"small"[..]));
    assert_eq!(get(&*engine, b"small"), Some(filler(3, 100_000)));
    clear(&*engine);
}

fn scans_are_ordered_and_bounded(open: Open<'_>) {
    let engine = open();
    // Keys around the edges of prefixes, put in an order that is not theirs.
    let mut wanted: Vec<Bytes> = Vec::new();
    for key in [
        &b"\xFF\xFF"[..],
        b"\x00",
        b"\x01",
        b"b",
        b"a",
        b"a\x00",
        b"a\xFF",
        b"a\xFF\xFF",
        b"\xFF",
        b"\xFF\x00",
        b"\x00\x00",
        b"c",
        b"r",
        b"s",
    ] {
        put(&*engine, key, key);
        wanted.push(Bytes::copy_from_slice(key));
    }
    wanted.sort();
    assert_eq!(keys(&*engine, &all()), wanted);
    let starts: [&[u8]; 9] =
        [b"", b"\x00", b"a", b"a\x00", b"a\xFF", b"b", b"\xFF", b"\xFF\xFF", b"\xFF\xFF\x00"];
    for start in starts {
        let prefixed = wanted.iter().filter(|key| key.starts_with(start)).cloned();
        let prefixed: Vec<Bytes> = prefixed.collect();
        assert_eq!(keys(&*engine, &KeyRange::prefix(start)), prefixed, "prefix {start:?}");
        for end in starts {
            let range = KeyRange {
                start: Bytes::copy_from_slice(start),
                end: Some(Bytes::copy_from_slice(end)),
            };
            let within = wanted.iter().filter(|key| start <= &key[..] && &key[..] < end).cloned();
            let within: Vec<Bytes> = within.collect();
            assert_eq!(keys(&*engine, &range), within, "{start:?} to {end:?}");
        }
    }
    let mut seen = 0;
    let outcome = engine.scan(&all(), &mut |_, _| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((outcome, seen), (Ok(()), 3), "a visitor ends the scan");
    let mut seen = Vec::new();
    let outcome = engine.scan_back(&all(), &mut |key, _| {
        seen.push(Bytes::copy_from_slice(key));
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(outcome, Ok(()));
    assert!(seen.iter().eq(wanted.iter().rev().take(3)), "a visitor ends the scan from the end");
    clear(&*engine);
}

fn a_visitor_may_use_the_engine(open: Open<'_>) {
    let engine = open();
    for n in 0..200_u32 {
        put(&*engine, &n.to_be_bytes(), &filler(u64::from(n), 20_000));
    }
    let mut seen = 0;
    engine
        .scan(&all(), &mut |key, value| {
            assert_eq!(get(&*engine, key).as_deref(), value.ok());
            delete(&*engine, key);
            seen += 1;
            ControlFlow::Continue(())
        })
        .expect("a scan that deletes");
    assert_eq!(seen, 200);
    assert_eq!(entries(&*engine, &all()), []);
    for n in 0..200_u32 {
        put(&*engine, &n.to_be_bytes(), &filler(u64::from(n), 20_000));
    }
    let mut seen = Vec::new();
    engine
        .scan_back(&all(), &mut |key, value| {
            assert_eq!(get(&*engine, key).as_deref(), value.ok());
            delete(&*engine, key);
            seen.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })
        .expect("a scan from the end that deletes");
    let wanted: Vec<Bytes> =
        (0..200_u32).rev().map(|n| Bytes::from_owner(n.to_be_bytes())).collect();
    assert_eq!(seen, wanted);
    assert_eq!(entries(&*engine, &all()), []);
}

/// Small numbers around zero as they lie in clustering keys: those below zero lie just below `p 80`,
/// and behind `p 7F FF FF FF FF`. Where a page of sled begins at zero, its own way back ends there.
fn the_way_back_over_zero(open: Open<'_>) {
    let engine = open();
    for below in 200..209_i64 {
        for n in -below..40 {
            let ordered = n.cast_unsigned() ^ (1 << 63);
            put(&*engine, &[b"p", &ordered.to_be_bytes()[..], b"c"].concat(), b"v");
        }
        assert_eq!(entries(&*engine, &all()).len(), usize::try_from(below + 40).expect("few"));
        clear(&*engine);
    }
}

fn bounds_are_enforced(open: Open<'_>) {
    let engine = open();
    let largest_key = vec![b'k'; MAX_STORAGE_KEY_BYTES];
    put(&*engine, &largest_key, b"v");
    assert_eq!(get(&*engine, &largest_key).as_deref(), Some(&b"v"[..]));
    let mut too_long = Batch::new();
    too_long.put("fine", "fine").put(vec![b'k'; MAX_STORAGE_KEY_BYTES + 1], "v");
    let mut no_key = Batch::new();
    no_key.put("fine", "fine").delete("");
    let mut too_large = Batch::new();
    too_large.put("fine", "fine").put("k", vec![0; MAX_STORAGE_VALUE_BYTES + 1]);
    for batch in [too_long, no_key, too_large] {
        let refused = engine.apply(&batch);
        assert!(matches!(refused, Err(StorageError::TooLarge { .. })), "{refused:?}");
        assert_eq!(get(&*engine, b"fine"), None, "nothing of a refused batch is there");
    }
    clear(&*engine);
}

fn values_of_every_size(open: Open<'_>) {
    let engine = open();
    let key = |size: usize| format!("size-{size}").into_bytes();
    for size in VALUE_SIZES {
        put(&*engine, &key(size), &filler(size as u64, size));
    }
    engine.sync().expect("a sync");
    let check = |engine: &dyn Engine| {
        for size in VALUE_SIZES {
            let wanted = filler(size as u64, size);
            assert!(get(engine, &key(size)) == Some(wanted), "a value of {size} B");
        }
        for (key, value) in entries(engine, &KeyRange::prefix(b"size-")) {
            let size: usize = String::from_utf8_lossy(&key[5..]).parse().expect("a size");
            assert!(value == filler(size as u64, size), "a value of {size} B in a scan");
        }
    };
    check(&*engine);
    drop(engine);
    let engine = open();
    check(&*engine);
    // Every size is replaced by every neighbour, large by small above all.
    for (turn, from) in VALUE_SIZES.iter().enumerate() {
        let to = VALUE_SIZES[(turn + 5) % VALUE_SIZES.len()];
        put(&*engine, &key(*from), &filler(7, to));
        assert!(get(&*engine, &key(*from)) == Some(filler(7, to)), "{from} B replaced by {to} B");
    }
    clear(&*engine);
}

/// A value that is replaced or deleted gives its space back to the store, and numbers that the
/// wrapper gave out are not taken for others after a reopen.
fn large_values_leave_nothing_behind(open: Open<'_>) {
    let engine = open();
    put(&*engine, b"a", &filler(1, 100_000));
    put(&*engine, b"b", &filler(2, 100_000));
    delete(&*engine, b"b");
    engine.sync().expect("a sync");
    drop(engine);
    let engine = open();
    put(&*engine, b"c", &filler(3, 100_000));
    assert!(get(&*engine, b"a") == Some(filler(1, 100_000)));
    assert!(get(&*engine, b"c") == Some(filler(3, 100_000)));
    clear(&*engine);
    assert_eq!(entries(&*engine, &all()), []);
}

fn long_keys(open: Open<'_>) {
    let engine = open();
    let key = |n: u32| {
        let mut key = filler(u64::from(n), MAX_STORAGE_KEY_BYTES - 4).to_vec();
        key.extend_from_slice(&n.to_be_bytes());
        key
    };
    for n in 0..600 {
        put(&*engine, &key(n), &n.to_be_bytes());
    }
    engine.sync().expect("a sync");
    drop(engine);
    let engine = open();
    for n in 0..600 {
        assert_eq!(get(&*engine, &key(n)).as_deref(), Some(&n.to_be_bytes()[..]));
    }
    clear(&*engine);
}

/// Random batches, reads, scans, syncs and reopens, compared with a `BTreeMap`.
///
/// # Panics
/// When the engine and the map differ.
pub fn model(open: Open<'_>, seed: u64, steps: usize) {
    let mut draw = Draw(seed);
    let mut engine = Some(open());
    let mut map: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for step in 0..steps {
        let at = engine.as_deref().expect("an open engine");
        match draw.below(10) {
            0..6 => {
                let batch = random_batch(&mut draw);
                at.apply(&batch).expect("a batch");
                apply_to_map(&mut map, &batch);
            }
            6 => {
                let (one, other) = (random_key(&mut draw), random_key(&mut draw));
                let range = KeyRange { start: one, end: Some(other) };
                let wanted: Vec<(Bytes, Bytes)> = map
                    .iter()
                    .filter(|(key, _)| {
                        range.start <= **key && range.end.as_ref().is_none_or(|end| *key < end)
                    })
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                assert!(entries(at, &range) == wanted, "seed {seed}, step {step}: {range:?}");
            }
            7 => at.sync().expect("a sync"),
            8 => {
                at.sync().expect("a sync");
                drop(engine.take());
                engine = Some(open());
            }
            _ => {
                let key = random_key(&mut draw);
                let found = get(at, &key);
                assert!(found.as_ref() == map.get(&key), "seed {seed}, step {step}: {key:?}");
            }
        }
    }
    let at = engine.as_deref().expect("an open engine");
    assert!(entries(at, &all()).into_iter().eq(map), "seed {seed}: all entries");
    clear(at);
}

fn random_key(draw: &mut Draw) -> Bytes {
    let len = 1 + draw.below(3) as usize;
    (0..len).map(|_| [0, b'a', b'b', 0xFF][draw.below(4) as usize]).collect()
}

fn random_batch(draw: &mut Draw) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..draw.below(12) {
        let key = random_key(draw);
        match draw.below(4) {
            0 => batch.delete(key),
            1 => batch.put(key, filler(draw.next(), draw.below(60_000) as usize)),
            _ => batch.put(key, filler(draw.next(), draw.below(40) as usize)),
        };
    }
    batch
}

fn apply_to_map(map: &mut BTreeMap<Bytes, Bytes>, batch: &Batch) {
    for op in batch.ops() {
        match op {
            BatchOp::Put { key, value } => map.insert(key.clone(), value.clone()),
            BatchOp::Delete { key } => map.remove(key),
        };
    }
}
