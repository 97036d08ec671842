//! A cluster of a test's own: slots that move, nodes that die, and what members that wait leave at the nodes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pubsub_core::conformance::broker::{named, on};
use pubsub_core::{
    ActionId, Begin, BrokerAdmin as _, Conclusion, Deliveries, Delivery, ErrorKind, Event, Publisher as _,
    PublisherExt as _, RunKey, RunRecord, Scope, Stage, Subscription,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::{RedisCluster, RedisOptions};
use tokio::sync::Notify;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for what has to come.
const LONG: Duration = Duration::from_secs(60);

const PARTITIONS: u16 = 16;

async fn broker(cluster: &RedisCluster) -> RedisBroker {
    let config = RedisConfig::from_url(&cluster.url()).unwrap();
    RedisBroker::connect(RedisBrokerConfig::new(config)).await.unwrap()
}

fn start(replicas: usize) -> RedisCluster {
    block_in_place(|| RedisCluster::start(replicas, &RedisOptions::new())).unwrap()
}

/// The slot of a partition, by the server's own word.
fn slot(cluster: &RedisCluster, partition: u16) -> u16 {
    let key = format!("pipeline:{{{partition}}}:events");
    cluster.nodes()[0].ask(&["CLUSTER", "KEYSLOT", &key]).unwrap().parse().unwrap()
}

/// Moves the slot of a partition to the next master.
fn move_on(cluster: &RedisCluster, partition: u16) {
    let slot = slot(cluster, partition);
    let to = (cluster.serves(slot).unwrap() + 1) % 3;
    cluster.begin_move(slot, to).unwrap();
    cluster.move_keys(slot, to).unwrap();
    cluster.end_move(slot, to).unwrap();
}

/// A number that every running node tells, added up.
fn sum(cluster: &RedisCluster, field: &str) -> u64 {
    let running = cluster.nodes().iter().filter(|node| node.id().is_some());
    running.map(|node| node.info(field).unwrap().parse::<u64>().unwrap()).sum()
}

/// How many commands the nodes were sent, without these questions and without what scripts call.
fn asked_of(cluster: &RedisCluster) -> u64 {
    const OTHERS: [&str; 4] = ["cmdstat_info", "cmdstat_time", "cmdstat_zadd", "cmdstat_zrange"];
    let told = cluster.nodes().iter().map(|node| node.ask(&["INFO", "COMMANDSTATS"]).unwrap());
    let calls = |line: &str| {
        let (name, told) = line.trim_end().split_once(":calls=")?;
        let calls = told.split(',').next()?.parse::<u64>().ok()?;
        (!OTHERS.contains(&name)).then_some(calls)
    };
    told.map(|told| told.lines().filter_map(calls).sum::<u64>()).sum()
}

async fn until_blocked(cluster: &RedisCluster, many: u64) {
    let blocked = async {
        while block_in_place(|| sum(cluster, "blocked_clients")) != many {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, blocked).await.expect("so many reads wait");
}

/// Publishes until it is answered, as a program would: the id was chosen, so it is one event.
async fn publish(broker: &RedisBroker, event: Event) {
    let began = Instant::now();
    while let Err(error) = broker.publish_one(event.clone()).await {
        assert!(error.is_retryable() && began.elapsed() < LONG, "{}", error.chain());
        sleep(Duration::from_millis(20)).await;
    }
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    loop {
        match timeout(LONG, deliveries.next()).await.expect("nothing comes").expect("the stream has ended") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{}", error.chain()),
        }
    }
}

/// As [`next`], where nothing is an outage.
async fn next_at_once(deliveries: &mut Deliveries) -> Delivery {
    let next = timeout(LONG, deliveries.next()).await.expect("nothing comes").expect("the stream has ended");
    next.unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// Runs an event to its end; its id where this was the run that concluded it.
async fn run(delivery: Delivery) -> Option<String> {
    let event = delivery.event();
    let (id, action) = (event.id.clone(), event.action_id.clone());
    let concluded = match delivery.begin().await {
        Ok(Begin::Go(numbers)) => {
            let key = RunKey::new(action, Stage::new("s").unwrap(), id.clone(), numbers.attempt);
            let end = Conclusion { record: RunRecord::begun(key, "w"), values: BTreeMap::default() };
            match delivery.conclude(end).await {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::LeaseLost => false,
                Err(error) => panic!("{}", error.chain()),
            }
        }
        Ok(Begin::Concluded(_)) => false,
        Ok(other) => panic!("{other:?}"),
        Err(error) if error.kind() == ErrorKind::LeaseLost => return None,
        Err(error) => panic!("{}", error.chain()),
    };
    // Where it is not acknowledged it comes again, and is known as concluded.
    delivery.ack().await.ok();
    concluded.then(|| id.as_str().to_owned())
}

/// Runs what comes until so many have been concluded, each once.
async fn run_all(deliveries: &mut Deliveries, concluded: &mut BTreeSet<String>, many: usize) {
    while concluded.len() < many {
        if let Some(id) = run(next(deliveries).await).await {
            assert!(concluded.insert(id.clone()), "{id} was run twice");
        }
    }
}

async fn is_idle(broker: &RedisBroker) {
    let idle = async {
        loop {
            let groups = broker.groups(&Scope::default()).await;
            if groups.is_ok_and(|groups| groups.iter().all(|group| group.depth.is_idle())) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, idle).await.expect("nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_subscriber_of_twenty_types_runs_each_event_once_while_slots_move() {
    const ACTIONS: [&str; 8] = ["{}", "{1}", "a{b}c", "{0}{1}", "}{", "plain", "{a", "a}"];
    let cluster = Arc::new(start(0));
    let broker = broker(&cluster).await;
    let patterns: Vec<String> = (0..20).map(|kind| format!("type-{kind}:*")).collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let mut deliveries = Deliveries::open(&broker, on("s", &patterns).with_prefetch(4)).await.unwrap();
    let moving = Arc::new(AtomicBool::new(true));
    let moves = tokio::task::spawn_blocking({
        let (cluster, moving) = (Arc::clone(&cluster), Arc::clone(&moving));
        move || {
            (0..PARTITIONS).for_each(|partition| move_on(&cluster, partition));
            moving.store(false, Ordering::Relaxed);
        }
    });
    let (mut published, mut concluded, mut errors) = (0, BTreeSet::new(), Vec::new());
    let (all_published, run_by_now) = (Notify::new(), AtomicUsize::new(0));
    let publishing = async {
        while moving.load(Ordering::Relaxed) || published < 400 {
            let action = format!("{}-{}", ACTIONS[published % ACTIONS.len()], published % 50);
            let kind = format!("type-{}", published % 20);
            publish(&broker, named(&kind, &action, &published.to_string())).await;
            published += 1;
            while published > run_by_now.load(Ordering::Relaxed) + 100 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        all_published.notify_one();
    };
    let running = async {
        loop {
            let item = tokio::select! {
                item = deliveries.next() => item.expect("the stream has ended"),
                () = all_published.notified() => return,
            };
            match item {
                Err(error) => errors.push(error.chain()),
                Ok(delivery) => {
                    if let Some(id) = run(delivery).await {
                        assert!(concluded.insert(id.clone()), "{id} was run twice");
                        run_by_now.store(concluded.len(), Ordering::Relaxed);
                    }
                }
            }
        }
    };
    timeout(3 * LONG, async { tokio::join!(publishing, running) }).await.expect("slots move");
    moves.await.unwrap();
    timeout(LONG, run_all(&mut deliveries, &mut concluded, published)).await.expect("all events come");
    is_idle(&broker).await;
    assert!(errors.is_empty(), "a slot that moves is no outage: {errors:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn no_action_id_changes_where_its_events_lie() {
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let actions = ["{}", "{1}", "a{b}c", "{0}{1}", "}{", "x{", "{pipeline:{3}:events}"];
    let mut deliveries = Deliveries::open(&broker, on("s{0}", &["t:*"])).await.unwrap();
    for action in actions {
        publish(&broker, named("t", action, &format!("{action}-1"))).await;
        // A group of its own, retried, so that it has a key of each kind.
        let literal = ActionId::new(action).unwrap();
        let own =
            Subscription::for_stage(Stage::new("own{1}").unwrap(), [literal_pattern(&literal)]).unwrap();
        let mut own = Deliveries::open(&broker, own).await.unwrap();
        next(&mut own).await.retry_in(Duration::from_secs(600)).await.unwrap();
    }
    for _ in actions {
        next(&mut deliveries).await.dead_letter("no good").await.unwrap();
    }
    let tags: BTreeSet<String> = (0..PARTITIONS).map(|n| format!("pipeline:{{{n}}}:")).collect();
    let mut seen = 0;
    for node in cluster.nodes() {
        for key in node.ask(&["KEYS", "*"]).unwrap().lines() {
            let is_ours = tags.iter().any(|tag| key.starts_with(tag)) && key.matches('{').count() == 1;
            assert!(is_ours || key == "pipeline:broker", "{key}");
            seen += 1;
        }
    }
    assert!(seen > actions.len(), "{seen} keys");
}

fn literal_pattern(action: &ActionId) -> pubsub_core::Pattern {
    let escaped: String = action.as_str().chars().flat_map(|c| ['\\', c]).collect();
    format!("t:{escaped}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn who_waits_at_a_slot_that_moves_goes_on_at_its_new_node() {
    // The partition of action `a`.
    const OWN: u16 = 3;
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut member = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    let listening = Subscription::broadcast(["t:a".parse().unwrap()]).unwrap();
    let mut listener = Deliveries::open(&broker, listening).await.unwrap();
    for round in 0..6 {
        let id = round.to_string();
        let came = async { tokio::join!(next_at_once(&mut member), next_at_once(&mut listener)) };
        let moved = async {
            until_blocked(&cluster, 2).await;
            block_in_place(|| move_on(&cluster, OWN));
            publish(&broker, named("t", "a", &id)).await;
        };
        let ((taken, heard), ()) = tokio::join!(came, moved);
        assert_eq!((heard.event().id.as_str(), taken.event().id.as_str()), (&*id, &*id));
        assert_eq!(run(taken).await, Some(id));
    }
    is_idle(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_slot_that_is_half_moved_is_asked_about_seldom() {
    const WATCHED: u64 = 3;
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut member = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    let listening = Subscription::broadcast(["t:a".parse().unwrap()]).unwrap();
    let mut listener = Deliveries::open(&broker, listening).await.unwrap();
    let came = async { tokio::join!(next_at_once(&mut member), next_at_once(&mut listener)) };
    let moved = async {
        until_blocked(&cluster, 2).await;
        let slot = slot(&cluster, 3);
        let to = (cluster.serves(slot).unwrap() + 1) % 3;
        block_in_place(|| cluster.begin_move(slot, to).and_then(|()| cluster.move_keys(slot, to))).unwrap();
        // The keys are at one node, and the slot is still the other's.
        let before = sum(&cluster, "total_commands_processed");
        sleep(Duration::from_secs(WATCHED)).await;
        let asked = sum(&cluster, "total_commands_processed") - before;
        block_in_place(|| cluster.end_move(slot, to)).unwrap();
        publish(&broker, named("t", "a", "1")).await;
        asked
    };
    let ((taken, heard), asked) = tokio::join!(came, moved);
    assert_eq!((heard.event().id.as_str(), run(taken).await.as_deref()), ("1", Some("1")));
    assert!(asked < 200 * WATCHED, "{asked} commands in {WATCHED} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_member_waits_with_one_connection_for_each_partition_and_leaves_none() {
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut all = Deliveries::open(&broker, on("s", &["t:*"])).await.unwrap();
    let mut one = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    let waiting = tokio::spawn(async move { tokio::join!(all.next(), one.next()) });
    until_blocked(&cluster, u64::from(PARTITIONS) + 1).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    until_blocked(&cluster, 0).await;
    let began = Instant::now();
    broker.close().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_member_that_waits_at_every_partition_costs_the_nodes_two_commands_a_second_at_most() {
    const WATCHED: u64 = 12;
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"])).await.unwrap();
    let waiting = tokio::spawn(async move { deliveries.next().await.map(drop) });
    until_blocked(&cluster, u64::from(PARTITIONS)).await;
    let (before, began) = (asked_of(&cluster), Instant::now());
    sleep(Duration::from_secs(WATCHED)).await;
    let asked = asked_of(&cluster) - before;
    assert!(asked >= u64::from(PARTITIONS), "{asked}: the reads began anew");
    assert!(asked <= 2 * began.elapsed().as_secs(), "{asked} in {:?}", began.elapsed());
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn streams_that_are_dropped_while_they_wait_at_many_nodes_lose_nothing() {
    let cluster = start(0);
    let broker = broker(&cluster).await;
    for round in 0..20 {
        let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"])).await.unwrap();
        tokio::select! {
            biased;
            // What came back of the round before, and comes back again.
            taken = deliveries.next() => drop(taken),
            () = until_blocked(&cluster, u64::from(PARTITIONS)) => {}
        }
        // In the very moment in which something comes, in several partitions.
        let published = broker.clone();
        let publishing = tokio::spawn(async move {
            let event = |n: u32| named("t", &format!("a{n}"), &format!("{round}-{n}"));
            published.publish((0..5).map(event).collect()).await
        });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(deliveries);
        assert!(publishing.await.unwrap().iter().all(Result::is_ok));
        // The next one waits once no read of this one does.
        until_blocked(&cluster, 0).await;
    }
    let mut last = Deliveries::open(&broker, on("s", &["t:*"]).with_prefetch(10)).await.unwrap();
    let (began, mut concluded) = (Instant::now(), BTreeSet::new());
    run_all(&mut last, &mut concluded, 100).await;
    assert!(began.elapsed() < Duration::from_secs(15), "half a lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn connections_that_are_cut_at_every_node_lose_nothing() {
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"]).with_prefetch(4)).await.unwrap();
    let publishing = async {
        for n in 0..200 {
            publish(&broker, named("t", &format!("a{}", n % 30), &n.to_string())).await;
        }
    };
    let cutting = async {
        for _ in 0..10 {
            sleep(Duration::from_millis(100)).await;
            for node in cluster.nodes() {
                block_in_place(|| node.ask(&["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes"])).unwrap();
            }
        }
    };
    let (began, mut concluded) = (Instant::now(), BTreeSet::new());
    let running = run_all(&mut deliveries, &mut concluded, 200);
    timeout(LONG, async { tokio::join!(publishing, cutting, running) }).await.expect("all events come");
    assert!(began.elapsed() < Duration::from_secs(25), "before a lease is over: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn nodes_that_forget_their_scripts_are_told_them_again_each_by_itself() {
    let cluster = start(0);
    let broker = broker(&cluster).await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"]).with_prefetch(20)).await.unwrap();
    for round in 0..3 {
        cluster.nodes()[round].ask(&["SCRIPT", "FLUSH"]).unwrap();
        let event = |n: u32| named("t", &format!("a{n}"), &format!("{round}-{n}"));
        assert!(broker.publish((0..20).map(event).collect()).await.iter().all(Result::is_ok));
        let mut concluded = BTreeSet::new();
        for forgetful in 0..3 {
            cluster.nodes()[forgetful].ask(&["SCRIPT", "FLUSH"]).unwrap();
            run_all(&mut deliveries, &mut concluded, 6 * (forgetful + 1)).await;
        }
        run_all(&mut deliveries, &mut concluded, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs Redis"]
async fn a_replica_that_takes_over_has_what_was_passed_on_and_members_go_on_there() {
    let mut cluster = start(1);
    let broker = broker(&cluster).await;
    let event = |n: usize| named("t", &format!("a{n}"), &n.to_string());
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"]).with_prefetch(4)).await.unwrap();
    for n in 0..60 {
        publish(&broker, event(n)).await;
    }
    let mut concluded = BTreeSet::new();
    run_all(&mut deliveries, &mut concluded, 30).await;
    let master = cluster.serves(slot(&cluster, 3)).unwrap();
    block_in_place(|| cluster.nodes()[master].replicated()).unwrap();
    cluster.nodes_mut()[master].kill().unwrap();
    let publishing = async {
        for n in 60..120 {
            publish(&broker, event(n)).await;
        }
    };
    let running = run_all(&mut deliveries, &mut concluded, 120);
    timeout(2 * LONG, async { tokio::join!(publishing, running) }).await.expect("all events come");
    is_idle(&broker).await;
}
