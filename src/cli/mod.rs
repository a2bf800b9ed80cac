//! The commands of the `henge` program.
//!
//! Every command is a file; this one holds the words that they share and hands over. Results go
//! to stdout, everything else to stderr, so that `henge get` can feed a pipe. Each way to end has
//! an exit code of its own ([`exit`]).

mod admin;
mod args;
mod bench;
mod cql;
mod demo;
mod dev;
mod exit;
mod kv;
pub mod local;
mod locks;
mod login;
mod nodes;
mod output;
mod start;
mod transfer;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
pub use exit::{Exit, Failure};

/// Runs the program with the arguments that it was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code.unwrap_or(failure.exit as u8))
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { client, command } = cli;
    match command {
        Command::Start(args) => start::start(&args),
        Command::Dev(args) => dev::dev(&client, &args),
        Command::Bench(args) => wait(bench::bench(&client, *args)),
        Command::Demo(args) => wait(demo::demo(&client, args)),
        Command::Config(args) => admin::config(&args),
        Command::Get(args) => wait(kv::get(&client, args)),
        Command::Put(args) => wait(kv::put(&client, args)),
        Command::Del(args) => wait(kv::del(&client, args)),
        Command::Ls(args) => wait(kv::ls(&client, args)),
        Command::Import(args) => wait(transfer::import(&client, *args)),
        Command::Export(args) => wait(transfer::export(&client, *args)),
        Command::Verify(args) => wait(transfer::verify(&client, *args)),
        Command::Lock(args) => wait(locks::lock(&client, args)),
        Command::Lease(args) => wait(locks::lease(&client, args.command)),
        Command::Elect(args) => wait(locks::elect(&client, args)),
        Command::Cql(args) => wait(cql::cql(&client, args)),
        Command::Where(args) => wait(admin::whereabouts(&client, args)),
        Command::Status => wait(admin::status(&client)),
        Command::Ring(args) => wait(admin::ring(&client, args)),
        Command::Buckets(args) => wait(admin::buckets(&client, args.command)),
    }
}

/// Runs a command that is a client: one thread is enough.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}")))?
        .block_on(command)
}
