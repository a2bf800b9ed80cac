//! The `henge` program: one binary, subcommands.

fn main() {}
