//! JSON, kept as the text it was.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{Error, Result};

/// A JSON value as the text that the publisher wrote: number forms, spaces, key order and duplicate keys stay.
///
/// ```
/// use pubsub_core::Payload;
/// let payload: Payload = r#"{"n": 1.0}"#.parse()?;
/// assert_eq!(payload.as_str(), r#"{"n": 1.0}"#);
/// assert!("{n: 1}".parse::<Payload>().is_err());
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Arc<str>);

impl Payload {
    /// `null`.
    #[must_use]
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Any value that serde can write as JSON.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where it has no JSON form, as a map whose keys are no texts.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let text = serde_json::to_string(value)
            .map_err(|e| Error::invalid("the payload has no JSON form").with_source(e))?;
        Ok(Self(text.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads it as a type.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) says where it does not fit.
    pub fn parse_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|e| Error::invalid("the payload does not fit").with_source(e))
    }
}

impl FromStr for Payload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|e| Error::invalid("the payload is not JSON").with_source(e))?;
        Ok(Self(raw.get().into()))
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // RawValue is unsized, so a borrowed one is made by reading the text, which is JSON by construction.
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Box<RawValue> = Box::deserialize(deserializer)?;
        Ok(Self(raw.get().into()))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
