//! A configuration as text: what a node shows when it starts, and the commented file that ships.

use super::Config;
use super::keys::{Agree, KEYS, SECTIONS};

const PREAMBLE: &str = "\
# Settings of one Henge node. Every setting is listed, with its default.
#
# Each can be overridden by an environment variable HENGE_SECTION_KEY, such as
# HENGE_NODE_DATA_DIR=/var/lib/henge. Unknown keys are refused, so a typo cannot go unseen.
# [fixed]: the same on all founding nodes, and not to be changed afterwards.
# [advised]: better the same on all nodes. The others are each node's own.
";

impl Config {
    /// All settings with their values, as TOML without comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (section, _) in SECTIONS {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{section}]\n"));
            for spec in KEYS.iter().filter(|spec| spec.section == *section) {
                text.push_str(&format!("{} = {}\n", spec.key, spec.value(self)));
            }
        }
        text
    }

    /// All settings with their values and what each one means, as TOML. With the defaults this is
    /// `config/henge.toml`.
    #[must_use]
    pub fn to_commented_toml(&self) -> String {
        let mut text = PREAMBLE.to_owned();
        for (section, about) in SECTIONS {
            text.push_str(&format!("\n# {about}\n[{section}]\n"));
            for spec in KEYS.iter().filter(|spec| spec.section == *section) {
                text.push('\n');
                let mark = match spec.agree {
                    Agree::Node => "",
                    Agree::Advised => "[advised] ",
                    Agree::Fixed => "[fixed] ",
                };
                for (index, line) in spec.doc.iter().enumerate() {
                    let mark = if index == 0 { mark } else { "" };
                    text.push_str(&format!("# {mark}{line}\n"));
                }
                text.push_str(&format!("{} = {}\n", spec.key, spec.value(self)));
            }
        }
        text
    }
}
