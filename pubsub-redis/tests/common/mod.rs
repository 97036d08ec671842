//! The servers of the tests: one that a variable names, and one of a test's own.

#![allow(dead_code, reason = "each test file takes what it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pubsub_redis::RedisConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

/// The server that the variable names, with a prefix that no other test has.
pub(crate) fn config() -> RedisConfig {
    let url = std::env::var("PIPELINE_TEST_REDIS").expect("PIPELINE_TEST_REDIS names a server");
    RedisConfig::new(url).with_prefix(prefix())
}

fn prefix() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}

/// Stands between a store and a server, and can leave connections open on which nothing comes any more.
pub(crate) struct Proxy {
    port: u16,
    /// How many connections there were, and up to which of them nothing is passed on.
    count: Arc<AtomicU64>,
    silent: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(server: &Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port);
        let (count, silent) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (counted, silenced) = (Arc::clone(&count), Arc::clone(&silent));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pumps = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                pumps.spawn(pump(from_client, to_server, number, Arc::clone(&silenced)));
                pumps.spawn(pump(from_server, to_client, number, Arc::clone(&silenced)));
            }
        });
        Self { port, count, silent, _tasks: tasks }
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("redis://127.0.0.1:{}", self.port)).with_prefix(prefix())
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// From now on nothing passes on the connections that there are.
    pub(crate) fn silence(&self) {
        self.silent.store(self.connections(), Ordering::SeqCst);
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, silent: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        let is_silent = number <= silent.load(Ordering::SeqCst);
        if read == 0 || (!is_silent && to.write_all(buffer.get(..read).unwrap()).await.is_err()) {
            return;
        }
    }
}

/// A port that nobody has, a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server of one test, in a folder of its own; it ends with the test.
pub(crate) struct Server {
    process: Child,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    port: u16,
    prefix: String,
}

impl Server {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn(&folder, port, &arguments);
        let server = Self { process, folder, arguments, port, prefix: prefix() };
        server.ready().await;
        server
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(format!("redis://127.0.0.1:{}", self.port)).with_prefix(&self.prefix)
    }

    /// Kills it.
    pub(crate) async fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(&self.folder, self.port, &self.arguments);
        self.ready().await;
    }

    pub(crate) async fn set(&self, setting: &str, value: &str) {
        self.ask(&["CONFIG", "SET", setting, value]).await;
    }

    /// What it answers, as text for people.
    pub(crate) async fn ask(&self, command: &[&str]) -> String {
        let answer = self.try_ask(command).await.unwrap();
        match answer {
            redis::Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
            other => format!("{other:?}"),
        }
    }

    async fn try_ask(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let (name, arguments) = command.split_first().expect("a command has a name");
        let mut asked = redis::cmd(name);
        asked.arg(arguments);
        asked.query_async(&mut connection).await
    }

    async fn ready(&self) {
        let ready = async {
            while self.try_ask(&["PING"]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the server starts");
    }
}

fn spawn(folder: &tempfile::TempDir, port: u16, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"])
        .arg(folder.path())
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
