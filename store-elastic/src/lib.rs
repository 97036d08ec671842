#![doc = include_str!("../README.md")]

mod append;
mod bulk;
mod config;
mod connect;
mod error;
mod expire;
mod layout;
mod line;
mod list;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod narrow;
mod numbers;
mod read;
mod record;
mod remove;
mod search;
mod store;
mod template;
mod watch;

pub use config::{ElasticStoreConfig, SearchIndex};
pub use store::{ELASTIC_STORE, ElasticStore};
