//! The file that held back lines lie in.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cap;
use super::block::{BLOCK_BYTES, Block};
use crate::{Error, ErrorKind, LineNumber, RunId, RunKey};

/// How the name of such a file ends: before it stands the run's id.
pub(super) const SUFFIX: &str = ".tail";

/// Where the file of a run lies.
pub(super) fn path_in(dir: &Path, run: &RunId) -> PathBuf {
    dir.join(format!("{run}{SUFFIX}"))
}

/// The version of the file that this code writes.
const VERSION: u32 = 1;

/// What the head of a file takes.
const HEAD_BYTES: u64 = 4096;

/// Before the frames of each block: the number of its first line 8, the bytes that were held back before it 8,
/// little-endian, and 8 bytes of a hash over both.
const PLACE_HEAD_BYTES: usize = 24;

/// From one place to the next.
const PLACE_BYTES: u64 = (PLACE_HEAD_BYTES + BLOCK_BYTES) as u64;

/// A file without its head is one that is being made, or whose maker died; it is that after so long.
const MAKING: Duration = Duration::from_secs(60);

/// What the file is of: what it begins with, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    version: u32,
    pub(super) run: RunKey,
    /// The first line that is held back.
    pub(super) first: LineNumber,
    /// The limits of the cap.
    pub(super) head: u64,
    pub(super) tail: u64,
}

impl Head {
    pub(crate) const fn new(run: RunKey, first: LineNumber, cap: &Cap) -> Self {
        Self { version: VERSION, run, first, head: cap.head, tail: cap.tail }
    }
}

/// A file that this process alone has: it is locked as long as it is open.
#[derive(Debug)]
pub(crate) struct HeldFile {
    file: File,
    /// `None` where it has no name, and is freed with the process however that ends.
    path: Option<PathBuf>,
}

impl HeldFile {
    /// A new one for a run, in the cap's folder.
    pub(super) fn create(cap: &Cap, head: &Head) -> io::Result<Self> {
        let Some(dir) = &cap.dir else { return Ok(Self { file: tempfile::tempfile()?, path: None }) };
        std::fs::create_dir_all(dir)?;
        let path = path_in(dir, &head.run.run_id);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
        // Who looks for what was left has it for a moment at most.
        file.lock()?;
        file.set_len(0)?;
        let mut json = serde_json::to_vec(head)?;
        json.resize(usize::try_from(HEAD_BYTES).unwrap_or(json.len()).max(json.len()), b' ');
        file.write_all_at(&json, 0)?;
        Ok(Self { file, path: Some(path) })
    }

    /// One that was left; `None` where a process has it still, or there is nothing in it.
    pub(super) fn open(path: &Path) -> crate::Result<Option<(Self, Head)>> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, "read lines that were held back")
                .with("path", path.display())
                .with_source(error)
        };
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let held = Self { file, path: Some(path.to_owned()) };
        let metadata = held.file.metadata().map_err(failed)?;
        if metadata.len() < HEAD_BYTES {
            if held.unchanged_for() > MAKING {
                held.remove();
            }
            return Ok(None);
        }
        let mut json = vec![0; usize::try_from(HEAD_BYTES).unwrap_or(0)];
        held.file.read_exact_at(&mut json, 0).map_err(failed)?;
        let version: Version =
            serde_json::from_slice(&json).map_err(|error| damaged(path).with_source(error))?;
        if version.version > VERSION {
            return Err(Error::new(ErrorKind::TooNew, "lines that were held back by a newer version")
                .with("path", path.display())
                .with("version", version.version)
                .with("newest known", VERSION));
        }
        let head = serde_json::from_slice(&json).map_err(|error| damaged(path).with_source(error))?;
        Ok(Some((held, head)))
    }

    /// Removes one that was left, whatever is in it; `false` where a process has it still, or there is none.
    pub(super) fn remove_left(path: &Path) -> io::Result<bool> {
        let none =
            |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) };
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) => return none(error),
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => std::fs::remove_file(path).map(|()| true).or_else(none),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Writes a block into its place; what of its frames was written there already is left out.
    pub(super) fn write(&self, place: u64, block: &Block, written: usize) -> io::Result<()> {
        let at = offset(place);
        if written == 0
            && let Some(held) = block.held
        {
            self.file.write_all_at(&place_head(held.first, block.before), at)?;
        }
        let frames = block.frames.get(written..).unwrap_or_default();
        self.file.write_all_at(frames, at + (PLACE_HEAD_BYTES + written) as u64)
    }

    pub(super) fn read(&self, place: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut frames = vec![0; length];
        self.file.read_exact_at(&mut frames, offset(place) + PLACE_HEAD_BYTES as u64)?;
        Ok(frames)
    }

    /// How many places it has.
    pub(super) fn places(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(HEAD_BYTES).div_ceil(PLACE_BYTES))
    }

    /// What is in a place, as far as it was written: the number of the first line, the bytes before it, and frames with
    /// whatever follows them. `None` where there is nothing.
    pub(super) fn look(&self, place: u64) -> io::Result<Option<(LineNumber, u64, Vec<u8>)>> {
        let left = self.file.metadata()?.len().saturating_sub(offset(place)).min(PLACE_BYTES);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset(place))?;
        if bytes.len() < PLACE_HEAD_BYTES {
            return Ok(None);
        }
        let frames = bytes.split_off(PLACE_HEAD_BYTES);
        let number = |range: std::ops::Range<usize>| {
            bytes.get(range).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let (first, before) = (LineNumber::new(number(0..8)), number(8..16));
        Ok(first.filter(|first| place_head(*first, before) == *bytes).map(|first| (first, before, frames)))
    }

    /// Gives the room of a place back to the disk, in which nothing is looked for from now on.
    pub(super) fn give_back(&self, place: u64) {
        if let Err(error) = punch(&self.file, offset(place)) {
            tracing::debug!(%error, "a file of lines that are held back keeps what it cannot use");
        }
    }

    /// How long nobody wrote to it.
    pub(super) fn unchanged_for(&self) -> Duration {
        let changed = self.file.metadata().and_then(|meta| meta.modified()).ok();
        changed.and_then(|changed| changed.elapsed().ok()).unwrap_or_default()
    }

    /// Takes its name away: nobody needs what is in it any more.
    pub(crate) fn remove(&self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a file of lines that were held back could not be removed");
        }
    }

    #[cfg(test)]
    pub(super) fn disk_bytes(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn damaged(path: &Path) -> Error {
    Error::new(ErrorKind::Corrupt, "lines that were held back: the head of their file")
        .with("path", path.display())
}

/// Leaves a hole where a place was.
#[cfg(target_os = "linux")]
fn punch(file: &File, at: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, at, PLACE_BYTES).map_err(io::Error::from)
}

/// Only what lies at the end is given back.
#[cfg(not(target_os = "linux"))]
fn punch(file: &File, at: u64) -> io::Result<()> {
    if file.metadata()?.len() <= at.saturating_add(PLACE_BYTES) { file.set_len(at) } else { Ok(()) }
}

const fn offset(place: u64) -> u64 {
    HEAD_BYTES + place.saturating_mul(PLACE_BYTES)
}

fn place_head(first: LineNumber, before: u64) -> [u8; PLACE_HEAD_BYTES] {
    let mut head = [0; PLACE_HEAD_BYTES];
    let fields = first.get().to_le_bytes().into_iter().chain(before.to_le_bytes());
    head.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    let (fields, check) = head.split_at_mut(16);
    check.iter_mut().zip(blake3::hash(fields).as_bytes()).for_each(|(to, from)| *to = *from);
    head
}
