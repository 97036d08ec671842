//! Finds the lines of a block that match, without looking at each line where that is not needed.

use memchr::memmem::Finder;
use pubsub_core::{LineBatch, LineNumber, LineRange, Search};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Look;

use crate::segment::BlockLines;

/// After so many matches in one block that reach over the end of their line, each line is looked at by itself: such a
/// pattern would look through the rest of the block for each of its lines.
const MOST_LONG: u32 = 16;

/// Lines that were found in one batch.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) batch: LineBatch,
    pub(crate) numbers: Vec<LineNumber>,
}

/// A search, and how it is done quickly.
#[derive(Debug)]
pub(crate) struct Scan {
    search: Search,
    quick: Quick,
}

/// Tells where a line may match next. The engine of the family decides about that line.
#[derive(Debug)]
enum Quick {
    /// A plain text; U+FFFD is not in it, so that it stands in the bytes as it is shown.
    Literal(Box<Finder<'static>>),
    /// What matches a line matches it among others too, if `^` and `$` are those of lines: it has no anchor of the whole
    /// text. Only in bytes that are text, between whose lines a line feed stands; and where `$` stands in it, in those without a carriage return.
    Regex { regex: Box<Regex>, ends: bool },
    /// Each line is to be looked at.
    Nothing,
}

impl Scan {
    pub(crate) fn new(search: Search) -> Self {
        let quick = Quick::of(&search);
        Self { search, quick }
    }

    /// The lines of this range that match.
    pub(crate) fn look_into(&self, block: &BlockLines, range: LineRange) -> Vec<Found> {
        match &self.quick {
            Quick::Literal(text) => self.by_places(block, range, |bytes, at| {
                let found = at + text.find(bytes.get(at..)?)?;
                Some(found..found)
            }),
            Quick::Regex { regex, ends } if is_plain(block, *ends) => {
                self.by_places(block, range, |bytes, at| regex.find_at(bytes, at).map(|found| found.range()))
            }
            _ => self.by_lines(block, range),
        }
    }

    /// Looks at each line.
    fn by_lines(&self, block: &BlockLines, range: LineRange) -> Vec<Found> {
        let mut all = Vec::new();
        for batch in block.batches().filter_map(|batch| batch.slice(range)) {
            let mut numbers = Vec::new();
            batch.for_each(|number, _, bytes| {
                if self.search.is_match(bytes) {
                    numbers.push(number);
                }
            });
            if !numbers.is_empty() {
                all.push(Found { batch, numbers });
            }
        }
        all
    }

    /// Looks at the lines in which `next` finds something, from a place on.
    fn by_places(
        &self,
        block: &BlockLines,
        range: LineRange,
        next: impl Fn(&[u8], usize) -> Option<std::ops::Range<usize>>,
    ) -> Vec<Found> {
        let (raw, mut at, mut long) = (block.raw(), 0, 0);
        let mut all: Vec<Found> = Vec::new();
        while at < raw.len() {
            let Some(found) = next(raw, at) else { break };
            // A line feed that was not printed is on no line, as is the end.
            let Some((begins, batch)) = block.batch_at(found.start) else {
                at = found.start + 1;
                continue;
            };
            let index = batch.ends().partition_point(|end| (*end as usize) <= found.start - begins);
            at = begins + batch.ends().get(index).map_or(batch.bytes().len(), |end| *end as usize);
            let number = batch.first().plus(index as u64);
            let Some(line) = batch.get(number).filter(|_| range.contains(number)) else { continue };
            if self.search.is_match(&line.bytes) {
                match all.last_mut() {
                    Some(last) if last.batch.first() == batch.first() => last.numbers.push(number),
                    _ => all.push(Found { batch, numbers: vec![number] }),
                }
            }
            long += u32::from(found.end > at);
            if long > MOST_LONG {
                return self.by_lines(block, range);
            }
        }
        all
    }
}

impl Quick {
    fn of(search: &Search) -> Self {
        let text = search.as_literal();
        if let Some(text) =
            text.filter(|text| !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER))
        {
            return Self::Literal(Box::new(Finder::new(text).into_owned()));
        }
        let pattern = search.as_regex().as_str();
        let parsed = ParserBuilder::new().utf8(false).multi_line(true).build().parse(pattern);
        let Ok(hir) = parsed else { return Self::Nothing };
        let looks = hir.properties().look_set();
        let whole = [Look::Start, Look::End].into_iter().any(|look| looks.contains(look));
        // What matches nothing at all is found at every byte.
        let empty = hir.properties().minimum_len().is_none_or(|length| length == 0);
        match RegexBuilder::new(pattern).multi_line(true).build() {
            Ok(regex) if !whole && !empty => {
                let ends = [Look::EndLF, Look::EndCRLF, Look::StartCRLF]
                    .into_iter()
                    .any(|look| looks.contains(look));
                Self::Regex { regex: Box::new(regex), ends }
            }
            _ => Self::Nothing,
        }
    }
}

/// Whether lines match among others as they do alone.
fn is_plain(block: &BlockLines, ends: bool) -> bool {
    let raw = block.raw();
    block.are_apart() && std::str::from_utf8(raw).is_ok() && !(ends && memchr::memchr(b'\r', raw).is_some())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{prop_assert_eq, proptest};
    use pubsub_core::{LineBatch, LineEnd, LineNumber, LineRange, Search, Stream, Timestamp};

    use super::{Found, Quick, Scan};
    use crate::segment::{Block, BlockLines, Decoder, Index, segments_of};

    fn block(texts: &[String], raw: &[u8]) -> BlockLines {
        let (mut batches, mut next) = (Vec::new(), LineNumber::FIRST);
        let texts = texts.iter().map(|text| text.as_bytes().to_vec()).chain([raw.to_vec()]);
        for (n, text) in texts.enumerate().filter(|(_, text)| !text.is_empty()) {
            let time = Timestamp::from_micros(i64::try_from(n).unwrap());
            let batch =
                LineBatch::split(next, time, Stream::BOTH[n / 2 % 2], text.into(), LineEnd::Part).unwrap();
            next = batch.last().plus(1);
            batches.push(batch);
        }
        let segment = segments_of(&batches, usize::MAX).unwrap().remove(0);
        let whole = Bytes::from(segment.pieces.concat());
        let length = usize::try_from(Index::length(&whole).unwrap()).unwrap();
        let index = Index::decode(&whole[whole.len() - length..], whole.len() as u64).unwrap();
        match Decoder::new().unwrap().decode(&index.blocks[0], &whole, 0) {
            Block::Lines(lines) => lines,
            Block::Damaged => panic!("damaged"),
        }
    }

    fn numbers(found: &[Found]) -> Vec<u64> {
        found.iter().flat_map(|found| found.numbers.iter().map(|number| number.get())).collect()
    }

    proptest! {
        /// The quick way finds what looking at each line finds.
        #[test]
        fn what_is_found_quickly_is_what_every_line_says(
            pattern in "(\\(\\?[imsR]\\))?([ab^$.\u{fffd}]|\\\\b|\\\\s|\\[\\^a\\]|\\[ab\\]\\*|b\\+|a\\{2\\}|\\(a\\|bb\\)){1,5}",
            texts in proptest::collection::vec("[ab \\r\\n]{0,12}", 1..8),
            raw in proptest::collection::vec(0u8.., 0..4),
            (first, last) in (1u64..4, 1u64..30),
        ) {
            let search = if pattern.len() % 2 == 0 { Search::regex(&pattern) } else { Search::literal(&pattern) };
            let Ok(search) = search else { return Ok(()) };
            if texts.iter().all(String::is_empty) && raw.is_empty() {
                return Ok(());
            }
            let at = |n| LineNumber::new(n).unwrap();
            let (block, range) = (block(&texts, &raw), LineRange::new(at(first), at(last.max(first))));
            let scan = Scan::new(search);
            prop_assert_eq!(numbers(&scan.look_into(&block, range)), numbers(&scan.by_lines(&block, range)));
        }
    }

    #[test]
    fn plain_patterns_are_searched_quickly() {
        let quick = |pattern| Quick::of(&Search::regex(pattern).unwrap());
        assert!(matches!(quick("error|exception"), Quick::Regex { ends: false, .. }));
        assert!(matches!(quick("^error$"), Quick::Regex { ends: true, .. }));
        for slow in [r"\Aerror", r"error\z", "e*", "^$"] {
            assert!(matches!(quick(slow), Quick::Nothing), "{slow}");
        }
    }
}
