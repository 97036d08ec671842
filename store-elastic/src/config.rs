//! How a store in Elasticsearch or OpenSearch is set up.

mod text;

pub(crate) use text::malformed;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the server keeps of each line so that a search reads less than all of them. What a search finds is the same with
/// both: the `regex` engine decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SearchIndex {
    /// An index over each three characters in a row: a search for something rare reads next to nothing. It about halves
    /// how many lines a server takes each second.
    #[default]
    Trigrams,
    /// None: a search reads every line of the runs that it is about.
    Scan,
}

/// How a store in Elasticsearch or OpenSearch is set up.
///
/// ```
/// use store_elastic::ElasticStoreConfig;
/// let config = ElasticStoreConfig::new("https://search:9200").with_password("ci", "p#/@%41").with_prefix("ci");
/// assert!(!format!("{config:?}").contains("p#"));
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticStoreConfig {
    urls: Vec<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    ca: Option<PathBuf>,
    #[serde(default = "default_prefix")]
    prefix: String,
    #[serde(default)]
    search_index: SearchIndex,
    #[serde(default = "default_shards")]
    shards: u32,
    #[serde(default)]
    replicas: Option<u32>,
    #[serde(default = "default_refresh")]
    refresh: Duration,
    #[serde(default = "default_bulk_bytes")]
    bulk_bytes: usize,
    #[serde(default = "default_requests")]
    requests: usize,
    #[serde(default = "default_answer_limit")]
    answer_limit: Duration,
}

/// Smallest bound of a request: a longest line whose every byte takes six as JSON, and what stands around it.
const MIN_BULK_BYTES: usize = 512 << 10;

/// Largest bound of a request: more than servers take unless they are told to.
const MAX_BULK_BYTES: usize = 100 << 20;

/// Most requests with lines at once, and most shards and replicas of an index, that are no mistake.
const MOST_REQUESTS: usize = 64;
const MOST_SHARDS: u32 = 1_024;

fn default_prefix() -> String {
    "pipeline".to_owned()
}

const fn default_shards() -> u32 {
    1
}

const fn default_refresh() -> Duration {
    Duration::from_secs(1)
}

const fn default_bulk_bytes() -> usize {
    1 << 20
}

const fn default_requests() -> usize {
    4
}

const fn default_answer_limit() -> Duration {
    Duration::from_secs(20)
}

impl ElasticStoreConfig {
    /// The server at this URL: `http://[user:password@]host[:port][/path]`, or `https://…`. In a URL, characters of a
    /// password that mean something there are percent-encoded; [`with_password`](Self::with_password) takes it as it is.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            user: None,
            password: None,
            api_key: None,
            ca: None,
            prefix: default_prefix(),
            search_index: SearchIndex::default(),
            shards: default_shards(),
            replicas: None,
            refresh: default_refresh(),
            bulk_bytes: default_bulk_bytes(),
            requests: default_requests(),
            answer_limit: default_answer_limit(),
        }
    }

    /// All settings as one text: `elastic+http://…` or `elastic+https://…`, and besides what [`new`](Self::new) takes the
    /// options `prefix`, `ca`, `search-index` (`trigrams`, `scan`), `shards`, `replicas`, `refresh` and `answer-limit` (`500ms`,
    /// `5s`), `bulk-bytes` and `requests`.
    ///
    /// ```
    /// use store_elastic::ElasticStoreConfig;
    /// let config = ElasticStoreConfig::from_url("elastic+https://ci:p%23@search:9200?prefix=ci&replicas=0")?;
    /// assert_eq!(config.prefix(), "ci");
    /// # Ok::<_, pubsub_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for what is no such URL; nothing of it is in the message.
    pub fn from_url(text: &str) -> Result<Self> {
        text::parse(text)
    }

    /// With one more node of the same cluster; requests go to all in turn.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// As this user, with this password, taken as they are.
    #[must_use]
    pub fn with_password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        (self.user, self.password) = (Some(user.into()), Some(password.into()));
        self
    }

    /// With this API key, encoded as the server gave it.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// With the certificates in this PEM file as further authorities that vouch for a server.
    #[must_use]
    pub fn with_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// With another beginning of the name of every index and template; `pipeline` by default. What has another prefix shares
    /// nothing.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// With another index for searches, in indices made from now on.
    #[must_use]
    pub const fn with_search_index(mut self, index: SearchIndex) -> Self {
        self.search_index = index;
        self
    }

    /// With so many shards for the lines of a day, from the next day on; 1 by default.
    #[must_use]
    pub const fn with_shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// With so many copies of each shard beside it, from the next day on; by default as the server has it.
    #[must_use]
    pub const fn with_replicas(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// With lines of a running run visible after this time; 1 s by default. At a run's end all of them are visible at once.
    #[must_use]
    pub const fn with_refresh(mut self, time: Duration) -> Self {
        self.refresh = time;
        self
    }

    /// With requests of at most about so many bytes before compression; 1 MiB by default, at least 512 KiB.
    #[must_use]
    pub const fn with_bulk_bytes(mut self, bytes: usize) -> Self {
        self.bulk_bytes = bytes;
        self
    }

    /// With at most so many requests with lines at once; 4 by default.
    #[must_use]
    pub const fn with_requests(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    /// With another limit on the time until a request is answered; 20 s by default.
    #[must_use]
    pub const fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// What the name of every index begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) fn password(&self) -> Option<(&str, &str)> {
        self.user.as_deref().zip(self.password.as_deref())
    }

    pub(crate) fn api_key(&self) -> Option<&str> {
        self.api_key.as_deref()
    }

    pub(crate) const fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    pub(crate) const fn search_index(&self) -> SearchIndex {
        self.search_index
    }

    pub(crate) const fn shards(&self) -> u32 {
        self.shards
    }

    pub(crate) const fn replicas(&self) -> Option<u32> {
        self.replicas
    }

    pub(crate) const fn refresh(&self) -> Duration {
        self.refresh
    }

    pub(crate) const fn bulk_bytes(&self) -> usize {
        self.bulk_bytes
    }

    pub(crate) const fn requests(&self) -> usize {
        self.requests
    }

    pub(crate) const fn answer_limit(&self) -> Duration {
        self.answer_limit
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |setting: &str, takes: &str| {
            Err(Error::invalid(format!("{setting} takes {takes}")).with("setting", setting))
        };
        if self.urls.is_empty() {
            return wrong("urls", "at least one URL");
        }
        if self.user.is_some() != self.password.is_some() {
            return wrong("password", "a user and a password");
        }
        if self.api_key.is_some() && self.user.is_some() {
            return wrong("api_key", "a key in place of a user and a password");
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        let begins = self.prefix.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        // With these in it, the names of one prefix could be those of another.
        let meets = ["-lines", "-runs"].iter().any(|part| self.prefix.contains(part));
        if self.prefix.len() > 64 || !begins || !self.prefix.chars().all(plain) || meets {
            return wrong(
                "prefix",
                "1 to 64 lower-case letters, digits, - and _ of ASCII, a letter or digit first, without -lines and -runs",
            );
        }
        if !(1..=MOST_SHARDS).contains(&self.shards) {
            return wrong("shards", "1 to 1024");
        }
        if self.replicas.is_some_and(|replicas| replicas > MOST_SHARDS) {
            return wrong("replicas", "0 to 1024");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&self.refresh) {
            return wrong("refresh", "100 ms to an hour");
        }
        if !(MIN_BULK_BYTES..=MAX_BULK_BYTES).contains(&self.bulk_bytes) {
            return wrong("bulk_bytes", "512 KiB to 100 MiB");
        }
        if !(1..=MOST_REQUESTS).contains(&self.requests) {
            return wrong("requests", "1 to 64");
        }
        if self.answer_limit < Duration::from_millis(10) {
            return wrong("answer_limit", "at least 10 ms");
        }
        Ok(())
    }
}

impl fmt::Debug for ElasticStoreConfig {
    /// Without URLs, user, password and key: a URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ElasticStoreConfig")
            .field("prefix", &self.prefix)
            .field("search_index", &self.search_index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ElasticStoreConfig;

    #[test]
    fn wrong_values_are_refused_by_the_name_of_their_setting() {
        let config = || ElasticStoreConfig::new("http://127.0.0.1:9200");
        assert!(config().check().is_ok());
        for (wrong, setting) in [
            (ElasticStoreConfig { urls: Vec::new(), ..config() }, "urls"),
            (ElasticStoreConfig { user: Some("u".to_owned()), ..config() }, "password"),
            (config().with_password("u", "p").with_api_key("k"), "api_key"),
            (config().with_prefix(""), "prefix"),
            (config().with_prefix("Upper"), "prefix"),
            (config().with_prefix("-a"), "prefix"),
            (config().with_prefix("a,b"), "prefix"),
            (config().with_prefix("a*"), "prefix"),
            (config().with_prefix("a-lines-b"), "prefix"),
            (config().with_prefix("x".repeat(65)), "prefix"),
            (config().with_shards(0), "shards"),
            (config().with_replicas(5_000), "replicas"),
            (config().with_refresh(Duration::ZERO), "refresh"),
            (config().with_bulk_bytes(1), "bulk_bytes"),
            (config().with_requests(0), "requests"),
            (config().with_answer_limit(Duration::ZERO), "answer_limit"),
        ] {
            assert!(wrong.check().unwrap_err().to_string().contains(setting), "{setting}");
        }
    }
}
