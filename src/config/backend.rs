//! A broker or a store by its name.

use std::str::FromStr;

use pubsub_core::{Error, Result};
use serde::Deserialize;
use serde::de::Deserializer;

use super::reading::parsed;
use crate::place::Place;

/// A broker or a store: by its name, and then another setting says where it is, or by a URL.
///
/// ```
/// use pubsub_pipeline::Backend;
/// assert_eq!("mongodb".parse::<Backend>()?, Backend::MongoDb);
/// assert!(matches!("redis://127.0.0.1:6379".parse()?, Backend::At(_)));
/// assert!("mysql".parse::<Backend>().is_err());
/// # Ok::<(), pubsub_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The folder of the setting `dir`.
    File,
    /// The Redis of `redis_url`.
    Redis,
    /// The Elasticsearch or OpenSearch of `elasticsearch_url`.
    Elasticsearch,
    /// The MongoDB of `mongodb_url`.
    MongoDb,
    /// The bucket of `s3_bucket`.
    S3,
    /// This one.
    At(Place),
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "file" => Self::File,
            "redis" => Self::Redis,
            "elasticsearch" => Self::Elasticsearch,
            "mongodb" => Self::MongoDb,
            "s3" => Self::S3,
            "webhook" => return Err(Error::unsupported("this version has no webhooks yet")),
            url if url.contains(':') => Self::At(url.parse()?),
            _ => {
                let known =
                    "the backends are file, redis, elasticsearch, mongodb and s3, and those that a URL names";
                return Err(Error::invalid(known).with("backend", text));
            }
        })
    }
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(&String::deserialize(deserializer)?)
    }
}
