//! What a file broker can be told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pubsub_core::{Durability, Error, Result};
use serde::{Deserialize, Serialize};

use super::retention::Keep;

/// Longest time between two looks for what is old.
const MAX_UPKEEP: Duration = Duration::from_secs(60);

/// The largest event that is taken, unless told otherwise: 64 MiB of CloudEvents JSON.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// What an acknowledged publish survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileDurability {
    /// The crash of any process, at any instant. After a power loss the last moments may be missing; what is there is
    /// whole. The default: the commands that the events start die with the machine as well, and one sync per commit
    /// is what a disk takes longest for.
    #[default]
    ProcessCrash,
    /// A power loss as well: each commit is synced. Publishes that wait at the same time share one sync.
    PowerLoss,
}

impl From<FileDurability> for Durability {
    fn from(durability: FileDurability) -> Self {
        match durability {
            FileDurability::ProcessCrash => Self::ProcessCrash,
            FileDurability::PowerLoss => Self::PowerLoss,
        }
    }
}

/// Where a file broker lives and how it behaves.
///
/// ```
/// use pubsub_file::{FileBrokerConfig, FileDurability};
/// let config = FileBrokerConfig::new("work").with_durability(FileDurability::PowerLoss);
/// assert_eq!(config.dir(), std::path::Path::new("work"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileBrokerConfig {
    dir: PathBuf,
    #[serde(default)]
    durability: FileDurability,
    #[serde(default = "default_max_event_bytes")]
    max_event_bytes: usize,
    #[serde(default = "default_busy")]
    busy: Duration,
    #[serde(default = "default_scan")]
    scan: Duration,
    #[serde(default = "default_group_retention")]
    group_retention: Duration,
    #[serde(default = "default_retention")]
    retention: Duration,
    #[serde(default)]
    max_bytes: Option<u64>,
    #[serde(default = "default_max_dead_letters")]
    max_dead_letters: u64,
}

const fn default_max_event_bytes() -> usize {
    DEFAULT_MAX_EVENT_BYTES
}

const fn default_busy() -> Duration {
    Duration::from_secs(10)
}

const fn default_scan() -> Duration {
    Duration::from_millis(500)
}

const fn default_group_retention() -> Duration {
    Duration::from_secs(7 * 24 * 60 * 60)
}

const fn default_retention() -> Duration {
    Duration::from_secs(7 * 24 * 60 * 60)
}

const fn default_max_dead_letters() -> u64 {
    100_000
}

impl FileBrokerConfig {
    /// A broker in the folder `broker` of this folder; both are made where they are missing.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: FileDurability::default(),
            max_event_bytes: default_max_event_bytes(),
            busy: default_busy(),
            scan: default_scan(),
            group_retention: default_group_retention(),
            retention: default_retention(),
            max_bytes: None,
            max_dead_letters: default_max_dead_letters(),
        }
    }

    /// With another durability.
    #[must_use]
    pub const fn with_durability(mut self, durability: FileDurability) -> Self {
        self.durability = durability;
        self
    }

    /// With another largest event, in bytes of its CloudEvents JSON.
    #[must_use]
    pub const fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// With another time after which a database that other processes keep busy is unavailable; 10 s by default.
    #[must_use]
    pub const fn with_busy(mut self, limit: Duration) -> Self {
        self.busy = limit;
        self
    }

    /// With another time between looks for what no watch reported, as where the system's watches ran out; 500 ms by
    /// default.
    #[must_use]
    pub const fn with_scan(mut self, every: Duration) -> Self {
        self.scan = every;
        self
    }

    /// With another time after which a group without members is dropped; 7 days by default.
    #[must_use]
    pub const fn with_group_retention(mut self, time: Duration) -> Self {
        self.group_retention = time;
        self
    }

    /// With another time for which what every group has settled is kept with its claims, from its publish on or from
    /// when it was due, and for which dead letters are kept; 7 days by default. What a group has not settled is kept as
    /// long as the group. The time is kept to within a minute.
    #[must_use]
    pub const fn with_retention(mut self, time: Duration) -> Self {
        self.retention = time;
        self
    }

    /// With another largest number of dead letters, after which the oldest are removed; 100,000 by default.
    #[must_use]
    pub const fn with_max_dead_letters(mut self, many: u64) -> Self {
        self.max_dead_letters = many;
        self
    }

    /// With a largest size of what is kept in bytes; only the disk limits it by default. A publish that would go beyond
    /// it removes what every group has settled, oldest first, and where that is not enough answers
    /// [`Full`](pubsub_core::ErrorKind::Full) and names the group with the most that it has not settled. Claims,
    /// settlements and dead letters count, and are written all the same.
    ///
    /// The file itself never shrinks: what was removed is room for what comes.
    #[must_use]
    pub const fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |setting: &str, takes: &str| {
            Err(Error::invalid(format!("{setting} takes {takes}")).with("setting", setting))
        };
        if self.dir.as_os_str().is_empty() {
            return wrong("dir", "a folder");
        }
        // SQLite keeps one value within 1,000,000,000 bytes.
        if !(1024..=512 * 1024 * 1024).contains(&self.max_event_bytes) {
            return wrong("max_event_bytes", "1 KiB to 512 MiB");
        }
        if self.scan < Duration::from_millis(10) || self.scan > Duration::from_secs(60) {
            return wrong("scan", "10 ms to 60 s");
        }
        if self.max_bytes.is_some_and(|bytes| bytes < 256 * 1024) {
            return wrong("max_bytes", "at least 256 KiB");
        }
        for (setting, time) in [("retention", self.retention), ("group_retention", self.group_retention)] {
            if time < Duration::from_millis(10) {
                return wrong(setting, "at least 10 ms");
            }
        }
        Ok(())
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.join("broker")
    }

    pub(super) const fn durability(&self) -> FileDurability {
        self.durability
    }

    pub(super) const fn max_event_bytes(&self) -> usize {
        self.max_event_bytes
    }

    pub(super) const fn busy(&self) -> Duration {
        self.busy
    }

    pub(super) const fn scan(&self) -> Duration {
        self.scan
    }

    pub(super) const fn keep(&self) -> Keep {
        Keep {
            age: self.retention,
            group_age: self.group_retention,
            bytes: self.max_bytes,
            dead_letters: self.max_dead_letters,
        }
    }

    /// How often old things are looked for.
    pub(super) fn upkeep(&self) -> Duration {
        MAX_UPKEEP.min(self.retention / 2).min(self.group_retention / 2)
    }
}
