//! The servers of the tests, and prefixes of their own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};

/// The servers that the environment names for one kind of deployment.
pub(crate) struct Server {
    pub(crate) url: String,
}

/// A kind of deployment. A fixture takes it as its type, so that one suite runs on all of them.
pub(crate) trait Deployment: Send + Sync + 'static {
    /// The variable that has its URL.
    const VARIABLE: &'static str;

    /// How many replicas must have a write of the broker before it counts.
    const REPLICAS: u16 = 0;
}

/// One server.
pub(crate) struct Standalone;

/// One server, with TLS and a password.
pub(crate) struct OverTls;

/// Three nodes of a cluster.
pub(crate) struct Clustered;

/// A master that sentinels watch.
pub(crate) struct Watched;

/// The same master, whose replica must have each write that counts.
pub(crate) struct Replicated;

impl Deployment for Standalone {
    const VARIABLE: &'static str = "PIPELINE_TEST_REDIS";
}

impl Deployment for OverTls {
    const VARIABLE: &'static str = "PIPELINE_TEST_REDIS_TLS";
}

impl Deployment for Clustered {
    const VARIABLE: &'static str = "PIPELINE_TEST_REDIS_CLUSTER";
}

impl Deployment for Watched {
    const VARIABLE: &'static str = "PIPELINE_TEST_REDIS_SENTINEL";
}

impl Deployment for Replicated {
    const VARIABLE: &'static str = Watched::VARIABLE;
    const REPLICAS: u16 = 1;
}

impl Server {
    pub(crate) fn of_environment() -> Self {
        Self::of::<Standalone>()
    }

    pub(crate) fn of<D: Deployment>() -> Self {
        let url = std::env::var(D::VARIABLE);
        Self {
            url: url
                .expect("PIPELINE_TEST_REDIS, …_TLS, …_CLUSTER and …_SENTINEL name the servers of the tests"),
        }
    }

    pub(crate) fn config(&self, prefix: &str) -> RedisConfig {
        RedisConfig::from_url(&self.url).unwrap().with_prefix(prefix)
    }

    pub(crate) async fn broker(&self, prefix: &str) -> RedisBroker {
        RedisBroker::connect(RedisBrokerConfig::new(self.config(prefix))).await.unwrap()
    }

    /// Runs a command past the broker, at the server of its key.
    pub(crate) async fn run(&self, command: &redis::Cmd) -> redis::Value {
        let mut client = self.client().await;
        loop {
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let answer: redis::RedisResult<redis::Value> = command.query_async(&mut connection).await;
            match answer.as_ref().err().and_then(redis::RedisError::redirect_node) {
                Some((other, _)) => client = redis::Client::open(format!("redis://{other}")).unwrap(),
                None => return answer.unwrap(),
            }
        }
    }

    /// The server, the master, or a node.
    async fn client(&self) -> redis::Client {
        let first = |hosts: &str| {
            let host = hosts.split(',').next().unwrap();
            redis::Client::open(format!("redis://{host}")).unwrap()
        };
        if let Some(nodes) = self.url.strip_prefix("redis+cluster://") {
            return first(nodes);
        }
        if let Some((sentinels, name)) =
            self.url.strip_prefix("redis+sentinel://").and_then(|url| url.split_once('/'))
        {
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            let mut sentinel = first(sentinels).get_multiplexed_async_connection().await.unwrap();
            let (host, port): (String, u16) = command.query_async(&mut sentinel).await.unwrap();
            return redis::Client::open((host, port)).unwrap();
        }
        match self.url.split_once("?ca=") {
            Some((url, ca)) => {
                let root_cert = Some(std::fs::read(ca).unwrap());
                let certificates = redis::TlsCertificates { client_tls: None, root_cert };
                redis::Client::build_with_tls(url, certificates).unwrap()
            }
            None => redis::Client::open(&*self.url).unwrap(),
        }
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
