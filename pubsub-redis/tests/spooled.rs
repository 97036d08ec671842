//! The store in Redis behind a spool passes the whole suite as well.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;

use futures::FutureExt as _;
use pubsub_core::Store;
use pubsub_core::conformance::store::{Awaited, StoreFixture};
use pubsub_file::{SpoolConfig, Spooled};
use pubsub_redis::{REDIS_STORE, RedisStore, RedisStoreConfig};
use server::{Server, fresh_prefix};
use tempfile::TempDir;

/// Writes into the spool, and reads once it has shipped what was written before.
struct InASpool {
    store: Awaited<Spooled<RedisStore>>,
    /// Removed with the fixture.
    _dir: TempDir,
}

#[async_trait::async_trait]
impl StoreFixture for InASpool {
    async fn new() -> Self {
        let config = RedisStoreConfig::new(Server::of_environment().config(&fresh_prefix()));
        let (store, dir) = (RedisStore::connect(config).await.unwrap(), tempfile::tempdir().unwrap());
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
    #[ignore = "needs Redis"]
    InASpool,
    REDIS_STORE
);
pubsub_core::store_stress!(
    #[ignore = "needs Redis"]
    InASpool,
    REDIS_STORE,
    2,
    10
);
