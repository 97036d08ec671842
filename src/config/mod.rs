//! How a pipeline is put together: in code, from JSON, from the environment.

mod backend;
mod reading;
mod setting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pubsub_core::{Backoff, Error, Escapes, Result, RetryPolicy};
use serde::Deserialize;

pub use backend::Backend;

use crate::place::Place;
use reading::{bucket, elasticsearch, folder, mongodb, redis, seconds};
use setting::Setting;

/// How long the policy `fixed` waits.
const FIXED: Duration = Duration::from_secs(1);

/// The folder that `file` names, unless told otherwise.
const FOLDER: &str = ".pipeline";

/// When work that failed is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Never.
    None,
    /// Each time after a second.
    Fixed,
    /// After a second, and then longer and longer.
    #[default]
    Exponential,
}

/// How a pipeline is put together: one set of settings for code, JSON and the environment. What is not said has a default.
///
/// | in JSON | in the environment | |
/// | --- | --- | --- |
/// | `timeout` | `PIPELINE_TIMEOUT` | longest time that the work at an event may take, in seconds |
/// | `message_broker` | `MESSAGE_BROKER` | `file` (default), `redis`, or a URL |
/// | `retry_policy` | `RETRY_POLICY` | `none`, `fixed`, `exponential` (default) |
/// | `retry_attempts` | `RETRY_ATTEMPTS` | how often failed work is tried again after the first time; 2 |
/// | `escape_enabled` | `ESCAPE_ENABLED` | whether exit code 42 is a graceful escape; `true` |
/// | `stream_enabled` | `STREAM_ENABLED` | whether output goes to the stores while it is printed; `true` |
/// | `datastore_backends` | `DATASTORE_BACKENDS` | `elasticsearch`, `mongodb`, `s3`, `redis`, `file` (default), or URLs |
/// | `redis_url` | `REDIS_URL` | where `redis` is |
/// | `elasticsearch_url` | `ELASTICSEARCH_URL` | where `elasticsearch` is |
/// | `mongodb_url` | `MONGODB_URL` | where `mongodb` is |
/// | `s3_bucket` | `S3_BUCKET` | which bucket `s3` is, perhaps with a prefix |
/// | `dir` | `PIPELINE_DIR` | the folder that `file` is; `.pipeline` |
/// | `spool` | `PIPELINE_SPOOL` | a folder in which output waits for stores that are away |
///
/// ```
/// use std::time::Duration;
/// use pubsub_pipeline::PipelineConfig;
/// let config = PipelineConfig::from_json(r#"{"timeout": 600, "message_broker": "redis"}"#)?
///     .with_redis_url("redis://:hush@127.0.0.1:6379".parse()?);
/// assert_eq!(config.timeout(), Some(Duration::from_secs(600)));
/// assert_eq!(config.broker()?.to_string(), "redis://127.0.0.1:6379");
/// assert!(!format!("{config:?}").contains("hush"));
/// let wrong = PipelineConfig::from_json(r#"{"timeout": "soon"}"#).unwrap_err();
/// assert!(wrong.to_string().contains("timeout takes a whole number of seconds"), "{wrong}");
/// # Ok::<(), pubsub_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PipelineConfig {
    #[serde(deserialize_with = "seconds")]
    timeout: Option<Duration>,
    message_broker: Option<Backend>,
    retry_policy: Option<Retry>,
    retry_attempts: Option<u32>,
    escape_enabled: Option<bool>,
    stream_enabled: Option<bool>,
    datastore_backends: Option<Vec<Backend>>,
    #[serde(deserialize_with = "redis")]
    redis_url: Option<Place>,
    #[serde(deserialize_with = "elasticsearch")]
    elasticsearch_url: Option<Place>,
    #[serde(deserialize_with = "mongodb")]
    mongodb_url: Option<Place>,
    #[serde(deserialize_with = "bucket")]
    s3_bucket: Option<Place>,
    #[serde(deserialize_with = "folder")]
    dir: Option<PathBuf>,
    #[serde(deserialize_with = "folder")]
    spool: Option<PathBuf>,
}

/// Setters: each takes the place of what was said before.
impl PipelineConfig {
    /// With a longest time for the work at an event.
    #[must_use]
    pub const fn with_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// With this broker.
    #[must_use]
    pub fn with_broker(mut self, broker: Backend) -> Self {
        self.message_broker = Some(broker);
        self
    }

    /// With another policy for work that failed.
    #[must_use]
    pub const fn with_retry(mut self, retry: Retry) -> Self {
        self.retry_policy = Some(retry);
        self
    }

    /// With so many tries after the first one.
    #[must_use]
    pub const fn with_retry_attempts(mut self, attempts: u32) -> Self {
        self.retry_attempts = Some(attempts);
        self
    }

    /// With or without escapes.
    #[must_use]
    pub const fn with_escapes(mut self, enabled: bool) -> Self {
        self.escape_enabled = Some(enabled);
        self
    }

    /// With output that goes to the stores while it is printed, or is gathered first.
    #[must_use]
    pub const fn with_streaming(mut self, enabled: bool) -> Self {
        self.stream_enabled = Some(enabled);
        self
    }

    /// With these stores, the nearest first.
    #[must_use]
    pub fn with_stores(mut self, stores: impl IntoIterator<Item = Backend>) -> Self {
        self.datastore_backends = Some(stores.into_iter().collect());
        self
    }

    /// With the place that `redis` names.
    #[must_use]
    pub fn with_redis_url(mut self, place: Place) -> Self {
        self.redis_url = Some(place);
        self
    }

    /// With the place that `elasticsearch` names.
    #[must_use]
    pub fn with_elasticsearch_url(mut self, place: Place) -> Self {
        self.elasticsearch_url = Some(place);
        self
    }

    /// With the place that `mongodb` names.
    #[must_use]
    pub fn with_mongodb_url(mut self, place: Place) -> Self {
        self.mongodb_url = Some(place);
        self
    }

    /// With the place that `s3` names.
    #[must_use]
    pub fn with_s3_bucket(mut self, place: Place) -> Self {
        self.s3_bucket = Some(place);
        self
    }

    /// With the folder that `file` names.
    #[must_use]
    pub fn with_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// With a folder in which output waits for stores that are away.
    #[must_use]
    pub fn with_spool(mut self, dir: impl Into<PathBuf>) -> Self {
        self.spool = Some(dir.into());
        self
    }
}

impl PipelineConfig {
    /// This configuration, and where it says nothing, the other one.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            timeout: self.timeout.or(other.timeout),
            message_broker: self.message_broker.or(other.message_broker),
            retry_policy: self.retry_policy.or(other.retry_policy),
            retry_attempts: self.retry_attempts.or(other.retry_attempts),
            escape_enabled: self.escape_enabled.or(other.escape_enabled),
            stream_enabled: self.stream_enabled.or(other.stream_enabled),
            datastore_backends: self.datastore_backends.or(other.datastore_backends),
            redis_url: self.redis_url.or(other.redis_url),
            elasticsearch_url: self.elasticsearch_url.or(other.elasticsearch_url),
            mongodb_url: self.mongodb_url.or(other.mongodb_url),
            s3_bucket: self.s3_bucket.or(other.s3_bucket),
            dir: self.dir.or(other.dir),
            spool: self.spool.or(other.spool),
        }
    }
}

/// What it says.
impl PipelineConfig {
    /// Longest time that the work at an event may take.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Where events go.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) where it is named by a name, and nothing says where that is.
    pub fn broker(&self) -> Result<Place> {
        self.place("message_broker", self.message_broker.as_ref().unwrap_or(&Backend::File))
    }

    /// Where output goes, the nearest first.
    ///
    /// # Errors
    /// As for [`broker`](Self::broker).
    pub fn stores(&self) -> Result<Vec<Place>> {
        let stores = self.datastore_backends.as_deref().unwrap_or(&[Backend::File]);
        stores.iter().map(|store| self.place("datastore_backends", store)).collect()
    }

    /// When work that failed is tried again.
    #[must_use]
    pub fn retry(&self) -> RetryPolicy {
        let policy = match self.retry_policy.unwrap_or_default() {
            Retry::None => return RetryPolicy::none(),
            Retry::Fixed => RetryPolicy::default().with_backoff(Backoff::fixed(FIXED)),
            Retry::Exponential => RetryPolicy::default(),
        };
        match self.retry_attempts {
            Some(again) => policy.with_attempts(again.saturating_add(1)),
            None => policy,
        }
    }

    /// Whether exit code 42 is a graceful escape.
    #[must_use]
    pub fn escapes(&self) -> Escapes {
        if self.escape_enabled.unwrap_or(true) { Escapes::Enabled } else { Escapes::Disabled }
    }

    /// Whether output goes to the stores while it is printed.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.stream_enabled.unwrap_or(true)
    }

    /// The folder that `file` names.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(FOLDER))
    }

    /// The folder in which output waits for stores that are away.
    #[must_use]
    pub fn spool(&self) -> Option<&Path> {
        self.spool.as_deref()
    }

    fn place(&self, names: &str, backend: &Backend) -> Result<Place> {
        let (name, place, setting) = match backend {
            Backend::At(place) => return Ok(place.clone()),
            Backend::File => return Ok(Place::folder(self.dir())),
            Backend::Redis => ("redis", &self.redis_url, "redis_url"),
            Backend::Elasticsearch => ("elasticsearch", &self.elasticsearch_url, "elasticsearch_url"),
            Backend::MongoDb => ("mongodb", &self.mongodb_url, "mongodb_url"),
            Backend::S3 => ("s3", &self.s3_bucket, "s3_bucket"),
        };
        place.clone().ok_or_else(|| {
            let (variable, takes) =
                Setting::named(setting).map_or(("", ""), |setting| (setting.variable, setting.takes));
            Error::invalid(format!(
                "{names} has {name}, and nothing says where that is: {setting} ({variable} in the environment) takes {takes}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::env::VarError;
    use std::time::Duration;

    use pubsub_core::{Chain, Error, Escapes, Outcome, Verdict};
    use serde_json::Value;

    use super::setting::SETTINGS;
    use super::{Backend, PipelineConfig, Retry};

    fn of_environment(variables: &[(&str, &str)]) -> Result<PipelineConfig, Error> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let variable =
            |name: &str| variables.get(name).map(|text| (*text).to_owned()).ok_or(VarError::NotPresent);
        PipelineConfig::from_variables(variable)
    }

    /// A value that each setting takes: in JSON, and in the environment.
    const RIGHT: [(&str, &str, &str); 13] = [
        ("timeout", "600", "600"),
        ("message_broker", "\"redis\"", "redis"),
        ("retry_policy", "\"fixed\"", "fixed"),
        ("retry_attempts", "0", "0"),
        ("escape_enabled", "false", "0"),
        ("stream_enabled", "false", "false"),
        (
            "datastore_backends",
            "[\"elasticsearch\",\"mongodb://a:1,b:2/ci\"]",
            "elasticsearch,mongodb://a:1,b:2/ci",
        ),
        ("redis_url", "\"redis://h\"", "redis://h"),
        ("elasticsearch_url", "\"http://h:9200\"", "http://h:9200"),
        ("mongodb_url", "\"mongodb://h/ci\"", "mongodb://h/ci"),
        ("s3_bucket", "\"runs/ci\"", "runs/ci"),
        ("dir", "\"here\"", "here"),
        ("spool", "\"there\"", "there"),
    ];

    #[test]
    fn json_and_the_environment_say_the_same() {
        assert_eq!(RIGHT.map(|(name, ..)| name), SETTINGS.map(|setting| setting.name));
        for ((name, json, text), setting) in RIGHT.iter().zip(&SETTINGS) {
            let in_json = PipelineConfig::from_json(&format!("{{\"{name}\": {json}}}")).unwrap();
            assert_ne!(in_json, PipelineConfig::default(), "{name}");
            assert_eq!(of_environment(&[(setting.variable, text)]).unwrap(), in_json, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_names_its_setting_and_what_that_takes_and_no_password() {
        let table = [
            ("timeout", "\"soon\"", "soon"),
            ("timeout", "0", "0"),
            ("timeout", "-1", "-1"),
            ("message_broker", "\"kafka\"", "kafka"),
            ("message_broker", "\"webhook\"", "webhook"),
            ("message_broker", "\"mysql://u:geheim@h\"", "mysql://u:geheim@h"),
            ("retry_policy", "\"always\"", "always"),
            ("retry_attempts", "1.5", "1.5"),
            ("escape_enabled", "\"perhaps\"", "perhaps"),
            ("stream_enabled", "7", "7"),
            ("datastore_backends", "[]", ","),
            ("datastore_backends", "[\"s3\",\"s3\"]", "s3 s3"),
            ("datastore_backends", "[\"mongo\"]", "mongo"),
            ("datastore_backends", "\"redis://u:geheim@h\"", "mongo redis://u:geheim@h"),
            ("timeout", "\"geheim\"", "geheim"),
            ("redis_url", "\"http://u:geheim@h\"", "http://u:geheim@h"),
            ("redis_url", "\"redis:u:geheim@h\"", "redis:u:geheim@h"),
            ("elasticsearch_url", "\"mongodb://h\"", "mongodb://h"),
            ("mongodb_url", "\"h\"", "h"),
            ("s3_bucket", "\"redis://h\"", "redis://h"),
            ("dir", "7", "a\0b"),
        ];
        for (name, json, text) in table {
            let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
            let in_json = PipelineConfig::from_json(&format!("{{\"{name}\": {json}}}")).unwrap_err();
            let in_environment = of_environment(&[(setting.variable, text)]).unwrap_err();
            for (called, error) in [(name, in_json), (setting.variable, in_environment)] {
                let told = error.chain().to_string();
                assert!(told.contains(&format!("{called} takes {}", setting.takes)), "{told}");
                assert!(!told.contains("geheim"), "{told}");
            }
        }
        for json in ["", "[]", "null", "{\"timeout\": null}", "{\"timeout\": 1"] {
            assert!(PipelineConfig::from_json(json).is_err(), "{json}");
        }
        let unknown = PipelineConfig::from_json("{\"timeuot\": 1}").unwrap_err().to_string();
        assert!(unknown.contains("no setting timeuot; there are timeout, message_broker"), "{unknown}");
    }

    #[test]
    fn json_goes_before_the_environment_and_that_before_the_defaults() {
        let environment =
            of_environment(&[("PIPELINE_TIMEOUT", "5"), ("RETRY_ATTEMPTS", "7"), ("PIPELINE_DIR", "")])
                .unwrap();
        let config = PipelineConfig::from_json("{\"timeout\": 600}").unwrap().over(environment);
        assert_eq!((config.timeout(), config.retry().attempts), (Some(Duration::from_secs(600)), 8));
        assert_eq!(config.dir().to_str(), Some(".pipeline"));
        assert_eq!(config.broker().unwrap().to_string(), "file:.pipeline");
    }

    #[test]
    fn retries_count_those_after_the_first_and_an_escape_can_be_a_failure() {
        let failed = Verdict::new(Outcome::Failed, Chain::Stops);
        let attempts = |json| {
            let policy = PipelineConfig::from_json(json).unwrap().retry();
            (0..10).take_while(|failures| policy.next(failed, *failures).is_some()).count()
        };
        assert_eq!(attempts("{}"), 2);
        assert_eq!(attempts("{\"retry_attempts\": 0}"), 0);
        assert_eq!(attempts("{\"retry_attempts\": 4, \"retry_policy\": \"fixed\"}"), 4);
        assert_eq!(attempts("{\"retry_attempts\": 4, \"retry_policy\": \"none\"}"), 0);
        let config = PipelineConfig::default().with_escapes(false).with_retry(Retry::None);
        assert_eq!(config.escapes(), Escapes::Disabled);
    }

    #[test]
    fn a_name_without_its_place_is_told_with_the_setting_that_says_it() {
        let config = PipelineConfig::default().with_broker(Backend::Redis).with_stores([Backend::S3]);
        let broker = config.broker().unwrap_err().to_string();
        assert!(broker.contains("message_broker has redis") && broker.contains("REDIS_URL"), "{broker}");
        let stores = config.stores().unwrap_err().to_string();
        assert!(
            stores.contains("datastore_backends has s3") && stores.contains("s3_bucket (S3_BUCKET"),
            "{stores}"
        );
    }

    #[test]
    fn the_schema_has_every_setting_and_nothing_else() {
        let schema = PipelineConfig::schema();
        let properties = schema["properties"].as_object().unwrap();
        let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut settings = SETTINGS.map(|setting| setting.name);
        names.sort_unstable();
        settings.sort_unstable();
        assert_eq!((names, &schema["additionalProperties"]), (settings.to_vec(), &Value::Bool(false)));
        for (name, json, _) in RIGHT {
            let value: Value = serde_json::from_str(json).unwrap();
            let kind = properties[name]["type"].as_str().unwrap();
            let fits = match kind {
                "integer" => value.is_u64(),
                "boolean" => value.is_boolean(),
                "array" => value.is_array(),
                _ => value.is_string(),
            };
            assert!(fits, "{name} is {kind}");
        }
    }
}
