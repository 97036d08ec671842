//! Object stores for `pubsub-pipeline`: the output of runs in S3 and compatibles, Google Cloud Storage, Azure or a folder.
//!
//! ```
//! use futures::StreamExt;
//! use pubsub_core::{
//!     ActionId, EventId, LineBatch, LineEnd, LineNumber, Lines, OutputReader, OutputSink, RunKey, RunRecord, Stage,
//!     Stream, Timestamp,
//! };
//! use store_s3::{S3Store, S3StoreConfig};
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! // In a bucket: `s3://bucket/prefix`.
//! let store = S3Store::connect(S3StoreConfig::new("memory:///")).await?;
//! let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
//! store.begin(&RunRecord::begun(key.clone(), "worker-1")).await?;
//! let now = Timestamp::now();
//! let batch = LineBatch::split(LineNumber::FIRST, now, Stream::Stdout, "hello\n".into(), LineEnd::None)?;
//! store.append(&key, &[batch]).await?;
//! let lines = store.lines(&key.run_id, Lines::Last(10)).await?.items.count().await;
//! assert_eq!(lines, 1);
//! # Ok::<(), pubsub_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! An object store bills by requests and takes no appends, so this store writes few objects, and each once. A sink that
//! gathers for [`S3_STORE_DELAY`] sends two requests for an append: a run that prints all the time costs 24 of them a
//! minute, and one more for each mebibyte and sign of life. Lines are visible once they are appended; newer ones are at a
//! store that is nearer, which a fan-out writes beside it.

mod append;
mod blocks;
mod bucket;
mod compact;
mod config;
mod connect;
mod error;
mod expire;
mod layout;
mod list;
mod query;
mod read;
mod record;
mod scan;
mod search;
mod segment;
mod store;
mod view;

pub use config::S3StoreConfig;
pub use store::{S3_STORE, S3_STORE_DELAY, S3Store};
