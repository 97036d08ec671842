//! Reads settings, as JSON and the environment write them.

use std::env::VarError;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use pubsub_core::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::{Map, Value};

use super::setting::{SETTINGS, Setting, schema};
use super::{Backend, PipelineConfig};
use crate::place::{Place, Scheme};

impl PipelineConfig {
    /// What the environment says. A variable that is empty says nothing.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) with the variable and what it takes.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name))
    }

    pub(super) fn from_variables(variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Self> {
        let mut config = Self::default();
        for setting in &SETTINGS {
            let text = match variable(setting.variable) {
                Ok(text) if !text.is_empty() => text,
                Ok(_) | Err(VarError::NotPresent) => continue,
                Err(VarError::NotUnicode(_)) => {
                    return Err(Error::invalid(format!("{} is not UTF-8", setting.variable)));
                }
            };
            config.read(setting, setting.variable, setting.value(&text))?;
        }
        Ok(config)
    }

    /// What this JSON says, an object as [`schema`](Self::schema) has it: the `action_config` of an action.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) with the setting and what it takes.
    pub fn from_json(json: &str) -> Result<Self> {
        let settings: Map<String, Value> = serde_json::from_str(json)
            .map_err(|e| Error::invalid("the configuration is no JSON object").with_source(e))?;
        let mut config = Self::default();
        for (name, value) in settings {
            let setting = Setting::named(&name).ok_or_else(|| {
                let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
                Error::invalid(format!("there is no setting {name}; there are {}", names.join(", ")))
            })?;
            config.read(setting, setting.name, value)?;
        }
        Ok(config)
    }

    /// The JSON schema of what [`from_json`](Self::from_json) takes.
    #[must_use]
    pub fn schema() -> Value {
        schema()
    }

    /// Reads one setting, which is called by this name where it comes from.
    fn read(&mut self, setting: &Setting, name: &str, value: Value) -> Result<()> {
        let wrong = || Error::invalid(format!("{name} takes {}", setting.takes));
        if value.is_null() {
            return Err(wrong());
        }
        let one = Value::Object(Map::from_iter([(setting.name.to_owned(), value)]));
        let one = Self::deserialize(one).and_then(Self::checked).map_err(|why| {
            // What serde says of a value repeats it, and it may hold a password.
            if why.to_string().starts_with("invalid ") { wrong() } else { wrong().with_source(why) }
        })?;
        *self = one.over(std::mem::take(self));
        Ok(())
    }

    /// What numbers and lists alone do not say.
    fn checked(self) -> Result<Self, serde_json::Error> {
        let stores = self.datastore_backends.as_deref();
        if stores.is_some_and(<[Backend]>::is_empty) {
            return Err(serde_json::Error::custom("it names none"));
        }
        let is_twice = |(at, store): (usize, &Backend)| {
            stores.into_iter().flatten().take(at).any(|other| other == store)
        };
        if stores.into_iter().flatten().enumerate().any(is_twice) {
            return Err(serde_json::Error::custom("it names one twice"));
        }
        Ok(self)
    }
}

pub(super) fn parsed<T: FromStr<Err = Error>, E: serde::de::Error>(text: &str) -> Result<T, E> {
    // Without the context, which may repeat a password.
    text.parse().map_err(|e: Error| E::custom(e.message()))
}

/// The place that a URL of this kind names.
fn place_of<'de, D: Deserializer<'de>>(
    deserializer: D,
    url: impl FnOnce(String) -> String,
    is_right: impl FnOnce(&Scheme) -> bool,
) -> Result<Option<Place>, D::Error> {
    let place: Place = parsed(&url(String::deserialize(deserializer)?))?;
    if is_right(place.scheme()) {
        Ok(Some(place))
    } else {
        Err(D::Error::custom("it is a URL of something else"))
    }
}

pub(super) fn redis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Place>, D::Error> {
    place_of(deserializer, |url| url, |scheme| matches!(scheme, Scheme::Redis(_)))
}

/// As others write it: with the name of the protocol alone.
pub(super) fn elasticsearch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Place>, D::Error> {
    let url = |url: String| if url.starts_with("http") { format!("elastic+{url}") } else { url };
    place_of(deserializer, url, |scheme| matches!(scheme, Scheme::Elastic(_)))
}

pub(super) fn mongodb<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Place>, D::Error> {
    place_of(deserializer, |url| url, |scheme| matches!(scheme, Scheme::Mongo(_)))
}

/// A bucket's name, or a URL.
pub(super) fn bucket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Place>, D::Error> {
    let url = |url: String| if url.contains("://") { url } else { format!("s3://{url}") };
    place_of(
        deserializer,
        url,
        |scheme| matches!(scheme, Scheme::Bucket(address) if !address.with_secrets().ends_with("://")),
    )
}

pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(D::Error::custom("it is 0")),
        seconds => Ok(Some(Duration::from_secs(seconds))),
    }
}

pub(super) fn folder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = String::deserialize(deserializer)?;
    if path.is_empty() || path.contains('\0') {
        Err(D::Error::custom("it is none"))
    } else {
        Ok(Some(path.into()))
    }
}
