//! A broker and a store in memory: the readable reference of what every backend does.

mod broadcast;
mod broker;
mod group;
mod log;
mod member;
mod refused;
mod store;

pub use broker::{MEMORY_BROKER, MemoryBroker};
pub use log::MemoryLimits;
pub use refused::MemoryRefusedLines;
pub use store::{MEMORY_STORE, MemoryStore};
