//! How far a transfer has come: a bar on a terminal, a line now and then elsewhere.
#![allow(
    clippy::disallowed_methods,
    reason = "a command lives outside of the simulated node, on the real clock"
)]

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::output;

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the progress of one transfer on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    /// `what` is done to the rows; `length` is the file's, in bytes, if known.
    pub fn new(what: &'static str, length: Option<u64>) -> Self {
        let style = ProgressStyle::with_template(match length {
            Some(_) => "{bar:30} {percent:>3} %  {msg}  ETA {eta}",
            None => "{spinner} {msg}",
        });
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(5);
            let bar = ProgressBar::with_draw_target(length, target);
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let now = Instant::now();
        Self { bar, what, began: now, last_line: now }
    }

    /// Time since the transfer began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// `rows` rows are through, `position` bytes of the file are read.
    pub fn show(&mut self, rows: u64, position: u64, extra: &str) {
        let text =
            format!("{} rows, {}/s{extra}", grouped(rows), grouped(rate(rows, self.elapsed())));
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(text);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            output::note(format!("{}: {text}", self.what));
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Rows per second.
pub fn rate(rows: u64, time: Duration) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a figure for people"
    )]
    let rate = (rows as f64 / time.as_secs_f64().max(0.001)) as u64;
    rate
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_are_grouped_in_threes() {
        assert_eq!(super::grouped(0), "0");
        assert_eq!(super::grouped(123_456), "123,456");
        assert_eq!(super::grouped(1_234_567), "1,234,567");
    }
}
