//! The broker suite, on a server that `PIPELINE_TEST_REDIS` names.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;

use async_trait::async_trait;
use pubsub_core::conformance::broker::{BrokerFixture, Limits};
use pubsub_core::{Broker, broker_conformance};
use pubsub_redis::{REDIS_BROKER, RedisBroker, RedisBrokerConfig};
use server::{Server, fresh_prefix};

struct OnRedis {
    server: Server,
    prefix: String,
    broker: RedisBroker,
}

impl OnRedis {
    async fn open(&self) -> RedisBroker {
        self.server.broker(&self.prefix).await
    }
}

#[async_trait]
impl BrokerFixture for OnRedis {
    async fn new() -> Self {
        let (server, prefix) = (Server::of_environment(), fresh_prefix());
        let broker = server.broker(&prefix).await;
        Self { server, prefix, broker }
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.broker.clone())
    }

    async fn another(&self) -> Arc<dyn Broker> {
        Arc::new(self.open().await)
    }

    async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
        let mut config = RedisBrokerConfig::new(self.server.config(&fresh_prefix()))
            .with_retention(limits.retention)
            .with_group_retention(limits.group_retention)
            .with_max_dead_letters(limits.dead_letters);
        if let Some(bytes) = limits.bytes {
            // The limit is shared out among the partitions.
            config = config.with_max_bytes(bytes).with_partitions(1);
        }
        Arc::new(RedisBroker::connect(config).await.unwrap())
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
    OnRedis,
    REDIS_BROKER
);
pubsub_core::broker_stress!(
    #[ignore = "needs Redis"]
    OnRedis,
    REDIS_BROKER,
    2,
    10
);
