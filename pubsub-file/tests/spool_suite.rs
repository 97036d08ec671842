//! A store behind a spool passes the whole suite.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use pubsub_core::conformance::store::{Awaited, StoreFixture};
use pubsub_core::{MEMORY_STORE, MemoryStore, Store, store_conformance};
use pubsub_file::{SpoolConfig, Spooled};
use tempfile::TempDir;

/// Writes into the spool, and reads once it has shipped what was written before.
struct InASpool {
    store: Awaited<Spooled<MemoryStore>>,
    /// Removed with the fixture.
    _dir: TempDir,
}

#[async_trait]
impl StoreFixture for InASpool {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spooled = Spooled::open_store(MemoryStore::new(), SpoolConfig::new(dir.path())).await.unwrap();
        Self { store: Awaited::new(spooled, |spooled| spooled.shipped().boxed()), _dir: dir }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

store_conformance!(InASpool, MEMORY_STORE);
pubsub_core::store_stress!(InASpool, MEMORY_STORE, 2, 10);
