//! §4.7: the same searches get the same answers, byte for byte, from all stores that have the same log.
//!
//! ```
//! use std::sync::Arc;
//! use pubsub_core::conformance::answers::same_answers;
//! use pubsub_core::MemoryStore;
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! same_answers(&[("memory", Arc::new(MemoryStore::new()))], 500).await;
//! # });
//! ```

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;

pub use super::generated::log;
use super::store::SampleRun;
use crate::{Line, LineBatch, OutputReader, OutputSink, Result, RunKey, RunQuery, Search, Store};

/// The log that answers are compared on.
pub const LINES: u64 = 200_000;

/// The same, for a store that is slow.
pub const QUICK_LINES: u64 = 20_000;

/// How many bytes are appended at once.
const APPEND_BYTES: usize = 256 * 1024;

/// How many hits an answer shows; the others are in its digest alone.
const SHOWN: u64 = 3;

/// For slow machines: nothing here is about speed.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A regular expression.
    Regex(&'static str),
    /// A plain text.
    Text(&'static str),
    /// A regular expression of so many bytes.
    Long(usize),
}

use Pattern::{Long, Regex, Text};

/// The searches: literals, classes, anchors, case, Unicode, alternations, empty ones, and what is no pattern.
pub const SEARCHES: [Pattern; 40] = [
    Text("ERROR"),
    Text("needle-7f3a"),
    Text("code=42"),
    Text("a.b [1]"),
    Text("µm"),
    Text("日本"),
    Text("\u{fffd}"),
    Text(""),
    Text("no such text"),
    Text("error"),
    Regex("needle-7f3a"),
    Regex("ERROR"),
    Regex("error|warning"),
    Regex("(?i)error|exception"),
    Regex("step 7|code=7|^$"),
    Regex(r"code=\d+$"),
    Regex(r"^\d{2}:\d{2}:\d{2} "),
    Regex("^ERROR"),
    Regex("ms$"),
    Regex("^$"),
    Regex(r"^\s+$"),
    Regex(r"\r"),
    Regex(r"\bstep [0-9]{3}\b"),
    Regex("[^ -~]"),
    Regex(r"\p{Greek}+"),
    Regex("(?i)σίσυφοσ"),
    Regex("(?i)STRAẞE|straße"),
    Regex("(?i)5 k$"),
    Regex(r"^caf.$"),
    Regex(r"\x{fffd}$"),
    Regex("worker-[13579] "),
    Regex(r"/src/\w+\.rs:[0-9]+"),
    Regex("(a+)+$"),
    Regex("x{100}"),
    Regex("the first half.*the second"),
    Regex(""),
    Regex("("),
    Regex("a**["),
    Regex(r"(?-u)\xff"),
    Long(1_001),
];

impl Pattern {
    fn search(self) -> Result<Search> {
        let search = match self {
            Regex(pattern) => Search::regex(pattern),
            Text(text) => Search::literal(text),
            Long(bytes) => Search::regex(&"x".repeat(bytes)),
        };
        Ok(search?.with_time_limit(TIME_LIMIT))
    }

    fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Writes the log of so many lines into all of these stores, asks each, and compares the answers with those that the log
/// itself gives.
///
/// # Panics
/// Where a store does not take the log, and where an answer is another: with the store and the search.
pub async fn same_answers(stores: &[(&str, Arc<dyn Store>)], lines: u64) {
    let sinks: Vec<&dyn OutputSink> = stores.iter().map(|(_, store)| &**store as &dyn OutputSink).collect();
    let run = written(&sinks, lines).await;
    let expected = expected(run.key(), lines);
    for (name, store) in stores {
        assert_same(name, &answers(&**store, &run.query()).await, &expected);
    }
}

/// Compares an answer with another one.
///
/// # Panics
/// Where they differ: with the first line that does.
pub fn assert_same(name: &str, answers: &str, expected: &str) {
    let (mut ours, mut theirs) = (answers.lines(), expected.lines());
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return,
            (ours, theirs) => assert_eq!(ours, theirs, "{name} answers otherwise"),
        }
    }
}

/// Writes the log into all of these sinks, as a run of its own that has ended.
///
/// # Panics
/// Where one does not take it.
pub async fn written(sinks: &[&dyn OutputSink], lines: u64) -> SampleRun {
    let mut run = SampleRun::new();
    for sink in sinks {
        run.begin(*sink).await;
    }
    let mut waiting: Vec<LineBatch> = Vec::new();
    let mut batches = log(lines).peekable();
    while let Some(batch) = batches.next() {
        waiting.push(batch);
        let bytes: usize = waiting.iter().map(|batch| batch.bytes().len()).sum();
        if bytes >= APPEND_BYTES || batches.peek().is_none() {
            run.print(&waiting);
            for sink in sinks {
                let appended = sink.append(run.key(), &waiting).await.unwrap();
                assert_eq!(appended, crate::Appended::all(), "all is stored");
            }
            waiting.clear();
        }
    }
    run.complete();
    for sink in sinks {
        sink.finish(&run.record).await.unwrap();
    }
    run
}

/// What a reader answers to all [`SEARCHES`] over the runs that fit, as one text: for each search what was refused, or
/// how many hits there are, the first of them, and a digest over all of them with all that belongs to a hit.
///
/// # Panics
/// Where a search fails that the library takes.
pub async fn answers(reader: &dyn OutputReader, query: &RunQuery) -> String {
    let mut text = String::new();
    for pattern in SEARCHES {
        let mut answer = Answer::default();
        let told = match pattern.search() {
            Err(refused) => refused.chain(),
            Ok(search) => {
                let mut hits = reader.search(query, &search).await.unwrap();
                while let Some(hit) = hits.try_next().await.unwrap() {
                    answer.add(&hit.run, &hit.line);
                }
                answer.told()
            }
        };
        writeln!(text, "{}: {told}", pattern.name()).unwrap();
    }
    text
}

/// What the log itself answers.
fn expected(run: &RunKey, lines: u64) -> String {
    let mut searches: Vec<(Pattern, Result<Search>, Answer)> =
        SEARCHES.map(|pattern| (pattern, pattern.search(), Answer::default())).into();
    for line in log(lines).flat_map(|batch| batch.lines().collect::<Vec<_>>()) {
        for (_, search, answer) in &mut searches {
            if search.as_ref().is_ok_and(|search| search.is_match(&line.bytes)) {
                answer.add(run, &line);
            }
        }
    }
    let told = searches.into_iter().map(|(pattern, search, answer)| {
        let told = search.map_or_else(|refused| refused.chain(), |_| answer.told());
        format!("{}: {told}\n", pattern.name())
    });
    told.collect()
}

/// The hits of one search.
#[derive(Default)]
struct Answer {
    hits: u64,
    shown: String,
    digest: blake3::Hasher,
}

impl Answer {
    fn add(&mut self, run: &RunKey, line: &Line) {
        self.hits += 1;
        let Line { number, time, stream, end, bytes, recovered } = line;
        let (stream, end) = (stream.as_str(), end.as_str());
        let flags = [u8::from(*recovered), u8::from(line.is_lossy())];
        let (number, micros, long) = (number.get(), time.as_micros(), bytes.len() as u64);
        self.digest.update(run.run_id.as_str().as_bytes());
        [number.to_le_bytes(), micros.to_le_bytes(), long.to_le_bytes()].iter().for_each(|value| {
            self.digest.update(value);
        });
        for text in [stream.as_bytes(), end.as_bytes(), &flags, bytes] {
            self.digest.update(text);
        }
        if self.hits <= SHOWN {
            let text: String = line.text().chars().take(40).collect();
            write!(self.shown, "; {number} {stream} {end} {flags:?} {text:?}").unwrap();
        }
    }

    fn told(&self) -> String {
        format!("{} hits, {}{}", self.hits, self.digest.finalize().to_hex(), self.shown)
    }
}
