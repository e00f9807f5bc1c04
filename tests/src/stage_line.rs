//! Reads stage lines back: `surplus: stage=<name> elapsed=<seconds> key=value`.
//!
//! The inverse of what the `surplus-stage` crate writes, quotes included.

use std::collections::BTreeMap;

/// One parsed stage line.
#[derive(Clone, Debug, PartialEq)]
pub struct StageLine {
    pub name: String,
    /// Seconds since the kernel started.
    pub elapsed: f64,
    pub fields: BTreeMap<String, String>,
}

impl StageLine {
    /// The stage in `line`, if it holds one; what stands before it (a kernel
    /// message cut short, for instance) is passed over.
    pub fn parse(line: &str) -> Option<Self> {
        let start = line.find("surplus: stage=")?;
        let mut fields = pairs(&line[start + "surplus: ".len()..]);
        let name = fields.remove("stage")?;
        let elapsed = fields.remove("elapsed")?.parse().ok()?;
        Some(Self {
            name,
            elapsed,
            fields,
        })
    }

    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    /// What went wrong, when the stage failed.
    pub fn error(&self) -> Option<&str> {
        self.field("error")
    }
}

fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, left) = value(after);
        pairs.insert(key.trim().to_owned(), value);
        rest = left.trim_start();
    }
    pairs
}

/// The value at the start of `text`, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_stage_crate_writes_is_read_back() {
        let written = surplus_stage::Stage::new("enrol")
            .with("url", "https://hub:8443/?a")
            .failed("token \"a b\" is spent", "make another=now")
            .line(3.25);
        let read = StageLine::parse(&format!("[    1.0] x{written}")).unwrap();
        assert_eq!(read.name, "enrol");
        assert!((read.elapsed - 3.25).abs() < 1e-9);
        assert_eq!(read.field("url"), Some("https://hub:8443/?a"));
        assert_eq!(read.error(), Some("token \"a b\" is spent"));
        assert_eq!(read.field("next"), Some("make another=now"));
    }

    #[test]
    fn other_lines_are_none() {
        assert_eq!(StageLine::parse("Linux version 6.12"), None);
        assert_eq!(StageLine::parse("surplus: stage=medium"), None);
    }
}
