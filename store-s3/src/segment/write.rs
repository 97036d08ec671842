//! Makes segments of lines.

use std::io;

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineBatch, LineNumber, LineRange, Result};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::entries::{self, Entry};
use super::filter::Sieve;
use super::index::{self, BlockAt};
use super::{SKIPPABLE_HEAD, skippable};

/// About how many bytes of lines a block has: what is read for one line, and what a filter speaks for. Larger ones
/// compress better and cost fewer bytes of filters in a search, but more for each line that is asked for.
const BLOCK_BYTES: usize = 384 * 1024;

/// zstd's own default: a higher one takes twice the time for a tenth less.
const LEVEL: i32 = 3;

/// A segment that is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) range: LineRange,
    /// Bytes of its lines.
    pub(crate) printed: u64,
    /// Its bytes, in pieces that follow each other.
    pub(crate) pieces: Vec<Bytes>,
}

impl Written {
    /// How long it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// The segments of these lines: a new one where a number is missing, and where one has about `most` bytes of lines.
pub(crate) fn segments_of(batches: &[LineBatch], most: usize) -> Result<Vec<Written>> {
    let mut maker = Maker::new()?;
    let mut segments = Vec::new();
    for batch in batches {
        if !maker.goes_on_with(batch) || maker.printed() >= most {
            segments.extend(maker.finish()?);
        }
        maker.add(batch)?;
    }
    segments.extend(maker.finish()?);
    Ok(segments)
}

/// Makes one segment after the other.
pub(crate) struct Maker {
    compressor: Compressor<'static>,
    sieve: Sieve,
    open: Open,
    /// A compressed block, for the next one to use.
    frame: Vec<u8>,
}

/// The segment that is being made.
#[derive(Default)]
struct Open {
    first: Option<LineNumber>,
    next: Option<LineNumber>,
    blocks: Vec<BlockAt>,
    /// Entries and frames of finished blocks.
    body: Vec<u8>,
    filters: Vec<u8>,
    printed: usize,
    block: OpenBlock,
}

#[derive(Default)]
struct OpenBlock {
    first: Option<LineNumber>,
    lines: usize,
    printed: usize,
    raw: Vec<u8>,
    entries: Vec<Entry>,
}

fn cannot(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "compress lines").with_source(error)
}

impl Maker {
    pub(crate) fn new() -> Result<Self> {
        let compressor = Compressor::new(LEVEL).map_err(cannot)?;
        Ok(Self { compressor, sieve: Sieve::new(), open: Open::default(), frame: Vec::new() })
    }

    /// Bytes of the lines that the open segment has.
    pub(crate) const fn printed(&self) -> usize {
        self.open.printed
    }

    /// Whether the batch can stand in the open segment.
    pub(crate) fn goes_on_with(&self, batch: &LineBatch) -> bool {
        self.open.next.is_none_or(|next| next == batch.first())
    }

    /// Adds a batch that goes on where the one before it ended.
    pub(crate) fn add(&mut self, batch: &LineBatch) -> Result<()> {
        let open = &mut self.open;
        open.first = open.first.or(Some(batch.first()));
        open.next = Some(batch.last().plus(1));
        open.printed += batch.bytes().len();
        open.block.add(batch);
        if open.block.printed >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    /// The open segment; `None` where it has no line.
    pub(crate) fn finish(&mut self) -> Result<Option<Written>> {
        self.end_block()?;
        let open = std::mem::take(&mut self.open);
        let Some((first, next)) = open.first.zip(open.next) else { return Ok(None) };
        let Some(last) = LineNumber::new(next.before()) else { return Ok(None) };
        let (mut filters, mut index) = (Vec::with_capacity(SKIPPABLE_HEAD + open.filters.len()), Vec::new());
        skippable(&open.filters, &mut filters);
        index::encode(&open.blocks, &open.filters, &mut index);
        Ok(Some(Written {
            range: LineRange::new(first, last),
            printed: open.printed as u64,
            pieces: [filters, open.body, index].map(Bytes::from).into(),
        }))
    }

    fn end_block(&mut self) -> Result<()> {
        let mut block = std::mem::take(&mut self.open.block);
        let Some(first) = block.first else { return Ok(()) };
        let short = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let entries = entries::encode(&block.entries);
        let mut packed = short(entries.len()).to_le_bytes().to_vec();
        packed.extend(self.compressor.compress(&entries).map_err(cannot)?);
        let begins = self.open.body.len();
        skippable(&packed, &mut self.open.body);
        let frame = &mut self.frame;
        frame.clear();
        frame.reserve(compress_bound(block.raw.len()));
        self.compressor.compress_to_buffer(&block.raw, frame).map_err(cannot)?;
        self.open.body.extend_from_slice(frame);
        let filter = self.sieve.filter(&block.raw);
        self.open.filters.extend_from_slice(filter);
        self.open.blocks.push(BlockAt {
            first,
            lines: short(block.lines),
            printed: short(block.printed),
            entries: short(SKIPPABLE_HEAD + packed.len()),
            frame: short(frame.len()),
            filter: short(filter.len()),
            check: crc32fast::hash(self.open.body.get(begins..).unwrap_or_default()),
            offset: 0,
            filter_offset: 0,
        });
        // The next block takes the room of this one.
        block.raw.clear();
        self.open.block.raw = block.raw;
        Ok(())
    }
}

impl OpenBlock {
    fn add(&mut self, batch: &LineBatch) {
        let entry = Entry::of(batch);
        self.first = self.first.or(Some(batch.first()));
        self.lines += batch.len();
        self.printed += batch.bytes().len();
        let mut joined = false;
        if let Some(last) = self.entries.last_mut() {
            joined = last.join(&entry);
            if last.is_open_to(&entry) {
                last.added = true;
                self.raw.push(b'\n');
            }
        }
        if !joined {
            self.entries.push(entry);
        }
        self.raw.extend_from_slice(batch.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::segments_of;
    use crate::segment::{Block, Decoder, Index};
    use bytes::Bytes;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use pubsub_core::{Line, LineBatch, LineEnd, LineNumber, LineRange, Stream, Timestamp};

    fn batches() -> impl Strategy<Value = Vec<LineBatch>> {
        let text = prop_oneof![
            "[ab\\r\\n\u{e9}]{1,30}".prop_map(String::into_bytes),
            Just(b"\xff\xfe\n".to_vec()),
            Just(vec![b'x'; 65_536]),
            Just(b"\n".repeat(3_000)),
        ];
        let part = (text, 0..2_usize, 0..2_usize, 0..5i64, 0..20_u64, proptest::bool::ANY);
        proptest::collection::vec(part, 1..20).prop_map(|parts| {
            let mut next = LineNumber::FIRST;
            let mut batches = Vec::new();
            for (text, stream, tail, time, hole, recovered) in parts {
                let first = if hole == 0 { next.plus(3) } else { next };
                let tail = [LineEnd::Part, LineEnd::None][tail];
                let (time, stream) = (
                    Timestamp::from_micros(1 << 50)
                        .plus(std::time::Duration::from_micros(7 - u64::try_from(time).unwrap())),
                    Stream::BOTH[stream],
                );
                let batch = LineBatch::split(first, time, stream, text.into(), tail).unwrap();
                next = batch.last().plus(1);
                batches.push(batch.with_recovered(recovered));
            }
            batches
        })
    }

    fn lines(batches: &[LineBatch]) -> Vec<Line> {
        batches.iter().flat_map(|batch| batch.lines().collect::<Vec<_>>()).collect()
    }

    proptest! {
        #[test]
        fn segments_read_back_exactly_and_name_their_lines(given in batches(), most in 1..200_000_usize) {
            let mut read = Vec::new();
            for segment in segments_of(&given, most).unwrap() {
                let whole = Bytes::from(segment.pieces.concat());
                prop_assert_eq!(whole.len() as u64, segment.bytes());
                let length = usize::try_from(Index::length(&whole).unwrap()).unwrap();
                let index = Index::decode(&whole[whole.len() - length..], segment.bytes()).unwrap();
                let (mut first, mut printed) = (segment.range.first, 0);
                for block in &index.blocks {
                    prop_assert_eq!(block.first, first);
                    first = block.range().last.plus(1);
                    printed += u64::from(block.printed);
                    let Block::Lines(block) = Decoder::new().unwrap().decode(block, &whole, 0) else { panic!("damaged") };
                    read.extend(lines(&block.batches().collect::<Vec<_>>()));
                }
                prop_assert_eq!((first, printed), (segment.range.last.plus(1), segment.printed));
                prop_assert_eq!(index.blocks_of(LineRange::new(segment.range.last, segment.range.last)).len(), 1);
            }
            prop_assert_eq!(read, lines(&given));
        }

        #[test]
        fn a_changed_byte_is_found(given in batches(), at in 0usize.., flip in 1u8..) {
            let segment = segments_of(&given, usize::MAX).unwrap().remove(0);
            let mut whole = segment.pieces.concat();
            let at = at % whole.len();
            whole[at] ^= flip;
            let whole = Bytes::from(whole);
            let index = Index::length(&whole).and_then(|length| {
                let from = whole.len().checked_sub(usize::try_from(length).unwrap()).unwrap_or(whole.len());
                Index::decode(&whole[from..], segment.bytes())
            });
            // Filters are checked where they are used.
            if let Ok(index) = index && at >= 8 && !index.filters().contains(&(at as u64)) {
                let damaged = |block: &crate::segment::BlockAt| matches!(Decoder::new().unwrap().decode(block, &whole, 0), Block::Damaged);
                prop_assert!(index.blocks.iter().any(damaged), "byte {}", at);
            }
        }
    }

    #[test]
    fn the_segments_of_a_run_are_its_log_to_any_decoder() {
        let batch = |first, stream, text: &'static str| {
            let first = LineNumber::new(first).unwrap();
            LineBatch::split(first, Timestamp::EPOCH, stream, text.into(), LineEnd::Part).unwrap()
        };
        let given = [
            batch(1, Stream::Stdout, "one\nhal"),
            batch(3, Stream::Stderr, "two\n"),
            batch(4, Stream::Stdout, "f\n"),
        ];
        let segments = segments_of(&given, 1).unwrap();
        let one: Vec<u8> =
            segments_of(&given, usize::MAX).unwrap().iter().flat_map(|s| s.pieces.concat()).collect();
        let many: Vec<u8> = segments.iter().flat_map(|s| s.pieces.concat()).collect();
        assert_eq!(segments.len(), 3);
        assert_eq!(zstd::decode_all(&*one).unwrap(), b"one\nhal\ntwo\nf\n");
        assert_eq!(zstd::decode_all(&*many).unwrap(), b"one\nhaltwo\nf\n");
    }
}
