//! Numbers about a running node, in the Prometheus text format.
//!
//! A component makes its metrics once, from the node's [`Registry`], and keeps the handles;
//! changing one is an atomic addition. There is no global registry: two nodes fit in one process.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The present count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level that rises and falls.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Changes the level by `n`.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the level.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present level.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper ends of a latency histogram's buckets, in microseconds.
const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// How long things took.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Buckets>);

impl Latency {
    /// Records one duration.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Durations recorded so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Latency(Latency),
    Reader(Box<dyn Fn() -> f64 + Send + Sync>),
    Set(Box<dyn Fn() -> Vec<Sample> + Send + Sync>),
}

/// One of several values that are read together, with the labels that tell them apart.
pub type Sample = (Vec<(&'static str, String)>, f64);

/// Whether a value that is read may fall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It rises and falls.
    Gauge,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

struct Family {
    help: &'static str,
    kind: &'static str,
    /// By rendered labels (`route="kv",status="200"`).
    metrics: BTreeMap<String, Metric>,
}

/// All metrics of one node.
#[derive(Default)]
pub struct Registry {
    families: Mutex<BTreeMap<&'static str, Family>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

/// Names and values that tell metrics of one name apart.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The counter of this name and labels; made if it is new. Names end in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        let made = Metric::Counter(Counter::default());
        self.entry(name, help, "counter", labels, made, |metric| match metric {
            Metric::Counter(counter) => Some(counter.clone()),
            Metric::Gauge(_) | Metric::Latency(_) | Metric::Reader(_) | Metric::Set(_) => None,
        })
    }

    /// The gauge of this name and labels; made if it is new.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        let made = Metric::Gauge(Gauge::default());
        self.entry(name, help, "gauge", labels, made, |metric| match metric {
            Metric::Gauge(gauge) => Some(gauge.clone()),
            Metric::Counter(_) | Metric::Latency(_) | Metric::Reader(_) | Metric::Set(_) => None,
        })
    }

    /// The latency histogram of this name and labels; made if it is new. Names end in `_seconds`.
    pub fn latency(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Latency {
        let made = Metric::Latency(Latency::default());
        self.entry(name, help, "histogram", labels, made, |metric| match metric {
            Metric::Latency(latency) => Some(latency.clone()),
            Metric::Counter(_) | Metric::Gauge(_) | Metric::Reader(_) | Metric::Set(_) => None,
        })
    }

    /// A value that is kept elsewhere and read when somebody looks. `read` must be quick and take
    /// no lock that is held for long. A second one of the same name and labels replaces the first.
    pub fn read(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.insert(name, help, kind.word(), labels, Metric::Reader(Box::new(read)));
    }

    /// Several values of one name that are kept elsewhere, with labels that come and go.
    pub fn read_all(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.insert(name, help, kind.word(), &[], Metric::Set(Box::new(read)));
    }

    fn insert(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: Labels<'_>,
        metric: Metric,
    ) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family =
            families.entry(name).or_insert(Family { help, kind, metrics: BTreeMap::new() });
        family.metrics.insert(render_labels(labels), metric);
    }

    fn entry<T: Default>(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: Labels<'_>,
        made: Metric,
        pick: impl Fn(&Metric) -> Option<T>,
    ) -> T {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family =
            families.entry(name).or_insert(Family { help, kind, metrics: BTreeMap::new() });
        let found = pick(family.metrics.entry(render_labels(labels)).or_insert(made));
        debug_assert!(found.is_some(), "{name} is registered as another kind of metric");
        found.unwrap_or_default()
    }

    /// Everything, in the Prometheus text format, ordered by name and labels.
    #[must_use]
    pub fn render(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::with_capacity(16 * 1024);
        for (name, family) in families.iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {}", family.help);
            let _ = writeln!(out, "# TYPE {name} {}", family.kind);
            for (labels, metric) in &family.metrics {
                match metric {
                    Metric::Counter(counter) => line(&mut out, name, labels, counter.get() as f64),
                    Metric::Gauge(gauge) => line(&mut out, name, labels, gauge.get() as f64),
                    Metric::Reader(read) => line(&mut out, name, labels, read()),
                    Metric::Set(read) => {
                        for (labels, value) in read() {
                            let labels: Vec<(&'static str, &str)> =
                                labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
                            line(&mut out, name, &render_labels(&labels), value);
                        }
                    }
                    Metric::Latency(latency) => render_latency(&mut out, name, labels, latency),
                }
            }
        }
        out
    }
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

fn render_latency(out: &mut String, name: &str, labels: &str, latency: &Latency) {
    let comma = if labels.is_empty() { "" } else { "," };
    let mut total = 0;
    for (index, count) in latency.0.counts.iter().enumerate() {
        total += count.load(Ordering::Relaxed);
        let bound = BOUNDS_US.get(index).map_or_else(
            || "+Inf".to_owned(),
            |&us| (Duration::from_micros(us).as_secs_f64()).to_string(),
        );
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
    }
    let sum = Duration::from_micros(latency.0.sum_us.load(Ordering::Relaxed)).as_secs_f64();
    line(out, &format!("{name}_sum"), labels, sum);
    line(out, &format!("{name}_count"), labels, total as f64);
}

fn render_labels(labels: Labels<'_>) -> String {
    let mut out = String::new();
    for (name, value) in labels {
        if !out.is_empty() {
            out.push(',');
        }
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{name}=\"{value}\"");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_name_are_shared_and_rendered_in_order() {
        let registry = Registry::new();
        registry.counter("b_total", "Bs.", &[("x", "2")]).inc();
        registry.counter("b_total", "Bs.", &[("x", "1")]).add(5);
        registry.counter("b_total", "Bs.", &[("x", "1")]).inc();
        registry.read(Kind::Gauge, "a", "As.", &[], || 1.5);
        registry.read_all(Kind::Gauge, "c", "Cs.", || {
            vec![(vec![("x", "1".to_owned())], 1.0), (vec![("x", "2".to_owned())], 2.0)]
        });
        assert_eq!(
            registry.render(),
            "# HELP a As.\n# TYPE a gauge\na 1.5\n\
             # HELP b_total Bs.\n# TYPE b_total counter\n\
             b_total{x=\"1\"} 6\nb_total{x=\"2\"} 1\n\
             # HELP c Cs.\n# TYPE c gauge\nc{x=\"1\"} 1\nc{x=\"2\"} 2\n"
        );
    }

    #[test]
    fn a_latency_falls_into_the_bucket_whose_end_it_does_not_exceed() {
        let registry = Registry::new();
        let latency = registry.latency("t_seconds", "Ts.", &[]);
        latency.record(Duration::from_micros(50));
        latency.record(Duration::from_micros(51));
        latency.record(Duration::from_secs(60));
        let text = registry.render();
        assert!(text.contains("t_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"0.0001\"} 2\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"10\"} 2\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("t_seconds_count 3\n"), "{text}");
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(render_labels(&[("a", "q\"\\\n")]), "a=\"q\\\"\\\\\\n\"");
    }
}
