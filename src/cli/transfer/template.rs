//! How a row's key is made of its columns.

/// A key template: literal text and `{column}` places. `{{` and `}}` stand for braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            let end = rest.find('}').filter(|_| brace == "{").ok_or_else(|| {
                format!("key template {text:?}: unmatched {brace:?} (write it twice to mean it)")
            })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Column(rest[..end].to_owned()));
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if !parts.iter().any(|part| matches!(part, Part::Column(_))) {
            return Err(format!(
                "key template {text:?} names no {{column}}: all rows would collide"
            ));
        }
        Ok(Self { parts })
    }

    /// The columns, joined by `/`.
    pub fn of_columns<'a>(columns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut parts = Vec::new();
        for column in columns {
            if !parts.is_empty() {
                parts.push(Part::Text("/".to_owned()));
            }
            parts.push(Part::Column(column.to_owned()));
        }
        if parts.is_empty() {
            return Err("name at least one key column".to_owned());
        }
        Ok(Self { parts })
    }

    /// The columns that it names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The key of a row, whose columns `get` finds.
    pub fn key<T: AsRef<str>>(
        &self,
        mut get: impl FnMut(&str) -> Option<T>,
    ) -> Result<String, String> {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Column(name) => {
                    let value = get(name).ok_or_else(|| format!("the row has no {name:?}"))?;
                    key.push_str(value.as_ref());
                }
            }
        }
        if key.is_empty() {
            return Err("the row's key is empty".to_owned());
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str) -> Result<String, String> {
        Template::parse(template)?.key(|name| match name {
            "a" => Some("1"),
            "b" => Some("x y"),
            _ => None,
        })
    }

    #[test]
    fn columns_and_text_are_joined_as_written() {
        assert_eq!(key("{a}/{b}").as_deref(), Ok("1/x y"));
        assert_eq!(key("k:{{{a}}}-").as_deref(), Ok("k:{1}-"));
        let joined = Template::of_columns(["b", "a"]).unwrap();
        assert_eq!(joined, Template::parse("{b}/{a}").unwrap());
    }

    #[test]
    fn templates_that_cannot_work_are_refused() {
        for bad in ["", "abc", "{a", "a}", "{a}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(key("{a}{zz}").is_err());
        assert!(Template::of_columns([]).is_err());
    }
}
