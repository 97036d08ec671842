//! What a block must have for a pattern to match in it, as far as filters can tell.

use pubsub_core::Search;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::segment::{Filter, position};

/// As many alternatives, one inside the other, are looked into.
const DEPTH: usize = 16;

/// A condition on the trigrams of a block. What it lets through may still have no match; what it holds back has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing is known of what matches.
    Anything,
    /// All trigrams, by their positions in the largest filter.
    Trigrams(Vec<usize>),
    All(Vec<Wanted>),
    OneOf(Vec<Wanted>),
}

impl Wanted {
    pub(crate) fn of(search: &Search) -> Self {
        // The same language that the engine decides by, on lines alone: so nothing of a match lies outside a line.
        regex_syntax::parse(search.as_regex().as_str()).map_or(Self::Anything, |hir| of(&hir, 0))
    }

    pub(crate) fn may_be_in(&self, filter: &Filter) -> bool {
        match self {
            Self::Anything => true,
            Self::Trigrams(positions) => positions.iter().all(|position| filter.has(*position)),
            Self::All(conditions) => conditions.iter().all(|wanted| wanted.may_be_in(filter)),
            Self::OneOf(conditions) => conditions.iter().any(|wanted| wanted.may_be_in(filter)),
        }
    }

    fn all(mut conditions: Vec<Self>) -> Self {
        conditions.retain(|wanted| *wanted != Self::Anything);
        match conditions.len() {
            0 => Self::Anything,
            1 => conditions.remove(0),
            _ => Self::All(conditions),
        }
    }

    fn one_of(conditions: Vec<Self>) -> Self {
        if conditions.contains(&Self::Anything) { Self::Anything } else { Self::OneOf(conditions) }
    }

    /// Of a text that has to stand in a line, in small letters.
    fn text(bytes: &[u8]) -> Self {
        // What is shown for invalid bytes does not stand in the block.
        let shown = char::REPLACEMENT_CHARACTER.to_string();
        let windows = bytes.windows(3).filter_map(|window| <[u8; 3]>::try_from(window).ok());
        let clean = windows.filter(|window| !window.iter().any(|byte| shown.as_bytes().contains(byte)));
        let mut positions: Vec<usize> = clean.map(position).collect();
        positions.sort_unstable();
        positions.dedup();
        if positions.is_empty() { Self::Anything } else { Self::Trigrams(positions) }
    }
}

fn of(hir: &Hir, depth: usize) -> Wanted {
    if depth > DEPTH {
        return Wanted::Anything;
    }
    match hir.kind() {
        HirKind::Literal(_) | HirKind::Class(_) => of_parts([hir], depth),
        HirKind::Concat(parts) => of_parts(parts, depth),
        HirKind::Alternation(parts) => Wanted::one_of(parts.iter().map(|part| of(part, depth + 1)).collect()),
        HirKind::Capture(capture) => of(&capture.sub, depth + 1),
        HirKind::Repetition(repeated) if repeated.min > 0 => of(&repeated.sub, depth + 1),
        HirKind::Repetition(_) | HirKind::Look(_) | HirKind::Empty => Wanted::Anything,
    }
}

/// Of parts that follow each other: neighbours that are plain text are one text.
fn of_parts<'a>(parts: impl IntoIterator<Item = &'a Hir>, depth: usize) -> Wanted {
    let (mut conditions, mut text) = (Vec::new(), Vec::new());
    for part in parts {
        match part.kind() {
            HirKind::Literal(literal) => text.extend(literal.0.to_ascii_lowercase()),
            HirKind::Class(class) if let Some(letter) = letter(class) => text.push(letter),
            // An anchor has no length.
            HirKind::Look(_) | HirKind::Empty => {}
            _ => {
                conditions.push(Wanted::text(&std::mem::take(&mut text)));
                conditions.push(if matches!(part.kind(), HirKind::Class(_)) {
                    Wanted::Anything
                } else {
                    of(part, depth + 1)
                });
            }
        }
    }
    conditions.push(Wanted::text(&text));
    Wanted::all(conditions)
}

/// The letter that a class is in either case, as small letter.
fn letter(class: &Class) -> Option<u8> {
    let mut letters: Vec<char> = Vec::new();
    let mut take = |first: char, last: char| {
        letters.extend([first, last]);
        first == last
    };
    let single = match class {
        Class::Unicode(class) => class.ranges().iter().all(|range| take(range.start(), range.end())),
        Class::Bytes(class) => {
            class.ranges().iter().all(|range| take(char::from(range.start()), char::from(range.end())))
        }
    };
    let letter = letters.first()?.to_ascii_lowercase();
    let one = single && letters.iter().all(|other| other.is_ascii() && other.to_ascii_lowercase() == letter);
    one.then(|| u8::try_from(letter).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{prop_assert, proptest};
    use pubsub_core::{LineBatch, LineEnd, LineNumber, Search, Stream, Timestamp};

    use super::Wanted;
    use crate::segment::{Filter, Index, segments_of};

    /// Whether a block of these bytes is looked into.
    fn looks(pattern: &str, lines: &[u8]) -> bool {
        let batch = LineBatch::split(
            LineNumber::FIRST,
            Timestamp::EPOCH,
            Stream::Stdout,
            Bytes::copy_from_slice(lines),
            LineEnd::None,
        );
        let segment = segments_of(&[batch.unwrap()], usize::MAX).unwrap().remove(0);
        let whole = Bytes::from(segment.pieces.concat());
        let length = usize::try_from(Index::length(&whole).unwrap()).unwrap();
        let index = Index::decode(&whole[whole.len() - length..], whole.len() as u64).unwrap();
        let range = index.blocks[0].filter_range();
        let at = |n: u64| usize::try_from(n).unwrap();
        let filter = Filter::new(whole.slice(at(range.start)..at(range.end))).unwrap();
        Wanted::of(&Search::regex(pattern).unwrap()).may_be_in(&filter)
    }

    #[test]
    fn blocks_without_the_text_are_passed_over() {
        let log = b"   Compiling serde v1.0\nwarning: unused variable\nfinished in 3 s\n";
        for pattern in [
            "panicked",
            "(?i)PANICKED",
            "panicked|segfault",
            "a panicked b",
            r"panicked at \d+",
            "(panicked)+",
            "(?i)panic(ked|s) at",
            "^panicked$",
            "x{3}yzzy",
            "warning.*panicked",
        ] {
            assert!(!looks(pattern, log), "{pattern}");
        }
        for pattern in [
            "unused",
            "(?i)UNUSED",
            "panicked|unused",
            r"serde v\d",
            "(unused)+",
            "",
            "ab",
            "(panicked)?",
            "[pw]arning",
            "panicked|.",
            "^warning",
            "(?i)ſerde",
        ] {
            assert!(looks(pattern, log), "{pattern}");
        }
    }

    proptest! {
        /// Nothing that matches is held back, whatever the pattern.
        #[test]
        fn a_block_with_a_match_is_looked_into(
            pattern in "(\\(\\?i\\))?([a-eA-EſKk\u{fffd}é.^$]|[a-d]{3,5}|\\[a-c\\]|\\(abc\\|de\\)|[ab]\\+|[c-e]\\?|\\(bcd\\)\\{2\\}){1,6}",
            text in proptest::collection::vec("[a-eA-EſkéK]{0,12}", 1..8),
            raw in proptest::collection::vec(0u8.., 0..20),
        ) {
            let Ok(search) = Search::regex(&pattern) else { return Ok(()) };
            let mut block = text.join("\n").into_bytes();
            block.extend(raw);
            block.push(b'\n');
            if block.split(|byte| *byte == b'\n').any(|line| search.is_match(line)) {
                prop_assert!(looks(&pattern, &block), "{}", pattern);
            }
        }
    }
}
