//! Where a spool lies, how much it takes, and how long.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Backoff, DEFAULT_CALL_LIMIT, Durability, Refusals, RefusedLines, WhenFull};

/// How many bytes a spool takes, unless told otherwise: 1 GiB.
pub const DEFAULT_SPOOL_BYTES: u64 = 1 << 30;

/// How long what nobody can ship stays, unless told otherwise: a week.
pub const DEFAULT_KEEP_DAMAGED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a spool lies, how much it takes, and what happens when it is full.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpoolConfig {
    /// The folder of this sink's spool: each sink has one of its own, which its processes share.
    pub dir: PathBuf,
    /// Most bytes on the disk, of all processes. What was shipped is freed once it is 64 KiB.
    pub max_bytes: u64,
    /// [`WhenFull::Drop`] lets the command go on: while the sink is in reach, an append waits for what shipping frees, at
    /// most a second for each part; lines without room are holes then, which the run's record names.
    /// [`WhenFull::Block`] makes it wait until something was shipped: an append waits a third of `call_limit` at most,
    /// and is [`Full`](pubsub_core::ErrorKind::Full) then, to be tried again. So it is also where the disk itself is full.
    pub when_full: WhenFull,
    /// [`Durability::PowerLoss`] puts every append on the disk before it returns. The end of a run always is.
    pub durability: Durability,
    /// How long lines are gathered for the sink, unless there are enough of them for one call, the run ends, or somebody
    /// waits: what a store needs that is billed by its calls.
    pub delay: Duration,
    /// How long to wait while the sink fails.
    pub backoff: Backoff,
    /// How long one call to the sink may take.
    pub call_limit: Duration,
    /// Keeps the lines that the sink refuses for good; without one they are a hole alone.
    pub refusals: Option<Refusals>,
    /// How long the folder of a run stays that nobody can ship, for people to look at: one whose record is damaged or
    /// gone, or that a dead process left with lines which the sink refused.
    pub keep_damaged: Duration,
}

impl SpoolConfig {
    /// A spool in this folder, of [`DEFAULT_SPOOL_BYTES`], that drops when it is full.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: DEFAULT_SPOOL_BYTES,
            when_full: WhenFull::Drop,
            durability: Durability::ProcessCrash,
            delay: Duration::ZERO,
            backoff: Backoff::default(),
            call_limit: DEFAULT_CALL_LIMIT,
            refusals: None,
            keep_damaged: DEFAULT_KEEP_DAMAGED,
        }
    }

    /// With another bound on the disk.
    #[must_use]
    pub const fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// With another choice for a spool that is full.
    #[must_use]
    pub const fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// With another durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// With another time to gather lines.
    #[must_use]
    pub const fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With another back-off.
    #[must_use]
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// With another time for what nobody can ship.
    #[must_use]
    pub const fn with_keep_damaged(mut self, time: Duration) -> Self {
        self.keep_damaged = time;
        self
    }

    /// With a place for the lines that the sink, which is called so there, refuses for good.
    #[must_use]
    pub fn with_refused_lines(mut self, sink: impl Into<String>, lines: Arc<dyn RefusedLines>) -> Self {
        self.refusals = Some(Refusals::new(sink, lines));
        self
    }
}
