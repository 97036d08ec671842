//! The server of the tests, and prefixes of their own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};

/// The server that the environment names.
pub(crate) struct Server {
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn of_environment() -> Self {
        let url = std::env::var("PIPELINE_TEST_REDIS");
        Self {
            url: url
                .expect("PIPELINE_TEST_REDIS names the Redis server of the tests, as redis://127.0.0.1:6379"),
        }
    }

    pub(crate) fn config(&self, prefix: &str) -> RedisConfig {
        RedisConfig::new(&*self.url).with_prefix(prefix)
    }

    pub(crate) async fn broker(&self, prefix: &str) -> RedisBroker {
        RedisBroker::connect(RedisBrokerConfig::new(self.config(prefix))).await.unwrap()
    }

    /// Runs a command past the broker.
    pub(crate) async fn run(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(&*self.url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        command.query_async(&mut connection).await.unwrap()
    }
}

/// A beginning of keys that nobody else has.
pub(crate) fn fresh_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A database of the server that nobody else uses: what happens to all of its keys and connections happens to nobody else.
pub(crate) struct Database {
    pub(crate) server: Server,
    number: u32,
}

impl Database {
    /// Emptied first. Each test has a number of its own, 1 to 15.
    pub(crate) async fn fresh(number: u32) -> Self {
        let url = Server::of_environment().url;
        let database =
            Self { server: Server { url: format!("{}/{number}", url.trim_end_matches('/')) }, number };
        database.flush().await;
        database
    }

    pub(crate) async fn flush(&self) {
        self.server.run(&redis::cmd("FLUSHDB")).await;
    }

    pub(crate) async fn broker(&self) -> RedisBroker {
        self.server.broker("pipeline").await
    }

    /// The connections to this database, each as `CLIENT LIST` tells of it; not the one that asks.
    pub(crate) async fn clients(&self) -> Vec<String> {
        let mut command = redis::cmd("CLIENT");
        command.arg("LIST");
        let list = self.server.run(&command).await;
        let list: String = redis::from_redis_value(list).unwrap();
        let here = format!(" db={} ", self.number);
        list.lines()
            .filter(|line| line.contains(&here) && !line.contains("cmd=client"))
            .map(str::to_owned)
            .collect()
    }

    /// Ends all connections to this database.
    pub(crate) async fn kill_clients(&self) {
        for client in self.clients().await {
            let id = client.split(' ').find_map(|part| part.strip_prefix("id=")).unwrap().to_owned();
            let mut command = redis::cmd("CLIENT");
            command.arg("KILL").arg("ID").arg(id);
            self.server.run(&command).await;
        }
    }

    /// Waits until so many connections wait for something.
    pub(crate) async fn until_blocked(&self, many: usize) {
        let is_blocked =
            |client: &&String| client.split(' ').any(|part| part.starts_with("flags=") && part.contains('b'));
        while self.clients().await.iter().filter(is_blocked).count() < many {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
