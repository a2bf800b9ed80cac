//! `henge-sim`: runs, replays and shrinks simulated cluster histories.
#![allow(clippy::disallowed_methods, reason = "tells how long runs really took")]

use henge::sim::generate::{Size, generate};
use henge::sim::run::run;

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (from, to) = (args[0], args.get(1).copied().unwrap_or(args[0] + 1));
    if std::env::var_os("HENGE_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .init();
    }
    for seed in from..to {
        let size = Size {
            operations: args.get(2).map_or(2000, |n| *n as u32),
            faults: args.get(3).map_or(44, |n| *n as u32),
        };
        let plan = generate(seed, size);
        let begun = std::time::Instant::now();
        let report = run(plan);
        let took = begun.elapsed();
        println!(
            "seed {seed} {} ops {} ok {} unknown {} effects {} lives {} renew {} virtual {} ms events {} polls {} hash {:016x} took {took:?} {:.0} ops/s",
            if report.passed() { "ok" } else { "FAILED" },
            report.operations,
            report.ok,
            report.unknown,
            report.effects.len(),
            report.lives,
            report.renewals,
            report.virtual_ms,
            report.events,
            report.polls,
            report.trace_hash,
            report.operations as f64 / took.as_secs_f64()
        );
        for v in report.violations.iter().take(8) {
            println!("   {v}");
        }
    }
}
