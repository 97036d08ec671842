//! The broker suite, on every kind of deployment.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::conformance::broker::{BrokerFixture, Limits};
use pubsub_core::{Broker, broker_conformance};
use pubsub_redis::{REDIS_BROKER, RedisBroker, RedisBrokerConfig};
use server::{Deployment, Server, Standalone, fresh_prefix};

/// A replica of a busy machine may need longer than by default, and a write that it has too late is refused, as it should be.
const REPLICA_LIMIT: Duration = Duration::from_secs(10);

struct OnRedis<D> {
    server: Server,
    prefix: String,
    broker: RedisBroker,
    deployment: PhantomData<D>,
}

impl<D: Deployment> OnRedis<D> {
    fn config(server: &Server, prefix: &str) -> RedisBrokerConfig {
        RedisBrokerConfig::new(server.config(prefix))
            .with_replicas(D::REPLICAS)
            .with_replica_limit(REPLICA_LIMIT)
    }
}

async fn connect(config: RedisBrokerConfig) -> RedisBroker {
    RedisBroker::connect(config).await.unwrap()
}

#[async_trait]
impl<D: Deployment> BrokerFixture for OnRedis<D> {
    async fn new() -> Self {
        let (server, prefix) = (Server::of::<D>(), fresh_prefix());
        let broker = connect(Self::config(&server, &prefix)).await;
        Self { server, prefix, broker, deployment: PhantomData }
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.broker.clone())
    }

    async fn another(&self) -> Arc<dyn Broker> {
        Arc::new(connect(Self::config(&self.server, &self.prefix)).await)
    }

    async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
        let mut config = Self::config(&self.server, &fresh_prefix())
            .with_retention(limits.retention)
            .with_group_retention(limits.group_retention)
            .with_max_dead_letters(limits.dead_letters);
        if let Some(bytes) = limits.bytes {
            // The limit is shared out among the partitions.
            config = config.with_max_bytes(bytes).with_partitions(1);
        }
        Arc::new(connect(config).await)
    }

    async fn inject(&self, bytes: &[u8]) {
        // The partition of action `a` among 16.
        let key = format!("{}:{{3}}:events", self.prefix);
        let fields: [(&str, &[u8]); 3] = [("type", b"t"), ("subject", b"a"), ("data", bytes)];
        let mut command = redis::cmd("XADD");
        command.arg(key).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        self.server.run(&command).await;
    }
}

broker_conformance!(
    #[ignore = "needs Redis"]
    OnRedis<Standalone>,
    REDIS_BROKER
);
pubsub_core::broker_stress!(
    #[ignore = "needs Redis"]
    OnRedis<Standalone>,
    REDIS_BROKER,
    2,
    10
);

mod tls {
    use pubsub_redis::REDIS_BROKER;

    use super::OnRedis;
    use super::server::OverTls;

    pubsub_core::broker_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<OverTls>,
        REDIS_BROKER
    );
}

mod cluster {
    use pubsub_redis::REDIS_BROKER;

    use super::OnRedis;
    use super::server::Clustered;

    pubsub_core::broker_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<Clustered>,
        REDIS_BROKER
    );

    mod long {
        use super::{Clustered, OnRedis, REDIS_BROKER};

        pubsub_core::broker_stress!(
            #[ignore = "long: every rule beside all others, on a cluster"]
            OnRedis<Clustered>,
            REDIS_BROKER,
            2,
            10
        );
    }
}

mod sentinel {
    use pubsub_redis::REDIS_BROKER;

    use super::OnRedis;
    use super::server::Watched;

    pubsub_core::broker_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<Watched>,
        REDIS_BROKER
    );
}

mod replicas {
    use pubsub_redis::REDIS_BROKER;

    use super::OnRedis;
    use super::server::Replicated;

    pubsub_core::broker_conformance!(
        #[ignore = "needs Redis"]
        OnRedis<Replicated>,
        REDIS_BROKER
    );

    mod long {
        use super::{OnRedis, REDIS_BROKER, Replicated};

        pubsub_core::broker_stress!(
            #[ignore = "long: every rule beside all others, each write waiting for a replica"]
            OnRedis<Replicated>,
            REDIS_BROKER,
            2,
            10
        );
    }
}
