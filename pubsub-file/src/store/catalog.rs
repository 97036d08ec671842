//! Which runs there are and when they began, so that a question about few does not open the records of all.
//!
//! Never the truth: it says where to look, and the records decide. A run is entered before its record is written, so
//! what a killed process leaves is an entry without a run, never a run without an entry. What is missing, cut or
//! changed is made again from the records.
//!
//! The file is a header and one entry for each run, all of one size. Who writes holds the store's lock; a new catalog
//! takes the name as a whole. The folder of a run is made before its entry, so whoever makes the catalog again finds
//! also those that are only about to begin.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use pubsub_core::{EventId, Result, RunId, RunRecord, Timestamp};

use super::layout::{Layout, RunFolder, is_of_one_record};
use crate::error::io_error;
use crate::files::{open_for_reading, open_for_writing};

/// Bytes of the header and of an entry. Header: `MAGIC`, number of entries 8, unused, CRC-32 4. Entry: time begun 8,
/// run 16 and 4, action 4, stage 4, event 4, unused 4, CRC-32 4; all little-endian.
const ENTRY_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"pubsubc1";

/// An event that could not be read: it may be any.
const ANY_EVENT: u32 = 0;

/// What the catalog says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Begun {
    pub(super) at: Timestamp,
    /// The run's id: its digits and its attempt.
    digits: u128,
    attempt: u32,
    action: u32,
    stage: u32,
    event: u32,
}

/// A short sum of a name: what differs in it differs, what agrees may still differ.
pub(super) fn sum(name: &str) -> u32 {
    crc32fast::hash(name.as_bytes())
}

impl Begun {
    /// `None` for a folder that no run of ours has.
    fn new(folder: &RunFolder, at: Timestamp, event: Option<&EventId>) -> Option<Self> {
        let [action, stage, run] = folder.names()?;
        let (digits, attempt) = run.split_once('-')?;
        let event = event.map_or(ANY_EVENT, |event| sum(event.as_str()));
        Some(Self {
            at,
            digits: u128::from_str_radix(digits, 16).ok()?,
            attempt: attempt.parse().ok()?,
            action: sum(action),
            stage: sum(stage),
            event,
        })
    }

    /// A run whose record could not be read: it may be the newest.
    fn unread(folder: &RunFolder) -> Option<Self> {
        Self::new(folder, Timestamp::from_micros(i64::MAX), None)
    }

    pub(super) fn run(&self) -> Option<RunId> {
        RunId::new(format!("{:032x}-{}", self.digits, self.attempt)).ok()
    }

    /// Whether it is known when it began.
    pub(super) fn is_read(&self) -> bool {
        self.event != ANY_EVENT
    }

    pub(super) fn began_in(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
        let fits = since.is_none_or(|since| self.at >= since) && until.is_none_or(|until| self.at < until);
        fits || self.event == ANY_EVENT
    }

    pub(super) fn may_be_of(&self, action: Option<u32>, stage: Option<u32>, event: Option<u32>) -> bool {
        action.is_none_or(|sum| sum == self.action)
            && stage.is_none_or(|sum| sum == self.stage)
            && event.is_none_or(|sum| sum == self.event || self.event == ANY_EVENT)
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut body = Vec::with_capacity(ENTRY_BYTES);
        body.extend_from_slice(&self.at.as_micros().to_le_bytes());
        body.extend_from_slice(&self.digits.to_le_bytes());
        for short in [self.attempt, self.action, self.stage, self.event, 0] {
            body.extend_from_slice(&short.to_le_bytes());
        }
        checked(&body)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let body = check(bytes)?;
        let short = |at: usize| Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            at: Timestamp::from_micros(i64::from_le_bytes(body.get(..8)?.try_into().ok()?)),
            digits: u128::from_le_bytes(body.get(8..24)?.try_into().ok()?),
            attempt: short(24)?,
            action: short(28)?,
            stage: short(32)?,
            event: short(36)?,
        })
    }
}

/// A body, zeros and their check.
fn checked(body: &[u8]) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    if let Some((start, check)) = bytes.split_last_chunk_mut::<4>() {
        start.iter_mut().zip(body).for_each(|(to, from)| *to = *from);
        *check = crc32fast::hash(start).to_le_bytes();
    }
    bytes
}

/// The body, where it is as it was written.
fn check(bytes: &[u8]) -> Option<&[u8]> {
    let (body, check) = bytes.split_last_chunk::<4>()?;
    (body.len() == ENTRY_BYTES - 4 && crc32fast::hash(body).to_le_bytes() == *check).then_some(body)
}

fn header(entries: u64) -> [u8; ENTRY_BYTES] {
    checked(&[*MAGIC, entries.to_le_bytes()].concat())
}

/// How many entries the header says there are.
fn count(bytes: &[u8]) -> Option<u64> {
    let (magic, rest) = check(bytes)?.split_first_chunk::<8>()?;
    (magic == MAGIC).then_some(())?;
    rest.first_chunk().map(|count| u64::from_le_bytes(*count))
}

/// How much of the catalog is read at once: memory that is used again costs less than memory for all of it.
const PIECE_BYTES: usize = 4096 * ENTRY_BYTES;

/// The entries that are wanted; `None` where one cannot be read or some are missing. What stands behind the last whole
/// entry was never finished.
fn parse(mut file: impl Read, wanted: impl Fn(&Begun) -> bool) -> io::Result<Option<Vec<Begun>>> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.by_ref().take(ENTRY_BYTES as u64).read_to_end(&mut piece)?;
    let Some(count) = count(&piece) else { return Ok(None) };
    let (mut found, mut seen) = (Vec::new(), 0);
    loop {
        piece.clear();
        file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        let entries = piece.chunks_exact(ENTRY_BYTES);
        seen += entries.len() as u64;
        for entry in entries {
            let Some(entry) = Begun::decode(entry) else { return Ok(None) };
            if wanted(&entry) {
                found.push(entry);
            }
        }
        if piece.len() < PIECE_BYTES {
            return Ok((seen >= count).then_some(found));
        }
    }
}

/// As [`parse`] says of the catalog as it is now; `None` also where there is none.
fn look(layout: &Layout, wanted: impl Fn(&Begun) -> bool) -> io::Result<Option<Vec<Begun>>> {
    match open_for_reading(&layout.catalog_file()) {
        Ok(file) => parse(file, wanted),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Enters a run whose record is about to be written.
pub(super) fn enter(layout: &Layout, folder: &RunFolder, record: &RunRecord) -> Result<()> {
    let doing = "enter a run into the catalog";
    let Some(entry) = Begun::new(folder, record.started_at, Some(&record.key.event_id)) else {
        return Ok(());
    };
    let _held = lock(layout).map_err(io_error(doing))?;
    let file = open_for_writing(&layout.catalog_file()).map_err(io_error(doing))?;
    let Some(entries) = whole(&file).map_err(io_error(doing))? else {
        let mut entries = from_records(layout)?;
        entries.push(entry);
        return write(layout, &entries);
    };
    // The entry, then its number: a reader that finds fewer than the header says knows that some were lost.
    let (entry, at) = (entry.encode(), (entries + 1) * ENTRY_BYTES as u64);
    #[cfg(feature = "fault-points")]
    crate::files::torn("store.catalog.torn", &file, &entry, at);
    file.write_all_at(&entry, at).map_err(io_error(doing))?;
    #[cfg(feature = "fault-points")]
    pubsub_core::fault::point("store.catalog.entered");
    file.write_all_at(&header(entries + 1), 0).map_err(io_error(doing))?;
    if layout.syncs() { file.sync_data().map_err(io_error(doing)) } else { Ok(()) }
}

/// The runs that are wanted, newest first, each once or more often.
pub(super) fn begun(layout: &Layout, wanted: impl Fn(&Begun) -> bool) -> Result<Vec<Begun>> {
    let doing = "read the catalog of runs";
    let look = || look(layout, &wanted).map_err(io_error(doing));
    let mut found = match look()? {
        Some(found) => found,
        None => match lock(layout) {
            // Another may have been writing it just now.
            Ok(_held) => match look()? {
                Some(found) => found,
                None => rebuild(layout)?.into_iter().filter(&wanted).collect(),
            },
            // Who may only read looks at the records each time.
            Err(error) => {
                tracing::debug!(%error, "the catalog of runs cannot be made");
                from_records(layout)?.into_iter().filter(&wanted).collect()
            }
        },
    };
    // Nearly sorted already, by the order in which they began.
    found.sort();
    found.reverse();
    Ok(found)
}

/// Leaves out the runs that were removed.
pub(super) fn compact(layout: &Layout) -> Result<()> {
    let doing = "tidy up the catalog of runs";
    let _held = lock(layout).map_err(io_error(doing))?;
    // The way from the id is made before the entry: one that has none was removed.
    let there = |entry: &Begun| entry.run().is_some_and(|run| layout.has_id(&run));
    match look(layout, there).map_err(io_error(doing))? {
        Some(mut entries) => {
            // The first of each is the one whose time is known.
            entries.sort_by_key(|entry| (entry.digits, entry.attempt, entry.at));
            entries.dedup_by_key(|entry| (entry.digits, entry.attempt));
            entries.sort();
            write(layout, &entries)
        }
        None => rebuild(layout).map(|_| ()),
    }
}

/// Held until it is dropped, or its holder dies. Not the catalog's own file: who deletes that one breaks no lock.
fn lock(layout: &Layout) -> io::Result<File> {
    let file = open_for_writing(&layout.lock_file())?;
    file.lock()?;
    Ok(file)
}

/// How many whole entries there are; `None` where some are missing.
fn whole(file: &File) -> io::Result<Option<u64>> {
    let mut start = [0; ENTRY_BYTES];
    let length = file.metadata()?.len();
    if length < ENTRY_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut start, 0)?;
    let entries = length / ENTRY_BYTES as u64 - 1;
    Ok(count(&start).filter(|count| entries >= *count).map(|_| entries))
}

/// Makes the catalog from the records; the caller holds the lock, so that no run is entered meanwhile.
fn rebuild(layout: &Layout) -> Result<Vec<Begun>> {
    let entries = from_records(layout)?;
    if let Err(error) = write(layout, &entries) {
        tracing::warn!(error = %error.chain(), "the catalog of runs could not be written");
    }
    Ok(entries)
}

fn write(layout: &Layout, entries: &[Begun]) -> Result<()> {
    let mut bytes = header(entries.len() as u64).to_vec();
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
    layout.replace_catalog(&bytes)
}

fn from_records(layout: &Layout) -> Result<Vec<Begun>> {
    let mut entries = Vec::new();
    for folder in layout.folders(None, None)? {
        entries.extend(match folder.record() {
            Ok(Some(record)) => Begun::new(&folder, record.started_at, Some(&record.key.event_id)),
            // It may be about to be written.
            Ok(None) => Begun::unread(&folder),
            // One that cannot be read today may be read by a later version.
            Err(error) if is_of_one_record(&error) => Begun::unread(&folder),
            Err(error) => return Err(error),
        });
    }
    entries.sort();
    Ok(entries)
}
