//! The output store in a folder.

mod catalog;
mod expire;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod index;
mod late;
mod layout;
mod list;
mod pinned;
mod read;
mod recover;
mod search;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{
    Appended, Durability, Error, ErrorKind, Hit, Keep, LineBatch, Lines, Output, OutputItem, OutputReader,
    OutputSink, RECORD_VERSION, Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search,
    StoreCapabilities, Support,
};
use tokio::time::Instant;

use expire::Expiry;
use layout::{Layout, RunFolder};
use list::Skipped;
use pinned::Pinned;
use read::Reader;
use writer::Writer;

use crate::files::blocking;
use crate::watch::{Changes, FolderWatch, Part, Woken};

/// What [`FileStore`] can do.
pub const FILE_STORE: StoreCapabilities = StoreCapabilities {
    name: "file",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::Yes,
    visible_within: Duration::ZERO,
    durability: Durability::ProcessCrash,
};

/// Most runs whose files are kept open; more are closed and opened again as they are needed.
const MAX_OPEN_RUNS: usize = 128;

/// Where a file store lies and what its writes survive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileStoreConfig {
    /// The folder; the first run that begins makes it where it is not there.
    pub dir: PathBuf,
    /// [`Durability::ProcessCrash`] leaves the bytes to the system when an append returns;
    /// [`Durability::PowerLoss`] waits until they are on the disk.
    pub durability: Durability,
}

impl FileStoreConfig {
    /// A store in this folder that survives the crash of any process.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), durability: Durability::ProcessCrash }
    }

    /// With another durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// An output store in a folder: plain output that `tail -f`, `grep` and `less` read, an index, and the record as JSON.
///
/// Several processes may use one folder at once. A clone is another handle to the same store.
#[derive(Clone, Debug)]
pub struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    durability: Durability,
    writers: Mutex<HashMap<RunId, Arc<Mutex<Writer>>>>,
    watch: FolderWatch,
    skipped: Skipped,
}

impl FileStore {
    /// A store in this folder. Nothing is made or written before a run begins: a folder that is not there has no runs,
    /// and one that can only be read answers all questions.
    ///
    /// Connecting needs nothing that may be out of reach: a folder that cannot be looked at now (no permission, nothing
    /// mounted, a part of its path that is no folder, a broken disk) is no error here, but of each call that uses it. What
    /// may come back by itself is [`Unavailable`](ErrorKind::Unavailable), and is best tried again.
    ///
    /// # Errors
    /// What is wrong for good: [`TooNew`](ErrorKind::TooNew) where a newer version wrote it,
    /// [`Corrupt`](ErrorKind::Corrupt) where its version cannot be read, and [`Invalid`](ErrorKind::Invalid) for a path that
    /// no system takes.
    pub async fn connect(config: FileStoreConfig) -> Result<Self> {
        blocking(move || {
            let layout = Layout::open(config.dir, config.durability)?;
            let watch = FolderWatch::new(layout.wakes());
            let (writers, skipped) = (Mutex::default(), Skipped::default());
            let durability = config.durability;
            Ok(Self(Arc::new(Inner { layout, durability, writers, watch, skipped })))
        })
        .await
    }

    async fn put(&self, record: &RunRecord) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "store a record").with("version", record.version));
        }
        let (inner, record) = (Arc::clone(&self.0), record.clone());
        blocking(move || {
            let folder = inner.layout.make(&record.key)?;
            let writer = inner.writer(&record.key.run_id, folder.clone())?;
            lock(&writer).put(&record, &inner.layout)?;
            // Also where nothing changed: whoever repeats a call does not know whether the first one was told.
            inner.layout.tell(&folder);
            Ok(())
        })
        .await
    }

    /// The records that fit, newest first, with their folders.
    async fn matching(&self, query: &RunQuery) -> Result<Vec<(RunRecord, RunFolder)>> {
        let (inner, query) = (Arc::clone(&self.0), query.clone());
        blocking(move || list::matching(&inner.layout, &inner.skipped, &query)).await
    }
}

impl Inner {
    /// The open files of a run, where they are open and still the run's.
    fn open_writer(&self, run: &RunId) -> Option<Arc<Mutex<Writer>>> {
        let writer = self.writers.lock().unwrap_or_else(PoisonError::into_inner).get(run).cloned()?;
        // Only now: whoever waits for one run must not hold up the others.
        let is_current = lock(&writer).is_current();
        is_current.then_some(writer)
    }

    fn writer(&self, run: &RunId, folder: RunFolder) -> Result<Arc<Mutex<Writer>>> {
        if let Some(writer) = self.open_writer(run) {
            return Ok(writer);
        }
        let writer = Arc::new(Mutex::new(Writer::open(folder)?));
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if writers.len() >= MAX_OPEN_RUNS {
            // Those under way keep their files by their own handle.
            writers.clear();
        }
        writers.insert(run.clone(), Arc::clone(&writer));
        Ok(writer)
    }

    fn forget(&self, run: &RunId) {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }

    /// The folder of a run that began.
    fn begun(&self, run: &RunId) -> Result<Option<RunFolder>> {
        let Some(folder) = self.layout.find(run)? else { return Ok(None) };
        Ok(folder.record()?.map(|_| folder))
    }
}

fn missing(doing: &str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, doing).with("run", run)
}

fn lock(writer: &Mutex<Writer>) -> std::sync::MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl OutputSink for FileStore {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.put(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let (inner, run, batches) = (Arc::clone(&self.0), run.run_id.clone(), batches.to_vec());
        blocking(move || {
            // Files that are open and still in their place are those of a run that began.
            let writer = match inner.open_writer(&run) {
                Some(writer) => writer,
                None => {
                    let folder = match inner.begun(&run)? {
                        Some(folder) => folder,
                        None => return Err(inner.layout.not_there("append lines", &run)?),
                    };
                    inner.writer(&run, folder)?
                }
            };
            let mut writer = lock(&writer);
            let appended = writer.append(&batches, inner.durability)?;
            inner.layout.tell(writer.folder());
            Ok(appended)
        })
        .await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.put(record).await?;
        self.0.forget(&record.key.run_id);
        Ok(())
    }
}

#[async_trait]
impl OutputReader for FileStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.matching(query).await?.into_iter().map(|(record, _)| record).collect())
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let (inner, run) = (Arc::clone(&self.0), run.clone());
        let reader = blocking(move || {
            let missing = || inner.layout.not_there_to_read("read lines", &run);
            let folder = inner.layout.find(&run)?.ok_or_else(missing)?;
            let pinned = Pinned::new(&folder)?.ok_or_else(missing)?;
            let record = folder.record()?.ok_or_else(missing)?;
            Reader::open(&pinned, record, lines)
        })
        .await?;
        let (record, complete_through) = (reader.record.clone(), reader.through());
        Ok(Output { record, complete_through, items: items(reader) })
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        let deadline = Instant::now() + search.time_limit();
        let mut runs = self.matching(query).await?;
        runs.reverse();
        Ok(search::hits(runs, search.clone(), deadline))
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        let mut waiting = Waiting { store: self.clone(), query: query.clone(), part: None, changes: None };
        waiting.start().await?;
        let now = stream::once(std::future::ready(Ok(())));
        Ok(now.chain(stream::unfold(waiting, Waiting::next)).boxed())
    }
}

/// Who waits for changes. The store is held, so that its watch lives as long as somebody waits.
struct Waiting {
    store: FileStore,
    query: RunQuery,
    /// What tells of changes of the query's runs; `None` where anything may.
    part: Option<Part>,
    changes: Option<Changes>,
}

impl Waiting {
    /// Watches what the query names. The place of a run is known once it is there.
    async fn start(&mut self) -> Result<()> {
        let (inner, query) = (Arc::clone(&self.store.0), self.query.clone());
        let part = blocking(move || {
            inner.watch.start();
            list::part(&inner.layout, &query)
        });
        let part = part.await?;
        if self.changes.is_none() || part != self.part {
            self.changes = Some(self.store.0.watch.subscribe(part));
            self.part = part;
        }
        Ok(())
    }

    async fn next(mut self) -> Option<(Result<()>, Self)> {
        let woken = match &mut self.changes {
            Some(changes) => changes.next().await?,
            None => Woken::Unwatched,
        };
        let unplaced = self.query.run.is_some() && self.part.is_none();
        if (woken == Woken::Unwatched || unplaced)
            && let Err(error) = self.start().await
        {
            return Some((Err(error), self));
        }
        Some((Ok(()), self))
    }
}

/// The rest of a reader, read as it is asked for.
fn items(reader: Reader) -> BoxStream<'static, Result<OutputItem>> {
    let steps = stream::try_unfold(reader, |mut reader| {
        blocking(move || Ok(reader.step()?.map(|items| (items, reader))))
    });
    steps.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten().boxed()
}

#[async_trait]
impl Retention for FileStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let (inner, run) = (Arc::clone(&self.0), run.clone());
        blocking(move || {
            inner.forget(&run);
            let Some(folder) = inner.layout.find(&run)? else { return Ok(false) };
            let removed = inner.layout.remove(&run, &folder)?;
            inner.layout.tell(&folder);
            Ok(removed)
        })
        .await
    }

    /// What is dropped stops after the runs that it looks at just now.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        let (inner, keep) = (Arc::clone(&self.0), *keep);
        let mut expiry = blocking(move || Expiry::new(inner, keep)).await?;
        loop {
            let (left, removed) = blocking(move || {
                let removed = expiry.step()?;
                Ok((expiry, removed))
            })
            .await?;
            if let Some(removed) = removed {
                return Ok(removed);
            }
            expiry = left;
        }
    }
}
