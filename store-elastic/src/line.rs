//! Lines as documents, and back.

use std::borrow::Cow;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pubsub_core::{
    LineBatch, LineEnd, LineNumber, LineRange, MAX_BATCH_BYTES, MAX_LINE_BYTES, RunKey, Stream, Timestamp,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::layout::line_id;

/// Largest number that the server keeps: its integers have a sign.
pub(crate) const MOST_NUMBER: u64 = i64::MAX.unsigned_abs();

/// What an item takes beside the line, its run and its id: names, time, and a number of a few digits, twice.
const FIELD_BYTES: usize = 110;

/// Writes lines of one run as the items of a bulk: for each what is done, and the document.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// What each item begins with, up to the number in its id.
    action: String,
    /// The fields that all documents of the run share, as JSON.
    run: String,
}

impl Encoder {
    pub(crate) fn new(run: &RunKey, made: &str) -> Self {
        let fields =
            json!({"action_id": run.action_id, "stage": run.stage, "run_id": run.run_id, "made": made});
        let text = fields.to_string();
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        Self {
            action: format!("{{\"create\":{{\"_id\":\"{}", line_id(&run.run_id, made)),
            run: inner.unwrap_or_default().to_owned(),
        }
    }

    /// About how many bytes these lines take.
    pub(crate) fn estimate(&self, batches: &[LineBatch]) -> usize {
        let each = self.action.len() + self.run.len() + FIELD_BYTES;
        batches.iter().map(|batch| batch.bytes().len() + batch.len() * each).sum()
    }

    /// Adds the items of a batch, and where each of them ends in `body`.
    ///
    /// # Errors
    /// None that a buffer in memory leads to.
    pub(crate) fn add(&self, batch: &LineBatch, body: &mut Vec<u8>, ends: &mut Vec<usize>) -> io::Result<()> {
        let (time, run, stream) = (batch.time(), &self.run, batch.stream().as_str());
        let recovered = if batch.is_recovered() { ",\"recovered\":true" } else { "" };
        // All that the lines of the batch have in common, written once.
        let fields = format!(
            "\"}}}}\n{{\"@timestamp\":\"{time}\",{run},\"stream\":\"{stream}\"{recovered},\"line_number\":"
        );
        let mut done = Ok(());
        batch.for_each(|number, end, content| {
            let mut add = || {
                write!(body, "{}{number}{fields}{number}", self.action)?;
                if end != LineEnd::Lf {
                    write!(body, ",\"end\":\"{}\"", end.as_str())?;
                }
                let text = String::from_utf8_lossy(content);
                if matches!(text, Cow::Owned(_)) {
                    write!(body, ",\"raw\":\"{}\"", STANDARD.encode(content))?;
                }
                body.extend_from_slice(b",\"message\":");
                serde_json::to_writer(&mut *body, &*text)?;
                body.extend_from_slice(b"}\n");
                ends.push(body.len());
                Ok(())
            };
            if done.is_ok() {
                done = add();
            }
        });
        done
    }
}

/// What of a line's document is read back.
pub(crate) const FIELDS: [&str; 7] =
    ["@timestamp", "line_number", "stream", "end", "recovered", "raw", "message"];

/// A line as a search by number finds it.
#[derive(Debug, Deserialize)]
pub(crate) struct LineHit {
    #[serde(rename = "_source")]
    source: Box<RawValue>,
    sort: [u64; 1],
}

/// The fields that a line is made of.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(rename = "@timestamp")]
    time: String,
    stream: Stream,
    #[serde(default = "line_feed")]
    end: LineEnd,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    raw: Option<String>,
    message: String,
}

const fn line_feed() -> LineEnd {
    LineEnd::Lf
}

/// What stands at some numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Lines(LineBatch),
    /// A document that is no line as we write it.
    Damaged(LineRange),
}

/// A line as it is stored.
#[derive(Debug)]
struct Entry {
    number: LineNumber,
    time: Timestamp,
    stream: Stream,
    end: LineEnd,
    recovered: bool,
    content: Vec<u8>,
}

impl LineHit {
    pub(crate) const fn number(&self) -> u64 {
        self.sort[0]
    }

    /// About how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        self.source.get().len()
    }

    /// `None` for what is no line as we write it.
    fn entry(&self, number: LineNumber, times: &mut Times) -> Option<Entry> {
        let fields: Fields = serde_json::from_str(self.source.get()).ok()?;
        let content = match fields.raw {
            None => fields.message.into_bytes(),
            Some(raw) => STANDARD.decode(raw).ok()?,
        };
        let ended = !matches!(fields.end, LineEnd::None | LineEnd::Part);
        let is_line =
            content.len() <= MAX_LINE_BYTES && (ended || !content.is_empty()) && !content.contains(&b'\n');
        if !is_line {
            return None;
        }
        let time = times.read(fields.time)?;
        let (stream, end, recovered) = (fields.stream, fields.end, fields.recovered);
        Some(Entry { number, time, stream, end, recovered, content })
    }
}

/// Lines of one batch have one time: it is read once.
#[derive(Debug, Default)]
struct Times(Option<(String, Timestamp)>);

impl Times {
    fn read(&mut self, text: String) -> Option<Timestamp> {
        if let Some((known, time)) = &self.0
            && *known == text
        {
            return Some(*time);
        }
        let time = text.parse().ok()?;
        self.0 = Some((text, time));
        Some(time)
    }
}

/// Makes batches of documents that come in number order.
#[derive(Debug, Default)]
struct Joiner {
    pieces: Vec<Piece>,
    open: Option<Open>,
}

/// A batch that may go on.
#[derive(Debug)]
struct Open {
    first: LineNumber,
    next: LineNumber,
    time: Timestamp,
    stream: Stream,
    recovered: bool,
    buffer: Vec<u8>,
    ends: Vec<u32>,
    tail: LineEnd,
}

impl Joiner {
    fn add(&mut self, entry: &Entry) {
        if !self.open.as_ref().is_some_and(|open| open.goes_on_with(entry)) {
            self.close();
        }
        let open = self.open.get_or_insert_with(|| Open {
            first: entry.number,
            next: entry.number,
            time: entry.time,
            stream: entry.stream,
            recovered: entry.recovered,
            buffer: Vec::with_capacity(entry.content.len() + 2),
            ends: Vec::new(),
            tail: LineEnd::Lf,
        });
        open.buffer.extend_from_slice(&entry.content);
        open.buffer.extend_from_slice(entry.end.as_bytes());
        // At most MAX_BATCH_BYTES.
        open.ends.push(u32::try_from(open.buffer.len()).unwrap_or(u32::MAX));
        open.tail = entry.end;
        open.next = entry.number.plus(1);
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let range = LineRange::new(open.first, LineNumber::new(open.next.before()).unwrap_or(open.first));
        let bytes = Bytes::from(open.buffer);
        let batch = LineBatch::new(open.first, open.time, open.stream, bytes, open.ends.into(), open.tail);
        self.pieces.push(match batch {
            Ok(batch) => Piece::Lines(batch.with_recovered(open.recovered)),
            Err(_) => Piece::Damaged(range),
        });
    }
}

impl Open {
    fn goes_on_with(&self, entry: &Entry) -> bool {
        self.next == entry.number
            && self.time == entry.time
            && self.stream == entry.stream
            && self.recovered == entry.recovered
            && matches!(self.tail, LineEnd::Lf | LineEnd::CrLf)
            && self.buffer.len() + entry.content.len() + 2 <= MAX_BATCH_BYTES
    }
}

/// Batches of what was found, in number order.
pub(crate) fn joined(hits: &[LineHit]) -> Vec<Piece> {
    let (mut joiner, mut times) = (Joiner::default(), Times::default());
    for hit in hits {
        let Some(number) = LineNumber::new(hit.number()) else { continue };
        match hit.entry(number, &mut times) {
            Some(entry) => joiner.add(&entry),
            None => {
                joiner.close();
                joiner.pieces.push(Piece::Damaged(LineRange::new(number, number)));
            }
        }
    }
    joiner.close();
    joiner.pieces
}

#[cfg(test)]
mod tests;
