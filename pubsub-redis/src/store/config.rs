//! How a store in Redis is set up.

use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::config::RedisConfig;

/// Smallest bound of a run, in bytes: several longest lines.
const MIN_RUN_BYTES: u64 = 1 << 20;

/// Shortest time that a finished run stays.
const MIN_KEEP: Duration = Duration::from_secs(1);

/// How a store in Redis is set up.
///
/// ```
/// use std::time::Duration;
/// use pubsub_redis::{RedisConfig, RedisStoreConfig};
/// let config = RedisStoreConfig::new(RedisConfig::new("redis://127.0.0.1"))
///     .with_max_run_bytes(64 << 20)
///     .with_keep_finished(Duration::from_secs(7 * 24 * 3600));
/// # let _ = config;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisStoreConfig {
    redis: RedisConfig,
    #[serde(default)]
    max_run_bytes: Option<u64>,
    #[serde(default)]
    keep_finished: Option<Duration>,
}

impl RedisStoreConfig {
    /// A store in this deployment. It keeps all lines, and runs until they are removed or expire.
    #[must_use]
    pub const fn new(redis: RedisConfig) -> Self {
        Self { redis, max_run_bytes: None, keep_finished: None }
    }

    /// With at most so many bytes of lines per run, ends included; at least 1 MiB. Of what is over it the first lines go,
    /// and readers get a gap with its bytes in their place. Without a bound, the server's memory is the only one: there an
    /// append answers [`Full`](pubsub_core::ErrorKind::Full).
    #[must_use]
    pub const fn with_max_run_bytes(mut self, bytes: u64) -> Self {
        self.max_run_bytes = Some(bytes);
        self
    }

    /// With runs that go by themselves so long after their end; at least a second.
    #[must_use]
    pub const fn with_keep_finished(mut self, time: Duration) -> Self {
        self.keep_finished = Some(time);
        self
    }

    pub(super) const fn redis(&self) -> &RedisConfig {
        &self.redis
    }

    /// 0 for none.
    pub(super) fn max_run_bytes(&self) -> u64 {
        self.max_run_bytes.unwrap_or(0)
    }

    /// In milliseconds; 0 for good.
    pub(super) fn keep_finished_ms(&self) -> u64 {
        self.keep_finished.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn check(&self) -> Result<()> {
        // Larger numbers than these lose bits in a script, where they are doubles.
        const MOST: u64 = 1 << 50;
        let wrong = |setting: &str, takes: &str| {
            Err(Error::invalid(format!("{setting} takes {takes}")).with("setting", setting))
        };
        if self.max_run_bytes.is_some_and(|bytes| !(MIN_RUN_BYTES..=MOST).contains(&bytes)) {
            return wrong("max_run_bytes", "1 MiB to 1 PiB");
        }
        if self.keep_finished.is_some_and(|time| time < MIN_KEEP || time.as_millis() > u128::from(MOST)) {
            return wrong("keep_finished", "a second to thousands of years");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{RedisConfig, RedisStoreConfig};

    #[test]
    fn wrong_values_are_refused_by_the_name_of_their_setting() {
        let config = || RedisStoreConfig::new(RedisConfig::new("redis://127.0.0.1"));
        assert!(config().check().is_ok());
        for (wrong, setting) in [
            (config().with_max_run_bytes(1_000), "max_run_bytes"),
            (config().with_max_run_bytes(u64::MAX), "max_run_bytes"),
            (config().with_keep_finished(Duration::ZERO), "keep_finished"),
            (config().with_keep_finished(Duration::MAX), "keep_finished"),
        ] {
            assert!(wrong.check().unwrap_err().to_string().contains(setting));
        }
    }
}
