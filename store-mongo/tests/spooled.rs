//! The store in MongoDB behind a spool passes the whole suite as well.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::sync::Arc;

use futures::FutureExt as _;
use pubsub_core::Store;
use pubsub_core::conformance::store::{Awaited, StoreFixture};
use pubsub_file::{SpoolConfig, Spooled};
use server::{config, connect};
use store_mongo::{MONGO_STORE, MongoStore};
use tempfile::TempDir;

/// Writes into the spool, and reads once it has shipped what was written before.
struct InASpool {
    store: Awaited<Spooled<MongoStore>>,
    /// Removed with the fixture.
    _dir: TempDir,
}

#[async_trait::async_trait]
impl StoreFixture for InASpool {
    async fn new() -> Self {
        let (store, dir) = (connect(&config()).await, tempfile::tempdir().unwrap());
        let spooled = Spooled::open_store(store, SpoolConfig::new(dir.path())).await.unwrap();
        Self { store: Awaited::new(spooled, |spooled| spooled.shipped().boxed()), _dir: dir }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs MongoDB"]
    InASpool,
    MONGO_STORE
);
