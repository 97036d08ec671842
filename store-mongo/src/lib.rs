//! MongoDB for `pubsub-pipeline`: an output store with a document for each line, for MongoDB 4.4 and later and what speaks
//! its protocol.
//!
//! ```no_run
//! // Not run: it needs a server.
//! use futures::TryStreamExt;
//! use pubsub_core::{OutputReader, RunQuery, Search};
//! use store_mongo::{MongoStore, MongoStoreConfig};
//! # async fn find() -> pubsub_core::Result<()> {
//! let config = MongoStoreConfig::new("mongodb://127.0.0.1/?replicaSet=rs0").with_database("ci");
//! let store = MongoStore::connect(config).await?;
//! let mut hits = store.search(&RunQuery::all(), &Search::regex(r"error\[E\d+\]")?).await?;
//! while let Some(hit) = hits.try_next().await? {
//!     println!("{} {}: {}", hit.run.action_id, hit.line.number, hit.line.text());
//! }
//! # Ok(())
//! # }
//! ```

mod append;
mod batch;
mod config;
mod connect;
mod error;
mod known;
mod layout;
mod line;
mod list;
mod narrow;
mod numbers;
mod read;
mod remove;
mod run;
mod search;
mod store;
mod watch;

pub use config::{Acknowledge, Journal, MongoStoreConfig, ReadLevel};
pub use store::{MONGO_STORE, MongoStore};
