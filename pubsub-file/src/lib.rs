#![doc = include_str!("../README.md")]

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
