//! A limit on a run's output: its beginning and its end are kept, and what lies between is counted.
//!
//! What is over the head goes in blocks into a ring on the disk, in which new ones take the place of old ones; what is
//! left in it at the end is the tail.

mod block;
mod file;
mod left;
mod ring;
mod tail;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

pub use left::{bring_tails, remove_tail};
pub(crate) use ring::Ring;
pub(crate) use tail::Tail;

use crate::{LineBatch, LineNumber, LineRange};
use block::Block;

/// How long lines that are held back may be in memory alone: as long as a sink gathers, unless told otherwise.
const KEPT_WITHIN: Duration = Duration::from_millis(100);

/// How much of a run's output is kept: its first lines and its last ones, each of so many bytes, ends included.
///
/// Lines are kept whole. The head goes to the stores at once. What comes after it is held back in a file until the run
/// ends: then the lines that are the tail follow, and what lies between is one gap in the record, with its numbers, lines
/// and bytes. The last line is always kept, however long. Dropped lines keep their numbers, and the seal is over the
/// lines that are kept.
///
/// On the disk the tail takes its bytes and about 2 MiB; where many short lines are printed one by one, up to twice its
/// bytes, and then it may have fewer lines. A disk that is full makes it shorter. In a folder that is named
/// ([`with_dir`](Self::with_dir)), what a killed process held back is left there, but for what it printed in its last
/// moment, and [`bring_tails`] brings it to the stores; without one it ends with the process, and of such a run there is
/// the head, and a note that says from which line on it was held back.
///
/// ```
/// use pubsub_core::{Cap, Execution};
/// let execution = Execution::new().with_max_output(Cap::new(1 << 30).with_dir("/var/tmp"));
/// assert_eq!(execution.max_output.unwrap().head, 512 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cap {
    /// Most bytes of the first lines.
    pub head: u64,
    /// Most bytes of the last lines.
    pub tail: u64,
    /// Where the tail is held back; in the system's temporary folder, without a name, where there is none.
    pub dir: Option<PathBuf>,
}

impl Cap {
    /// So many bytes in all: half for the head, half for the tail.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { head: bytes / 2, tail: bytes - bytes / 2, dir: None }
    }

    /// With a folder for what is held back; it is made where it is not there. One in memory, as some systems' temporary
    /// folder is, costs memory.
    #[must_use]
    pub fn with_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Both together, for people: `1 GiB`.
    pub(crate) fn limit(&self) -> String {
        size(self.head.saturating_add(self.tail))
    }
}

/// What of a run's output is over its head: the lines that are not on the disk yet.
#[derive(Debug)]
pub(crate) struct Over {
    /// Bytes that the head still takes.
    head_left: u64,
    /// The first line that the head did not take.
    first: Option<LineNumber>,
    /// The bytes of all lines after the head.
    bytes: u64,
    /// What is said when that begins.
    note: String,
    filling: Block,
    /// Since when it has lines that are not on the disk.
    since: Option<Instant>,
    /// Blocks that wait for the disk: no more than one write brought, for nothing more is taken while one waits.
    full: VecDeque<Block>,
}

impl Over {
    pub(crate) fn new(cap: &Cap) -> Self {
        let note = format!(
            "the output nears its limit of {}: its last {} are held back until the run ends, and what is before them is dropped",
            cap.limit(),
            size(cap.tail)
        );
        let (filling, full) = (Block::default(), VecDeque::new());
        Self { head_left: cap.head, first: None, bytes: 0, note, filling, since: None, full }
    }

    /// Leaves in `batches` what belongs to the head, and holds back the rest. Where that begins, it answers what is to be
    /// said.
    pub(crate) fn hold_back(&mut self, batches: &mut Vec<LineBatch>) -> Option<String> {
        let began = self.first.is_none();
        batches.retain_mut(|batch| {
            let (head, rest) = match self.first {
                Some(_) => (None, Some(batch.clone())),
                None => split(batch, self.head_left),
            };
            if let Some(rest) = rest {
                self.first.get_or_insert(rest.first());
                self.hold(&rest);
            }
            let Some(head) = head else { return false };
            self.head_left = self.head_left.saturating_sub(head.bytes().len() as u64);
            *batch = head;
            true
        });
        (began && self.first.is_some()).then(|| std::mem::take(&mut self.note))
    }

    /// The last line of the head, once that is full.
    pub(crate) fn head_end(&self) -> Option<LineNumber> {
        self.first.and_then(|first| LineNumber::new(first.before()))
    }

    fn hold(&mut self, batch: &LineBatch) {
        if !self.filling.has_room(batch) {
            self.full.push_back(std::mem::take(&mut self.filling));
            self.since = None;
        }
        if self.filling.held.is_none() {
            self.filling.before = self.bytes;
        }
        self.filling.add(batch);
        self.bytes = self.bytes.saturating_add(batch.bytes().len() as u64);
        self.since.get_or_insert_with(Instant::now);
    }

    /// When what is in no full block is to be on the disk.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + KEPT_WITHIN)
    }

    /// What is in no full block yet, for the disk.
    pub(crate) fn begun(&mut self) -> Option<Block> {
        self.since.take().map(|_| self.filling.clone())
    }

    /// Whether a block waits for the disk.
    pub(crate) fn is_behind(&self) -> bool {
        !self.full.is_empty()
    }

    /// The oldest block that waits for the disk.
    pub(crate) fn next(&mut self) -> Option<Block> {
        self.full.pop_front()
    }
}

/// The lines at the front of a batch that are within so many bytes, and the others.
fn split(batch: &LineBatch, bytes: u64) -> (Option<LineBatch>, Option<LineBatch>) {
    let fitting = batch.ends().partition_point(|end| u64::from(*end) <= bytes);
    let rest = batch.first().plus(fitting as u64);
    let before = LineNumber::new(rest.before()).filter(|_| fitting > 0);
    let head = before.and_then(|last| batch.slice(LineRange::new(batch.first(), last)));
    (head, batch.slice(LineRange::new(rest, LineNumber::MAX)))
}

/// Does what blocks off the async threads; `None` where the runtime ends.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    if let Err(error) = &joined {
        tracing::error!(%error, "lines that are held back were not moved");
    }
    joined.ok()
}

/// A number of bytes in the largest unit that tells it exactly.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 8] = [
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1_000, "kB"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
