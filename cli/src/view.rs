//! How wire types look to people: tables, local times, short ids.
//!
//! Pure: the time zone and the time now are values, so that a table can be
//! compared with a recorded one.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::output::printable;

mod admissions;
mod hosts;
mod leases;
mod market;
mod pending;
mod secrets;

pub(crate) use leases::{end_reason, lease_state};
pub(crate) use secrets::role;

/// What the same value may look different by.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) zone: TimeZone,
    pub(crate) now: Timestamp,
    /// Fit tables into the terminal; `false` where no terminal reads.
    pub(crate) fit: bool,
}

impl View {
    /// A time in the local zone, to the minute; the year only where it is not
    /// this one.
    pub(crate) fn time(&self, time: Timestamp) -> String {
        let local = time.to_zoned(self.zone.clone());
        let format = if local.year() == self.now.to_zoned(self.zone.clone()).year() {
            "%b %d %H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        local.strftime(format).to_string()
    }

    fn time_or(&self, time: Option<Timestamp>, otherwise: &str) -> String {
        time.map_or_else(|| otherwise.to_owned(), |time| self.time(time))
    }

    /// How long ago a time was.
    fn ago(&self, time: Timestamp) -> String {
        let seconds = u64::try_from(self.now.duration_since(time).as_secs()).unwrap_or(0);
        format!("{} ago", crate::units::show_seconds(seconds))
    }

    /// A table with these headings; columns whose heading starts with `>` are
    /// set to the right.
    fn table(&self, headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = self.bare_table();
        table.set_header(
            headings
                .iter()
                .map(|heading| heading.trim_start_matches('>')),
        );
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)));
        }
        for (index, heading) in headings.iter().enumerate() {
            if let Some(column) = table.column_mut(index)
                && heading.starts_with('>')
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        lines_of(&table)
    }

    /// One thing, a property a line.
    fn sheet(&self, rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
        let mut table = self.bare_table();
        for (name, value) in rows {
            table.add_row([name.to_owned(), printable(&value)]);
        }
        lines_of(&table)
    }

    fn bare_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let arrangement = if self.fit {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        };
        table.set_content_arrangement(arrangement);
        table
    }
}

fn lines_of(table: &Table) -> String {
    let mut text = table.trim_fmt();
    // The preset pads each line by a space on the left.
    text = text
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    text.push('\n');
    text
}

/// The ids cut to the shortest length, at least eight, that keeps them apart.
pub(crate) fn short_ids<T: ToString>(ids: impl IntoIterator<Item = T>) -> Vec<String> {
    let full: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    let mut sorted = full.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let needed = sorted
        .windows(2)
        .map(|pair| shared(&pair[0], &pair[1]) + 1)
        .max()
        .unwrap_or(0)
        .max(8);
    full.into_iter()
        .map(|id| id.chars().take(needed).collect())
        .collect()
}

#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::view;
    use super::*;

    #[test]
    fn ids_made_in_the_same_minute_are_kept_apart() {
        let ids = [
            "0193a2b4-1111-7000-8000-000000000001",
            "0193a2b4-1122-7000-8000-000000000002",
        ];
        assert_eq!(short_ids(ids), ["0193a2b4-111", "0193a2b4-112"]);
        assert_eq!(
            short_ids(["0193a2b4-1111-7000-8000-000000000001"]),
            ["0193a2b4"]
        );
    }

    #[test]
    fn a_time_of_another_year_shows_its_year() {
        assert_eq!(
            view().time("2026-03-01T12:30:00Z".parse().unwrap()),
            "Mar 01 12:30"
        );
        assert_eq!(
            view().time("2027-03-01T12:30:00Z".parse().unwrap()),
            "2027-03-01 12:30"
        );
    }
}
