//! What a Redis broker can be told.

use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::RedisConfig;
use crate::config::duration;

/// The largest event that is taken, unless told otherwise: 16 MiB of CloudEvents JSON.
pub(super) const DEFAULT_MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Longest time between two looks for what is old.
const MAX_UPKEEP: Duration = Duration::from_secs(60);

/// Most replicas that can be asked for, and the longest wait for them: more is a mistake.
const MAX_REPLICAS: u16 = 100;
const MAX_REPLICA_LIMIT: Duration = Duration::from_secs(60);

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
    #[serde(default)]
    replicas: u16,
    #[serde(default = "default_replica_limit")]
    replica_limit: Duration,
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

const fn default_replica_limit() -> Duration {
    Duration::from_secs(1)
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
            replicas: 0,
            replica_limit: default_replica_limit(),
        }
    }

    /// At the deployment that a URL names: besides what [`RedisConfig::from_url`] takes, the options `replicas` and
    /// `replica-limit` (`500ms`, `1s`).
    ///
    /// ```
    /// use pubsub_redis::RedisBrokerConfig;
    /// let config = RedisBrokerConfig::from_url("redis+sentinel://one,two,three/main?prefix=ci&replicas=1")?;
    /// assert_eq!(config.redis().prefix(), "ci");
    /// # Ok::<_, pubsub_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for what is no such URL; nothing of it is in the message.
    pub fn from_url(url: &str) -> Result<Self> {
        let (place, options) = url.split_once('?').unwrap_or((url, ""));
        let mut others = Vec::new();
        let (mut replicas, mut limit) = (0, default_replica_limit());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("replicas", many)) => replicas = many.parse().map_err(|_| replicas_take())?,
                Some(("replica-limit", time)) => limit = duration(time)?,
                _ => others.push(option),
            }
        }
        let question = if others.is_empty() { "" } else { "?" };
        let redis = RedisConfig::from_url(&format!("{place}{question}{}", others.join("&")))?;
        Ok(Self::new(redis).with_replicas(replicas).with_replica_limit(limit))
    }

    /// With another number of partitions, 1 to 1024; it counts when the broker is first used, and is kept at the server
    /// from then on. 16 by default. A partition is in one slot of a cluster, so its nodes share the work by whole ones; and a
    /// subscriber has a connection for each that it reads there.
    #[must_use]
    pub const fn with_partitions(mut self, partitions: u16) -> Self {
        self.partitions = partitions;
        self
    }

    /// With another largest event, in bytes of its CloudEvents JSON. What the server would not take (its `proto-max-bulk-len`
    /// and `client-query-buffer-limit`, where it tells them) is refused as well.
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

    /// With so many replicas that must have a write before it counts; none by default, and then what was acknowledged within
    /// the last moments before a failover may be lost with the master, for Redis replicates behind its answers.
    ///
    /// It goes for what is published, for claims, also where settling changes them, for replays and cancels (`WAIT` of
    /// Redis). A plain acknowledgement does not wait: where it is lost, its event comes back, and its claim says that it is
    /// concluded. These writes go by a connection of their own, since the server answers nothing on a connection that waits;
    /// those that come while one waits share the next wait. So each costs a round trip to the replicas more, and nothing
    /// else is held up.
    ///
    /// Where fewer have it in time, the call is answered with [`Unavailable`](pubsub_core::ErrorKind::Unavailable) and how
    /// many had it: it is done at the master, and is to be repeated, as a worker does while it holds the event. The same event published again is the same event, also
    /// where its id was generated: ids are looked up always then, at the price of a script and about 100 bytes for each.
    ///
    /// A replica that has a write may still not be the one that takes over, where fewer must have it than there are. In a
    /// cluster the number is that of each master's replicas.
    #[must_use]
    pub const fn with_replicas(mut self, replicas: u16) -> Self {
        self.replicas = replicas;
        self
    }

    /// With another limit on the time in which replicas must have a write; 1 s by default.
    #[must_use]
    pub const fn with_replica_limit(mut self, limit: Duration) -> Self {
        self.replica_limit = limit;
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
        if self.replicas > MAX_REPLICAS {
            return Err(replicas_take());
        }
        if self.replica_limit < Duration::from_millis(10) || self.replica_limit > MAX_REPLICA_LIMIT {
            return wrong("replica_limit", "10 ms to 60 s");
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

    pub(super) const fn replicas(&self) -> u16 {
        self.replicas
    }

    pub(super) const fn replica_limit(&self) -> Duration {
        self.replica_limit
    }

    /// How often old things are looked for.
    pub(super) fn upkeep(&self) -> Duration {
        MAX_UPKEEP.min(self.retention / 2).min(self.group_retention / 2)
    }
}

fn replicas_take() -> Error {
    Error::invalid(format!("replicas takes 0 to {MAX_REPLICAS}")).with("setting", "replicas")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pubsub_core::ErrorKind;

    use super::RedisBrokerConfig;
    use crate::RedisConfig;

    #[test]
    fn a_url_says_how_many_replicas_must_have_a_write_and_all_else_goes_to_the_deployment() {
        let url = "redis://:p%26replicas%3D9@h:1/2?prefix=x&replicas=2&answer-limit=3s&replica-limit=250ms";
        let redis =
            RedisConfig::from_url("redis://:p%26replicas%3D9@h:1/2?prefix=x&answer-limit=3s").unwrap();
        let expected =
            RedisBrokerConfig::new(redis).with_replicas(2).with_replica_limit(Duration::from_millis(250));
        assert_eq!(RedisBrokerConfig::from_url(url).unwrap(), expected);
        let plain = RedisBrokerConfig::new(RedisConfig::from_url("redis://h").unwrap());
        assert_eq!(RedisBrokerConfig::from_url("redis://h").unwrap(), plain);
        assert_eq!(RedisBrokerConfig::from_url("redis://h?replicas=0").unwrap(), plain);
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_its_setting() {
        for (url, setting) in [
            ("redis://h?replicas=one", "replicas"),
            ("redis://h?replicas=101", "replicas"),
            ("redis://h?replica-limit=1", "url"),
            ("redis://h?replica-limit=0s", "replica_limit"),
            ("redis://h?replica-limit=61s", "replica_limit"),
            ("redis://h?replikas=1", "url"),
        ] {
            let error = RedisBrokerConfig::from_url(url).and_then(|config| config.check()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(&format!("setting={setting}")), "{url}: {error}");
        }
    }

    #[test]
    fn a_document_without_them_waits_for_no_replica() {
        let config: RedisBrokerConfig = serde_json::from_str(r#"{"redis":{"urls":["redis://h"]}}"#).unwrap();
        assert_eq!((config.replicas(), config.replica_limit()), (0, Duration::from_secs(1)));
        let config = config.with_replicas(1);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RedisBrokerConfig>(&text).unwrap(), config);
    }
}
