//! The points of a row's curve.

use std::time::{Duration, Instant};

use crate::{Row, home, write};

/// With this variable, curves are measured in place of the table.
const CURVES: &str = "PIPELINE_BENCH_CURVES";

/// Fewest and most passes of a point, and after how long it has enough of them.
const PASSES: std::ops::RangeInclusive<usize> = 3..=100;
const ENOUGH: Duration = Duration::from_secs(1);

/// Whether curves are measured in place of the table: what has none need not be prepared.
#[must_use]
pub fn are_curves() -> bool {
    std::env::var_os(CURVES).is_some()
}

/// The sizes that are measured: that of the table alone, or for a curve also the others, smallest first.
#[must_use]
pub fn sizes(table: u64, others: [u64; 2]) -> Vec<u64> {
    if !are_curves() {
        return vec![table];
    }
    let mut sizes = vec![table];
    sizes.extend(others);
    sizes.sort_unstable();
    sizes
}

/// Where a curve is at one size.
pub(crate) struct Point {
    row: Row,
    many: u64,
    what: &'static str,
}

impl Point {
    /// `None` where the row has no curve.
    pub(crate) fn of(row: Row) -> Option<Self> {
        row.over().map(|(many, what)| Self { row, many, what })
    }

    /// Leaves the median of a few passes for `cargo xtask bench --curves`.
    #[expect(clippy::print_stdout, reason = "a benchmark tells how far it is, as criterion does")]
    pub(crate) fn measure(&self, mut pass: impl FnMut() -> Duration) {
        let (begun, mut times) = (Instant::now(), Vec::new());
        while times.len() < *PASSES.start() || (begun.elapsed() < ENOUGH && times.len() < *PASSES.end()) {
            times.push(pass());
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let Self { row, many, what } = self;
        let told = serde_json::json!({
            "id": row.id, "size": row.size, "many": many, "what": what,
            "seconds": median.as_secs_f64(),
        });
        println!("{} at {many} {what}: {median:?}", row.id);
        if let Some(home) = home() {
            write(&home.join(row.id).join("curve"), &format!("{many}.json"), &told);
        }
    }
}
