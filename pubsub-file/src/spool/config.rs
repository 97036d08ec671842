//! What a spool can be told.

use std::path::PathBuf;
use std::time::Duration;

use pubsub_core::{Backoff, DEFAULT_CALL_LIMIT, Durability, WhenFull};

/// How many bytes a spool takes, unless told otherwise: 1 GiB.
pub const DEFAULT_SPOOL_BYTES: u64 = 1 << 30;

/// Where a spool lies, how much it takes, and what happens when it is full.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpoolConfig {
    /// The folder of this sink's spool: each sink has one of its own, which its processes share.
    pub dir: PathBuf,
    /// Most bytes on the disk. What was shipped is freed in pieces of 4 MiB.
    pub max_bytes: u64,
    /// [`WhenFull::Drop`] lets the command go on: lines without room are holes that the run's record names.
    /// [`WhenFull::Block`] makes it wait until something was shipped.
    pub when_full: WhenFull,
    /// [`Durability::PowerLoss`] puts every append on the disk before it returns. The end of a run always is.
    pub durability: Durability,
    /// How long to wait while the sink fails.
    pub backoff: Backoff,
    /// How long one call to the sink may take.
    pub call_limit: Duration,
}

impl SpoolConfig {
    /// A spool in this folder, of [`DEFAULT_SPOOL_BYTES`], that drops when it is full.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: DEFAULT_SPOOL_BYTES,
            when_full: WhenFull::Drop,
            durability: Durability::ProcessCrash,
            backoff: Backoff::default(),
            call_limit: DEFAULT_CALL_LIMIT,
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

    /// With another back-off.
    #[must_use]
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}
