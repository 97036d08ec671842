//! Runs the benchmarks and prints one table: the limit, ours, the ratio, and what is wanted.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::readme::{Place, Readme};
use crate::run::{Done, cargo, target_folder};

/// Where the table stands in the README.
const PLACE: Place =
    Place { begin: "<!-- speed: written by `cargo xtask bench --save` -->", end: "<!-- /speed -->" };

/// What becomes of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Printed,
    Saved,
}

/// Measures the benchmarks whose name is given, or all.
pub(crate) fn bench(names: &[&str], table: Table) -> Done {
    let home = target_folder().join("bench");
    // What an earlier run measured is not part of this one.
    if home.exists() {
        std::fs::remove_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    }
    let home_text = home.to_str().ok_or("the target folder's name is not UTF-8")?;
    let named = names.iter().flat_map(|name| ["--bench", name]);
    let mut words = vec!["bench", "--locked", "-p", "pubsub-pipeline-benches"];
    words.extend(named);
    cargo(&words, &[("CRITERION_HOME", home_text)])?;
    let rows = rows(&home)?;
    let text = format!("{}\n\n{}", machine(), markdown(&rows));
    println!("\n{text}");
    if table == Table::Saved { Readme::with(PLACE, &text)?.write() } else { Ok(()) }
}

/// What a benchmark tells of its row.
#[derive(Deserialize)]
struct Row {
    id: String,
    size: f64,
    unit: String,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    kind: String,
    value: f64,
}

/// What criterion tells of one measurement.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// A row with its times, in nanoseconds a pass.
struct Measured {
    row: Row,
    limit: Option<f64>,
    ours: f64,
    peer: Option<f64>,
}

fn rows(home: &Path) -> Result<Vec<Measured>, String> {
    let mut rows = Vec::new();
    let entries = std::fs::read_dir(home).map_err(|e| format!("{}: {e}", home.display()))?;
    for entry in entries {
        let folder = entry.map_err(|e| e.to_string())?.path();
        if !folder.join("row.json").exists() {
            continue;
        }
        let time = |who: &str| {
            let path = folder.join(who).join("new").join("estimates.json");
            let told = path.exists().then(|| read::<Estimates>(&path)).transpose()?;
            Ok::<_, String>(told.map(|told| told.median.point_estimate))
        };
        let ours = time("ours")?.ok_or_else(|| format!("{}: ours was not measured", folder.display()))?;
        let row = read(&folder.join("row.json"))?;
        rows.push(Measured { row, limit: time("limit")?, ours, peer: time("peer")? });
    }
    rows.sort_by(|a, b| a.row.id.cmp(&b.row.id));
    Ok(rows)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

fn markdown(rows: &[Measured]) -> String {
    let mut text =
        String::from("| row | limit | ours | ratio | wanted | met | peer |\n|---|---|---|---|---|---|---|\n");
    for row in rows {
        let (ratio, wanted, met) = row.judged();
        let shown = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), |time| row.shown(time));
        let met = if met { "yes" } else { "**no**" };
        let cells = [shown(row.limit), row.shown(row.ours), ratio, wanted, met.to_owned(), shown(row.peer)];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} |", row.row.id, cells.join(" | "));
    }
    text
}

impl Measured {
    /// The ratio, what is wanted, and whether it is met.
    fn judged(&self) -> (String, String, bool) {
        let limit = self.limit.unwrap_or(f64::NAN);
        match self.row.target.kind.as_str() {
            "speed" => {
                let ratio = limit / self.ours;
                (
                    format!("{ratio:.2}"),
                    format!("≥ {:.2}", self.row.target.value),
                    ratio >= self.row.target.value,
                )
            }
            "cost" => {
                let ratio = self.ours / limit;
                (
                    format!("{ratio:.2}"),
                    format!("≤ {:.2}", self.row.target.value),
                    ratio <= self.row.target.value,
                )
            }
            "within" => {
                let each = self.ours / self.row.size / 1e9;
                (
                    "–".to_owned(),
                    format!("≤ {}", time(self.row.target.value * 1e9)),
                    each <= self.row.target.value,
                )
            }
            _ => {
                let rate = self.row.size / self.ours * 1e9;
                (
                    "–".to_owned(),
                    format!("≥ {}/s", many(self.row.target.value)),
                    rate >= self.row.target.value,
                )
            }
        }
    }

    fn shown(&self, pass: f64) -> String {
        if self.row.size <= 1.0 {
            return time(pass);
        }
        format!("{} {}/s", many(self.row.size / pass * 1e9), self.row.unit)
    }
}

fn many(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n >= 1e9 => format!("{:.2} s", n / 1e9),
        n if n >= 1e6 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.1} µs", n / 1e3),
    }
}

/// What it was measured on: the processor's name and how many there are.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("Measured on {cores} cores of {}.", if model.is_empty() { "an unknown processor" } else { model })
}
