//! Whether what waits in a spool can be shipped.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pubsub_core::{LineNumber, LineRange, Result, RunId, RunRecord};

use super::cursor::Cursor;
use super::folder;
use super::log::{missing_end, segment_in, segments};
use crate::error::io_error;
use crate::files::{self, blocking};
use crate::frame::{Frame, decode};

/// Bytes that are read at once: more than any frame has.
const READ_BYTES: usize = 1 << 20;

/// What waits of a run in a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpooledRun {
    /// The run.
    pub run: RunId,
    /// What is known of it; `None` where its record is missing or cannot be read, and nobody can ship it.
    pub record: Option<RunRecord>,
    /// Lines that the sink does not have yet.
    pub lines: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
    /// What is damaged: where, and what becomes of it. None of it keeps other lines from being shipped.
    pub damage: Vec<String>,
}

/// Reads all that waits in the folder of a spool, and changes nothing: by run, in the order of their ids. A folder that is
/// not there has nothing. What is damaged is repaired by whoever opens the spool: a torn end is cut off, for it was never
/// acknowledged, and what cannot be read, or is missing at the end of a run that has ended, becomes a hole of the run.
///
/// Of a run that a process spools or ships just now, the answer is one of some moment.
///
/// ```
/// use pubsub_core::MemoryStore;
/// use pubsub_file::{SpoolConfig, Spooled, verify_spool};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let spooled = Spooled::open(MemoryStore::new(), SpoolConfig::new(folder.path())).await?;
/// spooled.shipped().await;
/// assert!(verify_spool(folder.path()).await?.is_empty());
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// [`TooNew`](pubsub_core::ErrorKind::TooNew) where a newer version wrote the folder; otherwise what the file system says.
pub async fn verify_spool(dir: impl Into<PathBuf>) -> Result<Vec<SpooledRun>> {
    let dir = dir.into();
    blocking(move || {
        folder::check_version(&dir)?;
        let runs = folder::runs(&dir)?;
        let found = runs.into_iter().filter_map(|(run, folder)| look(run, &folder).transpose());
        found.collect()
    })
    .await
}

/// `None` where the run is removed, or shipped meanwhile.
fn look(run: RunId, folder: &Path) -> Result<Option<SpooledRun>> {
    let doing = "read a run in the spool";
    if folder::is_removed(folder) {
        return Ok(None);
    }
    let (record, mut damage) = match folder::record(folder) {
        Ok(Some(record)) => (Some(record), Vec::new()),
        Ok(None) => (None, vec!["its record is missing: it is not shipped".to_owned()]),
        Err(error) => {
            (None, vec![format!("its record cannot be read, and it is not shipped: {}", error.chain())])
        }
    };
    let cursor = Cursor::read(folder).map_err(io_error(doing))?.unwrap_or_else(|| {
        damage.push("what was shipped cannot be read: all of it is shipped again".to_owned());
        Cursor::default()
    });
    let numbers = match segments(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        numbers => numbers.map_err(io_error(doing))?,
    };
    let began = !numbers.is_empty() || cursor.last.is_some();
    let mut found = SpooledRun { run, record, lines: 0, bytes: 0, damage };
    let mut last = cursor.last;
    for number in numbers.into_iter().filter(|number| *number >= cursor.segment) {
        let from = if number == cursor.segment { cursor.offset } else { 0 };
        match read(&segment_in(folder, number), number, from, &mut found) {
            // Shipped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => last = last.max(read.map_err(io_error(doing))?),
        }
    }
    if !folder.exists() {
        return Ok(None);
    }
    // What was shipped meanwhile is not missing.
    let now = Cursor::read(folder).map_err(io_error(doing))?.unwrap_or_default();
    let missing = found.record.as_ref().filter(|_| began).and_then(|r| missing_end(r, last.max(now.last)));
    found.damage.extend(missing.map(|gap| {
        let LineRange { first, last } = gap.range;
        format!("lines {first} to {last}, the end of the output, are missing; they become a hole")
    }));
    Ok(Some(found))
}

/// Answers the last line.
fn read(path: &Path, number: u64, from: u64, found: &mut SpooledRun) -> io::Result<Option<LineNumber>> {
    let mut last = None;
    let file = files::open_for_reading(path)?;
    let mut at = from;
    let mut left = Bytes::new();
    loop {
        match decode(&left) {
            Frame::Batch(batch, length) => {
                last = Some(batch.last());
                found.lines += batch.len() as u64;
                found.bytes += length as u64;
                at += length as u64;
                left = left.slice(length..);
            }
            Frame::Short => {
                let more = files::read_at(&file, at, READ_BYTES)?;
                if more.len() > left.len() {
                    left = more;
                    continue;
                }
                if !more.is_empty() {
                    let torn = more.len();
                    found
                        .damage
                        .push(format!("segment {number}: {torn} bytes at {at} are torn; they are cut off"));
                }
                return Ok(last);
            }
            Frame::Damaged => {
                let rest = file.metadata()?.len().saturating_sub(at);
                found.damage.push(format!(
                    "segment {number}: {rest} bytes from {at} on cannot be read; they become a hole"
                ));
                return Ok(last);
            }
        }
    }
}
