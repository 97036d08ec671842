//! How the cost of rows grows with their size: one table over all points that were measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::bench::{counted, read, time};

/// What a benchmark tells of a row at one size.
#[derive(Deserialize)]
struct Point {
    id: String,
    size: f64,
    many: f64,
    what: String,
    seconds: f64,
}

/// From the folder that the benchmarks wrote into.
pub(crate) fn curves(home: &Path) -> Result<String, String> {
    let mut curves: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for row in entries(home)? {
        let folder = row.join("curve");
        if !folder.is_dir() {
            continue;
        }
        for file in entries(&folder)? {
            let point: Point = read(&file)?;
            curves.entry(point.id.clone()).or_default().push(point);
        }
    }
    let mut text = String::from("| row | cost at each size | exponent |\n|---|---|---|\n");
    for (id, mut points) in curves {
        points.sort_by(|a, b| a.many.total_cmp(&b.many));
        let costs: Vec<String> = points.iter().map(Point::shown).collect();
        let fitted: Vec<_> = points.iter().map(|point| (point.many, point.seconds)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {id} | {} | {:.2} |", costs.join(", "), exponent(&fitted));
    }
    Ok(text)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(|e| e.to_string())).collect()
}

impl Point {
    fn shown(&self) -> String {
        let cost = time(self.seconds / self.size * 1e9);
        let each = if self.size > 1.0 { " each" } else { "" };
        format!("{}: {cost}{each}", counted(self.many, &self.what))
    }
}

/// The slope of the line through the logarithms that fits best: 1 is linear, 0 does not depend on the size.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs = || points.iter().map(|(size, seconds)| (size.ln(), seconds.ln()));
    let count = logs().map(|_| 1.0).sum::<f64>();
    let (x, y) = logs().fold((0.0, 0.0), |(x, y), log| (x + log.0 / count, y + log.1 / count));
    let (along, across) = logs().fold((0.0, 0.0), |(along, across), log| {
        (along + (log.0 - x) * (log.1 - y), across + (log.0 - x).powi(2))
    });
    along / across
}

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn the_exponent_tells_what_is_linear_and_what_does_not_grow() {
        let fitted = |time: fn(f64) -> f64| exponent(&[10.0, 100.0, 1000.0].map(|size| (size, time(size))));
        for (time, wanted) in
            [((|size| 3.0 * size) as fn(f64) -> f64, 1.0), (|_| 0.5, 0.0), (|size| 1e-9 * size * size, 2.0)]
        {
            assert!((fitted(time) - wanted).abs() < 1e-9, "{wanted}");
        }
    }
}
