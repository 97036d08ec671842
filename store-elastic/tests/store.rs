//! The store in OpenSearch passes the whole suite, and that in whichever engine the server is.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use server::{config_at, port};
use store_elastic::{ELASTIC_STORE, ElasticStore, ElasticStoreConfig};

struct OnOpenSearch {
    config: ElasticStoreConfig,
    store: ElasticStore,
}

#[async_trait::async_trait]
impl StoreFixture for OnOpenSearch {
    async fn new() -> Self {
        let config = config_at(port());
        let store = ElasticStore::connect(config.clone()).await.unwrap();
        Self { config, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(ElasticStore::connect(self.config.clone()).await.unwrap())
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs OpenSearch"]
    OnOpenSearch,
    ELASTIC_STORE
);

mod long {
    use super::{ELASTIC_STORE, OnOpenSearch};

    pubsub_core::store_stress!(
        #[ignore = "long: every rule beside all others, on OpenSearch"]
        OnOpenSearch,
        ELASTIC_STORE,
        2,
        10
    );
}
