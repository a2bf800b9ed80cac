//! What was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::workload::Kind;
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::cli::transfer::grouped;

/// The longest latency that is told apart, in microseconds: a minute.
const MAX_US: u64 = 60_000_000;

/// Measurements of one thread, or of all.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Latency of successes, in microseconds, of each kind.
    latency: Vec<Histogram<u64>>,
    /// Time from sending to `503 overloaded`, in microseconds: refused at once, or late?
    refused: Histogram<u64>,
    /// Reads that found nothing.
    pub absent: u64,
    /// Conditional writes whose condition did not hold: answered, and counted among the successes.
    pub declined: u64,
    /// Errors by what they were, and how often.
    pub errors: BTreeMap<String, u64>,
    /// What the first of each sort said.
    said: BTreeMap<String, String>,
}

impl Stats {
    /// Nothing measured yet.
    pub fn new() -> Self {
        let empty = || {
            Histogram::new_with_bounds(1, MAX_US, 3)
                .unwrap_or_else(|_| unreachable!("the bounds are constants that fit each other"))
        };
        Self {
            latency: Kind::ALL.map(|_| empty()).into(),
            refused: empty(),
            absent: 0,
            declined: 0,
            errors: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// A success.
    pub fn success(&mut self, kind: Kind, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_US);
        self.latency[kind as usize].saturating_record(micros.max(1));
    }

    /// How long a request that the server had no room for took to hear that; counted as a failure
    /// beside that.
    pub fn refused(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(MAX_US);
        self.refused.saturating_record(micros.max(1));
    }

    /// A failure. At most a hundred sorts are told apart.
    pub fn failure(&mut self, what: String, said: Option<String>) {
        if let Some(said) = said
            && self.said.len() < 100
        {
            self.said.entry(what.clone()).or_insert(said);
        }
        if self.errors.len() < 100 || self.errors.contains_key(&what) {
            *self.errors.entry(what).or_default() += 1;
        } else {
            *self.errors.entry("other".to_owned()).or_default() += 1;
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            // Both have the same bounds: it cannot fail.
            let _ = mine.add(theirs);
        }
        let _ = self.refused.add(&other.refused);
        self.absent += other.absent;
        self.declined += other.declined;
        for (what, count) in &other.errors {
            *self.errors.entry(what.clone()).or_default() += count;
        }
        for (what, said) in &other.said {
            self.said.entry(what.clone()).or_insert_with(|| said.clone());
        }
    }

    /// Successes of all kinds.
    pub fn successes(&self) -> u64 {
        self.latency.iter().map(Histogram::len).sum()
    }

    /// Failures of all sorts.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latency of all kinds together.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.latency[0].clone();
        for other in &self.latency[1..] {
            let _ = all.add(other);
        }
        all
    }
}

/// Measurements, and what was asked for.
#[derive(Debug)]
pub struct Report {
    /// What was asked for, as JSON members.
    pub settings: Value,
    /// What was measured.
    pub stats: Stats,
    /// How long.
    pub time: Duration,
    /// CPU time that this process used meanwhile, where the system tells.
    pub client_cpu: Option<Duration>,
}

impl Report {
    /// Successes per second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a figure for people"
    )]
    pub fn ops_per_s(&self) -> u64 {
        (self.stats.successes() as f64 / self.time.as_secs_f64().max(0.001)) as u64
    }

    /// Failures.
    pub fn errors(&self) -> u64 {
        self.stats.failures()
    }

    /// The most frequent error.
    pub fn first_error(&self) -> String {
        let most = self.stats.errors.iter().max_by_key(|(_, count)| **count);
        most.map(|(what, _)| what.clone()).unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn client_us_per_op(&self) -> Option<f64> {
        let cpu = self.client_cpu?;
        Some(
            (cpu.as_micros() as f64 / self.stats.successes().max(1) as f64 * 100.0).round() / 100.0,
        )
    }

    /// The kinds that occurred, then all together.
    fn rows(&self) -> Vec<(&'static str, Histogram<u64>)> {
        let kinds = Kind::ALL.iter().zip(&self.stats.latency);
        let mut rows: Vec<_> = kinds
            .filter(|(_, latency)| !latency.is_empty())
            .map(|(kind, latency)| (kind.name(), latency.clone()))
            .collect();
        if rows.len() != 1 {
            rows.push(("all", self.stats.all()));
        }
        rows
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        let latency: BTreeMap<_, _> = self
            .rows()
            .into_iter()
            .map(|(name, latency)| {
                let at = |quantile| latency.value_at_quantile(quantile);
                let figures = json!({
                    "count": latency.len(), "mean_us": latency.mean().round(),
                    "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
                    "p999_us": at(0.999), "p9999_us": at(0.9999), "max_us": latency.max(),
                });
                (name, figures)
            })
            .collect();
        json!({
            "settings": self.settings,
            "seconds": self.time.as_secs_f64(),
            "ops": self.stats.successes(),
            "ops_per_s": self.ops_per_s(),
            "absent": self.stats.absent,
            "declined": self.stats.declined,
            "errors": self.stats.errors,
            "first_errors": self.stats.said,
            "client_cpu_us_per_op": self.client_us_per_op(),
            "latency": latency,
            "refused": {
                "count": self.stats.refused.len(),
                "p50_us": self.stats.refused.value_at_quantile(0.5),
                "p99_us": self.stats.refused.value_at_quantile(0.99),
                "max_us": self.stats.refused.max(),
            },
        })
    }

    /// For people.
    pub fn print(&self) -> Result<(), Failure> {
        let mut table = output::table(["", "ops", "mean ms", "p50", "p90", "p99", "p99.9", "max"]);
        let ms = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
        for (name, latency) in self.rows() {
            let at = |quantile| ms(latency.value_at_quantile(quantile));
            table.add_row([
                name.to_owned(),
                grouped(latency.len()),
                format!("{:.2}", latency.mean() / 1000.0),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                ms(latency.max()),
            ]);
        }
        output::print(&table)?;
        let cpu = self.client_us_per_op();
        output::line(format!(
            "\n{} operations/s over {:.1} s{}",
            grouped(self.ops_per_s()),
            self.time.as_secs_f64(),
            cpu.map(|us| format!("; the client used {us} µs of CPU for each")).unwrap_or_default()
        ))?;
        let refused = &self.stats.refused;
        if !refused.is_empty() {
            output::line(format!(
                "{} refused as overload, each told after p50 {} ms, p99 {} ms, at most {} ms",
                grouped(refused.len()),
                ms(refused.value_at_quantile(0.5)),
                ms(refused.value_at_quantile(0.99)),
                ms(refused.max())
            ))?;
        }
        if self.stats.absent > 0 {
            output::line(format!("{} reads found nothing", grouped(self.stats.absent)))?;
        }
        if self.stats.declined > 0 {
            let declined = grouped(self.stats.declined);
            output::line(format!(
                "{declined} of them changed nothing: their condition did not hold"
            ))?;
        }
        for (what, count) in &self.stats.errors {
            output::line(format!("{} errors: {what}", grouped(*count)))?;
        }
        Ok(())
    }
}

/// CPU time that this process has used so far.
pub fn cpu_time() -> Option<Duration> {
    // Linux only: fields 14 and 15, counted after the name in parentheses, in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
