#![doc = include_str!("../README.md")]
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
