//! What a Redis broker can be told.

use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::RedisConfig;

/// The largest event that is taken, unless told otherwise: 16 MiB of CloudEvents JSON.
pub(super) const DEFAULT_MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Longest time between two looks for what is old.
const MAX_UPKEEP: Duration = Duration::from_secs(60);

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where a Redis broker lives and how it behaves.
///
/// ```
/// use pubsub_redis::{RedisBrokerConfig, RedisConfig};
/// let config = RedisBrokerConfig::new(RedisConfig::new("redis://127.0.0.1:6379")).with_partitions(4);
/// assert_eq!(config.redis().prefix(), "pipeline");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisBrokerConfig {
    redis: RedisConfig,
    #[serde(default = "default_partitions")]
    partitions: u16,
    #[serde(default = "default_max_event_bytes")]
    max_event_bytes: usize,
    #[serde(default = "week")]
    retention: Duration,
    #[serde(default = "week")]
    group_retention: Duration,
    #[serde(default)]
    max_bytes: Option<u64>,
    #[serde(default = "default_max_dead_letters")]
    max_dead_letters: u64,
}

const fn default_partitions() -> u16 {
    16
}

const fn default_max_event_bytes() -> usize {
    DEFAULT_MAX_EVENT_BYTES
}

const fn week() -> Duration {
    WEEK
}

const fn default_max_dead_letters() -> u64 {
    100_000
}

impl RedisBrokerConfig {
    /// A broker at this deployment.
    #[must_use]
    pub const fn new(redis: RedisConfig) -> Self {
        Self {
            redis,
            partitions: default_partitions(),
            max_event_bytes: default_max_event_bytes(),
            retention: week(),
            group_retention: week(),
            max_bytes: None,
            max_dead_letters: default_max_dead_letters(),
        }
    }

    /// With another number of partitions, 1 to 1024; it counts when the broker is first used, and is kept at the server
    /// from then on. 16 by default. A partition is in one slot of a cluster, so its nodes share the work by whole ones; and a
    /// subscriber has a connection for each that it reads there.
    #[must_use]
    pub const fn with_partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// With another largest event, in bytes of its CloudEvents JSON.
    #[must_use]
    pub const fn with_max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// With another time that what every group has settled is kept, and dead letters; a week by default.
    #[must_use]
    pub const fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// With another time that a group without members is kept; a week by default.
    #[must_use]
    pub const fn with_group_retention(mut self, retention: Duration) -> Self {
        self.group_retention = retention;
        self
    }

    /// With a limit on the bytes that events take at the server, each partition its share; none by default.
    #[must_use]
    pub const fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// With another number of dead letters that are kept; 100,000 by default.
    #[must_use]
    pub const fn with_max_dead_letters(mut self, many: u64) -> Self {
        self.max_dead_letters = many;
        self
    }

    /// How the deployment is reached.
    #[must_use]
    pub const fn redis(&self) -> &RedisConfig {
        &self.redis
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |setting: &str, takes: &str| {
            Err(Error::invalid(format!("{setting} takes {takes}")).with("setting", setting))
        };
        if !(1..=1024).contains(&self.partitions) {
            return wrong("partitions", "1 to 1024");
        }
        // Redis keeps one value within 512 MiB by default ("proto-max-bulk-len").
        if !(1024..=256 * 1024 * 1024).contains(&self.max_event_bytes) {
            return wrong("max_event_bytes", "1 KiB to 256 MiB");
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

    pub(super) const fn partitions(&self) -> u16 {
        self.partitions
    }

    pub(super) const fn max_event_bytes(&self) -> usize {
        self.max_event_bytes
    }

    pub(super) const fn retention(&self) -> Duration {
        self.retention
    }

    pub(super) const fn group_retention(&self) -> Duration {
        self.group_retention
    }

    pub(super) const fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    pub(super) const fn max_dead_letters(&self) -> u64 {
        self.max_dead_letters
    }

    /// How often old things are looked for.
    pub(super) fn upkeep(&self) -> Duration {
        MAX_UPKEEP.min(self.retention / 2).min(self.group_retention / 2)
    }
}
