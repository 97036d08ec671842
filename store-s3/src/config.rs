//! How a store in a bucket is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::{Deserialize, Serialize};
use url::Url;

/// Most bytes of lines in one segment, unless told otherwise.
const DEFAULT_SEGMENT_BYTES: usize = 4 << 20;

/// How often whoever follows looks for what others wrote, unless told otherwise.
const DEFAULT_LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many requests are under way at once, unless told otherwise.
const DEFAULT_REQUESTS: usize = 16;

/// How a store in a bucket is set up.
///
/// The URL names where runs lie: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder` or
/// `memory:///`. What else there is to say are options of the driver, by the names that `object_store` gives them:
/// `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`, `virtual_hosted_style_request` and so on.
/// What is not said is taken from the environment, as by other tools (`AWS_REGION`, `AWS_ACCESS_KEY_ID`,
/// `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME` …), and credentials at last from the machine.
///
/// ```
/// use store_s3::S3StoreConfig;
/// let config = S3StoreConfig::new("s3://logs/pipeline")
///     .with_option("endpoint", "http://127.0.0.1:9000")
///     .with_option("region", "eu-central-1")
///     .with_option("secret_access_key", "geheim")
///     .with_plain_http();
/// assert!(!format!("{config:?}").contains("geheim"));
/// let same = S3StoreConfig::from_url(
///     "s3://logs/pipeline?endpoint=http://127.0.0.1:9000&region=eu-central-1&secret_access_key=geheim&allow_http=true",
/// )?;
/// assert_eq!(same, config);
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3StoreConfig {
    url: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    #[serde(default = "default_segment_bytes")]
    segment_bytes: usize,
    #[serde(default = "default_look_every")]
    look_every: Duration,
    #[serde(default = "default_requests")]
    requests: usize,
}

const fn default_segment_bytes() -> usize {
    DEFAULT_SEGMENT_BYTES
}

const fn default_look_every() -> Duration {
    DEFAULT_LOOK_EVERY
}

const fn default_requests() -> usize {
    DEFAULT_REQUESTS
}

/// Options whose values everybody may see.
const SHOWN: [&str; 7] = [
    "allow_http",
    "endpoint",
    "region",
    "virtual_hosted_style_request",
    "connect_timeout",
    "timeout",
    "conditional_put",
];

impl S3StoreConfig {
    /// A store at this URL, with all else from the environment.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            options: BTreeMap::new(),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            look_every: DEFAULT_LOOK_EVERY,
            requests: DEFAULT_REQUESTS,
        }
    }

    /// A store at this URL, whose part after a `?` holds options.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for what is no URL.
    pub fn from_url(url: &str) -> Result<Self> {
        let mut parsed = parse(url)?;
        let options = parsed.query_pairs().into_owned().collect();
        parsed.set_query(None);
        Ok(Self { options, ..Self::new(parsed) })
    }

    /// With an option of the driver.
    #[must_use]
    pub fn with_option(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.insert(name.into(), value.into());
        self
    }

    /// With an endpoint that speaks plain HTTP: what is sent can be read on its way.
    #[must_use]
    pub fn with_plain_http(self) -> Self {
        self.with_option("allow_http", "true")
    }

    /// With at most so many bytes of lines in one segment, about; 64 KiB to 64 MiB. So much of a run is held in memory when
    /// it is written.
    #[must_use]
    pub const fn with_segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// With another time after which whoever follows looks for what other processes wrote; 10 ms to an hour.
    #[must_use]
    pub const fn with_look_every(mut self, time: Duration) -> Self {
        self.look_every = time;
        self
    }

    /// With so many requests under way at once; 1 to 1,000.
    #[must_use]
    pub const fn with_requests(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    pub(crate) const fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub(crate) const fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    pub(crate) const fn look_every(&self) -> Duration {
        self.look_every
    }

    pub(crate) const fn requests(&self) -> usize {
        self.requests
    }

    /// Its URL, checked with all that can be checked without a server.
    pub(crate) fn checked_url(&self) -> Result<Url> {
        let wrong = |setting: &'static str, takes: &str| {
            Err(Error::invalid(format!("{setting} takes {takes}")).with("setting", setting))
        };
        if !(64 << 10..=64 << 20).contains(&self.segment_bytes) {
            return wrong("segment_bytes", "64 KiB to 64 MiB");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3_600)).contains(&self.look_every) {
            return wrong("look_every", "10 ms to an hour");
        }
        if !(1..=1_000).contains(&self.requests) {
            return wrong("requests", "1 to 1,000");
        }
        let url = parse(&self.url)?;
        if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid(
                "the URL of a bucket has neither options nor a user: both are options beside it",
            )
            .with("setting", "url"));
        }
        if let Some(endpoint) = self.option("endpoint") {
            self.check_endpoint(&url, endpoint)?;
        }
        Ok(url)
    }

    /// What is wrong with an endpoint is seen by the first request alone otherwise, and told in other words.
    fn check_endpoint(&self, url: &Url, endpoint: &str) -> Result<()> {
        let wrong =
            |what: String| Err(Error::invalid(what).with("setting", "endpoint").with("endpoint", endpoint));
        let Ok(parsed) = Url::parse(endpoint) else {
            return wrong("the endpoint is no URL: it takes https://host:port".to_owned());
        };
        if parsed.scheme() == "http" && !self.is_on("allow_http") {
            return wrong(
                "the endpoint speaks plain HTTP: set allow_http=true where that is meant".to_owned(),
            );
        }
        let (bucket, host) = (url.host_str().unwrap_or_default(), parsed.host_str().unwrap_or_default());
        let hosted = self.is_on("virtual_hosted_style_request");
        if !hosted && parsed.path().trim_matches('/').split('/').any(|part| part == bucket) {
            return wrong(format!("the endpoint takes no bucket: {bucket} stands in the store's URL"));
        }
        if !hosted && host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.')) {
            return wrong(format!(
                "the endpoint has the bucket {bucket} in its host: leave it out, or set virtual_hosted_style_request=true"
            ));
        }
        if hosted && parsed.scheme() == "https" && bucket.contains('.') {
            return Err(Error::invalid("no certificate holds for a bucket with a dot in the host: set virtual_hosted_style_request=false")
                .with("setting", "virtual_hosted_style_request")
                .with("bucket", bucket));
        }
        Ok(())
    }

    fn is_on(&self, name: &str) -> bool {
        self.option(name).is_some_and(|value| ["1", "true", "on", "yes", "y"].contains(&value))
    }
}

fn parse(url: &str) -> Result<Url> {
    // What is no URL may still hold a password: it is not repeated.
    Url::parse(url).map_err(|e| {
        Error::invalid("a bucket is named by a URL, as in s3://bucket/prefix or file:///folder")
            .with_source(e)
    })
}

impl fmt::Debug for S3StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |name: &str, value: &str| if SHOWN.contains(&name) { value.to_owned() } else { "…".to_owned() };
        let options: BTreeMap<_, _> =
            self.options.iter().map(|(name, value)| (name, shown(name, value))).collect();
        // A user or options that do not belong there may be secrets.
        let url = parse(&self.url).map(|mut url| {
            url.set_query(None);
            // What has no host has no user either.
            let _ = url.set_username("").and_then(|()| url.set_password(None));
            url.to_string()
        });
        f.debug_struct("S3StoreConfig")
            .field("url", &url.unwrap_or_default())
            .field("options", &options)
            .field("segment_bytes", &self.segment_bytes)
            .field("look_every", &self.look_every)
            .field("requests", &self.requests)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::S3StoreConfig;

    #[test]
    fn wrong_values_are_refused_by_the_name_of_their_setting_and_what_to_change() {
        let config = || S3StoreConfig::new("s3://logs.eu/pipeline");
        let at = |endpoint: &str| config().with_option("endpoint", endpoint);
        assert!(config().checked_url().is_ok());
        assert!(at("http://127.0.0.1:9000").with_plain_http().checked_url().is_ok());
        let hosted = |endpoint: &str| at(endpoint).with_option("virtual_hosted_style_request", "true");
        for (wrong, setting, change) in [
            (config().with_segment_bytes(1), "segment_bytes", "64 KiB"),
            (config().with_look_every(Duration::ZERO), "look_every", "10 ms"),
            (config().with_requests(0), "requests", "1 to 1,000"),
            (S3StoreConfig::new("logs"), "named by a URL", "s3://bucket/prefix"),
            (S3StoreConfig::new("s3://user:geheim@logs"), "url", "options beside it"),
            (at("http://localhost:9000"), "endpoint", "allow_http=true"),
            (at("localhost"), "endpoint", "https://host:port"),
            (at("https://localhost:9000/logs.eu"), "endpoint", "takes no bucket"),
            (at("https://logs.eu.localhost:9000"), "endpoint", "virtual_hosted_style_request=true"),
            (hosted("https://s3.example"), "virtual_hosted_style_request", "=false"),
        ] {
            let text = wrong.checked_url().unwrap_err().chain();
            assert!(text.contains(setting) && text.contains(change) && !text.contains("geheim"), "{text}");
        }
    }

    #[test]
    fn a_config_shows_no_secret() {
        let config =
            S3StoreConfig::from_url("s3://u:geheim1@b/p?secret_access_key=geheim2&token=geheim3&region=r")
                .unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("geheim") && shown.contains("region"), "{shown}");
    }
}
