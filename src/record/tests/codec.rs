use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::codec::reseal;
use super::*;
use crate::record::lww::LwwCell;
use crate::record::ops::OpLog;
use crate::types::Digest;

fn rich_value(body: &'static str) -> Value {
    Value {
        content_type: Some("text/plain".to_owned()),
        meta: vec![("colour".to_owned(), "grey".to_owned())],
        expires_at: Some(WallMicros(2_000_000_000_000_000)),
        ..value(body)
    }
}

fn rich(op: u128, context: &Context, body: &'static str) -> Mutation {
    Mutation { action: Action::Put(rich_value(body)), ..put(op, context, body) }
}

/// The samples of formats 1 and 2 that are kept as files. Each exercises every field of its kind.
fn samples() -> Vec<(&'static str, Record)> {
    let mut siblings = Stone::new(RecordKind::Siblings, 1);
    siblings.mint(put(1 << 100 | 0xABC1, &blind(), "first"));
    siblings.mint(rich(2 << 100 | 0xABC2, &blind(), "second"));
    let mut other = Stone::new(RecordKind::Siblings, 300);
    let unseen = Dot { actor: ActorId(77), counter: 1_000_000 };
    let context = [unseen].into_iter().collect::<crate::causality::CausalSet>().into();
    other.mint(put(3 << 100 | 0xABC3, &context, ""));
    siblings.take(&other);
    let mut tombstone = Stone::new(RecordKind::Siblings, 1);
    tombstone.mint(put(1 << 100 | 0xABC1, &blind(), "first"));
    tombstone.mint(delete(2 << 100 | 0xABC2, &tombstone.context()));

    let mut lww = Stone::new(RecordKind::Lww, 1);
    lww.mint(put(1 << 100 | 0xABC1, &blind(), "first"));
    lww.mint(rich(2 << 100 | 0xABC2, &blind(), "second"));
    let mut lww_tombstone = Stone::new(RecordKind::Lww, 300);
    lww_tombstone.take(&lww);
    lww_tombstone.mint(delete(3 << 100 | 0xABC3, &blind()));
    let (mut fenced, mut lww_fenced) = (tombstone.record.clone(), lww.record.clone());
    fenced.raise_fence(8);
    lww_fenced.raise_fence(1_000_000);
    vec![
        ("siblings_v1", siblings.record),
        ("siblings_tombstone_v1", tombstone.record),
        ("siblings_empty_v1", Record::empty(RecordKind::Siblings)),
        ("lww_v1", lww.record),
        ("lww_tombstone_v1", lww_tombstone.record),
        ("lww_empty_v1", Record::empty(RecordKind::Lww)),
        ("siblings_v2", fenced),
        ("lww_v2", lww_fenced),
    ]
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect());
    lines.collect::<Vec<String>>().join("\n")
}

/// Records on old disks must stay readable. If this fails, the format has changed: give it a new
/// number, keep the reader of the old one, and add samples; never edit these.
#[test]
fn the_kept_samples_still_decode_to_the_same_records() {
    let files = [
        include_str!("../../../tests/data/records/siblings_v1.hex"),
        include_str!("../../../tests/data/records/siblings_tombstone_v1.hex"),
        include_str!("../../../tests/data/records/siblings_empty_v1.hex"),
        include_str!("../../../tests/data/records/lww_v1.hex"),
        include_str!("../../../tests/data/records/lww_tombstone_v1.hex"),
        include_str!("../../../tests/data/records/lww_empty_v1.hex"),
        include_str!("../../../tests/data/records/siblings_v2.hex"),
        include_str!("../../../tests/data/records/lww_v2.hex"),
    ];
    for ((name, record), file) in samples().into_iter().zip(files) {
        let bytes = record.encode(&home());
        assert_eq!(Record::decode(&unhex(file), &home()), Ok(record), "{name}:\n{}", hex(&bytes));
        assert_eq!(unhex(file), bytes, "{name}");
    }
}

#[test]
fn values_are_slices_of_the_input() {
    let (_, record) = samples().remove(0);
    let bytes = record.encode(&home());
    let decoded = Record::decode(&bytes, &home()).unwrap();
    let here = bytes.as_ptr_range();
    for version in decoded.view(WallMicros(0)).versions {
        assert!(version.value.body.is_empty() || here.contains(&version.value.body.as_ptr()));
    }
}

#[test]
fn any_changed_or_missing_byte_is_an_error_and_never_a_blank_record() {
    for (name, record) in samples() {
        let bytes = record.encode(&home());
        assert_eq!(verify(&bytes, &home()), Ok(record.digest()), "{name}");
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xFF] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= flip;
                let damaged = Bytes::from(damaged);
                let error = Record::decode(&damaged, &home()).expect_err(name);
                assert_eq!(verify(&damaged, &home()), Err(error), "{name}, byte {at}");
            }
            assert!(Record::decode(&bytes.slice(..at), &home()).is_err());
        }
    }
}

#[test]
fn errors_tell_damage_from_a_newer_format_from_a_wrong_place() {
    let (_, record) = samples().remove(0);
    let bytes = record.encode(&home());
    let changed = |at: usize, byte: u8| {
        let mut changed = bytes.to_vec();
        changed[at] = byte;
        Record::decode(&changed.into(), &home())
    };
    assert_eq!(changed(0, 9), Err(RecordError::Format(9)));
    assert_eq!(changed(1, 2), Err(RecordError::Checksum), "the kind is under the checksum");
    assert_eq!(changed(40, 0xEE), Err(RecordError::Checksum));
    assert_eq!(Record::decode(&Bytes::new(), &home()), Err(RecordError::Truncated));
    let elsewhere = address(TableId(3), &Key::new("l").unwrap());
    assert_eq!(Record::decode(&bytes, &elsewhere), Err(RecordError::Misplaced));
    let other_table = address(TableId(4), &Key::new("k").unwrap());
    assert_eq!(Record::decode(&bytes, &other_table), Err(RecordError::Misplaced));
    assert_eq!(Record::decode(&reseal(1, 9, &[], &home()), &home()), Err(RecordError::Kind(9)));
}

#[test]
fn digests_are_the_same_in_every_place_and_none_is_reserved() {
    let mut all = BTreeMap::new();
    for (name, record) in samples() {
        let here = stored_digest(&record.encode(&home())).unwrap();
        assert_eq!(stored_digest(&record.encode(b"elsewhere")), Ok(here));
        assert_ne!(here, Digest(0));
        assert_eq!(all.insert(here, name), None);
    }
}

type Edit = (&'static str, fn(&mut Version));

/// R05: two replicas whose records differ in one field must not look alike.
const EDITS: &[Edit] = &[
    ("nothing", |_| {}),
    ("dot", |v| v.dot.counter -= 1),
    ("op", |v| v.op.0 ^= 1),
    ("body", |v| v.value.body = Bytes::from_static(b"other")),
    ("empty body", |v| v.value.body = Bytes::new()),
    ("no content type", |v| v.value.content_type = None),
    ("empty content type", |v| v.value.content_type = Some(String::new())),
    ("content type", |v| v.value.content_type = Some("text/html".to_owned())),
    ("no expiry", |v| v.value.expires_at = None),
    ("expiry at zero", |v| v.value.expires_at = Some(WallMicros(0))),
    ("expiry", |v| v.value.expires_at = Some(WallMicros(1))),
    ("written at", |v| v.value.written_at.0 += 1),
    ("no meta", |v| v.value.meta.clear()),
    ("meta name", |v| v.value.meta[0].0.push('s')),
    ("meta text", |v| v.value.meta[0].1.push('s')),
    ("meta moved", |v| v.value.meta[0] = ("colou".to_owned(), "rgrey".to_owned())),
    ("empty meta", |v| v.value.meta.push((String::new(), String::new()))),
];

type OpEdit = (&'static str, fn(&mut OpEntry));

const OP_EDITS: &[OpEdit] = &[
    ("logged op", |e| e.op.0 ^= 1),
    ("logged dot", |e| e.dot.counter -= 1),
    ("request", |e| e.request ^= 1),
    ("created", |e| e.created ^= true),
    ("delete", |e| e.delete ^= true),
];

fn assert_all_differ(records: Vec<(String, Record)>) {
    let mut digests = BTreeMap::new();
    for (name, record) in &records {
        let bytes = record.encode(&home());
        assert_eq!(Record::decode(&bytes, &home()).as_ref(), Ok(record), "{name}");
        let other = digests.insert(stored_digest(&bytes).unwrap(), name);
        assert_eq!(other, None, "{name} looks like another");
    }
}

fn edited_ops(ops: &OpLog, edit: fn(&mut OpEntry)) -> OpLog {
    let mut entries = ops.entries().to_vec();
    edit(entries.last_mut().unwrap());
    OpLog::from_sorted(entries).unwrap()
}

#[test]
fn r05_siblings_that_differ_in_one_field_have_different_digests() {
    let mut stone = Stone::new(RecordKind::Siblings, 1);
    stone.counter = 5;
    stone.mint(rich(8, &blind(), "x"));
    let Body::Siblings(base) = &stone.record.body else { panic!("a siblings record") };
    let record = |s: &Siblings| Record { body: Body::Siblings(s.clone()), fence: 0 };
    let mut records = Vec::new();
    for (name, edit) in EDITS {
        let mut s = base.clone();
        edit(&mut s.values[0]);
        records.push(((*name).to_owned(), record(&s)));
    }
    for (name, edit) in OP_EDITS {
        let s = Siblings { ops: edited_ops(&base.ops, *edit), ..base.clone() };
        records.push(((*name).to_owned(), record(&s)));
    }
    let dead = Siblings { values: Vec::new(), ..base.clone() };
    records.push(("deleted".to_owned(), record(&dead)));
    records.push(("fenced".to_owned(), Record { fence: 1, ..record(base) }));
    records.push(("fenced again".to_owned(), Record { fence: 2, ..record(base) }));
    records
        .push(("no log".to_owned(), record(&Siblings { ops: OpLog::default(), ..base.clone() })));
    for (actor, counter) in [(1, 8), (1, 9), (2, 1), (2, 2)] {
        let mut s = base.clone();
        s.seen.insert(Dot { actor: ActorId(actor), counter });
        records.push((format!("seen {actor}:{counter}"), record(&s)));
    }
    assert_all_differ(records);
}

#[test]
fn r05_cells_that_differ_in_one_field_have_different_digests() {
    let mut stone = Stone::new(RecordKind::Lww, 1);
    stone.counter = 5;
    stone.mint(rich(8, &blind(), "x"));
    let Body::Lww(base) = &stone.record.body else { panic!("an lww record") };
    let Some(LwwCell::Live(version)) = &base.cell else { panic!("a live cell") };
    let record = |cell, ops: &OpLog| {
        let body = Body::Lww(Lww { cell, ops: ops.clone() });
        Record { body, fence: 0 }
    };
    let mut records = Vec::new();
    for (name, edit) in EDITS {
        let mut version = version.clone();
        edit(&mut version);
        records.push(((*name).to_owned(), record(Some(LwwCell::Live(version)), &base.ops)));
    }
    for (name, edit) in OP_EDITS {
        let ops = edited_ops(&base.ops, *edit);
        records.push(((*name).to_owned(), record(base.cell.clone(), &ops)));
    }
    let (stamp, dot, op) = (version.value.written_at, version.dot, version.op);
    let later = Hlc(stamp.0 + 1);
    for (name, stamp, op) in
        [("deleted", stamp, op), ("deleted later", later, op), ("deleted by", stamp, OpId(9))]
    {
        let cell = LwwCell::Tombstone { stamp, dot, op };
        records.push((name.to_owned(), record(Some(cell), &base.ops)));
    }
    records.push(("no log".to_owned(), record(base.cell.clone(), &OpLog::default())));
    records.push(("no cell".to_owned(), record(None, &base.ops)));
    let fenced = Record { fence: 1, ..record(base.cell.clone(), &base.ops) };
    records.push(("fenced".to_owned(), fenced));
    assert_all_differ(records);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        bytes in any::<Vec<u8>>(), format in 1u8..3, kind in 0u8..4, payload in any::<Vec<u8>>()
    ) {
        let _ = Record::decode(&bytes.into(), &home());
        let _ = Record::decode(&reseal(format, kind, &payload, &home()), &home());
    }

    /// Damage under a right checksum, as a faulty peer could send it: refused, or read as a record
    /// that encodes to these very bytes. So no record has two encodings.
    #[test]
    fn what_decodes_is_canonical(
        sample in 0usize..8,
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), 0u8..4]), 1..4
        ),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let bytes = samples()[sample].1.encode(&home());
        let mut payload = bytes[26..].to_vec();
        for (at, byte) in edits {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        let bytes = reseal(bytes[0], bytes[1], &payload, &home());
        if let Ok(record) = Record::decode(&bytes, &home()) {
            prop_assert_eq!(record.encode(&home()), bytes);
        }
    }
}

/// A few bytes that promise four thousand million of anything: refused before allocating.
#[test]
fn a_huge_count_is_refused_by_what_is_there() {
    let huge = [0xFF, 0xFF, 0xFF, 0xFF, 0x0F];
    for before in [&[][..], &[0], &[0, 0], &[0, 0, 0]] {
        for kind in [RecordKind::Siblings, RecordKind::Lww] {
            let payload = [before, &huge].concat();
            let read = Record::decode(&reseal(1, kind as u8, &payload, &home()), &home());
            assert!(read.is_err(), "{kind:?} after {before:?}");
        }
    }
}
