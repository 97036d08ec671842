//! What each batch of a block was: numbers of variable length, one entry after the other.
//!
//! Of each entry: flags, bytes, lines, and how many microseconds later than the one before it it was read (the first one:
//! than the epoch; zigzag, for clocks go back).

use pubsub_core::{LineBatch, LineEnd, MAX_BATCH_BYTES, Stream, Timestamp};

/// Bits of an entry's flags.
const STDERR: u8 = 1;
const PART: u8 = 2;
const NO_END: u8 = 4;
const RECOVERED: u8 = 8;
/// A line feed stands after it that was not printed.
const ADDED: u8 = 16;

/// What a batch was, beside its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) time: Timestamp,
    pub(super) stream: Stream,
    /// How the last line ends: by a line feed, or without.
    pub(super) tail: LineEnd,
    pub(super) recovered: bool,
    pub(super) bytes: usize,
    pub(super) lines: u64,
    /// Whether a line feed follows that was not printed.
    pub(super) added: bool,
}

impl Entry {
    pub(super) fn of(batch: &LineBatch) -> Self {
        let tail = match batch.tail() {
            LineEnd::CrLf => LineEnd::Lf,
            tail => tail,
        };
        Self {
            time: batch.time(),
            stream: batch.stream(),
            tail,
            recovered: batch.is_recovered(),
            bytes: batch.bytes().len(),
            lines: batch.len() as u64,
            added: false,
        }
    }

    /// Takes the next batch in, where both are one read's.
    pub(super) fn join(&mut self, next: &Self) -> bool {
        let one = self.time == next.time
            && self.stream == next.stream
            && self.recovered == next.recovered
            && self.tail == LineEnd::Lf
            && self.bytes + next.bytes <= MAX_BATCH_BYTES;
        if one {
            self.bytes += next.bytes;
            self.lines += next.lines;
            self.tail = next.tail;
        }
        one
    }

    /// Whether what comes after it would stand on its last line.
    pub(super) fn is_open_to(&self, next: &Self) -> bool {
        self.tail != LineEnd::Lf && self.stream != next.stream
    }
}

pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 6);
    let mut before = 0;
    for entry in entries {
        let mut flags = match entry.stream {
            Stream::Stdout => 0,
            Stream::Stderr => STDERR,
        };
        flags |= match entry.tail {
            LineEnd::Lf | LineEnd::CrLf => 0,
            LineEnd::Part => PART,
            LineEnd::None => NO_END,
        };
        flags |= if entry.recovered { RECOVERED } else { 0 } | if entry.added { ADDED } else { 0 };
        bytes.push(flags);
        put(entry.bytes as u64, &mut bytes);
        put(entry.lines, &mut bytes);
        let time = entry.time.as_micros();
        put(zigzag(time.wrapping_sub(before)), &mut bytes);
        before = time;
    }
    bytes
}

/// `None` where these bytes are none.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let (mut entries, mut before) = (Vec::new(), 0_i64);
    while let Some((flags, rest)) = bytes.split_first() {
        bytes = rest;
        let (length, lines) = (take(&mut bytes)?, take(&mut bytes)?);
        before = before.wrapping_add(unzigzag(take(&mut bytes)?));
        let is = |bit: u8| flags & bit != 0;
        entries.push(Entry {
            time: Timestamp::from_micros(before),
            stream: if is(STDERR) { Stream::Stderr } else { Stream::Stdout },
            tail: match (is(PART), is(NO_END)) {
                (true, _) => LineEnd::Part,
                (false, true) => LineEnd::None,
                (false, false) => LineEnd::Lf,
            },
            recovered: is(RECOVERED),
            bytes: usize::try_from(length).ok().filter(|bytes| *bytes <= MAX_BATCH_BYTES)?,
            lines,
            added: is(ADDED),
        });
    }
    Some(entries)
}

/// LEB128.
fn put(mut number: u64, into: &mut Vec<u8>) {
    while number > 0x7F {
        into.push(number.to_le_bytes().first().copied().unwrap_or(0) | 0x80);
        number >>= 7;
    }
    into.push(number.to_le_bytes().first().copied().unwrap_or(0));
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::{Entry, decode, encode};
    use proptest::prelude::{Strategy, prop_assert_eq, proptest};
    use pubsub_core::{LineEnd, Stream, Timestamp};

    fn entry() -> impl Strategy<Value = Entry> {
        let tails = [LineEnd::Lf, LineEnd::Part, LineEnd::None];
        let flags = (proptest::bool::ANY, 0..3_usize, proptest::bool::ANY, proptest::bool::ANY);
        (-1i64 << 50..1 << 50, flags, 0..65_537_usize, 0u64..).prop_map(move |(time, flags, bytes, lines)| {
            Entry {
                time: Timestamp::from_micros(time),
                stream: if flags.0 { Stream::Stdout } else { Stream::Stderr },
                tail: tails[flags.1],
                recovered: flags.2,
                bytes,
                lines,
                added: flags.3,
            }
        })
    }

    proptest! {
        #[test]
        fn entries_read_back(entries in proptest::collection::vec(entry(), 0..20)) {
            prop_assert_eq!(decode(&encode(&entries)), Some(entries));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
