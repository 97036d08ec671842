//! The part of one run in a spool: its record, its lines in segments, and how far they were shipped.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Result, RunRecord, Seldom};

use super::cursor::{CURSOR, Chunk, Cursor};
use super::folder::{self, Missing, Turn, locked};
use crate::error::io_error;
use crate::files::{self, Sync};
use crate::frame::{Frame, HEAD_BYTES, decode, encode};

/// A segment takes no more lines once it has so many bytes; what was shipped goes segment by segment.
pub(super) const SEGMENT_BYTES: u64 =
    if cfg!(any(feature = "fault-points", fuzzing)) { 16 << 10 } else { 4 << 20 };

/// A segment that was shipped goes once it has so many bytes, also where it is the last one.
const FREED_BYTES: u64 = 64 << 10;

/// Bytes that are kept free for the record, so that the end of a run can be written on a full disk.
const RESERVED: usize = 32 * 1024;

/// The files of one run. Whoever has it open holds the run's lock, so that one process writes and ships it.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    _lock: File,
    /// The last segment, which takes lines, and its length.
    writing: Option<(File, u64)>,
    /// The number of the last segment.
    last: u64,
    record: Option<RunRecord>,
    pub(super) cursor: Cursor,
    /// A process that is gone left it, and nobody has written to it since.
    pub(super) adopted: bool,
    turn: Arc<File>,
    /// When the first line came that was not read to be shipped.
    since: Option<Instant>,
    /// When to log damage: it is read again as long as the sink fails.
    damage: Seldom,
}

impl Log {
    /// Opens the folder of a run; `None` where another process has it, or it is not there and is not to be made.
    pub(super) fn open(folder: PathBuf, missing: Missing) -> Result<Option<Self>> {
        let doing = "open a run in the spool";
        let Some(lock) = locked(&folder, missing)? else { return Ok(None) };
        let turn = Arc::new(files::open_for_writing(&folder.join(folder::TURN)).map_err(io_error(doing))?);
        // What cannot be read is shipped from the start.
        let cursor = Cursor::read(&folder).map_err(io_error(doing))?.unwrap_or_default();
        let last = segments(&folder).map_err(io_error(doing))?.pop().unwrap_or(cursor.segment);
        let record = match folder::record(&folder) {
            // Its owner writes it anew.
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            record => record?,
        };
        let (adopted, since, damage) = (false, None, Seldom::default());
        let mut log =
            Self { folder, _lock: lock, writing: None, last, record, cursor, adopted, turn, since, damage };
        log.cut_torn_end().map_err(io_error(doing))?;
        log.cursor.segment = log.cursor.segment.min(log.last);
        Ok(Some(log))
    }

    /// What a crash left half written was never acknowledged.
    fn cut_torn_end(&self) -> io::Result<()> {
        let path = self.segment(self.last);
        let Some(bytes) = files::read(&path)? else { return Ok(()) };
        let bytes = Bytes::from(bytes);
        let mut end = 0;
        while let Frame::Batch(_, length) = decode(&bytes.slice(end..)) {
            end += length;
        }
        if end < bytes.len() {
            tracing::warn!(path = %path.display(), bytes = bytes.len() - end, "the torn end of a segment is cut");
            files::open_for_writing(&path)?.set_len(end as u64)?;
        }
        Ok(())
    }

    fn segment(&self, number: u64) -> PathBuf {
        segment_in(&self.folder, number)
    }

    /// The record, `None` where there is none yet.
    pub(super) const fn record(&self) -> Option<&RunRecord> {
        self.record.as_ref()
    }

    /// Takes the record where it moves forward. `Sync::Yes` puts all lines and it on the disk before it returns.
    pub(super) fn put(&mut self, record: &RunRecord, sync: Sync) -> Result<()> {
        let next = match &self.record {
            Some(stored) => stored.followed_by(record),
            None => Some(record.clone()),
        };
        let Some(next) = next else { return Ok(()) };
        let doing = "write a record into the spool";
        if sync == Sync::Yes {
            #[cfg(feature = "fault-points")]
            pubsub_core::fault::point("spool.sync");
            self.sync().map_err(io_error(doing))?;
        }
        let (path, reserve) = (self.folder.join("record.json"), self.folder.join("reserve"));
        let json = next.to_json()?;
        let mut written = files::replace(&path, &json, sync);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            // What was kept free for this.
            match fs::remove_file(&reserve) {
                Ok(()) => written = files::replace(&path, &json, sync),
                Err(error) => tracing::debug!(%error, "nothing was kept free for a record"),
            }
        } else if self.record.is_none() && files::replace(&reserve, &vec![1; RESERVED], Sync::No).is_err() {
            tracing::warn!(run = %record.key.run_id, "no room can be kept free for the end of a run");
        }
        written.map_err(io_error(doing))?;
        self.record = Some(next);
        Ok(())
    }

    /// Appends lines; answers how many bytes they took.
    pub(super) fn append(&mut self, batches: &[LineBatch], sync: Sync) -> Result<u64> {
        let doing = "append lines to the spool";
        let mut bytes = Vec::with_capacity(batches.iter().map(|b| b.bytes().len() + HEAD_BYTES).sum());
        batches.iter().for_each(|batch| encode(batch, &mut bytes));
        let (file, length) = self.writable().map_err(io_error(doing))?;
        #[cfg(feature = "fault-points")]
        files::torn("spool.append", &file, &bytes, length);
        let written = file.write_all_at(&bytes, length);
        let synced = written.and_then(|()| if sync == Sync::Yes { file.sync_data() } else { Ok(()) });
        if let Err(error) = synced {
            // Half of it may be there; the next append writes over it.
            let cut = file.set_len(length);
            self.writing = cut.is_ok().then_some((file, length));
            return Err(io_error(doing)(error));
        }
        let bytes = bytes.len() as u64;
        self.writing = Some((file, length + bytes));
        self.since.get_or_insert_with(Instant::now);
        Ok(bytes)
    }

    /// Puts all that was not shipped on the disk, and the names that lead to it.
    fn sync(&self) -> io::Result<()> {
        for number in segments(&self.folder)? {
            files::open_for_reading(&self.segment(number))?.sync_data()?;
        }
        files::sync_folder(&self.folder)?;
        self.folder.parent().map_or(Ok(()), files::sync_folder)
    }

    /// The last segment, or a new one where that is full.
    fn writable(&mut self) -> io::Result<(File, u64)> {
        let open = match self.writing.take() {
            Some(open) => open,
            None => self.open_last()?,
        };
        if open.1 < SEGMENT_BYTES {
            return Ok(open);
        }
        self.last += 1;
        self.open_last()
    }

    fn open_last(&self) -> io::Result<(File, u64)> {
        let file = files::open_for_writing(&self.segment(self.last))?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Until when lines are gathered; `None` where these are enough for one call, or have waited so long.
    pub(super) fn gathers(&self, delay: Duration, enough: usize) -> Option<Instant> {
        let until = self.since?.checked_add(delay)?;
        let length = self.writing.as_ref().map_or(0, |(_, length)| *length);
        let waiting = length.saturating_sub(self.cursor.offset);
        let is_enough = self.cursor.segment < self.last || waiting >= enough as u64;
        (!is_enough && Instant::now() < until).then_some(until)
    }

    /// Reads as [`read`](Self::read) does, to ship it: what comes behind it waits from now on.
    pub(super) fn take(&mut self, most: usize) -> Result<Chunk> {
        let chunk = self.read(most)?;
        let all = chunk.segment == self.last && chunk.offset >= self.length(chunk.segment);
        self.since = (!all).then(Instant::now);
        Ok(chunk)
    }

    /// Reads about so many bytes after the cursor; nothing where all was read.
    pub(super) fn read(&self, most: usize) -> Result<Chunk> {
        let doing = "read lines in the spool";
        let mut chunk =
            Chunk { segment: self.cursor.segment, offset: self.cursor.offset, ..Chunk::default() };
        loop {
            let read = match files::open_for_reading(&self.segment(chunk.segment)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
                file => files::read_at(&file.map_err(io_error(doing))?, chunk.offset, most)
                    .map_err(io_error(doing))?,
            };
            let mut at = 0;
            loop {
                match decode(&read.slice(at..)) {
                    Frame::Batch(batch, length) => {
                        chunk.batches.push(batch);
                        at += length;
                    }
                    Frame::Short => break,
                    // What was read before it is shipped first.
                    Frame::Damaged if at > 0 => break,
                    Frame::Damaged => {
                        // Its segment cannot be read on; the next one begins anew.
                        chunk.damaged = true;
                        at = usize::try_from(self.length(chunk.segment)).unwrap_or(usize::MAX);
                        if self.damage.happened(1).is_some() {
                            tracing::warn!(run = ?self.folder, segment = chunk.segment, "a segment of the spool is damaged");
                        }
                        break;
                    }
                }
            }
            let passed = chunk.damaged && chunk.batches.is_empty();
            chunk.offset = if passed { at as u64 } else { chunk.offset + at as u64 };
            if at > 0 && !passed {
                break;
            }
            if chunk.segment == self.last {
                break;
            }
            (chunk.segment, chunk.offset) = (chunk.segment + 1, 0);
        }
        Ok(chunk)
    }

    /// Whether everything was read. Behind the cursor there may be a segment that a full disk, or a crash, left empty.
    pub(super) fn is_read(&self) -> bool {
        let Cursor { segment, offset, .. } = self.cursor;
        offset >= self.length(segment) && (segment + 1..=self.last).all(|next| self.length(next) == 0)
    }

    fn length(&self, segment: u64) -> u64 {
        fs::metadata(self.segment(segment)).map_or(0, |meta| meta.len())
    }

    /// Whether it ever had lines here.
    pub(super) fn has_lines(&self) -> bool {
        self.cursor.last.is_some() || self.segment(self.last).exists()
    }

    /// Moves the cursor; answers how many bytes were freed.
    pub(super) fn move_to(&mut self, segment: u64, offset: u64) -> Result<u64> {
        let before = std::mem::replace(&mut self.cursor.segment, segment);
        self.cursor.offset = offset;
        let mut segment = segment;
        if offset >= FREED_BYTES && self.is_read() {
            // All was shipped: what takes room goes, and what comes begins anew.
            self.writing = None;
            self.last += 1;
            segment = self.last;
            (self.cursor.segment, self.cursor.offset) = (segment, 0);
        }
        self.save()?;
        let mut freed = 0;
        for done in before..segment {
            #[cfg(feature = "fault-points")]
            pubsub_core::fault::point("spool.segment");
            let path = self.segment(done);
            let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove what was shipped")(error));
                }
                _ => freed += bytes,
            }
        }
        Ok(freed)
    }

    /// Keeps the cursor.
    pub(super) fn save(&self) -> Result<()> {
        let json = serde_json::to_vec(&self.cursor)
            .map_err(|e| Error::new(ErrorKind::Internal, "write a cursor").with_source(e))?;
        let written = files::replace(&self.folder.join(CURSOR), &json, Sync::No);
        match written {
            // An older cursor only ships some lines again.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::debug!(%error, "the cursor of a spool was not written");
                Ok(())
            }
            written => written.map_err(io_error("write a cursor")),
        }
    }

    /// How many bytes its segments take.
    pub(super) fn bytes(&self) -> u64 {
        bytes_in(&self.folder)
    }

    /// Removes the lines of a run that is marked as removed; answers how many bytes were freed.
    pub(super) fn drop_lines(&mut self) -> Result<u64> {
        let doing = "remove lines from the spool";
        let bytes = self.bytes();
        self.writing = None;
        for number in segments(&self.folder).map_err(io_error(doing))? {
            fs::remove_file(self.segment(number)).map_err(io_error(doing))?;
        }
        Ok(bytes)
    }

    /// Removes the run from the spool, out of sight at once; answers how many bytes were freed.
    pub(super) fn remove(self) -> Result<u64> {
        let bytes = self.bytes();
        folder::remove(&self.folder).map(|()| bytes)
    }

    /// `None` where another has it: the run is being removed.
    pub(super) fn turn(&self) -> Result<Option<Turn>> {
        Turn::new(Arc::clone(&self.turn))
    }

    pub(super) fn is_removed(&self) -> bool {
        folder::is_removed(&self.folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }
}

/// Where a segment of a run lies.
pub(super) fn segment_in(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.segment"))
}

/// How many bytes the segments of a run take.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let numbers = segments(folder).unwrap_or_default();
    let lengths = numbers.iter().filter_map(|number| fs::metadata(segment_in(folder, *number)).ok());
    lengths.map(|meta| meta.len()).sum()
}

/// The numbers of the segments in a folder, in order.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".segment")).and_then(|n| n.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The hole that damage left after the last line that was read, up to `before`.
pub(super) fn hole(last: Option<LineNumber>, before: LineNumber) -> Option<Gap> {
    let first = last.map_or(LineNumber::FIRST, |last| last.plus(1));
    let last = LineNumber::new(before.before()).filter(|last| *last >= first)?;
    Some(Gap { range: LineRange::new(first, last), bytes: None, reason: "damaged in the spool".to_owned() })
}

/// What a spool lacks behind the last line that it had, of a run whose record says more.
pub(super) fn missing_end(record: &RunRecord, last: Option<LineNumber>) -> Option<Gap> {
    let end = record.last_number().filter(|end| Some(*end) > last)?;
    let is_known = |gap: &Gap| gap.range.contains(end);
    if record.holes.iter().chain(&record.gaps).any(is_known) { None } else { hole(last, end.plus(1)) }
}
