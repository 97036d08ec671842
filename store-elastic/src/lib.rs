//! Elasticsearch and OpenSearch for `pubsub-pipeline`: an output store, for Elasticsearch 7.10 and later, and OpenSearch.
//!
//! Each line is a document with `@timestamp`, `message`, `action_id`, `stage`, `run_id`, `line_number` and `stream`, in an
//! index of the day on which its run began; each run is one more, with its status, outcome, times and metadata. So Kibana
//! and OpenSearch Dashboards show them as they are.
//!
//! ```no_run
//! // Not run: it needs a server.
//! use pubsub_core::{OutputReader, RunQuery};
//! use store_elastic::{ElasticStore, ElasticStoreConfig};
//! # async fn list() -> pubsub_core::Result<()> {
//! let store = ElasticStore::connect(ElasticStoreConfig::new("http://127.0.0.1:9200")).await?;
//! for run in store.runs(&RunQuery::all().with_limit(10)).await? {
//!     println!("{} {:?}", run.key.run_id, run.status);
//! }
//! # Ok(())
//! # }
//! ```

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
