//! The settings of the store.

use std::fmt;
use std::time::Duration;

use mongodb::options::ConnectionString;
use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// How many servers must have a write before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Acknowledge {
    /// Most of those that keep data: then no failover loses it.
    Majority,
    /// So many; at least one.
    Nodes(u32),
}

/// Where a write must be before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Journal {
    /// In the journal on the disk: then no power loss takes it.
    Synced,
    /// Where the deployment wants it.
    AsDeployed,
}

/// What reads see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReadLevel {
    /// Also what a failover may take back.
    Local,
    /// What most servers have.
    Majority,
    /// What most servers had when it was asked; slower.
    Linearizable,
}

/// Where the output goes, and how.
///
/// ```
/// use store_mongo::MongoStoreConfig;
/// let config = MongoStoreConfig::new("mongodb://ci:hush@127.0.0.1/?replicaSet=rs0").with_database("ci");
/// assert!(!format!("{config:?}").contains("hush"));
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongoStoreConfig {
    url: String,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    database: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    acknowledge: Option<Acknowledge>,
    #[serde(default)]
    journal: Option<Journal>,
    #[serde(default)]
    read_level: Option<ReadLevel>,
    #[serde(default)]
    keep: Option<Duration>,
    #[serde(default = "default_connect_limit")]
    connect_limit: Duration,
    #[serde(default = "default_answer_limit")]
    answer_limit: Duration,
}

/// As the driver has it: what watches each server gives a connection up that is silent for longer.
const fn default_connect_limit() -> Duration {
    Duration::from_secs(10)
}

const fn default_answer_limit() -> Duration {
    Duration::from_secs(20)
}

/// The database, where neither the URL nor a setting names one.
const DATABASE: &str = "pipeline";

/// Shortest time for which runs may be kept.
pub(crate) const MIN_KEEP: Duration = Duration::from_secs(3_600);

/// Longest time of any setting: about a thousand years.
const MOST: Duration = Duration::from_secs(1_000 * 366 * 24 * 3_600);

impl MongoStoreConfig {
    /// The deployment at this URL, in MongoDB's own form with its own options:
    /// `mongodb://[user[:password]@]host[:port][,…][/database][?options]`. Characters of a password that mean something in a
    /// URL are percent-encoded there; [`with_password`](Self::with_password) takes it as it is.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            password: None,
            database: None,
            prefix: String::new(),
            acknowledge: None,
            journal: None,
            read_level: None,
            keep: None,
            connect_limit: default_connect_limit(),
            answer_limit: default_answer_limit(),
        }
    }

    /// As [`new`](Self::new), and refuses at once what is no such URL.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid), without anything secret of the URL.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self::new(url);
        config.check()?;
        Ok(config)
    }

    /// With the password of the user whom the URL names.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// In this database; else in the one that the URL names, else in `pipeline`.
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// With this before the names of its collections (`runs`, `lines`, `format`), in a database that others use as well.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// With writes that count once so many servers have them; else as the URL says with `w`, else the majority.
    #[must_use]
    pub const fn with_acknowledge(mut self, acknowledge: Acknowledge) -> Self {
        self.acknowledge = Some(acknowledge);
        self
    }

    /// With writes that count once they are there; else as the URL says with `journal`, else on the disk.
    #[must_use]
    pub const fn with_journal(mut self, journal: Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// With reads that see this; else as the URL says with `readConcernLevel`, else what most servers have.
    #[must_use]
    pub const fn with_read_level(mut self, level: ReadLevel) -> Self {
        self.read_level = Some(level);
        self
    }

    /// With runs that go by themselves so long after they began, but no earlier than an hour after their end; those that are
    /// lost, so long after their last sign of life. At least an hour. The server removes them, by indexes of their time, within
    /// a minute or two. A line goes so long after it was stored, so that a run which takes longer loses its first lines while
    /// it runs: readers get a gap there.
    #[must_use]
    pub const fn with_keep(mut self, time: Duration) -> Self {
        self.keep = Some(time);
        self
    }

    /// With at most so long for finding a server and for a connection to it.
    #[must_use]
    pub const fn with_connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// With at most so long for an answer.
    #[must_use]
    pub const fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) const fn acknowledge(&self) -> Option<Acknowledge> {
        self.acknowledge
    }

    pub(crate) const fn journal(&self) -> Option<Journal> {
        self.journal
    }

    pub(crate) const fn read_level(&self) -> Option<ReadLevel> {
        self.read_level
    }

    pub(crate) const fn keep(&self) -> Option<Duration> {
        self.keep
    }

    pub(crate) const fn connect_limit(&self) -> Duration {
        self.connect_limit
    }

    pub(crate) const fn answer_limit(&self) -> Duration {
        self.answer_limit
    }

    /// The name of the database, where the URL names this one.
    pub(crate) fn database<'a>(&'a self, of_url: Option<&'a str>) -> &'a str {
        self.database.as_deref().or(of_url).unwrap_or(DATABASE)
    }

    pub(crate) fn collection(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Refuses what cannot be right, by the name of its setting, without reaching anything.
    pub(crate) fn check(&self) -> Result<()> {
        let text = ConnectionString::parse(&self.url).map_err(|error| {
            let told = crate::error::told(&error);
            let wrong = wrong("url", "a connection string of MongoDB, as in mongodb://127.0.0.1:27017");
            // Whatever it repeats of the URL may be a part of the password.
            if self.url.contains('@') { wrong } else { wrong.with_source(told) }
        })?;
        if self.url.starts_with("mongodb+srv:") && cfg!(not(feature = "srv")) {
            return Err(wrong("url", "mongodb+srv:// where the feature srv of store-mongo is on"));
        }
        let of_reads = text.read_preference.as_ref();
        if of_reads.is_some_and(|preference| *preference != mongodb::options::ReadPreference::Primary) {
            return Err(wrong("readPreference", "primary: others do not have all lines yet when a run ends"));
        }
        if text.write_concern.as_ref().is_some_and(|concern| concern.w == Some(0.into()))
            || self.acknowledge == Some(Acknowledge::Nodes(0))
        {
            return Err(wrong("acknowledge", "the majority or at least one server"));
        }
        let database = self.database(text.default_database.as_deref());
        // The server's limits: "Naming Restrictions" of MongoDB's manual, those of Windows too.
        if database.is_empty()
            || database.len() > 63
            || database.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0'])
        {
            return Err(wrong("database", "1 to 63 bytes without any of /\\. \"$*<>:|?"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.prefix.len() > 100
            || !self.prefix.chars().all(is_plain)
            || self.prefix.starts_with("system.")
            || self.prefix.starts_with('.')
        {
            return Err(wrong("prefix", "at most 100 letters, digits, _, - and inner dots, and not system."));
        }
        self.check_times()
    }

    fn check_times(&self) -> Result<()> {
        for (setting, limit) in [("connect_limit", self.connect_limit), ("answer_limit", self.answer_limit)] {
            if limit < Duration::from_millis(1) || limit > Duration::from_secs(3_600) {
                return Err(wrong(setting, "a millisecond to an hour"));
            }
        }
        if self.keep.is_some_and(|time| time < MIN_KEEP || time > MOST) {
            return Err(wrong("keep", "an hour to a thousand years"));
        }
        Ok(())
    }
}

fn wrong(setting: &'static str, takes: &str) -> Error {
    Error::invalid(format!("{setting} takes {takes}")).with("setting", setting)
}

impl fmt::Debug for MongoStoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStoreConfig")
            .field("url", &shown(&self.url))
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("acknowledge", &self.acknowledge)
            .field("journal", &self.journal)
            .field("read_level", &self.read_level)
            .field("keep", &self.keep)
            .field("connect_limit", &self.connect_limit)
            .field("answer_limit", &self.answer_limit)
            .finish()
    }
}

/// A URL without who asks, and without its options, of which some are secret.
fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let hosts = rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts);
    let hosts = hosts.split('?').next().unwrap_or_default();
    format!("{scheme}://{hosts}")
}

#[cfg(test)]
mod tests {
    use super::{Acknowledge, Duration, Journal, MongoStoreConfig};

    #[test]
    fn wrong_values_are_refused_by_the_name_of_their_setting() {
        let config = || MongoStoreConfig::new("mongodb://127.0.0.1");
        config().check().unwrap();
        for (wrong, setting) in [
            (MongoStoreConfig::new("localhost:27017"), "url"),
            (MongoStoreConfig::new("mongodb://u:p#/@h"), "url"),
            (MongoStoreConfig::new("mongodb://h/?readPreference=secondary"), "readPreference"),
            (MongoStoreConfig::new("mongodb://h/?w=0"), "acknowledge"),
            (config().with_acknowledge(Acknowledge::Nodes(0)), "acknowledge"),
            (config().with_database("a.b"), "database"),
            (config().with_database(""), "database"),
            (config().with_database("x".repeat(64)), "database"),
            (config().with_prefix("system."), "prefix"),
            (config().with_prefix("a$"), "prefix"),
            (config().with_connect_limit(Duration::ZERO), "connect_limit"),
            (config().with_answer_limit(Duration::MAX), "answer_limit"),
            (config().with_keep(Duration::from_secs(60)), "keep"),
            (config().with_keep(Duration::MAX), "keep"),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(error.to_string().contains(setting), "{error} names {setting}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        let secret = "hush#/@:1";
        for config in [
            MongoStoreConfig::new("mongodb://ci:hush@h:1/db?authMechanismProperties=AWS_SESSION_TOKEN:hush"),
            MongoStoreConfig::new("mongodb://ci:hush#@h:1/"),
            MongoStoreConfig::new("mongodb://ci@h:1/").with_password(secret),
        ] {
            assert!(!format!("{config:?}").contains("hush"), "{config:?}");
            if let Err(error) = config.check() {
                assert!(!error.chain().contains("hush"), "{}", error.chain());
            }
        }
    }

    #[test]
    fn what_is_left_out_of_json_is_the_default() {
        let json = r#"{"url":"mongodb://h","journal":"as-deployed","acknowledge":{"nodes":2}}"#;
        let config: MongoStoreConfig = serde_json::from_str(json).unwrap();
        let same = MongoStoreConfig::new("mongodb://h");
        assert_eq!(config, same.with_journal(Journal::AsDeployed).with_acknowledge(Acknowledge::Nodes(2)));
        assert!(serde_json::from_str::<MongoStoreConfig>(r#"{"url":"mongodb://h","x":1}"#).is_err());
    }
}
