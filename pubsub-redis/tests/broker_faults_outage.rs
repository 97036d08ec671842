//! Servers that lose data or groups, or are away, while workers are at them: what is run, what is said, what it costs.
//!
//! These tests look at the log and the processor time of their own process, so one runs at a time.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod own;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use own::{broker, config, connect, counted, server, until};
use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::{
    BrokerAdmin as _, Cause, Exit, FanOut, MemoryStore, PublisherExt as _, Result, RunContext, Scope,
    SinkConfig, Stage, Stop, Worker, handler_fn,
};
use pubsub_redis::RedisBroker;
use services::{Data, Persistence, Redis, RedisOptions};
use tokio::task::JoinSet;

static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The warnings and errors of this process, each on a line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// That of this process.
    fn of_process() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let to = log.clone();
            let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
            subscriber.with_writer(move || to.clone()).init();
            log
        })
    }

    /// What was said since it was asked last.
    fn said(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The processor time that this process has used.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In hundredths of a second ("proc(5)", fields 14 and 15).
    let ticks: u64 = [11, 12].map(|at: usize| fields[at].parse::<u64>().unwrap()).iter().sum();
    Duration::from_millis(10 * ticks)
}

/// How often each event was run.
type Ran = Arc<Mutex<BTreeMap<String, u32>>>;

fn worker(broker: RedisBroker, ran: &Ran, run: Duration) -> Worker {
    let ran = Arc::clone(ran);
    let handler = handler_fn(move |context: RunContext| {
        let ran = Arc::clone(&ran);
        async move {
            *ran.lock().unwrap().entry(context.event.id.as_str().to_owned()).or_default() += 1;
            tokio::time::sleep(run).await;
            Exit::code(0).into()
        }
    });
    let sinks = FanOut::new(vec![SinkConfig::required("memory", Arc::new(MemoryStore::new()))]);
    Worker::new(Arc::new(broker), sinks, handler, Stage::new("s").unwrap(), ["t:*".parse().unwrap()]).unwrap()
}

async fn publish(broker: &RedisBroker, ids: std::ops::Range<u32>) {
    for id in ids {
        broker.publish_one(named("t", &format!("a{}", id % 7), &id.to_string())).await.unwrap();
    }
}

async fn until_ran(ran: &Ran, many: usize) {
    until("all are run", || std::future::ready(ran.lock().unwrap().len() >= many)).await;
}

async fn until_idle(broker: &RedisBroker) {
    until("all is settled", || async {
        let groups = broker.groups(&Scope::default()).await.unwrap();
        groups.len() == 1 && groups[0].depth.is_idle()
    })
    .await;
}

/// Three events that nobody has read in one moment with the end of their group.
async fn lose_the_group(redis: &Redis) {
    let mut all = redis::pipe();
    all.atomic();
    for id in 15..18 {
        // Action `a` is in partition 3 of 16.
        let event = named("t", "a", &id.to_string());
        let add = all.cmd("XADD").arg("pipeline:{3}:events").arg("*");
        for (name, text) in event.to_attributes().unwrap() {
            add.arg(name).arg(&*text);
        }
    }
    all.cmd("XGROUP").arg("DESTROY").arg("pipeline:{3}:events").arg("s@t:*");
    let client = redis::Client::open(redis.url()).unwrap();
    all.exec_async(&mut client.get_multiplexed_async_connection().await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn five_workers_of_a_server_that_forgets_run_all_say_little_and_are_idle_afterwards() {
    const LINES: usize = 10;
    let _turn = TURN.lock().await;
    let log = Log::of_process();
    let redis = server();
    let (ran, publisher) = (Ran::default(), broker(&redis).await);
    let (stopper, stop) = Stop::pair();
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..5 {
        // All of them make the group.
        workers.spawn(worker(broker(&redis).await, &ran, Duration::ZERO).run(stop.clone()));
    }
    publish(&publisher, 0..10).await;
    until_ran(&ran, 10).await;
    until_idle(&publisher).await;
    // That it keeps nothing over a restart.
    let said = log.said();
    assert!(said.len() <= 1, "{said:#?}");

    redis.ask(&["FLUSHALL"]).unwrap();
    publish(&publisher, 10..15).await;
    until_ran(&ran, 15).await;
    until_idle(&publisher).await;
    let said = log.said();
    assert!(!said.is_empty() && said.len() <= LINES, "{said:#?}");

    lose_the_group(&redis).await;
    until_ran(&ran, 18).await;
    until_idle(&publisher).await;
    let said = log.said();
    assert!(said.len() <= LINES, "{said:#?}");
    // As after a failover to a replica that had not heard that they were acknowledged.
    redis.ask(&["XGROUP", "SETID", "pipeline:{3}:events", "s@t:*", "0"]).unwrap();
    publisher.publish_one(named("t", "a", "18")).await.unwrap();
    until_ran(&ran, 19).await;
    until_idle(&publisher).await;
    // Also those that were there when their group was made again: each is concluded.
    assert!(ran.lock().unwrap().values().all(|times| *times == 1), "{ran:?}");

    const WATCHED: u64 = 4;
    let (used, asked) = (processor_time(), counted(&redis, "total_commands_processed"));
    tokio::time::sleep(Duration::from_secs(WATCHED)).await;
    let (used, asked) = (processor_time() - used, counted(&redis, "total_commands_processed") - asked);
    assert!(used < Duration::from_millis(100 * WATCHED), "{used:?} in {WATCHED} s");
    // For each worker a sign of life, which is four of them, for a script counts what it calls; and one look at all partitions.
    let one = 4 * WATCHED + 16 * 6;
    assert!(asked < 5 * one, "{asked} commands in {WATCHED} s");
    stopper.stop(Cause::Shutdown);
    while let Some(ended) = workers.join_next().await {
        ended.unwrap().unwrap();
    }
}

/// A run goes on through an outage, and the worker takes the next event once the server is back.
async fn away(outage: Duration) {
    let _turn = TURN.lock().await;
    let log = Log::of_process();
    let options = RedisOptions::new().with_persistence(Persistence::EachWrite);
    let mut redis = Redis::start(&options).unwrap();
    let (ran, publisher) = (Ran::default(), broker(&redis).await);
    let (stopper, stop) = Stop::pair();
    let lease = Duration::from_secs(2);
    let run = outage + Duration::from_secs(2);
    let worker = worker(broker(&redis).await, &ran, run).with_lease(lease).unwrap();
    let working = tokio::spawn(worker.run(stop));
    publish(&publisher, 0..1).await;
    until_ran(&ran, 1).await;
    log.said();
    redis.kill().unwrap();
    tokio::time::sleep(outage).await;
    redis.restart(Data::Kept).unwrap();
    while publisher.publish_one(named("t", "later", "later")).await.is_err() {}
    let both = until_ran(&ran, 2);
    tokio::time::timeout(run + own::LONG, both).await.expect("the next one is taken");
    until_idle_within(&publisher, run + own::LONG).await;
    let said = log.said();
    assert!(!said.is_empty() && said.len() <= 10, "{said:#?}");
    assert_eq!(ran.lock().unwrap().values().copied().collect::<Vec<_>>(), [1, 1], "no run began again");
    stopper.stop(Cause::Shutdown);
    working.await.unwrap().unwrap();
}

async fn until_idle_within(broker: &RedisBroker, limit: Duration) {
    let idle = async {
        while !broker.groups(&Scope::default()).await.unwrap()[0].depth.is_idle() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit, idle).await.expect("all is settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_worker_outlives_a_restart_of_its_server_with_few_words() {
    away(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_runs_while_the_server_refuses_for_longer_than_a_lease_is_not_started_again() {
    let _turn = TURN.lock().await;
    let redis = server();
    let (ran, publisher) = (Ran::default(), broker(&redis).await);
    let (stopper, stop) = Stop::pair();
    let lease = Duration::from_secs(6);
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..4 {
        // A slot is free in each: it goes on asking.
        let worker = worker(broker(&redis).await, &ran, 3 * lease).with_lease(lease).unwrap();
        workers.spawn(worker.with_concurrency(2).run(stop.clone()));
    }
    publish(&publisher, 0..4).await;
    until_ran(&ran, 4).await;
    // As while it loads its data, it answers each write with an error.
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    tokio::time::sleep(lease * 3 / 2).await;
    redis.ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    until_idle_within(&publisher, 5 * lease + own::LONG).await;
    assert_eq!(ran.lock().unwrap().values().copied().collect::<Vec<_>>(), [1; 4]);
    stopper.stop(Cause::Shutdown);
    while let Some(ended) = workers.join_next().await {
        ended.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_group_that_nobody_reads_is_named_and_what_is_kept_for_it_is_bounded() {
    let _turn = TURN.lock().await;
    let log = Log::of_process();
    let redis = server();
    let limits = config(&redis).with_partitions(1).with_retention(Duration::from_secs(1));
    let broker = connect(limits.with_group_retention(Duration::from_secs(8))).await;
    drop(Member::join(&broker, on("forgotten", &["t:*"])).await);
    let mut member = Member::join(&broker, on("s", &["t:*"]).with_prefetch(100)).await;
    log.said();
    let names_it = |line: &String| line.contains("forgotten@t:*") && line.contains("no member");
    let length = || -> u64 { redis.ask(&["XLEN", "pipeline:{0}:events"]).unwrap().parse().unwrap() };
    let mut said = Vec::new();
    let mut published = 0;
    while !said.iter().any(names_it) {
        publish(&broker, published..published + 20).await;
        member.take_many(20).await;
        published += 20;
        said.extend(log.said());
        assert!(published < 100_000, "{said:#?}");
    }
    assert!(length() > 0, "nothing is removed that it has not settled");
    // It goes after its time, and with it what was kept for it.
    until("all goes", || std::future::ready(length() == 0)).await;
    said.extend(log.said());
    let named = said.iter().filter(|line| names_it(line)).count();
    assert_eq!(named, 1, "{said:#?}");
    let dropped = said.iter().find(|line| line.contains("forgotten@t:*") && !names_it(line));
    assert!(dropped.is_some(), "what it had not settled is told when it goes: {said:#?}");
}

mod long {
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: a minute without a server, and needs Redis"]
    async fn a_worker_outlives_a_minute_without_its_server_with_few_words() {
        super::away(Duration::from_secs(60)).await;
    }
}
