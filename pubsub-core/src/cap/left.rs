//! What processes that died had held back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::{HeldFile, SUFFIX, path_in};
use super::off_thread;
use super::tail::Tail;
use crate::{Error, ErrorKind, FanOut, OutputReader, Result, RunId, RunKey, RunQuery, RunStatus};

/// Brings to the sinks what runs that were lost in a crash had held back in this folder ([`Cap::with_dir`]): their last
/// lines, and the gap before them. Answers of how many runs. The record of such a run stays one without an end.
///
/// A run that `reader` knows as completed has nothing to be brought. One that it does not know may wait in a spool: its
/// lines stay for a week, and [`remove_tail`] removes those of a run that was removed. What cannot be read is told in a
/// warning and left where it is. Several processes may ask at once: each file is one's.
///
/// [`Cap::with_dir`]: super::Cap::with_dir
///
/// ```
/// use std::sync::Arc;
/// use pubsub_core::{FanOut, MemoryStore, SinkConfig, bring_tails};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store.clone()))]);
/// let folder = tempfile::tempdir().unwrap();
/// assert_eq!(bring_tails(folder.path(), &store, &fan_out).await?, 0);
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// Where the folder or the records cannot be read, and [`Closed`](ErrorKind::Closed) where the sinks were given up. A
/// folder that is not there is empty.
///
/// # Cancel safety
/// Dropped, what was not brought is left; what was is brought again, which changes nothing.
pub async fn bring_tails(
    dir: impl Into<PathBuf>,
    reader: &dyn OutputReader,
    fan_out: &FanOut,
) -> Result<u64> {
    let dir = dir.into();
    let mut brought = 0;
    for path in read(move || files(&dir)).await? {
        match read(move || open(&path)).await {
            Ok(None) => {}
            Ok(Some((run, file, tail))) => {
                let what = bring(&run, tail, reader, fan_out).await?;
                brought += u64::from(what == Brought::Now);
                read(move || {
                    if what != Brought::Unknown || file.unchanged_for() > KEEP_UNKNOWN {
                        file.remove();
                    }
                    Ok(())
                })
                .await?;
            }
            Err(error) => {
                tracing::warn!(error = %error.chain(), "lines that were held back are left where they are")
            }
        }
    }
    Ok(brought)
}

/// Removes what is held back in this folder of a run that was removed; answers whether there was something. What a living
/// process holds back of it stays until that process has ended the run, which removes it then.
///
/// ```
/// use pubsub_core::{EventId, RunId, Stage, remove_tail};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let run = RunId::derived(&EventId::generate(), &Stage::new("build")?, 1);
/// assert!(!remove_tail(folder.path(), &run).await?);
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// Where the file cannot be opened or removed. A folder that is not there is empty.
///
/// # Cancel safety
/// Dropped, it may be removed all the same.
pub async fn remove_tail(dir: impl Into<PathBuf>, run: &RunId) -> Result<bool> {
    let path = path_in(&dir.into(), run);
    read(move || {
        HeldFile::remove_left(&path).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "remove lines that were held back")
                .with("path", path.display())
                .with_source(error)
        })
    })
    .await
}

/// How long lines of a run stay that nobody knows.
const KEEP_UNKNOWN: Duration = Duration::from_secs(7 * 24 * 3600);

/// A file, and what is in it.
type Left = (RunKey, Arc<HeldFile>, Option<Tail>);

async fn read<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = || Err(Error::new(ErrorKind::Closed, "read lines that were held back: the runtime ends"));
    off_thread(work).await.unwrap_or_else(ended)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Unavailable, "look for lines that were held back")
            .with("dir", dir.display())
            .with_source(error)
    };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
            files.push(path);
        }
    }
    Ok(files)
}

fn open(path: &Path) -> Result<Option<Left>> {
    let Some((file, head)) = HeldFile::open(path)? else { return Ok(None) };
    let (run, file) = (head.run.clone(), Arc::new(file));
    let tail = Tail::left(Arc::clone(&file), head).map_err(|error| {
        Error::new(ErrorKind::Unavailable, "read lines that were held back")
            .with("path", path.display())
            .with_source(error)
    })?;
    Ok(Some((run, file, tail)))
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brought {
    Now,
    /// There is nothing to be brought.
    Nothing,
    /// Nobody knows the run, or not yet.
    Unknown,
}

async fn bring(
    run: &RunKey,
    tail: Option<Tail>,
    reader: &dyn OutputReader,
    fan_out: &FanOut,
) -> Result<Brought> {
    let known = reader.runs(&RunQuery::of_run(run.run_id.clone())).await?.pop();
    let Some(mut record) = known else { return Ok(Brought::Unknown) };
    let Some(mut tail) = tail.filter(|_| record.status == RunStatus::Running) else {
        return Ok(Brought::Nothing);
    };
    let sinks = fan_out.begin_where_taken(&record).await?;
    if let Some(gap) = tail.gap()
        && !record.gaps.contains(gap)
    {
        record.gaps.push(gap.clone());
    }
    record.revision += 1;
    // Before the lines behind it: whoever follows is told of it in its place.
    sinks.update(&record);
    while let Some((rest, next)) = tail.next_off_thread().await {
        tail = rest;
        match next {
            Err(gap) => record.gaps.push(gap),
            Ok(batches) => {
                for batch in &batches {
                    sinks.caught_up().await;
                    sinks.append(std::slice::from_ref(batch));
                }
            }
        }
    }
    sinks.given().await?;
    let told = "the process that held back the end of the output died; another has brought it";
    record.note("output_brought", told, None);
    sinks.update(&record);
    Ok(Brought::Now)
}
