//! The table that is printed at the end.

use std::fmt;

/// Rows: what, measured, budget.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(String, String, String)>,
}

impl Table {
    pub(super) fn row(
        &mut self,
        what: impl Into<String>,
        measured: impl Into<String>,
        budget: impl Into<String>,
    ) {
        let row = (what.into(), measured.into(), budget.into());
        // Also at once: the table comes after many minutes.
        println!("  {}: {}", row.0, row.1);
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&(String, String, String)) -> &String| {
            self.rows
                .iter()
                .map(|row| column(row).chars().count())
                .max()
                .unwrap_or(0)
        };
        let (what, measured) = (width(|row| &row.0).max(4), width(|row| &row.1).max(8));
        writeln!(
            f,
            "| {:what$} | {:measured$} | budget |",
            "what", "measured"
        )?;
        writeln!(
            f,
            "|{}|{}|---|",
            "-".repeat(what + 2),
            "-".repeat(measured + 2)
        )?;
        for (name, value, budget) in &self.rows {
            writeln!(f, "| {name:what$} | {value:measured$} | {budget} |")?;
        }
        Ok(())
    }
}

/// Bytes in MB (10^6), as media are sold.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes of files, shown to a tenth"
)]
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// The middle of `values`; the mean of the two middle ones of an even number.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::default();
        table.row("ISO", "105.0 MB", "150 MB");
        table.row("a longer name", "1", "");
        let text = table.to_string();
        let bars: Vec<_> = text.lines().map(|line| line.rfind(" | ")).collect();
        assert_eq!(bars[0], bars[2]);
        assert_eq!(bars[2], bars[3]);
    }
}
