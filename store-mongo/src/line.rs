//! Lines as documents, and back.

use std::borrow::Cow;

use bytes::Bytes;
use mongodb::bson::{DateTime, RawBsonRef, RawDocument};
use pubsub_core::{
    LineBatch, LineEnd, LineNumber, LineRange, MAX_BATCH_BYTES, MAX_LINE_BYTES, RunKey, Stream, Timestamp,
};
use serde::{Serialize, Serializer};

use crate::layout::Ids;

/// A line as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct LineDocument<'a> {
    #[serde(rename = "_id")]
    id: String,
    action_id: &'a str,
    stage: &'a str,
    line_number: i64,
    content: Cow<'a, str>,
    timestamp: DateTime,
    stream: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    micros: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Raw<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime>,
}

/// Bytes, which serde takes for a list otherwise.
#[derive(Debug)]
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A time as MongoDB keeps it, and the microseconds that this leaves out.
pub(crate) fn date_of(time: Timestamp) -> (DateTime, i32) {
    let micros = time.as_micros();
    // 0 to 999.
    let rest = i32::try_from(micros.rem_euclid(1_000)).unwrap_or(0);
    (DateTime::from_millis(micros.div_euclid(1_000)), rest)
}

/// Visits the documents of a batch, each with its number and its bytes, end included.
pub(crate) fn documents<'a>(
    ids: &Ids,
    run: &'a RunKey,
    batch: &'a LineBatch,
    expires_at: Option<DateTime>,
    mut visit: impl FnMut(LineNumber, u64, LineDocument<'a>),
) {
    // Whoever calls sorts out larger numbers before.
    let as_number = |number: LineNumber| i64::try_from(number.get()).unwrap_or(i64::MAX);
    let (timestamp, micros) = date_of(batch.time());
    let recovered = batch.is_recovered().then_some(true);
    batch.for_each(|number, end, content| {
        let text = String::from_utf8_lossy(content);
        let raw = matches!(text, Cow::Owned(_)).then_some(Raw(content));
        let document = LineDocument {
            id: ids.line(number.get()),
            action_id: run.action_id.as_str(),
            stage: run.stage.as_str(),
            line_number: as_number(number),
            content: text,
            timestamp,
            stream: batch.stream().as_str(),
            micros,
            end: (end != LineEnd::Lf).then_some(end.as_str()),
            raw,
            recovered,
            expires_at,
        };
        visit(number, (content.len() + end.as_bytes().len()) as u64, document);
    });
}

/// What stands at some numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Lines(LineBatch),
    /// A document that is no line as we write it.
    Damaged(LineRange),
}

/// A line as it is read.
#[derive(Debug)]
struct Stored<'a> {
    number: LineNumber,
    time: Timestamp,
    stream: Stream,
    end: LineEnd,
    recovered: bool,
    content: &'a [u8],
}

impl<'a> Stored<'a> {
    fn read(number: LineNumber, document: &'a RawDocument) -> Option<Self> {
        let (mut millis, mut micros, mut stream, mut end) = (None, 0, None, Some(LineEnd::Lf));
        let (mut content, mut raw, mut recovered) = (None, None, false);
        for field in document {
            match field.ok()? {
                (name, RawBsonRef::String(text)) => match name.as_str() {
                    "content" => content = Some(text.as_bytes()),
                    "stream" => stream = Stream::BOTH.into_iter().find(|stream| stream.as_str() == text),
                    "end" => end = end_of(text),
                    _ => {}
                },
                (name, RawBsonRef::DateTime(time)) if name == "timestamp" => {
                    millis = Some(time.timestamp_millis());
                }
                (name, RawBsonRef::Int32(number)) if name == "micros" => micros = number,
                (name, RawBsonRef::Binary(bytes)) if name == "raw" => raw = Some(bytes.bytes),
                (name, RawBsonRef::Boolean(is_so)) if name == "recovered" => recovered = is_so,
                _ => {}
            }
        }
        let micros = millis?.saturating_mul(1_000).saturating_add(i64::from(micros));
        let (time, content) = (Timestamp::from_micros(micros), raw.or(content)?);
        let line = Self { number, time, stream: stream?, end: end?, recovered, content };
        line.is_one().then_some(line)
    }

    /// Whether it can have been printed.
    fn is_one(&self) -> bool {
        let ended = !matches!(self.end, LineEnd::None | LineEnd::Part);
        self.content.len() <= MAX_LINE_BYTES
            && (ended || !self.content.is_empty())
            && !self.content.contains(&b'\n')
    }
}

fn end_of(text: &str) -> Option<LineEnd> {
    [LineEnd::Lf, LineEnd::CrLf, LineEnd::None, LineEnd::Part].into_iter().find(|end| end.as_str() == text)
}

/// Makes batches of documents that come in number order.
#[derive(Debug)]
pub(crate) struct Joiner<'a> {
    ids: &'a Ids,
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

impl<'a> Joiner<'a> {
    pub(crate) const fn new(ids: &'a Ids) -> Self {
        Self { ids, pieces: Vec::new(), open: None }
    }

    /// The next document; one whose id is none of a line is passed over.
    pub(crate) fn document(&mut self, document: &RawDocument) {
        let Some(number) = document.get_str("_id").ok().and_then(|id| self.ids.number(id)) else { return };
        match Stored::read(number, document) {
            Some(line) => self.add(&line),
            None => {
                self.close();
                self.pieces.push(Piece::Damaged(LineRange::new(number, number)));
            }
        }
    }

    /// What was read.
    pub(crate) fn finish(mut self) -> Vec<Piece> {
        self.close();
        self.pieces
    }

    fn add(&mut self, line: &Stored<'_>) {
        if !self.open.as_ref().is_some_and(|open| open.goes_on_with(line)) {
            self.close();
        }
        let open = self.open.get_or_insert_with(|| Open {
            first: line.number,
            next: line.number,
            time: line.time,
            stream: line.stream,
            recovered: line.recovered,
            buffer: Vec::with_capacity(line.content.len() + 2),
            ends: Vec::new(),
            tail: LineEnd::Lf,
        });
        open.buffer.extend_from_slice(line.content);
        open.buffer.extend_from_slice(line.end.as_bytes());
        // At most MAX_BATCH_BYTES.
        open.ends.push(u32::try_from(open.buffer.len()).unwrap_or(u32::MAX));
        open.tail = line.end;
        open.next = line.number.plus(1);
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
    fn goes_on_with(&self, line: &Stored<'_>) -> bool {
        self.next == line.number
            && self.time == line.time
            && self.stream == line.stream
            && self.recovered == line.recovered
            && matches!(self.tail, LineEnd::Lf | LineEnd::CrLf)
            && self.buffer.len() + line.content.len() + 2 <= MAX_BATCH_BYTES
    }
}
