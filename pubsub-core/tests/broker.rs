//! The broker suite, on the broker in memory.

use std::sync::Arc;

use async_trait::async_trait;
use pubsub_core::conformance::broker::{BrokerFixture, Limits};
use pubsub_core::{Broker, MEMORY_BROKER, MemoryBroker, broker_conformance};

struct InMemory(MemoryBroker);

#[async_trait]
impl BrokerFixture for InMemory {
    async fn new() -> Self {
        Self(MemoryBroker::new())
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    async fn another(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.another())
    }

    async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
        Arc::new(MemoryBroker::with_limits(limits.in_memory()))
    }

    async fn inject(&self, bytes: &[u8]) {
        assert!(self.0.publish_bytes(bytes).is_err());
    }
}

broker_conformance!(InMemory, MEMORY_BROKER);
pubsub_core::broker_stress!(InMemory, MEMORY_BROKER, 2, 50);
