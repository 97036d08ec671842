//! Reads that wait, and connections that end while they do: nothing is held up and nothing is missed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod own;

use std::time::{Duration, Instant};

use own::{LONG, blocked, broker, connect, next, next_whenever, publish, server, until};
use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::conformance::store::{SampleRun, lines};
use pubsub_core::{Begin, BrokerAdmin as _, Deliveries, LeaseState, PublisherExt as _, Scope, Subscription};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig, RedisStore, RedisStoreConfig};
use services::{Data, Persistence, Proxy, Redis, RedisOptions, Weather};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Waits for the next one elsewhere.
fn waits(mut deliveries: Deliveries) -> JoinHandle<(String, Deliveries)> {
    tokio::spawn(async move {
        let delivery = next_whenever(&mut deliveries).await;
        let id = delivery.event().id.as_str().to_owned();
        delivery.ack().await.ok();
        (id, deliveries)
    })
}

async fn until_blocked(redis: &Redis, many: usize) {
    until("reads wait", || std::future::ready(blocked(redis) >= many)).await;
}

/// Each of these at once, however long a read on a quiet stream waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn status_publish_and_lines_are_done_at_once_while_a_read_waits() {
    const AT_ONCE: Duration = Duration::from_millis(200);
    const ROUNDS: u64 = 9;
    let redis = server();
    let broker = broker(&redis).await;
    let store = RedisStoreConfig::new(RedisConfig::new(redis.url()));
    let store = RedisStore::connect(store).await.unwrap();
    let quiet = waits(Deliveries::open(&broker, on("s", &["t:quiet"])).await.unwrap());
    until_blocked(&redis, 1).await;
    let mut run = SampleRun::new();
    run.begin(&store).await;
    let mut took: Vec<[Duration; 3]> = Vec::new();
    for round in 0..ROUNDS {
        let began = Instant::now();
        broker.clone().groups(&Scope::default()).await.unwrap();
        let status = began.elapsed();
        broker.clone().publish_one(named("t", "busy", &round.to_string())).await.unwrap();
        let published = began.elapsed();
        let first = 1 + round * 1_000;
        run.append(&store.clone(), &[lines(first, (first..first + 1_000).map(|n| n.to_string()))]).await;
        took.push([status, published - status, began.elapsed() - published]);
    }
    for (at, what) in ["status", "publish", "1,000 lines"].into_iter().enumerate() {
        let mut times: Vec<Duration> = took.iter().map(|times| times[at]).collect();
        times.sort_unstable();
        // A busy machine may take its time once; a read that is waited for is waited for each time.
        assert!(times[times.len() / 2] < AT_ONCE, "{what}: {times:?}");
        assert!(times[times.len() - 1] < Duration::from_secs(4), "{what}: {times:?}");
    }
    assert!(!quiet.is_finished());
    let clients = redis.ask(&["CLIENT", "LIST"]).unwrap();
    let with = |what: &str| clients.lines().filter(|line| line.contains(what)).count();
    // The one that waits, the one that hears of cancels; and for commands that of the broker and that of the store.
    assert_eq!(
        (with("cmd=xreadgroup"), with("cmd=subscribe"), with(" addr=127.0.0.1:")),
        (1, 1, 4),
        "{clients}"
    );
    broker.publish_one(named("t", "quiet", "last")).await.unwrap();
    assert_eq!(timeout(LONG, quiet).await.expect("it is woken").unwrap().0, "last");
}

fn broadcast(pattern: &str) -> Subscription {
    Subscription::broadcast([pattern.parse().unwrap()]).unwrap()
}

/// Subscribers without a group, of one action and of a pattern, over two restarts: nothing of what the server kept is missed.
async fn hears_again_after_restarts(outages: [Duration; 2]) {
    let options = RedisOptions::new().with_persistence(Persistence::EachWrite);
    let mut redis = Redis::start(&options).unwrap();
    let broker = broker(&redis).await;
    let mut plain = Deliveries::open(&broker, broadcast("t:a")).await.unwrap();
    let mut wild = Deliveries::open(&broker, broadcast("t:*")).await.unwrap();
    for (round, outage) in (0..).zip(outages) {
        let waiting = [waits(plain), waits(wild)];
        // One read for both.
        until_blocked(&redis, 1).await;
        redis.kill().unwrap();
        tokio::time::sleep(outage).await;
        redis.restart(Data::Kept).unwrap();
        let began = Instant::now();
        while broker.publish_one(named("t", "a", &round.to_string())).await.is_err() {}
        let [first, second] = waiting;
        let both = async { (first.await.unwrap(), second.await.unwrap()) };
        let heard = timeout(LONG, both).await.expect("both hear again");
        assert_eq!((heard.0.0, heard.1.0), (round.to_string(), round.to_string()));
        // The longest pause between two tries is 3.2 s.
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        (plain, wild) = (heard.0.1, heard.1.1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn who_listens_without_a_group_hears_again_after_restarts_of_the_server() {
    hears_again_after_restarts([Duration::from_secs(1), Duration::from_secs(4)]).await;
}

/// An outage is told by the stream, with a kind that says that it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_outage_is_seen_by_who_listens_and_by_who_asks() {
    let mut redis = server();
    let broker = broker(&redis).await;
    let mut listener = Deliveries::open(&broker, broadcast("t:a")).await.unwrap();
    let mut member = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    redis.kill().unwrap();
    for deliveries in [&mut listener, &mut member] {
        let told = timeout(LONG, deliveries.next()).await.expect("the outage is told").unwrap();
        assert!(told.unwrap_err().is_retryable());
    }
    assert!(broker.groups(&Scope::default()).await.unwrap_err().is_retryable());
    // All that was there is lost with it.
    redis.restart(Data::Lost).unwrap();
    // The listener has no group to make: it hears what is published once it asks again.
    while broker.publish_one(named("t", "a", "1")).await.is_err() {}
    let came = next(&mut listener).await;
    assert_eq!(came.event().id.as_str(), "1");
    let came = next(&mut member).await;
    assert_eq!(came.event().id.as_str(), "1");
    came.ack().await.unwrap();
}

/// Cancels are heard on a connection for channels; the next one is heard although that was cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_cancel_is_heard_at_once_although_the_connection_for_channels_was_cut() {
    let redis = server();
    let broker: RedisBroker = broker(&redis).await;
    publish(&broker, [1]).await;
    // Renewed by time alone, it would hear of the cancel after 20 s.
    let long = on("s", &["t:a"]).with_lease(Duration::from_secs(60)).unwrap();
    let mut deliveries = Deliveries::open(&broker, long).await.unwrap();
    let delivery = next(&mut deliveries).await;
    let mut cut = String::new();
    for _ in 0..3 {
        let listening = async || loop {
            let clients = redis.ask(&["CLIENT", "LIST", "TYPE", "pubsub"]).unwrap();
            let id = clients.split(' ').next().unwrap().to_owned();
            if clients.contains("sub=1") && id != cut {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        cut = timeout(LONG, listening()).await.expect("it listens, also again");
        redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    }
    let began = Instant::now();
    broker.cancel(&"a".parse().unwrap()).await.unwrap();
    let mut state = delivery.state();
    let cancelled = state.wait_for(|state| *state == LeaseState::Cancelled);
    timeout(Duration::from_secs(10), cancelled).await.expect("the cancel is heard").unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A server that answers slowly is not away: what a dead member held comes to one whose looks all together take longer than a
/// lease, and who is woken all the time by what is for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_a_dead_member_held_is_taken_over_while_looks_take_long() {
    let redis = server();
    let direct = broker(&redis).await;
    let mut proxy = Proxy::start(redis.port()).unwrap();
    let far = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port()));
    let far = connect(RedisBrokerConfig::new(far)).await;
    let on = || on("s", &["t:*-mine"]).with_lease(Duration::from_secs(1)).unwrap();
    let mut dead = Member::join(&direct, on()).await;
    direct.publish_one(named("t", "a-mine", "held")).await.unwrap();
    let leased = dead.next().await;
    assert!(matches!(dead.begin(&leased).await.unwrap(), Begin::Go(_)));
    let mut other = Member::join(&far, on()).await;
    drop(dead);
    proxy.set(Weather::Delayed(Duration::from_millis(60))).unwrap();
    let others = async {
        for n in 0_u64.. {
            direct.publish_one(named("t", &format!("{}-other", n % 50), &n.to_string())).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::select! {
        came = other.next() => came,
        () = others => unreachable!("there are always more"),
    };
    assert_eq!(came.event.id.as_str(), "held");
}

mod long {
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: a minute without a server, and needs Redis"]
    async fn who_listens_without_a_group_hears_again_after_a_minute() {
        super::hears_again_after_restarts([Duration::from_secs(1), Duration::from_secs(60)]).await;
    }
}
