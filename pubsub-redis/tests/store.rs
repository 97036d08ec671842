//! The store in Redis passes the whole suite, on every kind of deployment.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::marker::PhantomData;
use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use pubsub_redis::{REDIS_STORE, RedisStore, RedisStoreConfig};
use server::{Deployment, Server, Standalone, fresh_prefix};

struct OnRedis<D> {
    config: RedisStoreConfig,
    store: RedisStore,
    deployment: PhantomData<D>,
}

#[async_trait::async_trait]
impl<D: Deployment> StoreFixture for OnRedis<D> {
    async fn new() -> Self {
        let config = RedisStoreConfig::new(Server::of::<D>().config(&fresh_prefix()));
        let store = RedisStore::connect(config.clone()).await.unwrap();
        Self { config, store, deployment: PhantomData }
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
    OnRedis<Standalone>,
    REDIS_STORE
);
pubsub_core::store_stress!(
    #[ignore = "needs Redis"]
    OnRedis<Standalone>,
    REDIS_STORE,
    2,
    50
);

mod tls {
    use pubsub_redis::REDIS_STORE;

    use super::OnRedis;
    use super::server::OverTls;

    pubsub_core::store_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<OverTls>,
        REDIS_STORE
    );
}

mod cluster {
    use pubsub_redis::REDIS_STORE;

    use super::OnRedis;
    use super::server::Clustered;

    pubsub_core::store_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<Clustered>,
        REDIS_STORE
    );

    mod long {
        use super::{Clustered, OnRedis, REDIS_STORE};

        pubsub_core::store_stress!(
            #[ignore = "long: every rule beside all others, on a cluster"]
            OnRedis<Clustered>,
            REDIS_STORE,
            2,
            20
        );
    }
}

mod sentinel {
    use pubsub_redis::REDIS_STORE;

    use super::OnRedis;
    use super::server::Watched;

    pubsub_core::store_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<Watched>,
        REDIS_STORE
    );
}
