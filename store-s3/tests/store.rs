//! The store passes the whole suite on a server that speaks S3.

#![expect(clippy::unwrap_used, reason = "a test")]

mod server;

use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use store_s3::{S3_STORE, S3Store, S3StoreConfig};

struct OnS3 {
    config: S3StoreConfig,
    store: S3Store,
}

#[async_trait::async_trait]
impl StoreFixture for OnS3 {
    async fn new() -> Self {
        let config = server::config();
        let store = S3Store::connect(config.clone()).await.unwrap();
        Self { config, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(S3Store::connect(self.config.clone()).await.unwrap())
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs S3"]
    OnS3,
    S3_STORE
);
mod long {
    use super::{OnS3, S3_STORE};

    pubsub_core::store_stress!(
        #[ignore = "long: every rule beside all others, on a server"]
        OnS3,
        S3_STORE,
        2,
        10
    );
}
