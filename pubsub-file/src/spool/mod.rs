//! A durable local queue in front of a sink.

mod config;
mod frame;
mod log;
mod ship;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use pubsub_core::{
    Appended, Error, ErrorKind, Hit, LineBatch, Lines, Output, OutputReader, OutputSink, RECORD_VERSION,
    Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Timestamp, WhenFull, name,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::files::{self, Sync, blocking};
pub use config::{DEFAULT_SPOOL_BYTES, SpoolConfig};
use log::{Log, Missing};

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
/// missing. Lines may be shipped twice, which changes nothing in any store. Reading and removing go through to the
/// store; a run that is removed is removed from the spool as well.
///
/// ```
/// use std::time::Duration;
/// use pubsub_core::{ActionId, EventId, MemoryStore, OutputReader, OutputSink, RunKey, RunQuery, RunRecord, Stage};
/// use pubsub_file::{SpoolConfig, Spooled};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let spooled = Spooled::open(MemoryStore::new(), SpoolConfig::new(folder.path())).await?;
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
    runs: Mutex<BTreeMap<RunId, Run>>,
    bytes: AtomicU64,
    /// Counts what was put into the spool.
    changes: AtomicU64,
    /// Up to which change everything was shipped.
    settled: watch::Sender<u64>,
    work: Notify,
    /// Held while a part of a run is on its way, and while one is removed: what is removed does not come again.
    turn: tokio::sync::Mutex<()>,
    /// Set once the shipper is to end.
    stop: watch::Sender<bool>,
}

/// One run's files; `None` once they were shipped or removed.
type Run = Arc<Mutex<Option<Log>>>;

impl<S: OutputSink + 'static> Spooled<S> {
    /// Opens the folder, making it where it is not there, and begins to ship what earlier processes left.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn open(sink: S, config: SpoolConfig) -> Result<Self> {
        let shared = Arc::new(Shared {
            sink,
            config,
            runs: Mutex::default(),
            bytes: AtomicU64::new(0),
            changes: AtomicU64::new(1),
            settled: watch::Sender::new(0),
            work: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let adopting = Arc::clone(&shared);
        blocking(move || {
            std::fs::create_dir_all(&adopting.config.dir)
                .map_err(crate::error::io_error("make the folder of a spool"))?;
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
        let target = self.shared.changes.load(Ordering::Acquire);
        let mut settled = self.shared.settled.subscribe();
        // The sender lives as long as this handle.
        let _ = settled.wait_for(|settled| *settled >= target).await;
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

    /// Takes over the runs in the folder that no living process has.
    fn adopt(&self) -> Result<()> {
        for folder in files::below(&self.config.dir, None)? {
            let id = folder.file_name().and_then(|name| name.to_str()).and_then(name::decode);
            let Some(run) = id.and_then(|id| RunId::new(id).ok()) else { continue };
            if self.runs().contains_key(&run) {
                continue;
            }
            let log = match Log::open(folder, Missing::Leave) {
                // One that a power loss emptied, or that a later version wrote, holds up no other.
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => {
                    tracing::warn!(%run, error = %error.chain(), "a run in a spool cannot be read; it stays there");
                    continue;
                }
                log => log?,
            };
            if let Some(mut log) = log {
                log.left = true;
                self.bytes.fetch_add(log.bytes(), Ordering::Relaxed);
                self.runs().entry(run).or_insert_with(|| Arc::new(Mutex::new(Some(log))));
                self.changed();
            }
        }
        Ok(())
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
    }

    /// Does something with the files of a run, opening them where they are not.
    fn with<T>(&self, run: &RunId, missing: Missing, work: impl FnOnce(&mut Log) -> Result<T>) -> Result<T> {
        let entry = Arc::clone(self.runs().entry(run.clone()).or_default());
        let mut log = lock(&entry);
        if log.is_none() {
            *log = Log::open(self.folder(run), missing)?;
        }
        let Some(log) = log.as_mut() else {
            // Not kept, so that it is taken over once the other has ended.
            self.runs().remove(run);
            let (kind, why) = if missing == Missing::Leave && !self.folder(run).exists() {
                (ErrorKind::NotFound, "the spool does not have this run")
            } else {
                (ErrorKind::Unavailable, "another process spools this run")
            };
            return Err(Error::new(kind, why).with("run", run));
        };
        log.left = false;
        let done = work(log);
        self.runs().entry(run.clone()).or_insert_with(|| Arc::clone(&entry));
        self.changed();
        done
    }

    fn put(&self, record: &RunRecord, sync: Sync) -> Result<()> {
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "spool a record").with("version", record.version));
        }
        self.with(&record.key.run_id, Missing::Make, |log| log.put(record, sync))
    }

    fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let bytes: u64 = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        let has_room = self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.config.max_bytes;
        let appended = if has_room {
            self.with(&run.run_id, Missing::Leave, |log| {
                if log.record().is_none() {
                    return Err(Error::new(ErrorKind::NotFound, "append lines").with("run", &run.run_id));
                }
                log.append(batches, self.sync())
            })
        } else {
            Err(Error::new(ErrorKind::Full, "the spool is full").with("bytes", self.config.max_bytes))
        };
        match appended {
            Ok(bytes) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(Appended::all())
            }
            Err(error) if error.kind() == ErrorKind::Full && self.config.when_full == WhenFull::Drop => {
                let why =
                    if has_room { "no space is left on the disk of the spool" } else { error.message() };
                let dropped = |batch: &LineBatch| batch.gap(format!("dropped: {why}"));
                Ok(batches.iter().map(dropped).fold(Appended::all(), Appended::with_refused))
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&self, run: &RunId) -> Result<bool> {
        let entry = self.runs().remove(run);
        let log = entry.and_then(|entry| lock(&entry).take());
        let Some(log) = log else { return Ok(false) };
        self.freed(log.remove()?);
        Ok(true)
    }

    fn freed(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        // Never refused.
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
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
        let (shared, key, own) = (Arc::clone(&self.shared), run.clone(), batches.to_vec());
        match blocking(move || shared.append(&key, &own)).await {
            // It was shipped to its end: the sink knows what it has.
            Err(error) if error.kind() == ErrorKind::NotFound => self.shared.sink.append(run, batches).await,
            appended => appended,
        }
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

#[async_trait]
impl<S: OutputSink + Retention + 'static> Retention for Spooled<S> {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let turn = tokio::time::timeout(self.shared.config.call_limit, self.shared.turn.lock());
        let late = |_| Error::new(ErrorKind::TimedOut, "remove a run while its spool ships").with("run", run);
        let _turn = turn.await.map_err(late)?;
        let (shared, id) = (Arc::clone(&self.shared), run.clone());
        let spooled = blocking(move || shared.remove(&id)).await?;
        Ok(self.shared.sink.remove(run).await? || spooled)
    }

    async fn expire(&self, begun_before: Timestamp) -> Result<u64> {
        self.shared.sink.expire(begun_before).await
    }
}
