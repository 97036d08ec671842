//! Redis for `pubsub-pipeline`: a broker and an output store on Redis Streams, for Redis 7.0 and later, and Valkey.
//!
//! ```no_run
//! // Not run: it needs a server.
//! use pubsub_core::{ActionId, Event, EventType, PublisherExt};
//! use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
//! # async fn publish() -> pubsub_core::Result<()> {
//! let broker = RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new("redis://127.0.0.1"))).await?;
//! broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
//! # Ok(())
//! # }
//! ```

mod broker;
mod config;
mod connect;
mod denied;
mod error;
mod replicated;
mod reply;
mod script;
mod store;

pub use broker::{REDIS_BROKER, RedisBroker, RedisBrokerConfig};
pub use config::{Deployment, RedisConfig};
pub use store::{REDIS_STORE, RedisStore, RedisStoreConfig};
