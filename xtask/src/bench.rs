//! Runs the benchmarks and prints one table: the limit, ours, the ratio, and what is wanted; another one of curves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::curves::curves;
use crate::readme::{Place, Readme};
use crate::run::{Done, cargo, target_folder};

/// Where the table stands in the README.
const PLACE: Place =
    Place { begin: "<!-- speed: written by `cargo xtask bench --save` -->", end: "<!-- /speed -->" };

/// A package of its own, with its own lock: what users would pick instead is no dependency of the workspace.
pub(crate) const PEERS: &str = "peers/Cargo.toml";

/// The benchmarks that it has peers for.
const WITH_PEERS: [&str; 2] = ["broker", "redis"];

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// Those of these names, or all.
    names: Vec<&'a str>,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Table,
    Curves,
    /// Both, into the README.
    Saved,
}

impl<'a> Bench<'a> {
    /// From the words of the command line; `None` for what is none of them.
    pub(crate) fn parse(words: &[&'a str]) -> Option<Self> {
        let (what, names) = match words {
            ["--save", names @ ..] => (What::Saved, names),
            ["--curves", names @ ..] => (What::Curves, names),
            names => (What::Table, names),
        };
        names.iter().all(|name| !name.starts_with('-')).then(|| Self { names: names.to_vec(), what })
    }
}

/// Measures and prints. What is saved takes the place of the same rows, or of all where all were measured.
pub(crate) fn bench(asked: &Bench<'_>) -> Done {
    let before = if asked.what == What::Saved && !asked.names.is_empty() {
        Readme::text(PLACE)?
    } else {
        String::new()
    };
    let mut texts = vec![machine()];
    if asked.what != What::Curves {
        let home = fresh("bench")?;
        measure(&asked.names, &[("CRITERION_HOME", &home)])?;
        peers(&asked.names, &home)?;
        texts.push(in_place(&before, &markdown(&rows(Path::new(&home))?)));
    }
    if asked.what != What::Table {
        let home = fresh("bench-curves")?;
        measure(&asked.names, &[("CRITERION_HOME", &home), ("PIPELINE_BENCH_CURVES", "yes")])?;
        texts.push(in_place(&before, &curves(Path::new(&home))?));
    }
    let text = format!("\n{}", texts.join("\n"));
    println!("{text}");
    if asked.what == What::Saved { Readme::with(PLACE, &text)?.write() } else { Ok(()) }
}

/// A table with those rows of an earlier one that it does not have, all in the order of their names.
fn in_place(before: &str, table: &str) -> String {
    let mut lines = table.lines();
    let head: Vec<&str> = lines.by_ref().take(2).collect();
    let earlier = before.lines().skip_while(|line| Some(line) != head.first()).skip(head.len());
    let earlier = earlier.take_while(|line| line.starts_with('|'));
    let rows: BTreeMap<&str, &str> =
        earlier.chain(lines).filter_map(|line| Some((line.split('|').nth(1)?, line))).collect();
    head.into_iter().chain(rows.into_values()).fold(String::new(), |text, line| text + line + "\n")
}

/// A folder in which nothing is that an earlier run measured.
fn fresh(name: &str) -> Result<String, String> {
    let home = target_folder().join(name);
    if home.exists() {
        std::fs::remove_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
    }
    home.into_os_string().into_string().map_err(|_| "the target folder's name is not UTF-8".to_owned())
}

fn measure(names: &[&str], variables: &[(&str, &str)]) -> Done {
    let named = names.iter().flat_map(|name| ["--bench", name]);
    let words: Vec<_> =
        ["bench", "--locked", "-p", "pubsub-pipeline-benches"].into_iter().chain(named).collect();
    cargo(&words, variables)
}

/// Measures peers of the rows that were measured.
fn peers(names: &[&str], home: &str) -> Done {
    let named = WITH_PEERS.iter().filter(|peer| names.is_empty() || names.contains(peer));
    let named: Vec<_> = named.flat_map(|name| ["--bench", name]).collect();
    if named.is_empty() {
        return Ok(());
    }
    let target = target_folder();
    let target = target.to_str().ok_or("the target folder's name is not UTF-8")?;
    let words = [&["bench", "--locked", "--manifest-path", PEERS], &named[..]].concat();
    cargo(&words, &[("CRITERION_HOME", home), ("CARGO_TARGET_DIR", target)])
}

/// What a benchmark tells of its row.
#[derive(Deserialize)]
struct Row {
    id: String,
    size: f64,
    unit: String,
    target: Target,
    /// Its size, or that of what it is one of.
    many: f64,
    what: String,
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
            if folder.join("peer").exists() {
                return Err(format!("{}: a peer of no row", folder.display()));
            }
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

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

fn markdown(rows: &[Measured]) -> String {
    let mut text = String::from(
        "| row | size | limit | ours | ratio | wanted | met | peer |\n|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let (ratio, wanted, met) = row.judged();
        let shown = |time: Option<f64>| time.map_or_else(|| "–".to_owned(), |time| row.shown(time));
        let met = if met { "yes" } else { "**no**" };
        let size = counted(row.row.many, &row.row.what);
        let cells =
            [size, shown(row.limit), row.shown(row.ours), ratio, wanted, met.to_owned(), shown(row.peer)];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} |", row.row.id, cells.join(" | "));
    }
    text
}

impl Measured {
    /// The ratio, what is wanted, and whether it is met.
    fn judged(&self) -> (String, String, bool) {
        let Target { kind, value: wanted } = &self.row.target;
        let ratio = |other: Option<f64>| other.unwrap_or(f64::NAN) / self.ours;
        let none = || "–".to_owned();
        match kind.as_str() {
            "speed" => {
                let ratio = ratio(self.limit);
                (format!("{ratio:.2}"), format!("≥ {wanted:.2}"), ratio >= *wanted)
            }
            "cost" => {
                let ratio = 1.0 / ratio(self.limit);
                (format!("{ratio:.2}"), format!("≤ {wanted:.2}"), ratio <= *wanted)
            }
            "peer" => {
                let ratio = ratio(self.peer);
                (format!("{ratio:.2}"), format!("≥ {wanted} × peer"), ratio >= *wanted)
            }
            "within" => {
                let each = self.ours / self.row.size / 1e9;
                (none(), format!("≤ {}", time(wanted * 1e9)), each <= *wanted)
            }
            _ => {
                let rate = self.row.size / self.ours * 1e9;
                (none(), format!("≥ {}/s", many(*wanted)), rate >= *wanted)
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

/// So many of what is named in the plural.
pub(crate) fn counted(number: f64, what: &str) -> String {
    let one = if number <= 1.0 { what.strip_suffix('s') } else { None };
    format!("{} {}", many(number), one.unwrap_or(what))
}

fn many(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n >= 1e9 => format!("{:.2} s", n / 1e9),
        n if n >= 1e6 => format!("{:.2} ms", n / 1e6),
        n if n >= 1e3 => format!("{:.1} µs", n / 1e3),
        n => format!("{n:.1} ns"),
    }
}

/// What it was measured on: the processor's name and how many there are.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = told.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!(
        "Measured on {cores} cores of {}.\n",
        if model.is_empty() { "an unknown processor" } else { model }
    )
}

#[cfg(test)]
mod tests {
    use super::in_place;

    #[test]
    fn rows_that_were_measured_again_take_the_place_of_the_earlier_ones() {
        let of = |rows: &str| format!("| row | x |\n|---|---|\n{rows}");
        let before = format!("Measured.\n\n| other |\n|---|\n| b |\n\n{}\n", of("| a | 1 |\n| b | 1 |\n"));
        assert_eq!(in_place(&before, &of("| b | 2 |\n| c | 2 |\n")), of("| a | 1 |\n| b | 2 |\n| c | 2 |\n"));
        assert_eq!(in_place("", &of("| b | 2 |\n")), of("| b | 2 |\n"));
    }
}
