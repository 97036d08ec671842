//! Reads that wait, and what becomes of what they get when nobody hears of it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pubsub_core::conformance::broker::{named, on};
use pubsub_core::{Deliveries, Delivery, PublisherExt as _};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use server::Database;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Stands between a broker and its server, and can end the connections of the broker alone: the server sees nothing of it,
/// as where a network is gone.
struct Halfway {
    port: u16,
    ends: watch::Sender<u64>,
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Halfway {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, ends) = (listener.local_addr().unwrap().port(), watch::Sender::new(0));
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let (all, end) = (Arc::clone(&tasks), ends.clone());
        tasks.lock().unwrap().spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&to).await.unwrap();
                all.lock().unwrap().spawn(pass(client, server, end.subscribe()));
            }
        });
        Self { port, ends, _tasks: tasks }
    }

    fn end(&self) {
        self.ends.send_modify(|ends| *ends += 1);
    }
}

/// Until the client is to hear of its end. The server goes on, and nobody hears it.
async fn pass(client: TcpStream, server: TcpStream, mut end: watch::Receiver<u64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = tokio::io::copy(&mut from_client, &mut to_server);
    let answering = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        _ = asking => {}
        _ = answering => {}
        _ = end.changed() => {}
    }
    drop((from_client, to_client));
    let mut unheard = vec![0; 1024];
    while from_server.read(&mut unheard).await.is_ok_and(|read| read > 0) {}
    to_server.shutdown().await.ok();
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    loop {
        let next = timeout(Duration::from_secs(20), deliveries.next()).await.expect("nothing comes");
        match next.expect("the stream has ended") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_a_read_gets_that_nobody_hears_any_more_is_found_long_before_its_lease_is_over() {
    let database = Database::fresh(11).await;
    let (address, number) = database.server.url.trim_start_matches("redis://").split_once('/').unwrap();
    let halfway = Halfway::start(address.to_owned()).await;
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}/{number}", halfway.port));
    let broker = RedisBroker::connect(RedisBrokerConfig::new(config)).await.unwrap();
    let publisher = database.broker().await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    let began = Instant::now();
    let lost = async {
        database.until_blocked(1).await;
        halfway.end();
        // The member reads again, and the read of which nobody hears is before it.
        database.until_blocked(2).await;
        publisher.publish_one(named("t", "a", "1")).await.unwrap();
    };
    let (came, ()) = tokio::join!(next(&mut deliveries), lost);
    assert_eq!(came.event().id.as_str(), "1");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    came.ack().await.unwrap();
}
