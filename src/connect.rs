//! Connecting the broker or the store that a place names.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{
    Broker, DEFAULT_SINK_DELAY, Error, MEMORY_STORE, MemoryBroker, MemoryStore, Result, Store,
    StoreCapabilities,
};

use crate::place::{Place, Scheme};

/// A store that a place names, and what it can do.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectedStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it can do.
    pub capabilities: StoreCapabilities,
    /// How long a sink should gather lines for it.
    pub delay: Duration,
}

impl ConnectedStore {
    fn new(store: Arc<dyn Store>, capabilities: StoreCapabilities) -> Self {
        Self { store, capabilities, delay: DEFAULT_SINK_DELAY }
    }
}

impl std::fmt::Debug for ConnectedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectedStore").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

/// Connects the store at this place.
///
/// Connecting depends on nothing that may be out of reach, whatever the backend: a store that is away just now is an error of
/// each call that uses it, by its kind one that is best tried again. So one store that is away when a program starts is
/// nobody's end: a required one is waited for, a spool keeps what it is to get, and where it is not required it alone
/// lacks lines.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use pubsub_pipeline::{OutputReader, RunQuery, connect_store};
/// let connected = connect_store(&"memory:".parse()?).await?;
/// assert!(connected.store.runs(&RunQuery::all()).await?.is_empty());
/// # Ok::<(), pubsub_pipeline::Error>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) where its feature is not compiled in; otherwise what is wrong for
/// good: a configuration that cannot be right, [`TooNew`](pubsub_core::ErrorKind::TooNew), and
/// [`Corrupt`](pubsub_core::ErrorKind::Corrupt).
pub async fn connect_store(place: &Place) -> Result<ConnectedStore> {
    match place.scheme() {
        Scheme::Memory => Ok(ConnectedStore::new(Arc::new(MemoryStore::new()), MEMORY_STORE)),
        #[cfg(feature = "file")]
        Scheme::File(folder) => {
            let store = pubsub_file::FileStore::connect(pubsub_file::FileStoreConfig::new(folder)).await;
            let store = store.map_err(|e| e.with("place", place))?;
            Ok(ConnectedStore::new(Arc::new(store), pubsub_file::FILE_STORE))
        }
        #[cfg(not(feature = "file"))]
        Scheme::File(_) => Err(missing("file")),
        #[cfg(feature = "redis")]
        Scheme::Redis(address) => {
            let config = pubsub_redis::RedisConfig::from_url(address.with_secrets());
            let config = config.map_err(|e| e.with("place", place))?;
            let store = pubsub_redis::RedisStore::connect(pubsub_redis::RedisStoreConfig::new(config)).await;
            let store = store.map_err(|e| e.with("place", place))?;
            Ok(ConnectedStore::new(Arc::new(store), pubsub_redis::REDIS_STORE))
        }
        #[cfg(not(feature = "redis"))]
        Scheme::Redis(_) => Err(missing("redis")),
        #[cfg(feature = "elastic")]
        Scheme::Elastic(address) => {
            let config = store_elastic::ElasticStoreConfig::from_url(address.with_secrets());
            let config = config.map_err(|e| e.with("place", place))?;
            let store = store_elastic::ElasticStore::connect(config).await;
            let store = store.map_err(|e| e.with("place", place))?;
            Ok(ConnectedStore::new(Arc::new(store), store_elastic::ELASTIC_STORE))
        }
        #[cfg(not(feature = "elastic"))]
        Scheme::Elastic(_) => Err(missing("elastic")),
        #[cfg(feature = "mongo")]
        Scheme::Mongo(address) => {
            let config = store_mongo::MongoStoreConfig::new(address.with_secrets());
            let store = store_mongo::MongoStore::connect(config).await.map_err(|e| e.with("place", place))?;
            Ok(ConnectedStore::new(Arc::new(store), store_mongo::MONGO_STORE))
        }
        #[cfg(not(feature = "mongo"))]
        Scheme::Mongo(_) => Err(missing("mongo")),
        #[cfg(feature = "s3")]
        Scheme::Bucket(address) => {
            let config = store_s3::S3StoreConfig::from_url(address.with_secrets());
            let config = config.map_err(|e| e.with("place", place))?;
            let store = store_s3::S3Store::connect(config).await.map_err(|e| e.with("place", place))?;
            let connected = ConnectedStore::new(Arc::new(store), store_s3::S3_STORE);
            Ok(ConnectedStore { delay: store_s3::S3_STORE_DELAY, ..connected })
        }
        #[cfg(not(feature = "s3"))]
        Scheme::Bucket(_) => Err(missing("s3")),
    }
}

/// Refuses what is no broker, and options of a store at a place that is to be one. Nothing is reached.
///
/// ```
/// use pubsub_pipeline::check_broker;
/// let error = check_broker(&"file:runs?required=true".parse()?).unwrap_err();
/// assert!(error.to_string().contains("required is an option of a store"), "{error}");
/// # Ok::<(), pubsub_pipeline::Error>(())
/// ```
///
/// # Errors
/// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) for what keeps output alone;
/// [`Invalid`](pubsub_core::ErrorKind::Invalid), with the options that a broker there takes.
pub fn check_broker(place: &Place) -> Result<()> {
    let takes = match place.scheme() {
        Scheme::Redis(_) => {
            "prefix, ca, certificate, key, connect-limit, answer-limit, sentinel-user, sentinel-password, replicas and \
             replica-limit"
        }
        Scheme::File(_) | Scheme::Memory => "none",
        Scheme::Elastic(_) | Scheme::Mongo(_) | Scheme::Bucket(_) => return Err(no_broker(place)),
    };
    if place.required().is_none() {
        return Ok(());
    }
    let text = format!("required is an option of a store; the options of this broker are: {takes}");
    Err(Error::invalid(text).with("place", place))
}

/// Connects the broker at this place.
///
/// A broker in a folder is opened, made where it is not there, and repaired where it is damaged: one that is out of reach
/// now is an error here, since nothing can be published or taken without it. Whether it may come back is said by
/// [`is_retryable`](pubsub_core::Error::is_retryable).
///
/// # Errors
/// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) where its feature is not compiled in; otherwise as the backend
/// says.
pub async fn connect_broker(place: &Place) -> Result<Arc<dyn Broker>> {
    check_broker(place)?;
    match place.scheme() {
        Scheme::Memory => Ok(Arc::new(MemoryBroker::new())),
        #[cfg(feature = "file")]
        Scheme::File(folder) => {
            let config = pubsub_file::FileBrokerConfig::new(folder);
            let broker = pubsub_file::FileBroker::connect(config).await;
            Ok(Arc::new(broker.map_err(|e| e.with("place", place))?))
        }
        #[cfg(not(feature = "file"))]
        Scheme::File(_) => Err(missing("file")),
        #[cfg(feature = "redis")]
        Scheme::Redis(address) => {
            let config = pubsub_redis::RedisBrokerConfig::from_url(address.with_secrets());
            let config = config.map_err(|e| e.with("place", place))?;
            let broker = pubsub_redis::RedisBroker::connect(config).await;
            Ok(Arc::new(broker.map_err(|e| e.with("place", place))?))
        }
        #[cfg(not(feature = "redis"))]
        Scheme::Redis(_) => Err(missing("redis")),
        Scheme::Elastic(_) | Scheme::Mongo(_) | Scheme::Bucket(_) => Err(no_broker(place)),
    }
}

/// It keeps output alone.
fn no_broker(place: &Place) -> Error {
    Error::unsupported("this is a store and no broker; there are brokers at file:, memory: and redis:")
        .with("place", place)
}

#[cfg(not(all(
    feature = "file",
    feature = "redis",
    feature = "elastic",
    feature = "mongo",
    feature = "s3"
)))]
pub(crate) fn missing(feature: &str) -> Error {
    Error::unsupported(format!("this program was built without {feature}: build it with feature `{feature}`"))
}
