#![doc = include_str!("../README.md")]

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
