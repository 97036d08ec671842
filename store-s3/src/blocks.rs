//! Fetches blocks of a run: one after the other, some ahead, only those that may be of use.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, ErrorKind, LineRange, Result};
use tokio::task::JoinSet;

use crate::query::Wanted;
use crate::segment::{Block, BlockAt, Decoder, Filter, Index, MIN_BYTES};
use crate::store::Inner;
use crate::view::Part;

/// As much of the end of a segment is read at once to find its index: small segments whole, and of large ones their newest
/// lines as well.
const TAIL_BYTES: u64 = 256 * 1024;

/// As much is read where nothing else but the index is wanted, which has 32 bytes for each block.
const INDEX_BYTES: u64 = 16 * 1024;

/// About how many bytes of lines are fetched by one request, and held at once for each that is under way.
const FETCH_BYTES: u64 = 2 << 20;

/// How many indexes are remembered.
const REMEMBERED: usize = 256;

const DOING: &str = "read lines";

/// The bytes of a few blocks, and of which part they are.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// What is wanted of them.
    pub(crate) range: LineRange,
    blocks: Vec<BlockAt>,
    bytes: Bytes,
    begins: u64,
}

impl Fetched {
    /// Lines that cannot be read.
    fn damaged(range: LineRange) -> Self {
        Self { range, blocks: Vec::new(), bytes: Bytes::new(), begins: 0 }
    }

    /// Decompresses: each block with its range. What is wanted and in none of them is damaged. Takes milliseconds.
    pub(crate) fn blocks(&self) -> Result<impl Iterator<Item = (LineRange, Block)> + '_> {
        let mut decoder = Decoder::new()?;
        Ok(self
            .blocks
            .iter()
            .map(move |block| (block.range(), decoder.decode(block, &self.bytes, self.begins))))
    }
}

/// A segment that was looked at.
struct Opened {
    key: String,
    index: Arc<Index>,
    /// Its last bytes, where they were read just now.
    tail: Option<Tail>,
}

#[derive(Clone)]
struct Tail {
    bytes: Bytes,
    begins: u64,
}

impl Tail {
    fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let at = |place: u64| usize::try_from(place.checked_sub(self.begins)?).ok();
        let (from, to) = (at(range.start)?, at(range.end)?);
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

/// Indexes of segments, which never change; the oldest is forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Indexes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<String, Arc<Index>>,
    order: VecDeque<String>,
}

impl Indexes {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, key: &str) -> Option<Arc<Index>> {
        self.known().by_key.get(key).cloned()
    }

    fn remember(&self, key: &str, index: &Arc<Index>) {
        let mut known = self.known();
        if known.by_key.insert(key.to_owned(), Arc::clone(index)).is_none() {
            known.order.push_back(key.to_owned());
        }
        if known.order.len() > REMEMBERED
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_key.remove(&oldest);
        }
    }
}

/// The blocks of these parts that have lines of the range and may hold what is wanted, in order; `ahead` requests are under
/// way at once. An error is the last item: [`NotFound`](ErrorKind::NotFound) where a segment is not there any more.
pub(crate) fn fetch(
    inner: Arc<Inner>,
    folder: String,
    parts: Vec<Part>,
    wanted: Arc<Wanted>,
    ahead: usize,
) -> BoxStream<'static, Result<Fetched>> {
    let opening = Arc::clone(&inner);
    let opened = stream::iter(parts).map(move |part| {
        let (inner, key, wanted) =
            (Arc::clone(&opening), format!("{folder}/{}", part.segment.name()), Arc::clone(&wanted));
        apart(async move { inner.plan(part, key, &wanted).await })
    });
    let planned =
        opened.buffered(ahead).map_ok(|planned| stream::iter(planned.into_iter().map(Ok))).try_flatten();
    planned
        .map_ok(move |planned| {
            let inner = Arc::clone(&inner);
            apart(async move { inner.fetch_one(planned).await })
        })
        .try_buffered(ahead)
        .boxed()
}

/// Does this in a task, which ends where nobody waits for it any more. A request that waits for its reader to look on would
/// keep its place among those under way, and a few slow readers would hold up everybody.
async fn apart<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let mut task = JoinSet::new();
    task.spawn(work);
    let done = task.join_next().await.ok_or_else(|| Error::new(ErrorKind::Internal, DOING))?;
    done.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))?
}

/// Blocks that lie one after the other.
struct Planned {
    range: LineRange,
    key: String,
    blocks: Vec<BlockAt>,
    tail: Option<Tail>,
}

impl Inner {
    /// Which blocks of a part are to be fetched; none for a part whose index is damaged.
    async fn plan(&self, part: Part, key: String, wanted: &Wanted) -> Result<Vec<Planned>> {
        let opened = match self.open(part, key.clone(), wanted).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(object = key, error = error.chain(), "a segment is damaged");
                return Ok(vec![Planned { range: part.range, key, blocks: Vec::new(), tail: None }]);
            }
            opened => opened?,
        };
        let blocks = opened.index.blocks_of(part.range);
        let may_match = self.filtered(&opened, blocks, wanted).await?;
        let mut planned: Vec<Planned> = Vec::new();
        for block in may_match {
            let range =
                LineRange::new(block.first.max(part.range.first), block.range().last.min(part.range.last));
            match planned.last_mut() {
                Some(last) if goes_on(last, &block) => {
                    last.range.last = range.last;
                    last.blocks.push(block);
                }
                _ => planned.push(Planned {
                    range,
                    key: opened.key.clone(),
                    blocks: vec![block],
                    tail: opened.tail.clone(),
                }),
            }
        }
        Ok(planned)
    }

    /// Those of the blocks that may hold what is wanted.
    async fn filtered(&self, opened: &Opened, blocks: &[BlockAt], wanted: &Wanted) -> Result<Vec<BlockAt>> {
        if *wanted == Wanted::Anything {
            return Ok(blocks.to_vec());
        }
        let range = opened.index.filters();
        let filters = match opened.tail.as_ref().and_then(|tail| tail.slice(&range)) {
            Some(filters) => filters,
            None => self
                .bucket
                .get_range(DOING, &opened.key, range.clone())
                .await?
                .ok_or_else(|| gone(&opened.key))?,
        };
        if !opened.index.vouches_for(&filters) {
            return Ok(blocks.to_vec());
        }
        let filters = Tail { bytes: filters, begins: range.start };
        let may_match = |block: &&BlockAt| {
            let filter = filters.slice(&block.filter_range()).and_then(Filter::new);
            filter.is_none_or(|filter| wanted.may_be_in(&filter))
        };
        Ok(blocks.iter().filter(may_match).copied().collect())
    }

    /// Finds the index of a segment.
    async fn open(&self, part: Part, key: String, wanted: &Wanted) -> Result<Opened> {
        if let Some(index) = self.indexes.of(&key) {
            return Ok(Opened { key, index, tail: None });
        }
        let size = part.segment.size;
        if size < MIN_BYTES {
            return Err(Error::new(ErrorKind::Corrupt, "read the index of a segment: it is too short"));
        }
        // Of a large segment, which has many blocks, a search needs few.
        let most = if size <= TAIL_BYTES || *wanted == Wanted::Anything { TAIL_BYTES } else { INDEX_BYTES };
        let mut tail = self.tail(&key, size, most.min(size)).await?;
        let length = Index::length(&tail.bytes)?;
        if length > size {
            return Err(Error::new(ErrorKind::Corrupt, "read the index of a segment: it is longer than all"));
        }
        if length > tail.bytes.len() as u64 {
            tail = self.tail(&key, size, length).await?;
        }
        let bytes = tail.slice(&(size - length..size)).ok_or_else(|| gone(&key))?;
        let index = Arc::new(Index::decode(&bytes, size)?);
        self.indexes.remember(&key, &index);
        Ok(Opened { key, index, tail: Some(tail) })
    }

    async fn tail(&self, key: &str, size: u64, length: u64) -> Result<Tail> {
        let begins = size - length;
        let bytes = self.bucket.get_range(DOING, key, begins..size).await?.ok_or_else(|| gone(key))?;
        Ok(Tail { bytes, begins })
    }

    async fn fetch_one(&self, planned: Planned) -> Result<Fetched> {
        let Planned { range, key, blocks, tail } = planned;
        let Some((first, last)) = blocks.first().zip(blocks.last()) else {
            return Ok(Fetched::damaged(range));
        };
        let stored = first.offset..last.end();
        let bytes = match tail.and_then(|tail| tail.slice(&stored)) {
            Some(bytes) => bytes,
            None => self.bucket.get_range(DOING, &key, stored.clone()).await?.ok_or_else(|| gone(&key))?,
        };
        Ok(Fetched { range, blocks, bytes, begins: stored.start })
    }
}

/// Whether one request is enough for both.
fn goes_on(planned: &Planned, block: &BlockAt) -> bool {
    let Some(last) = planned.blocks.last() else { return false };
    let printed: u64 = planned.blocks.iter().chain([block]).map(|block| u64::from(block.printed)).sum();
    last.end() == block.offset && printed <= FETCH_BYTES
}

/// A segment that was named and is not there: the run was removed, or its segments were merged.
fn gone(key: &str) -> Error {
    Error::new(ErrorKind::NotFound, DOING).with("object", key)
}
