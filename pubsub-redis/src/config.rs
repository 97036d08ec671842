//! How a Redis deployment is reached: one configuration for broker and store.

mod text;

pub(crate) use text::duration;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// What stands behind the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Deployment {
    /// One server, or a proxy that looks like one.
    #[default]
    Standalone,
    /// Sentinels, which say who the master of this name is.
    Sentinel {
        /// The name under which the sentinels watch the master.
        master: String,
    },
    /// A cluster; the addresses are some of its nodes.
    Cluster,
}

/// How a Redis deployment is reached.
///
/// ```
/// use pubsub_redis::RedisConfig;
/// let config = RedisConfig::new("redis://127.0.0.1:6379").with_password("p#/@%41+=:x").with_prefix("ci");
/// assert!(!format!("{config:?}").contains("p#"));
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    urls: Vec<String>,
    #[serde(default)]
    deployment: Deployment,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    sentinel_user: Option<String>,
    #[serde(default)]
    sentinel_password: Option<String>,
    #[serde(default)]
    ca: Option<PathBuf>,
    #[serde(default)]
    certificate: Option<PathBuf>,
    #[serde(default)]
    key: Option<PathBuf>,
    #[serde(default = "default_prefix")]
    prefix: String,
    #[serde(default = "default_connect_limit")]
    connect_limit: Duration,
    #[serde(default = "default_answer_limit")]
    answer_limit: Duration,
}

fn default_prefix() -> String {
    "pipeline".to_owned()
}

const fn default_connect_limit() -> Duration {
    Duration::from_secs(5)
}

const fn default_answer_limit() -> Duration {
    Duration::from_secs(10)
}

impl RedisConfig {
    /// The server at this URL: `redis://[user[:password]@]host[:port][/database]`, `rediss://…` with TLS, or
    /// `redis+unix:///path`. In a URL, characters of a password that mean something there are percent-encoded;
    /// [`with_password`](Self::with_password) takes it as it is.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            deployment: Deployment::default(),
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            ca: None,
            certificate: None,
            key: None,
            prefix: default_prefix(),
            connect_limit: default_connect_limit(),
            answer_limit: default_answer_limit(),
        }
    }

    /// All settings as one text: besides what [`new`](Self::new) takes, `redis+cluster://host:port,host:port` and
    /// `redis+sentinel://host:port,host:port/master[/database]`, each with `rediss` for TLS, and the options `prefix`,
    /// `ca`, `certificate`, `key`, `connect-limit`, `answer-limit` (`500ms`, `5s`), `sentinel-user` and
    /// `sentinel-password`. User and password are those of the servers, for all hosts.
    ///
    /// ```
    /// use pubsub_redis::{Deployment, RedisConfig};
    /// let config = RedisConfig::from_url("rediss+cluster://:p%23@one:7000,two:7000?ca=/etc/ca.pem&prefix=ci")?;
    /// assert_eq!(config.prefix(), "ci");
    /// # Ok::<_, pubsub_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for what is no such URL; nothing of it is in the message.
    pub fn from_url(text: &str) -> Result<Self> {
        text::parse(text)
    }

    /// With one more address, of another sentinel or another node of the cluster.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// With another kind of deployment.
    #[must_use]
    pub fn with_deployment(mut self, deployment: Deployment) -> Self {
        self.deployment = deployment;
        self
    }

    /// As this ACL user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// With this password, taken as it is.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// As this user at the sentinels. They have users and passwords of their own; by default none.
    #[must_use]
    pub fn with_sentinel_user(mut self, user: impl Into<String>) -> Self {
        self.sentinel_user = Some(user.into());
        self
    }

    /// With this password at the sentinels, taken as it is.
    #[must_use]
    pub fn with_sentinel_password(mut self, password: impl Into<String>) -> Self {
        self.sentinel_password = Some(password.into());
        self
    }

    /// With the certificates in this PEM file as the only authorities that vouch for a server; by default those of the
    /// system do. A server's name is always checked.
    #[must_use]
    pub fn with_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// With this certificate of our own, and its key: two PEM files.
    #[must_use]
    pub fn with_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.certificate, self.key) = (Some(certificate.into()), Some(key.into()));
        self
    }

    /// With another beginning of every key; `pipeline` by default. What has another prefix shares nothing.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// With another limit on the time to connect; 5 s by default.
    #[must_use]
    pub const fn with_connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// With another limit on the time until a command is answered; 10 s by default. Reads that wait have their own.
    #[must_use]
    pub const fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// What every key begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    pub(crate) const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) fn sentinel_user(&self) -> Option<&str> {
        self.sentinel_user.as_deref()
    }

    pub(crate) fn sentinel_password(&self) -> Option<&str> {
        self.sentinel_password.as_deref()
    }

    pub(crate) const fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Our own certificate and its key.
    pub(crate) const fn certificate(&self) -> Option<(&PathBuf, &PathBuf)> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => None,
        }
    }

    pub(crate) const fn connect_limit(&self) -> Duration {
        self.connect_limit
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
        if self.certificate.is_some() != self.key.is_some() {
            return wrong("certificate", "a certificate and its key");
        }
        // Braces would change the slot of a key ("Redis cluster specification", hash tags).
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.chars().all(plain) {
            return wrong("prefix", "1 to 64 letters, digits, -, _, . and : of ASCII");
        }
        for (setting, limit) in [("connect_limit", self.connect_limit), ("answer_limit", self.answer_limit)] {
            if limit < Duration::from_millis(10) {
                return wrong(setting, "at least 10 ms");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RedisConfig {
    /// Without URLs, user and password: a URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("deployment", &self.deployment)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
