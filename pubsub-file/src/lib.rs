//! The embedded default of `pubsub-pipeline`: a broker and an output store in a folder, no server.
//!
//! ```
//! use pubsub_core::{OutputReader, RunQuery};
//! use pubsub_file::{FileStore, FileStoreConfig};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let folder = tempfile::tempdir().unwrap();
//! let store = FileStore::connect(FileStoreConfig::new(folder.path())).await?;
//! assert!(store.runs(&RunQuery::all()).await?.is_empty());
//! # Ok::<(), pubsub_core::Error>(())
//! # }).unwrap();
//! ```

mod broker;
mod error;
mod files;
mod format;
mod frame;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod refused;
mod spool;
mod sqlite;
mod store;
mod sync;
mod watch;

pub use broker::{
    DEFAULT_MAX_EVENT_BYTES, FILE_BROKER, FileBroker, FileBrokerConfig, FileDurability, Repair,
};
pub use refused::{DEFAULT_REFUSED_BYTES, FileRefusedLines};
pub use spool::{
    DEFAULT_KEEP_DAMAGED, DEFAULT_SPOOL_BYTES, SpoolConfig, SpoolDepth, Spooled, SpooledRun, verify_spool,
};
pub use store::{FILE_STORE, FileStore, FileStoreConfig};
