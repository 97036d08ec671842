//! A user with no more rights than the README names: all that broker and store do is done.
#![expect(clippy::unwrap_used, reason = "a test")]

mod own;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use own::{LONG, blocked, until};
use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::{
    BrokerAdmin as _, Command, DeadLetters as _, Deliveries, ErrorKind, FanOut, Follow, FollowFrom,
    GroupName, Keep, LeaseState, LineNumber, Lines, OutputReader as _, Publisher as _, PublisherExt as _,
    Retention as _, RetryPolicy, RunQuery, Scope, Search, Settlement, SinkConfig, Stage, Stop, Subscription,
    Target, Worker, follow,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig, RedisStore, RedisStoreConfig};
use services::{Redis, RedisCluster, RedisOptions, RedisSentinel};

/// The words of the README's line.
fn documented() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let line = readme.lines().find(|line| line.starts_with("ACL SETUSER ci ")).unwrap();
    line.split(' ').collect()
}

/// A server with this user and another one that may do all.
fn server(user: &[&str]) -> (Redis, RedisConfig) {
    let redis = Redis::start(&RedisOptions::new().with_password("other")).unwrap();
    redis.ask(user).unwrap();
    let config = RedisConfig::new(redis.url()).with_user("ci").with_password("secret");
    (redis, config)
}

/// What was denied, a command each.
fn denied(redis: &Redis) -> Vec<String> {
    let told = redis.ask(&["ACL", "LOG"]).unwrap();
    let words: Vec<&str> = told.lines().collect();
    let objects = words.windows(2).filter_map(|pair| match pair {
        ["object", what] => Some((*what).to_owned()),
        _ => None,
    });
    objects.collect()
}

/// Published, tried twice, run, followed, asked for.
async fn work(broker: &RedisBroker, store: &RedisStore) {
    // What no group waits for is old soon.
    drop(Member::join(broker, on("build", &["t:*"])).await);
    broker.publish_one(named("t", "action-1", "chosen")).await.unwrap();
    let stores = FanOut::new(vec![SinkConfig::required("redis", Arc::new(store.clone()))]);
    let command = Command::shell(r#"echo "attempt $PIPELINE_ATTEMPT"; [ "$PIPELINE_ATTEMPT" = 2 ]"#);
    let stage = Stage::new("build").unwrap();
    let worker = Worker::new(Arc::new(broker.clone()), stores, command, stage, ["t:*".parse().unwrap()]);
    let retry = RetryPolicy::default().with_attempts(2);
    let (_stopper, stop) = Stop::pair();
    worker.unwrap().with_retry(retry).until_idle().run(stop).await.unwrap();
    let runs = store.runs(&RunQuery::all()).await.unwrap();
    assert_eq!(runs.len(), 2);
    let run = runs.iter().find(|run| run.is_final).unwrap();
    assert_eq!((run.code, run.counts.lines), (Some(0), 1));
    let id = run.key.run_id.clone();
    let mut items = store.lines(&id, Lines::ALL).await.unwrap().items;
    while let Some(item) = items.next().await {
        item.unwrap();
    }
    let search = Search::literal("attempt 2").unwrap();
    let hits: Vec<_> = store.search(&RunQuery::all(), &search).await.unwrap().try_collect().await.unwrap();
    assert_eq!(hits.len(), 1);
    let from = FollowFrom::Line(LineNumber::FIRST);
    let followed = follow(Arc::new(store.clone()), Follow { target: Target::Run(id.clone()), from });
    followed.try_collect::<Vec<_>>().await.unwrap();
    store.durability().await.ok();
    assert!(store.remove(&id).await.unwrap());
    assert_eq!(store.expire(&Keep::default().with_runs(0)).await.unwrap(), 1);
}

/// Dead letters, a replay, a cancel that is heard, a takeover, a broadcast, a group that is dropped, and what is old.
async fn look_after(broker: &RedisBroker) {
    let mut listener =
        Deliveries::open(broker, Subscription::broadcast(["u:*".parse().unwrap()]).unwrap()).await.unwrap();
    let brief = || on("s", &["u:*"]).with_lease(Duration::from_millis(300)).unwrap();
    let mut dead = Member::join(broker, brief()).await;
    for id in ["1", "2"] {
        broker.publish_one(named("u", "action-2", id)).await.unwrap();
    }
    listener.next().await.unwrap().unwrap();
    let leased = dead.next().await;
    dead.settle(&leased, Settlement::DeadLetter { reason: "no good".to_owned() }).await.unwrap();
    let left = dead.next().await;
    dead.begin(&left).await.unwrap();
    drop(dead);
    broker.replay("1", None).await.unwrap();
    let mut next = Deliveries::open(broker, brief()).await.unwrap();
    let held = [own::next(&mut next).await, own::next(&mut next).await];
    broker.cancel(&"action-2".parse().unwrap()).await.unwrap();
    for delivery in held {
        delivery.state().wait_for(|state| *state == LeaseState::Cancelled).await.unwrap();
        delivery.ack().await.unwrap();
    }
    next.close().await;
    let group: GroupName = "s@u:*".parse().unwrap();
    until("it has left", || async { broker.remove_group(&group).await.is_ok() }).await;
    until("what is old goes", || async {
        broker.groups(&Scope::default()).await.unwrap().iter().all(|group| group.depth.is_idle())
    })
    .await;
}

async fn all_works(redis: &RedisConfig) {
    let config = RedisBrokerConfig::new(redis.clone()).with_retention(Duration::from_millis(200));
    let broker = RedisBroker::connect(config).await.unwrap();
    let store = RedisStore::connect(RedisStoreConfig::new(redis.clone())).await.unwrap();
    work(&broker, &store).await;
    look_after(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_user_with_the_documented_rights_lacks_none() {
    let (redis, config) = server(&documented());
    all_works(&config).await;
    let replicated = RedisBrokerConfig::new(config.clone()).with_replicas(1);
    let replicated =
        RedisBroker::connect(replicated.with_replica_limit(Duration::from_millis(10))).await.unwrap();
    let error = replicated.publish_one(named("t", "a", "waits")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "it may wait, in vain: {error}");
    assert_eq!(denied(&redis), Vec::<String>::new());
    // And has none over what is another's.
    let other = RedisBrokerConfig::new(config.with_prefix("other"));
    let error =
        RedisBroker::connect(other).await.unwrap().publish_one(named("t", "a", "1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_user_who_may_not_ask_about_the_server_works_all_the_same() {
    let few: Vec<&str> =
        documented().into_iter().filter(|right| !["+info", "+config|get"].contains(right)).collect();
    assert_eq!(few.len() + 2, documented().len());
    let (redis, config) = server(&few);
    all_works(&config).await;
    let denied = denied(&redis);
    assert!(denied.iter().all(|what| what == "info" || what == "config|get"), "{denied:?}");
}

/// The servers of a deployment have this user, with one right more.
fn options(one_more: &str) -> RedisOptions {
    let rights = documented().split_off("ACL SETUSER ci reset".split(' ').count()).join(" ");
    RedisOptions::new().with_password("other").with_user(format!("user ci {rights} {one_more}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn behind_sentinels_one_right_more_is_enough() {
    let watched = RedisSentinel::start(&options("+role")).unwrap();
    let config = RedisConfig::from_url(&watched.url().replacen("://", "://ci:secret@", 1)).unwrap();
    all_works(&config).await;
    assert_eq!(denied(&watched.servers()[0]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn in_a_cluster_one_right_more_is_enough() {
    let cluster = RedisCluster::start(0, &options("+cluster|slots")).unwrap();
    let config = RedisConfig::from_url(&cluster.url().replacen("://", "://ci:secret@", 1)).unwrap();
    all_works(&config).await;
    for node in cluster.nodes() {
        assert_eq!(denied(node), Vec::<String>::new());
    }
}

/// A broker of the user with the documented rights, and one of another who may do all.
async fn brokers(redis: &Redis, config: RedisConfig) -> (RedisBroker, RedisBroker) {
    let all = RedisConfig::new(redis.url()).with_password("other");
    let (few, all) = (RedisBrokerConfig::new(config), RedisBrokerConfig::new(all));
    (RedisBroker::connect(few).await.unwrap(), RedisBroker::connect(all).await.unwrap())
}

fn brief(lease: Duration) -> Subscription {
    on("s", &["t:*"]).with_lease(lease).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_may_not_be_settled_comes_back_after_its_lease_and_is_there_once() {
    let (redis, config) = server(&documented());
    let (broker, other) = brokers(&redis, config).await;
    let lease = Duration::from_secs(1);
    let mut deliveries = Deliveries::open(&broker, brief(lease)).await.unwrap();
    other.publish_one(named("t", "action-1", "1")).await.unwrap();
    let first = own::next(&mut deliveries).await;
    redis.ask(&["ACL", "SETUSER", "ci", "-xack"]).unwrap();
    let since = Instant::now();
    assert_eq!(first.ack().await.unwrap_err().kind(), ErrorKind::Refused);
    let second = own::next(&mut deliveries).await;
    assert!(since.elapsed() >= lease.mul_f64(0.9), "at once: {:?}", since.elapsed());
    assert!(!second.retry_in(Duration::ZERO).await.unwrap_err().is_retryable());
    let third = own::next(&mut deliveries).await;
    let depth = other.groups(&Scope::default()).await.unwrap()[0].depth;
    assert_eq!((depth.waiting, depth.delayed, depth.leased), (0, 0, 1));
    redis.ask(&["ACL", "SETUSER", "ci", "+xack"]).unwrap();
    third.ack().await.unwrap();
    assert!(other.groups(&Scope::default()).await.unwrap()[0].depth.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_was_taken_and_may_not_be_given_back_comes_after_its_lease() {
    let (redis, config) = server(&documented());
    let (broker, other) = brokers(&redis, config).await;
    let one_each = brief(Duration::from_secs(1)).with_prefetch(1);
    let mut deliveries = Deliveries::open(&broker, one_each).await.unwrap();
    let publish = async {
        until("it waits", || async { blocked(&redis) > 0 }).await;
        other.publish_one(named("t", "action-0", "0")).await.unwrap();
    };
    let (first, ()) = tokio::join!(own::next(&mut deliveries), publish);
    first.ack().await.unwrap();
    let more: Vec<_> = (1..9).map(|n| named("t", &format!("action-{n}"), &n.to_string())).collect();
    assert!(other.publish(more).await.iter().all(Result::is_ok));
    redis.ask(&["ACL", "SETUSER", "ci", "-xadd"]).unwrap();
    // One of each partition is taken at once.
    own::next(&mut deliveries).await.ack().await.unwrap();
    let tried = || denied(&redis).iter().any(|what| what == "xadd");
    until("it was to be given back", || async { tried() }).await;
    redis.ask(&["ACL", "SETUSER", "ci", "+xadd"]).unwrap();
    let all = async {
        let mut ids = BTreeSet::new();
        while ids.len() < 7 {
            let delivery = own::next(&mut deliveries).await;
            ids.insert(delivery.event().id.clone());
            delivery.ack().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, all).await.unwrap();
}
