//! A broker and a store in memory.

mod broker;
mod group;
mod member;
mod store;

pub use broker::{MEMORY_BROKER, MEMORY_BROKER_EVENTS, MemoryBroker};
pub use store::{MEMORY_STORE, MemoryStore};
