//! A durable local queue in front of a sink.

mod adopt;
mod append;
mod config;
mod cursor;
mod due;
mod folder;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod log;
mod removal;
mod ship;
mod telling;
mod verify;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::BoxStream;
use pubsub_core::{
    Appended, Error, ErrorKind, Hit, LineBatch, Lines, Output, OutputReader, OutputSink, RECORD_VERSION,
    RefusalLog, Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Seldom, name,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use config::{DEFAULT_KEEP_DAMAGED, DEFAULT_SPOOL_BYTES, SpoolConfig};

use crate::files::{Sync, blocking};
use folder::Missing;
use log::Log;
use removal::{Gone, RemoveAt};
pub use verify::{SpooledRun, verify_spool};

/// What a spool still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolDepth {
    /// Runs that this process ships.
    pub runs: usize,
    /// Bytes on the disk, of all processes as far as this one knows.
    pub bytes: u64,
}

/// A sink behind a durable local queue: a call returns once what it brings is in the spool's folder, and a task brings
/// it to the sink, in order, however long that is out of reach.
///
/// What one process left, another that opens the same folder ships: after a crash nothing that was acknowledged is
/// missing. Lines may be shipped twice, which changes nothing in any store. Reading and expiring go through to the
/// store. What is removed is removed here as well, also where another process ships it; and what is not at the store any
/// more, though it began there, is shipped no further. Who still writes such a run is told
/// [`NotFound`](ErrorKind::NotFound) and does not make it anew: only a record that begins it does.
///
/// ```
/// use std::time::Duration;
/// use pubsub_core::{ActionId, EventId, MemoryStore, OutputReader, OutputSink, RunKey, RunQuery, RunRecord, Stage};
/// use pubsub_file::{SpoolConfig, Spooled};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let spooled = Spooled::open_store(MemoryStore::new(), SpoolConfig::new(folder.path())).await?;
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// spooled.begin(&RunRecord::begun(key, "worker-1")).await?;
/// spooled.shipped().await;
/// assert_eq!(spooled.runs(&RunQuery::all()).await?.len(), 1);
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
pub struct Spooled<S> {
    shared: Arc<Shared<S>>,
    shipper: Mutex<Option<JoinHandle<()>>>,
}

/// What the handle and the shipper share.
struct Shared<S> {
    sink: S,
    config: SpoolConfig,
    /// How a run is removed at the sink, where that can.
    remove_at: Option<RemoveAt<S>>,
    runs: Mutex<BTreeMap<RunId, Run>>,
    logs: Logs,
    /// The runs that cannot be shipped, each told once.
    told: Mutex<HashSet<RunId>>,
    /// The runs that were removed while this process had them.
    gone: Mutex<Gone>,
    bytes: AtomicU64,
    /// When the bytes were counted last because the spool was full.
    counted: Mutex<Option<Instant>>,
    /// Counts what was put into the spool.
    changes: AtomicU64,
    /// Up to which change everything was shipped.
    settled: watch::Sender<u64>,
    /// Up to which change somebody waits: until there, nothing is gathered.
    hurried: AtomicU64,
    work: Notify,
    /// Told when something was freed.
    room: Notify,
    /// Whether the last call to the sink failed.
    away: watch::Sender<bool>,
    /// Set once the shipper is to end.
    stop: watch::Sender<bool>,
}

/// When to log what may happen with every batch of lines.
struct Logs {
    /// The sink refuses lines.
    refusing: RefusalLog,
    /// It refuses records.
    records: Seldom,
    /// Files of the spool cannot be read or written.
    files: Seldom,
}

/// One run's files; `None` once they were shipped or removed.
type Run = Arc<Mutex<Option<Log>>>;

impl<S: OutputSink + 'static> Spooled<S> {
    /// Opens the folder, making it where it is not there, and begins to ship what earlier processes left. The sink may be
    /// out of reach.
    ///
    /// # Errors
    /// [`TooNew`](ErrorKind::TooNew) where a newer version wrote the folder, which stays as it is; otherwise what the file
    /// system says of the folder.
    pub async fn open(sink: S, config: SpoolConfig) -> Result<Self> {
        Self::start(sink, config, None).await
    }

    /// As [`open`](Self::open), of a sink that can also remove: a removal that was cut short, by a crash or because the
    /// store was out of reach, is brought to its end there.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_store(sink: S, config: SpoolConfig) -> Result<Self>
    where
        S: Retention,
    {
        Self::start(sink, config, Some(|sink, run| sink.remove(run))).await
    }

    async fn start(sink: S, config: SpoolConfig, remove_at: Option<RemoveAt<S>>) -> Result<Self> {
        let name = config.dir.display().to_string();
        let logs =
            Logs { refusing: RefusalLog::new(name), records: Seldom::default(), files: Seldom::default() };
        let shared = Arc::new(Shared {
            sink,
            logs,
            config,
            remove_at,
            runs: Mutex::default(),
            told: Mutex::default(),
            gone: Mutex::default(),
            bytes: AtomicU64::new(0),
            counted: Mutex::default(),
            changes: AtomicU64::new(1),
            settled: watch::Sender::new(0),
            hurried: AtomicU64::new(0),
            work: Notify::new(),
            room: Notify::new(),
            away: watch::Sender::new(false),
            stop: watch::Sender::new(false),
        });
        let adopting = Arc::clone(&shared);
        blocking(move || {
            folder::make(&adopting.config.dir)?;
            adopting.adopt()
        })
        .await?;
        let shipper = tokio::spawn(ship::ship(Arc::clone(&shared)));
        Ok(Self { shared, shipper: Mutex::new(Some(shipper)) })
    }

    /// Returns once the sink has everything that was put in before; never while it is out of reach.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn shipped(&self) {
        let target = self.shared.hurry();
        let mut settled = self.shared.settled.subscribe();
        // The sender lives as long as this handle.
        let _ = settled.wait_for(|settled| *settled >= target).await;
    }

    /// Returns once the sink is out of reach, which the last call to it said.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn is_away(&self) {
        let mut away = self.shared.away.subscribe();
        // The sender lives as long as this handle.
        let _ = away.wait_for(|away| *away).await;
    }

    /// Ships at most so long, and ends: nothing is shipped any more. What is left stays in the folder, for the next one
    /// that opens it.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) where something is left, with how much.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        let shipped = tokio::time::timeout(limit, self.shipped()).await;
        let left = self.depth();
        // Not aborted: what it does with files is to be over, so that the folder is free.
        self.shared.stop.send_replace(true);
        let shipper = self.shipper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(shipper) = shipper
            && let Err(error) = shipper.await
        {
            return Err(Error::new(ErrorKind::Internal, "end a spool").with_source(error));
        }
        self.shared.runs().clear();
        shipped.map_err(|_| {
            Error::new(ErrorKind::TimedOut, "a spool was not shipped")
                .with("runs", left.runs)
                .with("bytes", left.bytes)
        })
    }

    /// The records of the runs that wait in the folder, also of those that other processes ship.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn waiting(&self) -> Result<Vec<RunRecord>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.waiting()).await
    }

    /// What it still holds.
    #[must_use]
    pub fn depth(&self) -> SpoolDepth {
        SpoolDepth { runs: self.shared.runs().len(), bytes: self.shared.bytes.load(Ordering::Relaxed) }
    }
}

impl<S> Drop for Spooled<S> {
    fn drop(&mut self) {
        // What is left lies in the folder, for the next one that opens it.
        if let Some(shipper) = self.shipper.get_mut().unwrap_or_else(PoisonError::into_inner) {
            shipper.abort();
        }
    }
}

impl<S> fmt::Debug for Spooled<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooled").field("dir", &self.shared.config.dir).finish_non_exhaustive()
    }
}

impl<S> Shared<S> {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, run: &RunId) -> PathBuf {
        self.config.dir.join(name::encode(run.as_str()))
    }

    fn sync(&self) -> Sync {
        self.config.durability.into()
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
    }

    /// Somebody waits for what is there: it is not gathered any longer. Answers up to which change that is.
    fn hurry(&self) -> u64 {
        let target = self.changes.load(Ordering::Acquire);
        // A look at all runs costs something, and without a delay none of them waits.
        if !self.config.delay.is_zero() && *self.settled.borrow() < target {
            self.hurried.fetch_max(target, Ordering::AcqRel);
            self.work.notify_one();
        }
        target
    }

    fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire) > *self.settled.borrow()
    }

    /// Does something with the files of a run, opening them where they are not.
    fn with<T>(&self, run: &RunId, work: impl FnOnce(&mut Log) -> Result<T>) -> Result<T> {
        let entry = Arc::clone(self.runs().entry(run.clone()).or_default());
        let mut log = lock(&entry);
        if log.is_none() {
            // Not kept where that fails, so that it is taken over once it can be opened.
            *log = Log::open(self.folder(run), Missing::Make).inspect_err(|_| {
                self.runs().remove(run);
            })?;
        }
        let Some(open) = log.as_mut() else {
            // Not kept, so that it is taken over once the other has ended.
            self.runs().remove(run);
            return Err(
                Error::new(ErrorKind::Unavailable, "another process spools this run").with("run", run)
            );
        };
        let done = work(open);
        open.adopted = false;
        if open.record().is_none() {
            // Nothing began here, and nothing of it stays but the lines of a run whose record was lost.
            let nothing = log.take().filter(|log| !log.has_lines());
            self.runs().remove(run);
            nothing.map_or(Ok(0), Log::remove)?;
            return done;
        }
        self.runs().entry(run.clone()).or_insert_with(|| Arc::clone(&entry));
        self.changed();
        done
    }

    fn put(&self, record: &RunRecord, sync: Sync) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "spool a record").with("version", record.version));
        }
        self.with(&record.key.run_id, |log| {
            self.not_removed(log, record)?;
            log.put(record, sync)
        })
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn freed(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        // Never refused.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.room.notify_waiters();
    }
}

fn lock(run: &Run) -> MutexGuard<'_, Option<Log>> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl<S: OutputSink + 'static> OutputSink for Spooled<S> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        let (shared, record) = (Arc::clone(&self.shared), record.clone());
        blocking(move || shared.put(&record, shared.sync())).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.shared.append_waiting(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        let (shared, record) = (Arc::clone(&self.shared), record.clone());
        blocking(move || shared.put(&record, Sync::Yes)).await
    }
}

#[async_trait]
impl<S: OutputSink + OutputReader + 'static> OutputReader for Spooled<S> {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.shared.sink.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.shared.sink.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.shared.sink.search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.shared.sink.changes(query).await
    }
}
