//! The store in MongoDB passes the whole suite, with change streams and without.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::marker::PhantomData;
use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use server::{config_at, connect, standalone_url, url};
use store_mongo::{MONGO_STORE, MongoStore, MongoStoreConfig};

/// A kind of deployment. A fixture takes it as its type, so that one suite runs on all of them.
trait Deployment: Send + Sync + 'static {
    fn url() -> String;
}

struct ReplicaSet;

struct Standalone;

impl Deployment for ReplicaSet {
    fn url() -> String {
        url()
    }
}

impl Deployment for Standalone {
    fn url() -> String {
        standalone_url()
    }
}

struct OnMongo<D> {
    config: MongoStoreConfig,
    store: MongoStore,
    deployment: PhantomData<D>,
}

#[async_trait::async_trait]
impl<D: Deployment> StoreFixture for OnMongo<D> {
    async fn new() -> Self {
        let config = config_at(D::url());
        Self { store: connect(&config).await, config, deployment: PhantomData }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(connect(&self.config).await)
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs MongoDB"]
    OnMongo<ReplicaSet>,
    MONGO_STORE
);

mod standalone {
    use store_mongo::MONGO_STORE;

    use super::{OnMongo, Standalone};

    pubsub_core::store_conformance!(
        #[ignore = "needs MongoDB"]
        OnMongo<Standalone>,
        MONGO_STORE
    );
}
