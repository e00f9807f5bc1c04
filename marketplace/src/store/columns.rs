//! How values stand in columns: ids and enumerations as text, times as
//! microseconds, nested values as JSON.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use surplus_market::store::StoreError;

use super::failed;

/// A value that does not fit its column, or a column that holds no such value.
#[derive(Debug, thiserror::Error)]
#[error("column {column} does not hold {what}")]
struct BadColumn {
    column: String,
    what: &'static str,
}

fn bad(column: &str, what: &'static str) -> StoreError {
    failed("read a row")(BadColumn {
        column: column.to_owned(),
        what,
    })
}

/// An unsigned number as its column holds it. What is beyond `i64` cannot occur
/// in practice and is held at its limit.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn time(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(super) fn time_opt(at: Option<Timestamp>) -> Option<i64> {
    at.map(time)
}

/// A nested value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(failed("write a value as JSON"))
}

pub(super) fn json_opt(value: Option<&impl Serialize>) -> Result<Option<String>, StoreError> {
    value.map(json).transpose()
}

/// An enumeration as its bare name.
pub(super) fn word(value: &impl Serialize) -> Result<String, StoreError> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

pub(super) fn word_opt(value: Option<&impl Serialize>) -> Result<Option<String>, StoreError> {
    value.map(word).transpose()
}

/// One row, read column by column.
pub(super) struct Columns<'a>(pub(super) &'a SqliteRow);

impl Columns<'_> {
    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.0.try_get(column).map_err(failed("read a row"))
    }

    pub(super) fn text_opt(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.0.try_get(column).map_err(failed("read a row"))
    }

    /// An id, digest or whatever else is written as text.
    pub(super) fn parse<T: std::str::FromStr>(&self, column: &str) -> Result<T, StoreError> {
        self.text(column)?
            .parse()
            .map_err(|_| bad(column, "what is expected there"))
    }

    pub(super) fn parse_opt<T: std::str::FromStr>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let text = self.text_opt(column)?;
        text.map(|text| {
            text.parse()
                .map_err(|_| bad(column, "what is expected there"))
        })
        .transpose()
    }

    pub(super) fn integer(&self, column: &str) -> Result<i64, StoreError> {
        self.0.try_get(column).map_err(failed("read a row"))
    }

    pub(super) fn integer_opt(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.0.try_get(column).map_err(failed("read a row"))
    }

    /// An unsigned number.
    pub(super) fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, StoreError> {
        T::try_from(self.integer(column)?).map_err(|_| bad(column, "a number in range"))
    }

    pub(super) fn number_opt<T: TryFrom<i64>>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let number = self.integer_opt(column)?;
        number
            .map(|n| T::try_from(n).map_err(|_| bad(column, "a number in range")))
            .transpose()
    }

    pub(super) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        Timestamp::from_microsecond(self.integer(column)?).map_err(|_| bad(column, "a time"))
    }

    pub(super) fn time_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        let at = self.integer_opt(column)?;
        at.map(|at| Timestamp::from_microsecond(at).map_err(|_| bad(column, "a time")))
            .transpose()
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(failed("read JSON in a row"))
    }

    pub(super) fn json_opt<T: DeserializeOwned>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let text = self.text_opt(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(failed("read JSON in a row")))
            .transpose()
    }

    pub(super) fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let word = serde_json::Value::String(self.text(column)?);
        serde_json::from_value(word).map_err(failed("read a name in a row"))
    }

    pub(super) fn word_opt<T: DeserializeOwned>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let word = self.text_opt(column)?.map(serde_json::Value::String);
        word.map(|word| serde_json::from_value(word).map_err(failed("read a name in a row")))
            .transpose()
    }
}
