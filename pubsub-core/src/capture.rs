//! From printed bytes to numbered lines.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::Instant;

use crate::{LineBatch, LineEnd, LineNumber, MAX_BATCH_BYTES, MAX_LINE_BYTES, Masker, Stream, Timestamp};

/// How long an unfinished line waits before it goes out as a part.
pub const PART_AFTER: Duration = Duration::from_secs(2);

/// Pushes up to this size are joined with an unfinished line in one copy, so that they make one batch.
const JOIN_BYTES: usize = 8 * 1024;

/// Splits what a run prints into lines, masks and numbers them.
///
/// Pure: it reads no clock and does no I/O. Per stream it keeps at most one longest line and one longest secret, beside
/// what one push brings. An unfinished line has no number until it ends, passes [`MAX_LINE_BYTES`], or has waited
/// [`PART_AFTER`]; a part is never cut inside a character, a secret, or between a carriage return and its line feed.
/// What is pushed in other pieces gives the same lines, as long as none waits too long.
///
/// ```
/// use pubsub_core::{Capture, LineEnd, Masker, Stream, Timestamp};
/// let mut capture = Capture::new(Masker::default().into());
/// let (now, time, mut lines) = (tokio::time::Instant::now(), Timestamp::now(), Vec::new());
/// capture.push(Stream::Stdout, "one\ntw".into(), now, time, &mut lines);
/// capture.push(Stream::Stderr, "oops\n".into(), now, time, &mut lines);
/// capture.push(Stream::Stdout, "o".into(), now, time, &mut lines);
/// capture.end(Stream::Stdout, time, &mut lines);
/// let printed: Vec<_> = lines.iter().flat_map(|batch| batch.lines()).map(|l| (l.number.get(), l.text().into_owned(), l.end)).collect();
/// let (lf, none) = (LineEnd::Lf, LineEnd::None);
/// assert_eq!(printed, [(1, "one".into(), lf), (2, "oops".into(), lf), (3, "two".into(), none)]);
/// ```
#[derive(Debug)]
pub struct Capture {
    masker: Arc<Masker>,
    stdout: Unfinished,
    stderr: Unfinished,
    last: u64,
    /// Where the lines of the batch in the making end; kept, so that it is allocated once.
    ends: Vec<u32>,
}

/// Most line ends that room is kept for between pushes.
const MAX_KEPT_ENDS: usize = 4 * 1024;

/// A line of one stream that has not ended, as it was printed: secrets are still in it.
#[derive(Default)]
struct Unfinished {
    bytes: BytesMut,
    /// Since when it waits; `None` where it is empty or only holds back what may become a secret.
    since: Option<Instant>,
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unfinished({} bytes)", self.bytes.len())
    }
}

impl Capture {
    /// A capture that has seen nothing.
    #[must_use]
    pub fn new(masker: Arc<Masker>) -> Self {
        let (stdout, stderr) = (Unfinished::default(), Unfinished::default());
        Self { masker, stdout, stderr, last: 0, ends: Vec::new() }
    }

    /// Takes printed bytes and adds the lines that they complete to `out`.
    pub fn push(
        &mut self,
        stream: Stream,
        mut bytes: Bytes,
        now: Instant,
        time: Timestamp,
        out: &mut Vec<LineBatch>,
    ) {
        if bytes.is_empty() {
            return;
        }
        if let Some(last) = memchr::memrchr(b'\n', &bytes) {
            let mut whole = bytes.split_to(last + 1);
            let waiting = &mut self.unfinished(stream).bytes;
            if !waiting.is_empty() {
                let first = memchr::memchr(b'\n', &whole).map_or(whole.len(), |at| at + 1);
                let joined = if whole.len() <= JOIN_BYTES { whole.len() } else { first };
                waiting.extend_from_slice(whole.get(..joined).unwrap_or_default());
                whole.advance(joined);
                let line = waiting.split().freeze();
                self.lines(stream, line, time, out);
            }
            self.unfinished(stream).since = None;
            self.lines(stream, whole, time, out);
        }
        if !bytes.is_empty() {
            let unfinished = self.unfinished(stream);
            unfinished.bytes.extend_from_slice(&bytes);
            unfinished.since.get_or_insert(now);
            if self.parts_of_long(stream, time, out) {
                self.unfinished(stream).since = Some(now);
            }
        }
    }

    /// When [`flush_due`](Self::flush_due) is to be called next.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        [self.stdout.since, self.stderr.since].into_iter().flatten().min().map(|since| since + PART_AFTER)
    }

    /// Adds unfinished lines that have waited long enough to `out`, as parts.
    pub fn flush_due(&mut self, now: Instant, time: Timestamp, out: &mut Vec<LineBatch>) {
        for stream in Stream::BOTH {
            let masker = Arc::clone(&self.masker);
            let unfinished = self.unfinished(stream);
            if unfinished.since.is_none_or(|since| since + PART_AFTER > now) {
                continue;
            }
            // What is held back now goes out with what comes next, or at the end.
            unfinished.since = None;
            let at = cut_waiting(&unfinished.bytes, &masker);
            if at > 0 {
                let part = unfinished.bytes.split_to(at).freeze();
                self.unterminated(stream, &part, LineEnd::Part, time, out);
            }
        }
    }

    /// The stream has ended: adds its unfinished line to `out` as it is.
    pub fn end(&mut self, stream: Stream, time: Timestamp, out: &mut Vec<LineBatch>) {
        let unfinished = self.unfinished(stream);
        unfinished.since = None;
        let rest = unfinished.bytes.split().freeze();
        if !rest.is_empty() {
            self.long_line(stream, rest, LineEnd::None, time, out);
        }
    }

    /// The last number given.
    #[must_use]
    pub fn last_line(&self) -> Option<LineNumber> {
        LineNumber::new(self.last)
    }

    const fn unfinished(&mut self, stream: Stream) -> &mut Unfinished {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Whole lines, in batches of at most 64 KiB.
    fn lines(&mut self, stream: Stream, whole: Bytes, time: Timestamp, out: &mut Vec<LineBatch>) {
        let mut start = 0;
        let mut before = 0;
        for feed in memchr::memchr_iter(b'\n', &whole) {
            let end = feed + 1;
            let long = end - before > MAX_LINE_BYTES + 1 && content(whole.get(before..end)) > MAX_LINE_BYTES;
            if long || end - start > MAX_BATCH_BYTES {
                self.group(stream, whole.slice(start..before), time, out);
                start = before;
            }
            if long {
                self.long_line(stream, whole.slice(start..end), LineEnd::Lf, time, out);
                start = end;
            } else {
                // Within one batch, which `u32` holds.
                self.ends.push(u32::try_from(end - start).unwrap_or(u32::MAX));
            }
            before = end;
        }
        self.group(stream, whole.slice(start..), time, out);
        self.ends.shrink_to(MAX_KEPT_ENDS);
    }

    /// One batch of whole lines, those that `ends` has.
    fn group(&mut self, stream: Stream, bytes: Bytes, time: Timestamp, out: &mut Vec<LineBatch>) {
        let Some(first) = LineNumber::new(self.last + 1).filter(|_| !self.ends.is_empty()) else { return };
        let batch = match self.masker.mask(&bytes) {
            None => LineBatch::new(first, time, stream, bytes, self.ends.as_slice().into(), LineEnd::Lf),
            Some(masked) => LineBatch::split(first, time, stream, masked.into(), LineEnd::None),
        };
        self.ends.clear();
        self.add(batch, out);
    }

    /// Parts of a line of any length, and its last piece with its end.
    fn long_line(
        &mut self,
        stream: Stream,
        mut line: Bytes,
        end: LineEnd,
        time: Timestamp,
        out: &mut Vec<LineBatch>,
    ) {
        let is_long = |line: &Bytes| match end {
            LineEnd::Lf => content(Some(line)) > MAX_LINE_BYTES,
            _ => line.len() > MAX_LINE_BYTES,
        };
        while is_long(&line) {
            let part = line.split_to(cut_long(&line, &self.masker));
            self.unterminated(stream, &part, LineEnd::Part, time, out);
        }
        self.unterminated(stream, &line, end, time, out);
    }

    /// Cuts parts off an unfinished line, once enough of it is there to cut it as if it were whole. Says whether any
    /// was.
    fn parts_of_long(&mut self, stream: Stream, time: Timestamp, out: &mut Vec<LineBatch>) -> bool {
        // One more for a carriage return that may belong to the end.
        let enough = MAX_LINE_BYTES + 1 + self.masker.longest();
        let mut any = false;
        while self.unfinished(stream).bytes.len() > enough {
            let masker = Arc::clone(&self.masker);
            let unfinished = self.unfinished(stream);
            let at = cut_long(&unfinished.bytes, &masker);
            let part = unfinished.bytes.split_to(at).freeze();
            self.unterminated(stream, &part, LineEnd::Part, time, out);
            any = true;
        }
        any
    }

    /// One line, masked.
    fn unterminated(
        &mut self,
        stream: Stream,
        bytes: &Bytes,
        end: LineEnd,
        time: Timestamp,
        out: &mut Vec<LineBatch>,
    ) {
        let Some(first) = LineNumber::new(self.last + 1) else { return };
        let bytes = self.masker.mask(bytes).map_or_else(|| bytes.clone(), Bytes::from);
        self.add(LineBatch::split(first, time, stream, bytes, end), out);
    }

    fn add(&mut self, batch: crate::Result<LineBatch>, out: &mut Vec<LineBatch>) {
        match batch {
            Ok(batch) => {
                self.last = batch.last().get();
                out.push(batch);
            }
            // Every batch is made within the bounds; a defect must show without ending the run.
            Err(error) => tracing::error!(error = %error.chain(), "lines could not be batched"),
        }
    }
}

/// How long a line is without its end.
fn content(line: Option<&[u8]>) -> usize {
    match line {
        Some([content @ .., b'\r', b'\n'] | [content @ .., b'\n']) => content.len(),
        Some(line) => line.len(),
        None => 0,
    }
}

/// Where a line that is longer than allowed is cut: the same whether it has ended yet or not. What follows the cut is
/// known and is no line feed, so a carriage return before it is a byte like others.
fn cut_long(line: &[u8], masker: &Masker) -> usize {
    let seen = line.len().min(MAX_LINE_BYTES + masker.longest());
    let at = masker.outside(line.get(..seen).unwrap_or(line), MAX_LINE_BYTES);
    character_start(line, at)
}

/// Where an unfinished line that has waited is cut: its end, less what may go on as a secret, as a line's end, or as a
/// character.
fn cut_waiting(line: &[u8], masker: &Masker) -> usize {
    let at = masker.open_from(line);
    if at == line.len() && line.ends_with(b"\r") { at - 1 } else { character_start(line, at) }
}

/// The start of the character that a cut at `at` would split, or `at`. No secret ends inside a character, so a place
/// outside of all secrets stays outside.
fn character_start(line: &[u8], at: usize) -> usize {
    if line.get(at).is_some_and(|byte| !matches!(byte, 0x80..=0xbf)) {
        return at;
    }
    for back in 1..=3.min(at) {
        let length = match line.get(at - back) {
            Some(0x80..=0xbf) => continue,
            Some(0xc2..=0xdf) => 2,
            Some(0xe0..=0xef) => 3,
            Some(0xf0..=0xf4) => 4,
            _ => 1,
        };
        return if length > back { at - back } else { at };
    }
    at
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
