//! Lines of output, and the batches in which they travel.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, LineNumber, Result, Timestamp};

/// Longest line, in bytes without its end; what is longer goes on as numbered parts, never cut.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// Most bytes of one batch, ends included: one longest line and its end.
pub const MAX_BATCH_BYTES: usize = MAX_LINE_BYTES + 2;

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both, in the order of their numbers.
    pub const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// `stdout` or `stderr`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How a line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnd {
    /// A line feed.
    Lf,
    /// A carriage return and a line feed.
    CrLf,
    /// The stream ended without one.
    None,
    /// It goes on in the next line of this stream.
    Part,
}

impl LineEnd {
    /// The bytes that were printed.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
            Self::None | Self::Part => b"",
        }
    }

    /// The name in stores: `lf`, `crlf`, `none`, `part`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "lf",
            Self::CrLf => "crlf",
            Self::None => "none",
            Self::Part => "part",
        }
    }
}

/// One numbered piece of a run's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place in the run.
    pub number: LineNumber,
    /// When it was read, by the worker's wall clock.
    pub time: Timestamp,
    /// Where it was printed.
    pub stream: Stream,
    /// How it ended.
    pub end: LineEnd,
    /// What was printed, without the end.
    pub bytes: Bytes,
    /// Whether it was found in a store's file after a crash, so that its time is only about right.
    pub recovered: bool,
}

impl Line {
    /// The bytes as text: a view, in which invalid bytes are U+FFFD.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Whether [`text`](Self::text) shows something else than was printed.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        std::str::from_utf8(&self.bytes).is_err()
    }
}

/// A range of line numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LineRange {
    /// The first number.
    pub first: LineNumber,
    /// The last number, never smaller than the first.
    pub last: LineNumber,
}

impl LineRange {
    /// From first to last.
    #[must_use]
    pub const fn new(first: LineNumber, last: LineNumber) -> Self {
        Self { first, last }
    }

    /// How many numbers it has.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.last.get().saturating_add(1).saturating_sub(self.first.get())
    }

    /// Whether the number is in it.
    #[must_use]
    pub fn contains(&self, number: LineNumber) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

/// Lines that a store does not have, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which.
    #[serde(flatten)]
    pub range: LineRange,
    /// How many bytes they had, ends included, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
    /// Why they are not there.
    pub reason: String,
}

impl Gap {
    /// What of it is in `range`, `None` where nothing is. How many bytes a part of it had is not known.
    #[must_use]
    pub fn slice(&self, range: LineRange) -> Option<Self> {
        let part = LineRange::new(self.range.first.max(range.first), self.range.last.min(range.last));
        let bytes = self.bytes.filter(|_| part == self.range);
        (part.first <= part.last).then(|| Self { range: part, bytes, reason: self.reason.clone() })
    }
}

/// Lines that one read of one stream completed: one time, one stream, consecutive numbers, one shared buffer.
///
/// Cloning copies nothing. Every line but the last ends in a line feed; the last one may be a part or the end of
/// its stream.
///
/// ```
/// use pubsub_core::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};
/// let batch = LineBatch::split(LineNumber::FIRST, Timestamp::now(), Stream::Stdout, "one\r\ntwo".into(), LineEnd::None)?;
/// let ends: Vec<_> = batch.lines().map(|line| (line.bytes, line.end)).collect();
/// assert_eq!(ends, [("one".into(), LineEnd::CrLf), ("two".into(), LineEnd::None)]);
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineBatch {
    first: LineNumber,
    time: Timestamp,
    stream: Stream,
    /// The bytes as they were printed, ends included.
    buffer: Bytes,
    /// Where each line ends in the buffer, its end included.
    ends: Arc<[u32]>,
    /// What the last line is where it does not end in a line feed.
    tail: LineEnd,
    recovered: bool,
}

impl LineBatch {
    /// Splits printed bytes at their line feeds. `tail` says what a last line without one is: [`LineEnd::Part`] or
    /// [`LineEnd::None`].
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for no bytes, for more than [`MAX_BATCH_BYTES`], and where an
    /// unterminated last line is said to end in a line feed, and where its numbers would reach [`LineNumber::MAX`].
    pub fn split(
        first: LineNumber,
        time: Timestamp,
        stream: Stream,
        buffer: Bytes,
        tail: LineEnd,
    ) -> Result<Self> {
        // At most MAX_BATCH_BYTES, which `new` checks, so that every place fits.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let mut ends: Vec<u32> = Vec::with_capacity(buffer.len().min(MAX_BATCH_BYTES) / 64 + 1);
        ends.extend(memchr::memchr_iter(b'\n', &buffer).map(|at| place(at + 1)));
        if !buffer.is_empty() && ends.last() != Some(&place(buffer.len())) {
            ends.push(place(buffer.len()));
        }
        Self::new(first, time, stream, buffer, ends.into(), tail)
    }

    /// A batch whose line ends are known already: each entry is where a line ends in `buffer`, its end included.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where they do not grow up to the buffer's length, or as for
    /// [`split`](Self::split). That line feeds stand at the ends and nowhere else is the caller's promise.
    pub fn new(
        first: LineNumber,
        time: Timestamp,
        stream: Stream,
        buffer: Bytes,
        ends: Arc<[u32]>,
        tail: LineEnd,
    ) -> Result<Self> {
        let wrong = |what: &str| Err(Error::invalid(format!("a batch of lines {what}")).with("first", first));
        if buffer.len() > MAX_BATCH_BYTES {
            return wrong("has at most 64 KiB and an end");
        }
        let grows = ends.first() > Some(&0) && ends.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        if !grows || ends.last().is_none_or(|end| usize::try_from(*end) != Ok(buffer.len())) {
            return wrong("has at least one line, and growing ends, the last one at the end of its bytes");
        }
        if first.get().checked_add(ends.len() as u64).is_none() {
            return wrong("has numbers up to the largest but one");
        }
        let terminated = buffer.last() == Some(&b'\n');
        if !terminated && !matches!(tail, LineEnd::Part | LineEnd::None) {
            return wrong("without a last line feed ends in a part or in nothing");
        }
        let tail = if terminated { LineEnd::Lf } else { tail };
        Ok(Self { first, time, stream, buffer, ends, tail, recovered: false })
    }

    /// A batch of one line.
    ///
    /// # Errors
    /// As for [`split`](Self::split); also where the line's bytes hold a line feed.
    pub fn of_line(line: &Line) -> Result<Self> {
        let mut buffer = Vec::with_capacity(line.bytes.len() + 2);
        buffer.extend_from_slice(&line.bytes);
        buffer.extend_from_slice(line.end.as_bytes());
        let ends = [u32::try_from(buffer.len()).unwrap_or(u32::MAX)];
        if memchr::memchr(b'\n', &line.bytes).is_some() {
            return Err(Error::invalid("a line holds no line feed").with("line", line.number));
        }
        let mut batch =
            Self::new(line.number, line.time, line.stream, buffer.into(), ends.as_slice().into(), line.end)?;
        batch.recovered = line.recovered;
        Ok(batch)
    }

    /// Marked as found in a file after a crash.
    #[must_use]
    pub fn with_recovered(mut self, recovered: bool) -> Self {
        self.recovered = recovered;
        self
    }

    /// The number of its first line.
    #[must_use]
    pub const fn first(&self) -> LineNumber {
        self.first
    }

    /// The number of its last line.
    #[must_use]
    pub fn last(&self) -> LineNumber {
        self.first.plus(self.len() as u64 - 1)
    }

    /// Its numbers.
    #[must_use]
    pub fn range(&self) -> LineRange {
        LineRange::new(self.first, self.last())
    }

    /// How many lines it has; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// When its lines were read.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Where its lines were printed.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        self.stream
    }

    /// The bytes as they were printed, ends included.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.buffer
    }

    /// Where each line ends in [`bytes`](Self::bytes), its end included.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// How its last line ends: [`LineEnd::Lf`] stands for both line feeds.
    #[must_use]
    pub const fn tail(&self) -> LineEnd {
        self.tail
    }

    /// Whether it was found in a file after a crash.
    #[must_use]
    pub const fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Its lines in order. Each shares the buffer.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = Line> + ExactSizeIterator + '_ {
        self.ends.iter().enumerate().map(|(index, stop)| self.line(index, *stop))
    }

    /// The line with this number, where it is in the batch.
    #[must_use]
    pub fn get(&self, number: LineNumber) -> Option<Line> {
        let index = usize::try_from(number.get().checked_sub(self.first.get())?).ok()?;
        Some(self.line(index, *self.ends.get(index)?))
    }

    /// Visits number, end and content of each line without making a [`Line`] of it.
    pub fn for_each<'a>(&'a self, mut visit: impl FnMut(LineNumber, LineEnd, &'a [u8])) {
        let mut start = 0;
        for (index, stop) in self.ends.iter().enumerate() {
            let stop = *stop as usize;
            let (end, bytes) = end_of(self.buffer.get(start..stop).unwrap_or_default(), self.tail);
            visit(self.first.plus(index as u64), end, bytes);
            start = stop;
        }
    }

    /// The lines of this batch that are in `range`, as a batch; `None` where there are none.
    #[must_use]
    pub fn slice(&self, range: LineRange) -> Option<Self> {
        let first = self.first.max(range.first);
        let last = self.last().min(range.last);
        if first > last {
            return None;
        }
        if first == self.first && last == self.last() {
            return Some(self.clone());
        }
        let at = |number: LineNumber| usize::try_from(number.get() - self.first.get()).ok();
        let (from, to) = (at(first)?, at(last)?);
        let start = from.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        let ends: Arc<[u32]> = self.ends.get(from..=to)?.iter().map(|end| end - start).collect();
        let stop = usize::try_from(*self.ends.get(to)?).ok()?;
        Some(Self {
            first,
            buffer: self.buffer.slice(usize::try_from(start).ok()?..stop),
            tail: if last == self.last() { self.tail } else { LineEnd::Lf },
            ends,
            ..self.clone()
        })
    }

    /// The line that stops at `stop`, where the one before it stops at its own.
    fn line(&self, index: usize, stop: u32) -> Line {
        let before = index.checked_sub(1).and_then(|before| self.ends.get(before));
        let start = before.map_or(0, |before| *before as usize);
        let (end, bytes) = end_of(self.buffer.get(start..stop as usize).unwrap_or_default(), self.tail);
        Line {
            number: self.first.plus(index as u64),
            time: self.time,
            stream: self.stream,
            end,
            bytes: self.buffer.slice(start..start + bytes.len()),
            recovered: self.recovered,
        }
    }
}

/// How a line ends, and its content; `tail` where it has no line feed.
fn end_of(line: &[u8], tail: LineEnd) -> (LineEnd, &[u8]) {
    match line {
        [content @ .., b'\r', b'\n'] => (LineEnd::CrLf, content),
        [content @ .., b'\n'] => (LineEnd::Lf, content),
        content => (tail, content),
    }
}

#[cfg(test)]
mod tests {
    use super::{LineBatch, LineEnd, LineRange, Stream};
    use crate::{LineNumber, Timestamp};
    use proptest::prelude::{prop_assert_eq, proptest};

    fn batch(text: &str, tail: LineEnd) -> LineBatch {
        let first = LineNumber::new(7).unwrap();
        LineBatch::split(first, Timestamp::EPOCH, Stream::Stdout, text.to_owned().into(), tail).unwrap()
    }

    #[test]
    fn lines_are_cut_at_line_feeds_and_know_their_ends() {
        let batch = batch("a\n\r\nb\rc\r\n\nend", LineEnd::Part);
        let lines: Vec<_> = batch.lines().map(|l| (l.number.get(), l.bytes.to_vec(), l.end)).collect();
        let expected: [(u64, &[u8], LineEnd); 5] = [
            (7, b"a", LineEnd::Lf),
            (8, b"", LineEnd::CrLf),
            (9, b"b\rc", LineEnd::CrLf),
            (10, b"", LineEnd::Lf),
            (11, b"end", LineEnd::Part),
        ];
        assert_eq!(lines, expected.map(|(n, b, e)| (n, b.to_vec(), e)));
    }

    #[test]
    fn a_batch_is_never_empty_and_bounded() {
        let split = |bytes: Vec<u8>, tail| {
            LineBatch::split(LineNumber::FIRST, Timestamp::EPOCH, Stream::Stderr, bytes.into(), tail)
        };
        assert!(split(vec![b'x'; super::MAX_BATCH_BYTES + 1], LineEnd::None).is_err());
        assert!(split(vec![], LineEnd::None).is_err());
        assert!(split(b"x".to_vec(), LineEnd::Lf).is_err());
        let last = LineNumber::new(u64::MAX - 1).unwrap();
        let at_the_end = |bytes: &str| {
            LineBatch::split(last, Timestamp::EPOCH, Stream::Stdout, bytes.to_owned().into(), LineEnd::None)
        };
        assert!(at_the_end("a").is_ok() && at_the_end("a\nb").is_err());
    }

    proptest! {
        #[test]
        fn slices_are_the_lines_they_name(text in "[a\\r\\n]{1,40}", from in 0u64..20, count in 1u64..20) {
            let batch = batch(&text, LineEnd::None);
            let first = LineNumber::new(from + 1).unwrap();
            let range = LineRange::new(first, first.plus(count - 1));
            let expected: Vec<_> = batch.lines().filter(|line| range.contains(line.number)).collect();
            let sliced: Vec<_> = batch.slice(range).iter().flat_map(|b| b.lines().collect::<Vec<_>>()).collect();
            prop_assert_eq!(sliced, expected);
        }

        #[test]
        fn content_and_ends_rebuild_the_bytes(text in "[ab\\r\\n]{1,60}") {
            let batch = batch(&text, LineEnd::None);
            let rebuilt: Vec<u8> = batch.lines().flat_map(|l| [l.bytes.to_vec(), l.end.as_bytes().to_vec()].concat()).collect();
            prop_assert_eq!(rebuilt, text.into_bytes());
        }
    }
}
