//! Statements on `cells`, drawn at random, with what they mean.

use crate::env::Env;
use crate::sim::rows::{Cell, ELEMENTS, Effect, ROWS};

/// A statement or batch, and its meaning.
pub(super) struct Drawn {
    pub(super) text: String,
    pub(super) effects: Vec<Effect>,
    pub(super) ttl_s: Option<u32>,
}

/// What all statements of one write share.
struct Frame<'a> {
    env: &'a Env,
    partition: i32,
    value: i32,
    stamp: i64,
    ttl_s: Option<u32>,
}

fn below(env: &Env, bound: i32) -> i32 {
    i32::try_from(env.random_below("rows", u64::from(bound.unsigned_abs()))).unwrap_or(0)
}

/// Draws a write of `value` under `stamp`.
pub(super) fn draw(env: &Env, partition: i32, value: i32, stamp: i64) -> Drawn {
    let ttl_s = (below(env, 8) == 0).then(|| 1 + below(env, 6).unsigned_abs());
    let frame = Frame { env, partition, value, stamp, ttl_s };
    let (text, effects) = if below(env, 4) == 0 {
        let mut parts = Vec::new();
        let mut effects = Vec::new();
        for _ in 0..2 + below(env, 2) {
            let (text, own) = frame.statement();
            parts.push(format!("{text};"));
            effects.extend(own);
        }
        (format!("BEGIN UNLOGGED BATCH {} APPLY BATCH", parts.join(" ")), effects)
    } else {
        frame.statement()
    };
    Drawn { text, effects, ttl_s }
}

impl Frame<'_> {
    fn using(&self) -> String {
        let ttl = self.ttl_s.map(|ttl| format!(" AND TTL {ttl}")).unwrap_or_default();
        format!("USING TIMESTAMP {}{ttl}", self.stamp)
    }

    fn put(&self, row: Option<i32>, cell: Cell, value: i32) -> Effect {
        Effect::Cell { row, cell, value: Some(value) }
    }

    fn statement(&self) -> (String, Vec<Effect>) {
        let (p, v, stamp) = (self.partition, self.value, self.stamp);
        let c = below(self.env, ROWS);
        let k = below(self.env, ELEMENTS);
        let here = format!("WHERE p = {p} AND c = {c}");
        let (using, row) = (self.using(), Some(c));
        let pair = [self.put(row, Cell::A, v), self.put(row, Cell::B, -v)];
        match below(self.env, 24) {
            0..=4 => {
                (format!("UPDATE w.cells {using} SET a = {v}, b = {} {here}", -v), pair.into())
            }
            5..=8 => (
                format!("INSERT INTO w.cells (p, c, a, b) VALUES ({p}, {c}, {v}, {}) {using}", -v),
                pair.into_iter().chain([self.put(row, Cell::Liveness, 0)]).collect(),
            ),
            9 => (
                format!("INSERT INTO w.cells (p, c) VALUES ({p}, {c}) {using}"),
                vec![self.put(row, Cell::Liveness, 0)],
            ),
            10 | 11 => (
                format!("UPDATE w.cells {using} SET s = {v} WHERE p = {p}"),
                vec![self.put(None, Cell::S, v)],
            ),
            12 | 13 => (
                format!("UPDATE w.cells {using} SET m[{k}] = {v}, a = {v} {here}"),
                vec![self.put(row, Cell::M(k), v), self.put(row, Cell::A, v)],
            ),
            14 => (
                format!("UPDATE w.cells {using} SET m = m + {{{k}: {v}}} {here}"),
                vec![self.put(row, Cell::M(k), v)],
            ),
            15 => (
                format!("UPDATE w.cells {using} SET m = {{{k}: {v}}} {here}"),
                vec![Effect::Map { row: c, replaced: true }, self.put(row, Cell::M(k), v)],
            ),
            16 => (
                format!("DELETE m[{k}] FROM w.cells USING TIMESTAMP {stamp} {here}"),
                vec![Effect::Cell { row, cell: Cell::M(k), value: None }],
            ),
            17 => (
                format!("DELETE m FROM w.cells USING TIMESTAMP {stamp} {here}"),
                vec![Effect::Map { row: c, replaced: false }],
            ),
            18 => (
                format!("DELETE a, b FROM w.cells USING TIMESTAMP {stamp} {here}"),
                [Cell::A, Cell::B].map(|cell| Effect::Cell { row, cell, value: None }).into(),
            ),
            19 => (
                format!("DELETE s FROM w.cells USING TIMESTAMP {stamp} WHERE p = {p}"),
                vec![Effect::Cell { row: None, cell: Cell::S, value: None }],
            ),
            20 | 21 => (
                format!("DELETE FROM w.cells USING TIMESTAMP {stamp} {here}"),
                vec![Effect::Rows { from: c, to: c + 1 }],
            ),
            22 => {
                let to = c + 1 + below(self.env, ROWS);
                let slice = format!("WHERE p = {p} AND c >= {c} AND c < {to}");
                (
                    format!("DELETE FROM w.cells USING TIMESTAMP {stamp} {slice}"),
                    vec![Effect::Rows { from: c, to }],
                )
            }
            _ => (
                format!("DELETE FROM w.cells USING TIMESTAMP {stamp} WHERE p = {p}"),
                vec![Effect::Partition],
            ),
        }
    }
}
