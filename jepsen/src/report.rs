//! What a run leaves: per workload `NAME.ndjson` (written while it ran), `NAME.json` (the result),
//! `NAME.html` (the same for people, with a picture of latencies and faults) and `NAME.edn`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::history::{History, Outcome};
use crate::verdict::{Result as CellResult, Verdict};
use crate::workload::Kind;

/// Writes everything but the history itself.
pub fn write(
    directory: &Path,
    kind: Kind,
    history: &History,
    result: &CellResult,
) -> std::io::Result<()> {
    let path = |extension: &str| directory.join(format!("{}.{extension}", kind.name()));
    fs::write(path("json"), serde_json::to_vec_pretty(result)?)?;
    fs::write(path("html"), html(history, result))?;
    fs::write(path("edn"), history.to_edn())
}

/// A result in a few lines, for the terminal.
pub fn summary(result: &CellResult) -> String {
    let mut text = format!(
        "{:<9} {} × {} (seed {}, {} nodes, {} s, {} keys)",
        word(result.verdict),
        result.workload,
        result.nemesis,
        result.seed,
        result.nodes,
        result.seconds,
        result.keys
    );
    for (f, s) in &result.stats {
        let _ = write!(
            text,
            "\n  {f:<10} {:>6} ok ({} refused) {:>5} fail {:>5} open   p50 {:.1} ms  p99 {:.1} ms",
            s.ok,
            s.refused,
            s.fail,
            s.info,
            s.p50_us as f64 / 1e3,
            s.p99_us as f64 / 1e3
        );
    }
    for why in &result.why {
        let _ = write!(text, "\n  ! {why}");
    }
    for line in result.breaches.iter().take(1).flat_map(|breach| &breach.proof).take(12) {
        let _ = write!(text, "\n      {line}");
    }
    for note in &result.notes {
        let _ = write!(text, "\n  note: {note}");
    }
    text
}

/// A verdict in capitals.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "OK",
        Verdict::Failed => "FAILED",
        Verdict::Vacuous => "VACUOUS",
        Verdict::Unknown => "UNKNOWN",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn html(history: &History, result: &CellResult) -> String {
    let title = format!("{} × {}", result.workload, result.nemesis);
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>body{{font:14px \
         sans-serif;margin:2em;max-width:70em}}pre{{background:#f4f4f4;padding:1em;overflow:auto}}\
         </style><h1>{}: {title}</h1><pre>{}</pre>{}",
        word(result.verdict),
        escape(&summary(result)),
        svg(history)
    );
    page.push_str("<h2>Faults</h2><pre>");
    for effect in &result.effects {
        let seen = if effect.seen { "seen" } else { "NOT SEEN" };
        let line = format!("{} ({}): {seen}: {}\n", effect.fault, effect.detail, effect.probe);
        page.push_str(&escape(&line));
    }
    page.push_str("</pre>");
    for breach in &result.breaches {
        let _ = write!(
            page,
            "<h2>{}: {}</h2><pre>{}</pre>",
            escape(&breach.key),
            escape(&breach.what),
            escape(&breach.proof.join("\n"))
        );
    }
    page
}

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 320.0;

/// Latency of every operation over time (logarithmic), with the faults behind.
pub fn svg(history: &History) -> String {
    let ends = history.ops.iter().filter_map(|op| op.end).map(|end| end.t);
    let last = ends.chain(history.faults.iter().map(|fault| fault.at.t)).max().unwrap_or(1).max(1);
    let x = |t: u64| t as f64 / last as f64 * WIDTH;
    // From 0.1 ms at the bottom to 10 s at the top.
    let y = |took: u64| {
        let decades = (took as f64 / 1e5).max(1.0).log10().min(5.0);
        HEIGHT - decades / 5.0 * (HEIGHT - 20.0)
    };
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='-60 0 {} {}' style='width:100%' \
         font-family='sans-serif' font-size='11'>",
        WIDTH + 70.0,
        HEIGHT + 30.0
    );
    let mut open: Vec<(String, u64, String)> = Vec::new();
    for fault in &history.faults {
        if let Some(name) = fault.name.strip_prefix("begin ") {
            open.push((name.to_owned(), fault.at.t, fault.detail.clone()));
        } else if let Some(name) = fault.name.strip_prefix("end ") {
            let Some(at) = open.iter().position(|(begun, ..)| begun == name) else { continue };
            let (name, from, detail) = open.remove(at);
            let _ = write!(
                svg,
                "<rect x='{:.1}' y='0' width='{:.1}' height='{HEIGHT}' fill='#f3d9b1'>\
                 <title>{}</title></rect><text x='{:.1}' y='12' fill='#865'>{}</text>",
                x(from),
                x(fault.at.t) - x(from),
                escape(&format!("{name}: {detail}")),
                x(from) + 2.0,
                escape(&name)
            );
        }
    }
    for (took, label) in [(100_000, "0.1 ms"), (1_000_000, "1 ms"), (10_000_000, "10 ms")]
        .into_iter()
        .chain([(100_000_000, "100 ms"), (1_000_000_000, "1 s"), (10_000_000_000, "10 s")])
    {
        let _ = write!(
            svg,
            "<line x1='0' x2='{WIDTH}' y1='{0:.1}' y2='{0:.1}' stroke='#ddd'/>\
             <text x='-5' y='{0:.1}' text-anchor='end'>{label}</text>",
            y(took)
        );
    }
    for op in &history.ops {
        let Some(end) = op.end else { continue };
        let colour = match op.outcome {
            Outcome::Ok => "#2a7",
            Outcome::Fail => "#999",
            Outcome::Info => "#d33",
        };
        let _ = write!(
            svg,
            "<circle cx='{:.1}' cy='{:.1}' r='1.6' fill='{colour}'/>",
            x(op.call.t),
            y(end.t - op.call.t)
        );
    }
    let seconds = last / 1_000_000_000;
    for second in (0..=seconds).step_by(usize::try_from((seconds / 10).max(1)).unwrap_or(1)) {
        let at = x(second * 1_000_000_000);
        let _ = write!(svg, "<text x='{at:.1}' y='{}'>{second} s</text>", HEIGHT + 20.0);
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FaultMark, Mark};

    #[test]
    fn the_picture_has_a_dot_per_operation_and_a_band_per_fault() {
        let mut history = crate::check::told("1 read 0 1 null ok null\n2 read 2 - null info null");
        for (i, name) in ["begin kill", "end kill"].into_iter().enumerate() {
            let at = Mark { i: i as u64, t: i as u64 * 1_000_000_000 };
            history.faults.push(FaultMark { at, name: name.to_owned(), detail: "<n1>".to_owned() });
        }
        let svg = svg(&history);
        assert_eq!(svg.matches("<circle").count(), 1, "what never ended has no latency");
        assert_eq!(svg.matches("<rect").count(), 1);
        assert!(svg.contains("kill: &lt;n1&gt;"), "{svg}");
    }
}
