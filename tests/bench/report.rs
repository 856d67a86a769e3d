//! The table of figures, the file that keeps one, and a kept one beside a new one.

use crate::measure::percentile;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io::Result;
use std::path::Path;

/// Median and spread, as they are shown.
type Figures = (String, String);

pub(crate) struct Report {
    /// Of an earlier run, by metric.
    earlier: Option<HashMap<String, Figures>>,
    /// What a file keeps: a line per metric, of fields with tabs in between.
    kept: String,
}

/// Three digits that count.
fn number(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

impl Report {
    /// `compare` is a file that was kept.
    pub(crate) fn new(compare: Option<&Path>) -> Result<Report> {
        let read = |path: &Path| -> Result<_> {
            let text = fs::read_to_string(path)?;
            let row = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
                [metric, median, spread, _] => Some((metric.to_string(), (median.to_string(), spread.to_string()))),
                _ => None,
            };
            Ok(text.lines().filter_map(row).collect())
        };
        let report = Report { earlier: compare.map(read).transpose()?, kept: String::new() };
        report.line(
            "metric",
            &("median".into(), "spread".into()),
            "unit",
            ("before".into(), "spread".into()),
            "change",
        );
        Ok(report)
    }

    fn line(&self, metric: &str, now: &Figures, unit: &str, before: Figures, change: &str) {
        let mut line = format!("{metric:<44}");
        if self.earlier.is_some() {
            let _ = write!(line, "{:>9}  {:<16}", before.0, before.1);
        }
        let _ = write!(line, "{:>9}  {:<16}{unit:<9}", now.0, now.1);
        if self.earlier.is_some() {
            let _ = write!(line, "{change:>7}");
        }
        println!("{}", line.trim_end());
    }

    /// Prints a metric and keeps it. `most` is the share of the samples below the one that is shown beside their median;
    /// without it, the smallest and the largest are.
    pub(crate) fn row(&mut self, metric: &str, unit: &str, mut samples: Vec<f64>, most: Option<f64>) {
        samples.sort_by(f64::total_cmp);
        let median = number(percentile(&samples, 0.5));
        let at = |share| number(percentile(&samples, share));
        let spread = match most {
            Some(share) => format!("p{:.0} {}", share * 100.0, at(share)),
            None if samples.len() > 1 => format!("{}..{}", at(0.0), at(1.0)),
            None => String::new(),
        };
        let _ = writeln!(self.kept, "{metric}\t{median}\t{spread}\t{unit}");
        let before = self.earlier.as_ref().and_then(|rows| rows.get(metric)).cloned().unwrap_or_default();
        let change = match (median.parse::<f64>(), before.0.parse::<f64>()) {
            (Ok(now), Ok(before)) if before > 0.0 => format!("{:+.0} %", (now / before - 1.0) * 100.0),
            _ => String::new(),
        };
        self.line(metric, &(median, spread), unit, before, &change);
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, &self.kept)
    }
}
