#![doc = include_str!("../README.md")]

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
