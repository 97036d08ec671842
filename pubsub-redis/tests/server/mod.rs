//! The server of the tests, and prefixes of their own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};

/// The server that the environment names.
pub struct Server {
    pub url: String,
}

impl Server {
    pub fn of_environment() -> Self {
        let url = std::env::var("PIPELINE_TEST_REDIS");
        Self {
            url: url
                .expect("PIPELINE_TEST_REDIS names the Redis server of the tests, as redis://127.0.0.1:6379"),
        }
    }

    pub fn config(&self, prefix: &str) -> RedisConfig {
        RedisConfig::new(&*self.url).with_prefix(prefix)
    }

    pub async fn broker(&self, prefix: &str) -> RedisBroker {
        RedisBroker::connect(RedisBrokerConfig::new(self.config(prefix))).await.unwrap()
    }

    /// Runs a command past the broker.
    pub async fn run(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(&*self.url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }
}

/// A beginning of keys that nobody else has.
pub fn fresh_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
