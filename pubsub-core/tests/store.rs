//! The store in memory passes the whole suite.

use std::sync::Arc;

use pubsub_core::conformance::store::StoreFixture;
use pubsub_core::{MEMORY_STORE, MemoryStore, Store};

struct InMemory(MemoryStore);

#[async_trait::async_trait]
impl StoreFixture for InMemory {
    async fn new() -> Self {
        Self(MemoryStore::new())
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

pubsub_core::store_conformance!(InMemory, MEMORY_STORE);
pubsub_core::store_stress!(InMemory, MEMORY_STORE, 2, 50);
