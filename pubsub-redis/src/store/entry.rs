//! Lines as entries of a stream and as members of a set, and back.

use bytes::Bytes;
use pubsub_core::{
    LineBatch, LineEnd, LineNumber, LineRange, MAX_BATCH_BYTES, MAX_LINE_BYTES, Stream, Timestamp,
};
use redis::Value;

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

/// What stands at some numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Lines(LineBatch),
    /// An entry that is no line as we write it.
    Damaged(LineRange),
}

/// Makes batches of entries that come in number order.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    pieces: Vec<Piece>,
    open: Option<Open>,
    /// Lines of one batch have one time: it is read once.
    time: Option<(Vec<u8>, Timestamp)>,
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

/// Where an entry stands among the numbers, also one that is none of ours.
pub(super) fn place_of(entry: &Value) -> Option<u64> {
    let Value::Array(parts) = entry else { return None };
    let Some(Value::BulkString(id)) = parts.first() else { return None };
    std::str::from_utf8(id).ok()?.split('-').next()?.parse().ok()
}

/// The number of an entry and its fields; `None` for what is none of ours.
fn numbered(entry: Value) -> Option<(LineNumber, Vec<Value>)> {
    let Value::Array(parts) = entry else { return None };
    let [id, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let (Value::BulkString(id), Value::Array(fields)) = (id, fields) else { return None };
    let number = std::str::from_utf8(&id).ok()?.strip_suffix("-0")?.parse().ok()?;
    Some((LineNumber::new(number)?, fields))
}

/// The number of a late line.
pub(super) fn late_number(member: &[u8]) -> Option<LineNumber> {
    LineNumber::new(std::str::from_utf8(member.get(..20)?).ok()?.parse().ok()?)
}

fn stream_of(text: &[u8]) -> Option<Stream> {
    Stream::BOTH.into_iter().find(|stream| stream.as_str().as_bytes() == text)
}

fn end_of(text: &[u8]) -> Option<LineEnd> {
    [LineEnd::Lf, LineEnd::CrLf, LineEnd::None, LineEnd::Part]
        .into_iter()
        .find(|end| end.as_str().as_bytes() == text)
}

impl Joiner {
    /// An entry of the stream.
    pub(super) fn entry(&mut self, number: LineNumber, fields: Vec<Value>) {
        let (mut kind, mut content, mut time, mut stream) = (None, None, None, None);
        let (mut end, mut recovered) = (Some(LineEnd::Lf), false);
        let mut fields = fields.into_iter();
        while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) =
            (fields.next(), fields.next())
        {
            match name.as_slice() {
                b"type" => kind = Some(value == b"output"),
                b"content" => content = Some(value),
                b"timestamp" => time = self.time(value),
                b"stream" => stream = stream_of(&value),
                b"end" => end = end_of(&value),
                b"recovered" => recovered = value == b"1",
                _ => {}
            }
        }
        if kind == Some(false) {
            return;
        }
        let entry = (|| {
            Some(Entry { number, time: time?, stream: stream?, end: end?, recovered, content: content? })
        })();
        self.take(number, entry);
    }

    /// A late line.
    pub(super) fn late(&mut self, number: LineNumber, member: &[u8]) {
        let mut parts = member.splitn(6, |byte| *byte == b' ').skip(1);
        let mut next = || parts.next();
        let entry = (|| {
            let time = self.time(next()?.to_vec())?;
            let (stream, end, recovered) = (stream_of(next()?)?, end_of(next()?)?, next()? == b"1");
            Some(Entry { number, time, stream, end, recovered, content: next()?.to_vec() })
        })();
        self.take(number, entry);
    }

    fn time(&mut self, text: Vec<u8>) -> Option<Timestamp> {
        if let Some((known, time)) = &self.time
            && *known == text
        {
            return Some(*time);
        }
        let time = std::str::from_utf8(&text).ok()?.parse().ok()?;
        self.time = Some((text, time));
        Some(time)
    }

    fn take(&mut self, number: LineNumber, entry: Option<Entry>) {
        let is_line = |entry: &Entry| {
            let ended = !matches!(entry.end, LineEnd::None | LineEnd::Part);
            entry.content.len() <= MAX_LINE_BYTES
                && (ended || !entry.content.is_empty())
                && !entry.content.contains(&b'\n')
        };
        match entry.filter(is_line) {
            Some(entry) => self.add(&entry),
            None => {
                self.close();
                self.pieces.push(Piece::Damaged(LineRange::new(number, number)));
            }
        }
    }

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

    /// What was read so far.
    pub(super) fn finish(mut self) -> Vec<Piece> {
        self.close();
        self.pieces
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

/// Of entries that were asked for from `first` on: those up to a number, in order, from both places.
pub(super) fn merged(entries: Vec<Value>, late: Vec<Vec<u8>>, through: u64) -> Vec<Piece> {
    let mut joiner = Joiner::default();
    let mut entries = entries.into_iter().filter_map(numbered).peekable();
    let late = late.into_iter().filter_map(|member| Some((late_number(&member)?, member)));
    for (number, member) in late.take_while(|(number, _)| number.get() <= through) {
        while let Some((number, fields)) = entries.next_if(|entry| entry.0 < number) {
            joiner.entry(number, fields);
        }
        // The stream is right where both have it.
        if entries.peek().is_none_or(|entry| entry.0 != number) {
            joiner.late(number, &member);
        }
    }
    for (number, fields) in entries.take_while(|(number, _)| number.get() <= through) {
        joiner.entry(number, fields);
    }
    joiner.finish()
}

#[cfg(test)]
mod tests {
    use super::{Joiner, Piece, late_number, merged};
    use crate::store::layout::padded;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use pubsub_core::{Line, LineEnd, LineNumber, LineRange, Stream, Timestamp};
    use redis::Value;

    fn text(text: impl AsRef<[u8]>) -> Value {
        Value::BulkString(text.as_ref().to_vec())
    }

    fn line(number: u64, content: &[u8], end: LineEnd) -> Line {
        let stream = if number.is_multiple_of(7) { Stream::Stderr } else { Stream::Stdout };
        let number = LineNumber::new(number).unwrap();
        let time = Timestamp::from_micros(1_764_045_141_500_001);
        Line { number, time, stream, end, bytes: content.to_vec().into(), recovered: false }
    }

    /// As the script writes it.
    fn entry(line: &Line) -> Value {
        let mut fields = vec![text("type"), text("output"), text("content"), text(&line.bytes)];
        fields.extend([text("timestamp"), text(line.time.to_string()), text("stream")]);
        fields.push(text(line.stream.as_str()));
        if line.end != LineEnd::Lf {
            fields.extend([text("end"), text(line.end.as_str()), text("recovered"), text("0")]);
        }
        Value::Array(vec![text(format!("{}-0", line.number)), Value::Array(fields)])
    }

    fn late(line: &Line) -> Vec<u8> {
        let (number, stream, end) = (padded(line.number.get()), line.stream.as_str(), line.end.as_str());
        [format!("{number} {} {stream} {end} 0 ", line.time).as_bytes(), &line.bytes].concat()
    }

    fn lines_of(pieces: &[Piece]) -> Vec<Line> {
        let lines = pieces.iter().filter_map(|piece| match piece {
            Piece::Lines(batch) => Some(batch.lines().collect::<Vec<_>>()),
            Piece::Damaged(_) => None,
        });
        lines.flatten().collect()
    }

    proptest! {
        #[test]
        fn what_lies_in_two_places_is_read_as_the_lines_that_it_was(
            given in proptest::collection::vec((any::<bool>(), "[a-z\\r ]{0,9}", 0..4_u8), 0..40), through in 0..45_u64,
        ) {
            let (mut entries, mut beside, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for (number, (is_late, content, end)) in (1..).zip(given) {
                let end = match end {
                    0 | 1 => LineEnd::Lf,
                    2 => LineEnd::CrLf,
                    _ if content.is_empty() => LineEnd::CrLf,
                    _ => LineEnd::Part,
                };
                let content = content.trim_end_matches('\r');
                let end = if content.is_empty() && end == LineEnd::Part { LineEnd::Lf } else { end };
                let line = line(number, content.as_bytes(), end);
                if is_late { beside.push(late(&line)) } else { entries.push(entry(&line)) }
                expected.extend((number <= through).then_some(line));
            }
            let pieces = merged(entries, beside, through);
            prop_assert_eq!(lines_of(&pieces), expected);
            prop_assert!(pieces.iter().all(|piece| matches!(piece, Piece::Lines(_))));
        }

        #[test]
        fn whatever_lies_there_is_a_piece_or_passed_over(member in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut joiner = Joiner::default();
            if let Some(number) = late_number(&member) {
                joiner.late(number, &member);
            }
            joiner.entry(LineNumber::MAX, vec![text(&member), text(&member), text("content")]);
            prop_assert!(joiner.finish().len() <= 2);
        }
    }

    #[test]
    fn entries_that_are_no_lines_are_damaged_or_passed_over() {
        let damaged = Value::Array(vec![text("2-0"), Value::Array(vec![text("content"), text("a\nb")])]);
        let other = Value::Array(vec![text("3-0"), Value::Array(vec![text("type"), text("mark")])]);
        let odd = Value::Array(vec![text("3-1"), Value::Array(Vec::new())]);
        let entries = vec![entry(&line(1, b"a", LineEnd::Lf)), damaged, other, odd, Value::Nil];
        let pieces = merged(entries, Vec::new(), 9);
        let two = LineNumber::new(2).unwrap();
        assert!(
            matches!(&pieces[..], [Piece::Lines(_), Piece::Damaged(range)] if *range == LineRange::new(two, two))
        );
    }
}
