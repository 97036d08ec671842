//! Searches the bytes of runs: big reads, and lines only where one may match.

use std::num::NonZero;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use memchr::memmem::Finder;
use pubsub_core::{ErrorKind, Hit, LineEnd, Lines, Result, RunKey, RunRecord, Search};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Look;
use tokio::time::Instant;

use super::blocking;
use super::index::Entry;
use super::layout::RunFolder;
use super::pinned::Pinned;
use super::read::{Block, Reader};

/// About how many bytes of a run are searched before others have their turn; so many are searched ahead for each core.
const STEP_BYTES: usize = 16 << 20;

/// About how many bytes of hits are held.
const HELD_BYTES: usize = 1 << 20;

/// The hits of these runs, in their order; an error is the last item.
pub(super) fn hits(
    runs: Vec<(RunRecord, RunFolder)>,
    search: Search,
    deadline: Instant,
) -> BoxStream<'static, Result<Hit>> {
    let wanted = Arc::new(Wanted { sieve: Sieve::new(&search), search, deadline });
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let first_steps = stream::iter(runs).map(move |(record, folder)| {
        let wanted = Arc::clone(&wanted);
        blocking(move || {
            let Some(run) = RunSearch::open(&folder, record, wanted)? else { return Ok(Step::default()) };
            run.step()
        })
    });
    let steps =
        first_steps.buffered(cores).map_ok(|first| stream::try_unfold(Some(first), next)).try_flatten();
    let mut failed = false;
    steps
        .take_while(move |hits| std::future::ready(!std::mem::replace(&mut failed, hits.is_err())))
        .map_ok(|hits| stream::iter(hits.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

/// The hits of a step that is done, and the step after it where it is to be done.
async fn next(state: Option<Step>) -> Result<Option<(Vec<Hit>, Option<Step>)>> {
    let Some(step) = state else { return Ok(None) };
    if step.hits.is_empty()
        && let Some(run) = step.rest
    {
        let step = blocking(|| run.step()).await?;
        return Ok(Some((step.hits, step.rest.map(Step::before))));
    }
    Ok(Some((step.hits, step.rest.map(Step::before))))
}

struct Wanted {
    search: Search,
    sieve: Sieve,
    deadline: Instant,
}

/// What was found, and what is still to be searched.
#[derive(Default)]
struct Step {
    hits: Vec<Hit>,
    rest: Option<Box<RunSearch>>,
}

impl Step {
    fn before(run: Box<RunSearch>) -> Self {
        Self { hits: Vec::new(), rest: Some(run) }
    }
}

struct RunSearch {
    wanted: Arc<Wanted>,
    key: Arc<RunKey>,
    reader: Reader,
    block: Option<Block>,
    /// The next entry of the block.
    at: usize,
    /// Up to this entry one may match.
    sieved: usize,
}

impl RunSearch {
    /// `None` where the run was removed meanwhile.
    fn open(folder: &RunFolder, record: RunRecord, wanted: Arc<Wanted>) -> Result<Option<Box<Self>>> {
        let key = Arc::new(record.key.clone());
        let Some(pinned) = Pinned::new(folder)? else { return Ok(None) };
        match Reader::open(&pinned, record, Lines::ALL) {
            Ok(reader) => Ok(Some(Box::new(Self { wanted, key, reader, block: None, at: 0, sieved: 0 }))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Searches on until there is enough to give.
    fn step(mut self: Box<Self>) -> Result<Step> {
        let (mut hits, mut searched, mut held) = (Vec::new(), 0, 0);
        while searched < STEP_BYTES && held < HELD_BYTES {
            if Instant::now() >= self.wanted.deadline {
                if hits.is_empty() {
                    return Err(self.wanted.search.timed_out());
                }
                // The next step says so, after these were given.
                break;
            }
            let Some(block) = self.block.take().filter(|block| self.at < block.entries.len()) else {
                self.block = self.reader.block()?;
                (self.at, self.sieved) = (0, 0);
                if self.block.is_none() {
                    return Ok(Step { hits, rest: None });
                }
                continue;
            };
            searched += self.look(&block, &mut hits, &mut held);
            self.block = Some(block);
        }
        Ok(Step { hits, rest: Some(self) })
    }

    /// Looks at one entry, or passes over all that cannot match; answers how many bytes that were.
    fn look(&mut self, block: &Block, hits: &mut Vec<Hit>, held: &mut usize) -> usize {
        let rest = block.entries.get(self.at..).unwrap_or_default();
        if self.at >= self.sieved {
            let chunk = chunk(rest);
            self.sieved = self.at + chunk.len();
            let bytes = (chunk.first().zip(chunk.last()))
                .and_then(|(first, last)| block.bytes_between(first.offset, last.end()));
            // Where the output was cut, each entry is looked at by itself.
            if let Some(bytes) = bytes.filter(|bytes| self.wanted.sieve.ask(bytes) == Chance::Nowhere) {
                self.at = self.sieved;
                return bytes.len();
            }
        }
        self.at += 1;
        let Some(entry) = rest.first() else { return 0 };
        let Some(bytes) = block.bytes_of(entry) else { return 0 };
        let searched = bytes.len();
        let chance = self.wanted.sieve.ask(&bytes);
        // An output that was changed has gaps there, in which nothing is found.
        let batch = Some(bytes).filter(|_| chance != Chance::Nowhere).and_then(|bytes| entry.batch(bytes));
        let Some(batch) = batch else { return searched };
        batch.for_each(|number, _, bytes| {
            if (chance == Chance::Anywhere || std::str::from_utf8(bytes).is_err())
                && self.wanted.search.is_match(bytes)
                && let Some(mut line) = batch.get(number)
            {
                // A hit that is kept must not keep a whole read.
                line.bytes = Bytes::copy_from_slice(bytes);
                *held += bytes.len() + size_of::<Hit>();
                hits.push(Hit { run: Arc::clone(&self.key), line });
            }
        });
        searched
    }
}

/// The first of these that can be sieved together: each ends in a line feed in the file, its own or an added one.
fn chunk(entries: &[Entry]) -> &[Entry] {
    let glued = entries.windows(2).position(
        |pair| matches!(pair, [a, b] if b.offset < a.end() || (a.tail != LineEnd::Lf && b.offset == a.end())),
    );
    glued.and_then(|at| entries.get(..=at)).unwrap_or(entries)
}

/// Which of many lines may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chance {
    Nowhere,
    /// Only those that are no UTF-8.
    InInvalid,
    Anywhere,
}

/// Tells quickly that no line of many can match. It may err to the other side.
#[derive(Debug)]
enum Sieve {
    /// A plain text that is nowhere is in no line, not even where some bytes are invalid: U+FFFD is not in it.
    Literal(Box<Finder<'static>>),
    /// What matches a line that is UTF-8 matches it among others too, if `^` and `$` are those of lines. This holds for
    /// what has no anchor of the whole text, and where no carriage return stands between a line and its line feed.
    Regex(Regex),
    Nothing,
}

impl Sieve {
    fn new(search: &Search) -> Self {
        let text = search.as_literal();
        if let Some(text) = text.filter(|text| !text.contains(char::REPLACEMENT_CHARACTER)) {
            return Self::Literal(Box::new(Finder::new(text).into_owned()));
        }
        let pattern = search.as_regex().as_str();
        let parsed = ParserBuilder::new().utf8(false).multi_line(true).build().parse(pattern);
        let whole = parsed.map_or(true, |hir| {
            let looks = hir.properties().look_set();
            looks.contains(Look::Start) || looks.contains(Look::End)
        });
        match RegexBuilder::new(pattern).multi_line(true).build() {
            Ok(regex) if !whole => Self::Regex(regex),
            _ => Self::Nothing,
        }
    }

    fn ask(&self, bytes: &[u8]) -> Chance {
        let (matches, is_text) = match self {
            Self::Literal(text) => (text.find(bytes).is_some(), true),
            Self::Regex(regex) => {
                let matches = memchr::memchr(b'\r', bytes).is_some() || regex.is_match(bytes);
                (matches, matches || std::str::from_utf8(bytes).is_ok())
            }
            Self::Nothing => (true, true),
        };
        match (matches, is_text) {
            (true, _) => Chance::Anywhere,
            (false, false) => Chance::InInvalid,
            (false, true) => Chance::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use pubsub_core::Search;

    use super::{Chance, Sieve};

    #[test]
    fn patterns_with_anchors_of_the_whole_text_are_not_sieved() {
        for (pattern, sieved) in
            [("^a$", true), ("error|warn", true), (r"\Aa", false), (r"a\z", false), ("(?-m:a$)", false)]
        {
            let sieve = Sieve::new(&Search::regex(pattern).unwrap());
            assert_eq!(matches!(sieve, Sieve::Regex(_)), sieved, "{pattern}");
        }
    }

    #[test]
    fn a_sieve_holds_back_what_cannot_match() {
        let sieve = Sieve::new(&Search::regex("^error: [0-9]+$").unwrap());
        assert_eq!(sieve.ask(b"warning\nan error: 7\nerror: 7 of 8\n"), Chance::Nowhere);
        assert_eq!(sieve.ask(b"warning\nerror: 7\nend\n"), Chance::Anywhere);
        assert_eq!(sieve.ask(b"warning\nerror: 7\r\nend\n"), Chance::Anywhere);
    }

    #[test]
    fn bytes_that_are_no_text_are_held_back_only_where_they_change_nothing() {
        for search in [Search::regex("caf.$"), Search::literal("caf\u{fffd}")] {
            let sieve = Sieve::new(&search.unwrap());
            assert_eq!(sieve.ask(b"caf\xe9\n"), Chance::InInvalid);
            assert_eq!(sieve.ask(b"none\n"), Chance::Nowhere);
        }
        assert_eq!(Sieve::new(&Search::literal("cafe").unwrap()).ask(b"caf\xe9\n"), Chance::Nowhere);
    }
}
