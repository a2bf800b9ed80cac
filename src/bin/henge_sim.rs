//! `henge-sim`: runs, replays and shrinks simulated cluster histories.

fn main() {}
