//! The store in Redis passes the whole suite.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use pubsub_redis::{REDIS_STORE, RedisStore, RedisStoreConfig};

struct OnRedis {
    config: RedisStoreConfig,
    store: RedisStore,
}

#[async_trait::async_trait]
impl StoreFixture for OnRedis {
    async fn new() -> Self {
        let config = RedisStoreConfig::new(common::config());
        let store = RedisStore::connect(config.clone()).await.unwrap();
        Self { config, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(RedisStore::connect(self.config.clone()).await.unwrap())
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs Redis"]
    OnRedis,
    REDIS_STORE
);
pubsub_core::store_stress!(
    #[ignore = "needs Redis"]
    OnRedis,
    REDIS_STORE,
    2,
    50
);
