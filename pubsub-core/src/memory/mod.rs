//! A broker and a store in memory: the readable reference of what every backend does.

mod store;

pub use store::{MEMORY_STORE, MemoryStore};
