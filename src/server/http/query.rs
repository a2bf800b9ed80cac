//! Query parameters: strict, because a misspelt `level` that is silently ignored is a weaker
//! promise than the client asked for.

use std::borrow::Cow;

use crate::server::http::path::{BadEscape, decode_query};
use crate::server::http::problem::Problem;

/// The parameters of one request, each at most once, all of them known.
#[derive(Debug, Default)]
pub struct Params<'a> {
    found: Vec<(&'static str, Cow<'a, [u8]>)>,
    /// Names without a `=`.
    bare: Vec<&'static str>,
}

impl<'a> Params<'a> {
    /// Reads `query`, in which only the names in `known` may occur.
    ///
    /// # Errors
    /// `400` that names the parameter: unknown (with the nearest known one), repeated, or badly
    /// escaped.
    pub fn parse(query: Option<&'a str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut found: Vec<(&'static str, Cow<'a, [u8]>)> = Vec::new();
        let mut bare = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value, is_bare) =
                pair.split_once('=').map_or((pair, "", true), |(name, value)| (name, value, false));
            let name = decode_query(name).map_err(|BadEscape| {
                Problem::bad("a query parameter's name has a bad percent-escape")
            })?;
            let Some(&name) = known.iter().find(|known| known.as_bytes() == &*name) else {
                return Err(unknown("parameter", &String::from_utf8_lossy(&name), known));
            };
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Problem::bad_parameter(name, "given more than once"));
            }
            let value = decode_query(value)
                .map_err(|BadEscape| Problem::bad_parameter(name, "has a bad percent-escape"))?;
            found.push((name, value));
            if is_bare {
                bare.push(name);
            }
        }
        Ok(Self { found, bare })
    }

    /// The bytes of a parameter.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.found.iter().find(|(other, _)| *other == name).map(|(_, value)| &**value)
    }

    /// The text of a parameter.
    ///
    /// # Errors
    /// `400` when it is not UTF-8.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, Problem> {
        self.bytes(name)
            .map(|bytes| {
                std::str::from_utf8(bytes)
                    .map_err(|_| Problem::bad_parameter(name, "is not valid UTF-8"))
            })
            .transpose()
    }

    /// The number in a parameter.
    ///
    /// # Errors
    /// `400` when it is no whole number in the range of `T`.
    pub fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        self.text(name)?
            .map(|text| {
                text.parse().map_err(|_| {
                    Problem::bad_parameter(name, format_args!("{text:?} is no valid number here"))
                })
            })
            .transpose()
    }

    /// A yes-or-no parameter; absent or empty is no, a bare name is yes.
    ///
    /// # Errors
    /// `400` when it is neither.
    pub fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.text(name)? {
            Some("") => Ok(self.bare.contains(&name)),
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(Problem::bad_parameter(name, format_args!("{other:?} is not true or false")))
            }
        }
    }
}

/// `400` about a name that is none of `known`, with the nearest of them.
#[must_use]
pub fn unknown(what: &str, name: &str, known: &[&'static str]) -> Problem {
    let shown: String = name.chars().take(64).collect();
    let nearest = known
        .iter()
        .map(|&candidate| (strsim::damerau_levenshtein(&shown, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(2));
    let detail = match nearest {
        Some((_, candidate)) => {
            format!("{shown:?} is no known {what}; did you mean {candidate:?}?")
        }
        None if known.is_empty() => format!("{shown:?} is no known {what}; none is taken here"),
        None => format!("{shown:?} is no known {what}; known are: {}", known.join(", ")),
    };
    let problem = Problem::bad(detail).with("parameter", shown);
    match nearest {
        Some((_, candidate)) => problem.with("nearest", candidate),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(problem: &Problem) -> String {
        serde_json::to_value(problem.json(false)).unwrap()["detail"].as_str().unwrap().to_owned()
    }

    #[test]
    fn an_unknown_parameter_is_named_with_the_nearest_known_one() {
        let problem = Params::parse(Some("levle=one"), &["level", "timeout"]).unwrap_err();
        assert!(detail(&problem).contains("did you mean \"level\""));
        let problem = Params::parse(Some("zzzzzzzz=1"), &["level", "timeout"]).unwrap_err();
        assert!(detail(&problem).contains("known are: level, timeout"));
    }

    #[test]
    fn values_are_bytes_and_a_repeat_is_refused() {
        let params = Params::parse(Some("prefix=%FF+a%2B"), &["prefix"]).unwrap();
        assert_eq!(params.bytes("prefix"), Some(&b"\xFF a+"[..]));
        assert!(params.text("prefix").is_err());
        assert!(Params::parse(Some("a=1&a=2"), &["a"]).is_err());
        assert!(Params::parse(Some("a=%G1"), &["a"]).is_err());
    }
}
