//! The broker suite, on the broker in a folder.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::conformance::broker::{BrokerFixture, Limits, event};
use pubsub_core::{Broker, EventId, PublisherExt as _, broker_conformance};
use pubsub_file::{FILE_BROKER, FileBroker, FileBrokerConfig};
use tempfile::TempDir;

struct InAFolder(FileBroker, TempDir);

impl InAFolder {
    async fn open(dir: &TempDir) -> FileBroker {
        FileBroker::connect(FileBrokerConfig::new(dir.path())).await.unwrap()
    }

    fn write_past_the_broker(&self, body: &[u8]) {
        let db = rusqlite::Connection::open(self.1.path().join("broker/events.db")).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        let id = EventId::generate();
        let values = rusqlite::params![id.as_str(), body];
        db.execute("INSERT INTO events (id, type, action, body) VALUES (?1, 't', 'a', ?2)", values).unwrap();
    }
}

#[async_trait]
impl BrokerFixture for InAFolder {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(Self::open(&dir).await, dir)
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    async fn another(&self) -> Arc<dyn Broker> {
        Arc::new(Self::open(&self.1).await)
    }

    async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
        let folder = self.1.path().join(EventId::generate().as_str());
        let mut config = FileBrokerConfig::new(folder)
            .with_retention(limits.retention)
            .with_group_retention(limits.group_retention)
            .with_max_dead_letters(limits.dead_letters);
        if let Some(bytes) = limits.bytes {
            config = config.with_max_bytes(bytes);
        }
        Arc::new(FileBroker::connect(config).await.unwrap())
    }

    async fn inject(&self, bytes: &[u8]) {
        self.write_past_the_broker(bytes);
        // Whoever writes past the broker wakes nobody.
        self.0.publish_one(event("wakes", "everybody")).await.unwrap();
    }
}

broker_conformance!(InAFolder, FILE_BROKER);
pubsub_core::broker_stress!(InAFolder, FILE_BROKER, 2, 10);
