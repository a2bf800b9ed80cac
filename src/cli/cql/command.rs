//! What a statement asks the shell itself to do; everything else goes to the server.

use super::copy::Copy;
use super::split::first_word;

/// The levels, with the protocol's numbers.
pub const LEVELS: &[(&str, u16)] = &[
    ("ANY", 0),
    ("ONE", 1),
    ("TWO", 2),
    ("THREE", 3),
    ("QUORUM", 4),
    ("ALL", 5),
    ("LOCAL_QUORUM", 6),
    ("EACH_QUORUM", 7),
    ("SERIAL", 8),
    ("LOCAL_SERIAL", 9),
    ("LOCAL_ONE", 10),
];

/// A level's name.
#[must_use]
pub fn level_name(level: u16) -> &'static str {
    LEVELS.iter().find(|(_, number)| *number == level).map_or("?", |(name, _)| name)
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send it to the server.
    Cql,
    /// Show or set the level.
    Consistency(Option<u16>),
    /// Show or set the level of conditions.
    Serial(Option<u16>),
    /// Show or set whether traces are taken.
    Tracing(Option<bool>),
    /// Show or set whether receipts are shown.
    Receipt(Option<bool>),
    /// Show or set whether a row is shown as lines.
    Expand(Option<bool>),
    /// Show or set whether the time of each statement is shown.
    Timing(Option<bool>),
    /// Show the size of a page, or set it; 0: no paging.
    Paging(Option<u32>),
    /// Run the statements of a file.
    Source(String),
    /// Show, begin or end writing what is shown to a file.
    Capture(Capture),
    /// Copy a table from or to a file.
    Copy(Box<Copy>),
    /// Explain something; nothing: list what there is.
    Help(String),
    /// Show versions, or whom the shell talks to.
    Show(Show),
    /// Clear the screen.
    Clear,
    /// End.
    Exit,
}

/// CAPTURE.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Capture {
    Show,
    Off,
    To(String),
}

/// SHOW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Show {
    Version,
    Host,
}

/// The size of a page that `PAGING ON` sets, and with which the shell begins.
pub const PAGE_SIZE: u32 = 100;

/// What `text` asks for.
///
/// # Errors
/// What is wrong with it, and what would be valid.
pub fn parse(text: &str) -> Result<Command, String> {
    let word = first_word(text);
    let rest = text.trim_start().get(word.len()..).unwrap_or_default().trim();
    let upper = rest.to_ascii_uppercase();
    let level = |upper: &str, only: &dyn Fn(u16) -> bool| match upper {
        "" => Ok(None),
        name => {
            let found = LEVELS.iter().find(|(own, level)| *own == name && only(*level));
            found.map(|(_, level)| Some(*level)).ok_or_else(|| {
                let names = LEVELS.iter().filter(|(_, level)| only(*level)).map(|(name, _)| *name);
                let names: Vec<&str> = names.collect();
                format!("no level '{rest}' here; there are {}", names.join(", "))
            })
        }
    };
    match word.as_str() {
        "consistency" => level(&upper, &|_| true).map(Command::Consistency),
        "serial" => {
            let name = upper.strip_prefix("CONSISTENCY").map(str::trim);
            let name = name.ok_or("SERIAL is followed by CONSISTENCY and, perhaps, a level")?;
            level(name, &|level| matches!(level, 8 | 9)).map(Command::Serial)
        }
        "tracing" => switch("TRACING", &upper).map(Command::Tracing),
        "receipt" => switch("RECEIPT", &upper).map(Command::Receipt),
        "expand" => switch("EXPAND", &upper).map(Command::Expand),
        "timing" => switch("TIMING", &upper).map(Command::Timing),
        "paging" => match upper.as_str() {
            "" => Ok(Command::Paging(None)),
            "ON" => Ok(Command::Paging(Some(PAGE_SIZE))),
            "OFF" => Ok(Command::Paging(Some(0))),
            size => match size.parse() {
                Ok(size @ 1..) => Ok(Command::Paging(Some(size))),
                _ => Err("PAGING is followed by ON, OFF or a number of rows".to_owned()),
            },
        },
        "source" => match unquote(rest) {
            Some(path) => Ok(Command::Source(path)),
            None => Err("SOURCE is followed by a file's name in quotes: SOURCE 'file'".to_owned()),
        },
        "capture" => match (upper.as_str(), unquote(rest)) {
            ("", _) => Ok(Command::Capture(Capture::Show)),
            ("OFF", _) => Ok(Command::Capture(Capture::Off)),
            (_, Some(path)) => Ok(Command::Capture(Capture::To(path))),
            _ => Err("CAPTURE is followed by a file's name in quotes, or OFF".to_owned()),
        },
        "show" => match upper.as_str() {
            "VERSION" => Ok(Command::Show(Show::Version)),
            "HOST" => Ok(Command::Show(Show::Host)),
            _ => Err("SHOW is followed by VERSION or HOST".to_owned()),
        },
        "copy" => Copy::parse(rest).map(|copy| Command::Copy(Box::new(copy))),
        "help" | "?" => Ok(Command::Help(rest.trim_end_matches(';').to_owned())),
        "clear" | "cls" => Ok(Command::Clear),
        "exit" | "quit" => Ok(Command::Exit),
        _ => Ok(Command::Cql),
    }
}

fn switch(what: &str, upper: &str) -> Result<Option<bool>, String> {
    match upper {
        "" => Ok(None),
        "ON" => Ok(Some(true)),
        "OFF" => Ok(Some(false)),
        _ => Err(format!("{what} is followed by ON or OFF, or alone to show which it is")),
    }
}

/// The text between quotes; `~` at its start is the home directory.
#[must_use]
pub fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let doubled = format!("{quote}{quote}");
    let plain = inside.replace(&doubled, &quote.to_string());
    Some(match (plain.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(below), Ok(home)) => format!("{home}/{below}"),
        _ => plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_statements() {
        for (text, command) in [
            ("SELECT 1", Command::Cql),
            ("describe tables", Command::Cql),
            ("CONSISTENCY", Command::Consistency(None)),
            ("consistency local_quorum", Command::Consistency(Some(6))),
            ("SERIAL CONSISTENCY", Command::Serial(None)),
            ("serial consistency Local_Serial", Command::Serial(Some(9))),
            ("TRACING ON", Command::Tracing(Some(true))),
            ("receipt on", Command::Receipt(Some(true))),
            ("expand off", Command::Expand(Some(false))),
            ("TIMING", Command::Timing(None)),
            ("PAGING 7", Command::Paging(Some(7))),
            ("PAGING OFF", Command::Paging(Some(0))),
            ("PAGING ON", Command::Paging(Some(PAGE_SIZE))),
            ("SOURCE 'it''s.cql'", Command::Source("it's.cql".to_owned())),
            ("CAPTURE \"out\"", Command::Capture(Capture::To("out".to_owned()))),
            ("CAPTURE OFF", Command::Capture(Capture::Off)),
            ("? select", Command::Help("select".to_owned())),
            ("HELP", Command::Help(String::new())),
            ("SHOW host", Command::Show(Show::Host)),
            ("quit", Command::Exit),
        ] {
            assert_eq!(parse(text), Ok(command), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_says_what_would_be_right() {
        for (text, part) in [
            ("CONSISTENCY most", "QUORUM"),
            ("SERIAL CONSISTENCY QUORUM", "LOCAL_SERIAL"),
            ("SERIAL", "CONSISTENCY"),
            ("TRACING maybe", "ON or OFF"),
            ("PAGING 0", "a number of rows"),
            ("SOURCE file", "in quotes"),
            ("SHOW", "VERSION"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
