//! Strict reading of TOML: every key is known, every value is of its type, and
//! whatever is wrong is said with key and line.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::SiteError;

/// Keys that a section knows; a nested section is a key of its parent.
pub(crate) type Known = &'static [&'static str];

/// One section of the file.
pub(crate) struct Section<'a, 'i> {
    text: &'a str,
    name: String,
    table: &'a DeTable<'i>,
}

/// A value with the key and line that it stands on.
#[derive(Clone, Debug)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    key: String,
    line: usize,
}

impl<T> Found<T> {
    pub(crate) fn invalid(
        &self,
        problem: impl Into<String>,
        write: impl Into<String>,
    ) -> SiteError {
        SiteError::Invalid {
            line: self.line,
            key: self.key.clone(),
            problem: problem.into(),
            write: write.into(),
        }
    }

    fn with<U>(&self, value: U) -> Found<U> {
        Found {
            value,
            key: self.key.clone(),
            line: self.line,
        }
    }
}

/// Parses the file's syntax. The message never quotes the file: a token may
/// stand in the very line that is wrong.
pub(crate) fn parse(text: &str) -> Result<Spanned<DeTable<'_>>, SiteError> {
    DeTable::parse(text).map_err(|error| SiteError::Syntax {
        line: line_of(text, error.span()),
        message: error.message().lines().collect::<Vec<_>>().join(", "),
    })
}

impl<'a, 'i> Section<'a, 'i> {
    /// The file's top level, with all of its keys checked against `all`, which
    /// lists the full names of every key of every section.
    pub(crate) fn top(
        text: &'a str,
        table: &'a DeTable<'i>,
        known: Known,
        all: Known,
    ) -> Result<Self, SiteError> {
        let section = Self {
            text,
            name: String::new(),
            table,
        };
        section.check(known, all)?;
        Ok(section)
    }

    /// The section `key` below this one.
    pub(crate) fn section(
        &self,
        key: &str,
        known: Known,
        all: Known,
    ) -> Result<Option<Section<'a, 'i>>, SiteError> {
        let Some(section) = self.open_section(key)? else {
            return Ok(None);
        };
        section.check(known, all)?;
        Ok(Some(section))
    }

    /// The section `key`, whose keys are the writer's own.
    pub(crate) fn open_section(&self, key: &str) -> Result<Option<Section<'a, 'i>>, SiteError> {
        let Some(found) = self.value(key) else {
            return Ok(None);
        };
        match found.value {
            DeValue::Table(table) => Ok(Some(Section {
                text: self.text,
                name: found.key,
                table,
            })),
            other => Err(wrong_type(
                &found,
                other,
                &format!("a section, `[{}]`", found.key),
            )),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Found<&'a str>> {
        let name = &self.name;
        let text = self.text;
        self.table.keys().map(move |key| Found {
            value: &**key.get_ref(),
            key: full(name, key.get_ref()),
            line: line_of(text, Some(key.span())),
        })
    }

    /// A key of this section, where it is there.
    pub(crate) fn key(&self, name: &str) -> Option<Found<&'a str>> {
        self.keys().find(|key| key.value == name)
    }

    pub(crate) fn string(
        &self,
        key: &str,
        example: &str,
    ) -> Result<Option<Found<&'a str>>, SiteError> {
        self.value(key)
            .map(|found| as_string(&found, example))
            .transpose()
    }

    /// One string, or a list of them.
    pub(crate) fn strings(
        &self,
        key: &str,
        example: &str,
    ) -> Result<Vec<Found<&'a str>>, SiteError> {
        let Some(found) = self.value(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(array) = found.value else {
            return Ok(vec![as_string(&found, example)?]);
        };
        array
            .iter()
            .map(|item| {
                let line = line_of(self.text, Some(item.span()));
                let item = Found {
                    value: item.get_ref(),
                    key: found.key.clone(),
                    line,
                };
                as_string(&item, example)
            })
            .collect()
    }

    pub(crate) fn integer(
        &self,
        key: &str,
        example: &str,
    ) -> Result<Option<Found<i64>>, SiteError> {
        let Some(found) = self.value(key) else {
            return Ok(None);
        };
        let DeValue::Integer(integer) = found.value else {
            return Err(wrong_type(&found, found.value, example));
        };
        let value = i64::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| found.invalid("is too large a number", example))?;
        Ok(Some(found.with(value)))
    }

    pub(crate) fn boolean(&self, key: &str, example: &str) -> Result<Option<bool>, SiteError> {
        let Some(found) = self.value(key) else {
            return Ok(None);
        };
        let DeValue::Boolean(value) = found.value else {
            return Err(wrong_type(&found, found.value, example));
        };
        Ok(Some(*value))
    }

    /// The full name of a key of this section.
    pub(crate) fn name_of(&self, key: &str) -> String {
        full(&self.name, key)
    }

    fn value(&self, key: &str) -> Option<Found<&'a DeValue<'i>>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(Found {
            value: value.get_ref(),
            key: full(&self.name, key.get_ref()),
            line: line_of(self.text, Some(key.span())),
        })
    }

    fn check(&self, known: Known, all: Known) -> Result<(), SiteError> {
        for key in self.keys() {
            if known.contains(&key.value) {
                continue;
            }
            return Err(SiteError::UnknownKey {
                line: key.line,
                nearest: nearest(&self.name, key.value, known, all),
                valid: known.iter().map(|known| full(&self.name, known)).collect(),
                key: key.key,
            });
        }
        Ok(())
    }
}

/// The key that was probably meant: one of this section that is spelt alike,
/// or the same word in another section.
fn nearest(section: &str, key: &str, known: Known, all: Known) -> Option<String> {
    let alike = |other: &str| strsim::damerau_levenshtein(&key.to_lowercase(), other);
    let allowed = (key.chars().count() / 3).clamp(1, 3);
    let here = known
        .iter()
        .map(|other| (alike(other), full(section, other)));
    let elsewhere = all.iter().map(|other| {
        let last = other.rsplit('.').next().unwrap_or(other);
        // A word in another section is the poorer guess.
        (alike(last) + 1, (*other).to_owned())
    });
    let (distance, name) = here
        .chain(elsewhere)
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed).then_some(name)
}

fn as_string<'a>(
    found: &Found<&'a DeValue<'_>>,
    example: &str,
) -> Result<Found<&'a str>, SiteError> {
    let value = found
        .value
        .as_str()
        .ok_or_else(|| wrong_type(found, found.value, example))?;
    Ok(found.with(value))
}

fn wrong_type<T>(found: &Found<T>, value: &DeValue<'_>, write: &str) -> SiteError {
    let kind = match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    SiteError::WrongType {
        line: found.line,
        key: found.key.clone(),
        found: kind,
        write: write.to_owned(),
    }
}

fn full(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..start]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}
