//! Replicas that must have a write before it counts: also where they are slow, sleep, or take over.
#![expect(clippy::unwrap_used, reason = "a test")]

mod own;

use std::sync::Arc;
use std::time::{Duration, Instant};

use own::{LONG, conclusion, config, connect, until};
use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{
    Begin, BrokerAdmin as _, Error, ErrorKind, Leased, Novelty, Publisher as _, PublisherExt as _, Renewal,
    Scope, Settlement,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{Place, Proxy, Redis, RedisOptions, Weather};
use tokio::time::timeout;

const EVENTS: &str = "pipeline:{3}:events";
const CLAIMS: &str = "pipeline:{3}:claims";

/// How long it is waited for a replica that sleeps; on a busy machine one that does not needs a while as well.
const LIMIT: Duration = Duration::from_millis(1500);

/// A master, and a replica that reaches it by a proxy.
struct Pair {
    master: Redis,
    replica: Redis,
    proxy: Proxy,
}

impl Pair {
    fn start() -> Self {
        let place = Arc::new(Place::new().unwrap());
        let master = Redis::start_in(&place, "master", &RedisOptions::new()).unwrap();
        let proxy = Proxy::start(master.port()).unwrap();
        let of = format!("127.0.0.1 {}", proxy.port());
        let replica =
            Redis::start_in(&place, "replica", &RedisOptions::new().with_setting("replicaof", of)).unwrap();
        let pair = Self { master, replica, proxy };
        while pair.replica.info("master_link_status").unwrap() != "up" {
            std::thread::sleep(Duration::from_millis(10));
        }
        pair.master.replicated().unwrap();
        pair
    }

    /// A broker whose writes wait for the replica.
    async fn broker(&self, limit: Duration) -> RedisBroker {
        connect(config(&self.master).with_replicas(1).with_replica_limit(limit)).await
    }
}

fn is_for_replicas(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    for part in ["too few replicas", "replicas=0", "wanted=1"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_was_acknowledged_is_at_a_replica_however_slow_it_is() {
    let mut pair = Pair::start();
    let broker = pair.broker(LONG).await;
    let quick = own::broker(&pair.master).await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    pair.proxy.set(Weather::Delayed(Duration::from_millis(150))).unwrap();
    let length = || pair.replica.ask(&["XLEN", EVENTS]).unwrap();
    // Without the setting the answer comes before the replica has it.
    quick.publish_one(named("t", "a", "quick")).await.unwrap();
    assert_eq!(length(), "0");
    broker.publish_one(named("t", "a", "1")).await.unwrap();
    assert_eq!(length(), "2");
    broker.publish_one(event("t", "a")).await.unwrap();
    assert_eq!(length(), "3");
    let leased = member.next().await;
    assert!(matches!(member.begin(&leased).await.unwrap(), Begin::Go(_)));
    let claim = || pair.replica.ask(&["HVALS", CLAIMS]).unwrap();
    assert!(claim().contains(r#""attempts":1"#), "{}", claim());
    member.conclude(&leased, conclusion(&leased, 1)).await.unwrap();
    assert!(claim().contains(r#""run_id""#), "{}", claim());
    broker.cancel(&"a".parse().unwrap()).await.unwrap();
    assert_ne!(pair.replica.ask(&["HGET", "pipeline:{3}:cancels", "a"]).unwrap(), "");
    // Those who come while one waits share the next wait.
    let began = Instant::now();
    let many = (0..40).map(|n| {
        let broker = broker.clone();
        async move { broker.publish_one(named("t", "b", &n.to_string())).await }
    });
    for answer in futures::future::join_all(many).await {
        answer.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(4), "40 waits: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn without_a_replica_in_time_a_publish_is_refused_and_its_repetition_is_the_same_event() {
    let pair = Pair::start();
    let broker = pair.broker(LIMIT).await;
    broker.publish_one(named("t", "a", "1")).await.unwrap();
    pair.replica.pause().unwrap();
    let (chosen, generated) = (named("t", "a", "2"), event("t", "a"));
    for one in [&chosen, &generated, &chosen] {
        let began = Instant::now();
        is_for_replicas(&broker.publish_one(one.clone()).await.unwrap_err());
        assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
    }
    pair.replica.go_on().unwrap();
    for one in [&chosen, &generated] {
        let answer = broker.publish_one(one.clone()).await.unwrap();
        assert_eq!(answer.novelty, Novelty::Duplicate);
    }
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    assert_eq!(member.take_many(3).await, ["1", "2", generated.id.as_str()]);
    member.nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn without_a_replica_in_time_claims_are_refused_and_their_repetition_changes_nothing() {
    let pair = Pair::start();
    let broker = pair.broker(LIMIT).await;
    for id in ["1", "2", "3"] {
        broker.publish_one(named("t", "a", id)).await.unwrap();
    }
    let mut member = Member::join(&broker, on("s", &["t:a"]).with_prefetch(3)).await;
    let all: [Leased; 3] = [member.next().await, member.next().await, member.next().await];
    let [first, second, third] = &all;
    pair.replica.pause().unwrap();
    for _ in 0..2 {
        is_for_replicas(&member.begin(first).await.unwrap_err());
        is_for_replicas(&member.begin(second).await.unwrap_err());
    }
    pair.replica.go_on().unwrap();
    for leased in [first, second] {
        let Begin::Go(numbers) = member.begin(leased).await.unwrap() else { unreachable!("it was not run") };
        assert_eq!((numbers.attempt, numbers.crashes), (1, 0));
    }
    pair.replica.pause().unwrap();
    for _ in 0..2 {
        is_for_replicas(&member.conclude(first, conclusion(first, 1)).await.unwrap_err());
        let retry = Settlement::Retry { after: Duration::ZERO };
        is_for_replicas(&member.settle(second, retry).await.unwrap_err());
        // It is settled at the master, and its holder is not told that it is another's.
        assert_eq!(member.renew(second).await, Renewal::Held);
    }
    // What changes no claim needs no replica.
    member.ack(third).await;
    pair.replica.go_on().unwrap();
    member.conclude(first, conclusion(first, 1)).await.unwrap();
    member.ack(first).await;
    member.settle(second, Settlement::Retry { after: Duration::ZERO }).await.unwrap();
    let again = member.next().await;
    assert_eq!(again.event.id.as_str(), "2");
    let Begin::Go(numbers) = member.begin(&again).await.unwrap() else { unreachable!("it is to be run") };
    assert_eq!((numbers.attempt, numbers.failures, numbers.crashes), (2, 1, 0));
    member.ack(&again).await;
    member.nothing().await;
    assert!(broker.groups(&Scope::default()).await.unwrap()[0].depth.is_idle());
}

/// The connection that all share is never the one that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn while_a_publish_waits_for_a_replica_nothing_else_does() {
    let pair = Pair::start();
    let broker = pair.broker(Duration::from_secs(20)).await;
    for id in ["1", "2"] {
        broker.publish_one(named("t", "a", id)).await.unwrap();
    }
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    pair.replica.pause().unwrap();
    let (publisher, one) = (broker.clone(), named("t", "a", "3"));
    let waiting = tokio::spawn(async move { publisher.publish_one(one).await });
    until("it waits", || std::future::ready(own::blocked(&pair.master) > 0)).await;
    let others = async {
        broker.groups(&Scope::default()).await.unwrap();
        assert_eq!(member.renew(&leased).await, Renewal::Held);
        member.ack(&leased).await;
        assert_eq!(member.take_many(2).await, ["2", "3"]);
        let other = own::broker(&pair.master).await;
        other.publish_one(named("t", "a", "4")).await.unwrap();
        assert_eq!(member.take().await, "4");
    };
    timeout(Duration::from_secs(10), others).await.unwrap();
    assert!(!waiting.is_finished());
    pair.replica.go_on().unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_replica_that_takes_over_has_all_that_was_acknowledged() {
    let mut pair = Pair::start();
    let broker = pair.broker(LONG).await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    broker.publish_one(named("t", "a", "done")).await.unwrap();
    let leased = member.next().await;
    member.begin(&leased).await.unwrap();
    member.conclude(&leased, conclusion(&leased, 1)).await.unwrap();
    pair.proxy.set(Weather::Delayed(Duration::from_millis(50))).unwrap();
    let mut acknowledged = 0;
    for n in 0..10 {
        broker.publish_one(named("t", "a", &n.to_string())).await.unwrap();
        acknowledged += 1;
    }
    pair.master.kill().unwrap();
    pair.replica.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    drop(member);
    let next = RedisBrokerConfig::new(RedisConfig::new(pair.replica.url()));
    let next = connect(next).await;
    let mut late = Member::join(&next, on("late", &["t:a"])).await;
    assert_eq!(late.take().await, "done");
    for n in 0..acknowledged {
        assert_eq!(late.take().await, n.to_string());
    }
    // Its claim says what was concluded, also to the group that had not settled it.
    let mut same = Member::join(&next, on("s", &["t:*"])).await;
    let came = same.next().await;
    assert!(matches!(same.begin(&came).await.unwrap(), Begin::Concluded(_)));
}

/// A server that has no replica at all: each write waits in vain, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_server_without_replicas_is_told_with_each_event_of_a_call() {
    let redis = own::server();
    let broker = connect(config(&redis).with_replicas(2).with_replica_limit(Duration::from_millis(50))).await;
    let answers = broker.publish(vec![named("t", "a", "1"), named("t", "b", "2")]).await;
    let errors = own::failures(answers);
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| error.to_string().contains("replicas=0, wanted=2")), "{errors:?}");
}
