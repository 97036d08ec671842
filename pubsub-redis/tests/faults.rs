//! What users of comparable software met with one server: it forgets, it cuts, it is emptied, it waits.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod server;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{
    Begin, BrokerAdmin as _, Conclusion, Deliveries, ErrorKind, PublisherExt as _, Renewal, RunKey,
    RunRecord, Scope, Stage,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig};
use server::{Database, Server, fresh_prefix};
use tokio::time::{Instant, timeout};

/// How long a test waits for what has to come.
const LONG: Duration = Duration::from_secs(15);

/// The stream of the events of action `a` among 16 partitions.
const EVENTS: &str = "pipeline:{3}:events";

async fn publish(broker: &RedisBroker, ids: impl IntoIterator<Item = String>) {
    for id in ids {
        broker.publish_one(named("t", "a", &id)).await.unwrap();
    }
}

fn ids(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
}

async fn next(deliveries: &mut Deliveries) -> pubsub_core::Delivery {
    loop {
        match timeout(LONG, deliveries.next()).await.expect("nothing comes").expect("the stream has ended") {
            Ok(delivery) => return delivery,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_server_that_is_emptied_under_five_members_loses_no_later_event() {
    let database = Database::fresh(1).await;
    let broker = database.broker().await;
    let join = || Deliveries::open(&broker, on("s", &["t:*"]));
    let mut members: Vec<Deliveries> =
        join_all((0..5).map(|_| join())).await.into_iter().map(Result::unwrap).collect();
    publish(&broker, ids(0..10)).await;
    let seen = tokio::sync::Mutex::new(BTreeSet::new());
    let work = |member: &'static str, many: usize| {
        let seen = &seen;
        move |mut deliveries: Deliveries| async move {
            while seen.lock().await.len() < many {
                let Ok(next) = timeout(Duration::from_millis(50), deliveries.next()).await else { continue };
                let Ok(delivery) = next.expect(member) else { continue };
                let id = delivery.event().id.as_str().to_owned();
                delivery.ack().await.ok();
                assert!(seen.lock().await.insert(id), "each once");
            }
            deliveries
        }
    };
    members = timeout(LONG, join_all(members.into_iter().map(work("ends", 10)))).await.expect("all ten come");
    database.flush().await;
    publish(&broker, ids(10..15)).await;
    timeout(LONG, join_all(members.into_iter().map(work("ends", 15)))).await.expect("the five come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_group_that_is_deleted_is_made_again_and_what_was_concluded_stays_so() {
    let database = Database::fresh(2).await;
    let broker = database.broker().await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
    publish(&broker, ids(0..1)).await;
    let first = next(&mut deliveries).await;
    assert!(matches!(first.begin().await.unwrap(), Begin::Go(_)));
    let key =
        RunKey::new(first.event().action_id.clone(), Stage::new("s").unwrap(), first.event().id.clone(), 1);
    let end = Conclusion { record: RunRecord::begun(key, "w"), values: Default::default() };
    first.conclude(end.clone()).await.unwrap();
    first.ack().await.unwrap();
    let waiting = tokio::spawn(async move { (next(&mut deliveries).await, deliveries) });
    database.until_blocked(1).await;
    // Deleted with three that nobody has read.
    let mut all = redis::pipe();
    all.atomic();
    for id in ids(1..4) {
        let event = named("t", "a", &id);
        let mut add = command(&["XADD", EVENTS, "*"]);
        for (name, text) in event.to_attributes().unwrap() {
            add.arg(name).arg(&*text);
        }
        all.add_command(add);
    }
    all.add_command(command(&["XGROUP", "DESTROY", EVENTS, "s@t:a"]));
    let client = redis::Client::open(&*database.server.url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    all.exec_async(&mut connection).await.unwrap();
    let (mut delivery, mut deliveries) = waiting.await.unwrap();
    let mut seen = BTreeSet::new();
    loop {
        let id = delivery.event().id.as_str().to_owned();
        match delivery.begin().await.unwrap() {
            Begin::Go(_) => assert!(id != "0" && seen.insert(id), "run once"),
            Begin::Concluded(concluded) => assert_eq!((id.as_str(), *concluded), ("0", end.clone())),
            other => panic!("{other:?}"),
        }
        delivery.ack().await.unwrap();
        if seen.len() == 3 {
            return;
        }
        delivery = next(&mut deliveries).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_entry_that_is_delivered_again_after_its_end_is_not_run_again() {
    let database = Database::fresh(3).await;
    let broker = database.broker().await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    publish(&broker, ids(0..1)).await;
    let leased = member.next().await;
    assert!(matches!(member.begin(&leased).await.unwrap(), Begin::Go(_)));
    let key =
        RunKey::new(leased.event.action_id.clone(), Stage::new("s").unwrap(), leased.event.id.clone(), 1);
    let end = Conclusion { record: RunRecord::begun(key, "w"), values: Default::default() };
    member.conclude(&leased, end.clone()).await.unwrap();
    member.ack(&leased).await;
    // As after a failover to a replica that had not heard of it.
    database.server.run(&command(&["XGROUP", "SETID", EVENTS, "s@t:a", "0"])).await;
    publish(&broker, ids(1..2)).await;
    let again = member.next().await;
    assert_eq!(again.event.id, leased.event.id);
    assert_eq!(member.begin(&again).await.unwrap(), Begin::Concluded(Box::new(end)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_server_that_forgets_its_scripts_is_told_them_again() {
    let server = Server::of_environment();
    let broker = server.broker(&fresh_prefix()).await;
    let forget = || async { server.run(&command(&["SCRIPT", "FLUSH"])).await };
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    for id in ids(0..5) {
        forget().await;
        publish(&broker, [id.clone()]).await;
        let leased = member.next().await;
        assert_eq!(leased.event.id.as_str(), id);
        forget().await;
        assert_eq!(member.renew(&leased).await, Renewal::Held);
        forget().await;
        assert!(matches!(member.begin(&leased).await.unwrap(), Begin::Go(_)));
        forget().await;
        member
            .settle(&leased, pubsub_core::Settlement::DeadLetter { reason: "no good".to_owned() })
            .await
            .unwrap();
    }
    forget().await;
    assert!(broker.groups(&Scope::default()).await.unwrap()[0].depth.is_idle());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_was_trimmed_away_while_it_was_held_stops_nobody() {
    let database = Database::fresh(4).await;
    let (broker, other) = (database.broker().await, database.broker().await);
    let short = || on("s", &["t:a"]).with_lease(Duration::from_millis(300)).unwrap().with_prefetch(10);
    publish(&broker, ids(0..10)).await;
    let mut dead = Member::join(&broker, short()).await;
    for _ in 0..10 {
        dead.next().await;
    }
    database.server.run(&command(&["XTRIM", EVENTS, "MAXLEN", "0"])).await;
    drop(dead);
    let mut next = Member::join(&other, short()).await;
    publish(&broker, ids(10..13)).await;
    assert_eq!(next.take_many(3).await, ["10", "11", "12"]);
    let pending = command(&["XPENDING", EVENTS, "s@t:a"]);
    let empty = async {
        loop {
            let summary = database.server.run(&pending).await;
            if let redis::Value::Array(parts) = &summary
                && parts[0] == redis::Value::Int(0)
            {
                return;
            }
            next.nothing().await;
        }
    };
    timeout(LONG, empty).await.expect("what has no body any more is dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn connections_that_are_cut_lose_nothing() {
    let database = Database::fresh(5).await;
    let broker = database.broker().await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"]).with_prefetch(4)).await.unwrap();
    let total = 200_u32;
    let publishing = async {
        for id in ids(0..total) {
            // A publish that is not answered is repeated: its id was chosen.
            while let Err(error) = broker.publish_one(named("t", &format!("a{}", id.len()), &id)).await {
                assert!(error.is_retryable(), "{error}");
            }
        }
    };
    let cutting = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            database.kill_clients().await;
        }
    };
    let working = async {
        let mut seen = BTreeSet::new();
        while seen.len() < total as usize {
            let delivery = next(&mut deliveries).await;
            seen.insert(delivery.event().id.as_str().to_owned());
            delivery.ack().await.ok();
        }
    };
    let all = async { tokio::join!(publishing, cutting, working) };
    timeout(2 * LONG, all).await.expect("all come, long before a lease is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn streams_that_are_dropped_while_they_wait_lose_nothing() {
    let database = Database::fresh(6).await;
    let broker = database.broker().await;
    let mut seen = BTreeSet::new();
    for n in 0..40 {
        let mut deliveries = Deliveries::open(&broker, on("s", &["t:a"])).await.unwrap();
        tokio::select! {
            biased;
            // What came back of the round before, and comes back again.
            taken = deliveries.next() => drop(taken),
            () = database.until_blocked(1) => {}
        }
        // In the very moment in which something comes.
        let (id, published) = (n.to_string(), broker.clone());
        let publishing = tokio::spawn(async move { published.publish_one(named("t", "a", &id)).await });
        if n % 2 == 0 {
            tokio::task::yield_now().await;
        }
        drop(deliveries);
        publishing.await.unwrap().unwrap();
    }
    let mut last = Member::join(&broker, on("s", &["t:a"])).await;
    let began = Instant::now();
    while seen.len() < 40 {
        seen.insert(last.take().await);
    }
    assert!(began.elapsed() < LONG, "half a lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn commands_are_answered_at_once_while_reads_wait() {
    let database = Database::fresh(7).await;
    let broker = database.broker().await;
    let mut quiet: Vec<Deliveries> = Vec::new();
    for n in 0..3 {
        quiet.push(Deliveries::open(&broker, on("s", &[&format!("t:quiet-{n}")])).await.unwrap());
    }
    let waiting: Vec<_> = quiet
        .into_iter()
        .map(|mut deliveries| tokio::spawn(async move { deliveries.next().await.map(drop) }))
        .collect();
    database.until_blocked(3).await;
    for n in 0..20 {
        let began = Instant::now();
        publish(&broker, [format!("busy-{n}")]).await;
        broker.groups(&Scope::default()).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(400), "{:?} for both", began.elapsed());
    }
    let clients = database.clients().await;
    let reads = clients.iter().filter(|client| client.contains("cmd=xreadgroup")).count();
    assert_eq!(reads, 3, "each on a connection of its own: {clients:?}");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_subscriber_that_waits_costs_the_server_two_commands_a_second_at_most() {
    const WATCHED: u64 = 12;
    let server = Server::of_environment();
    let prefix = fresh_prefix();
    let broker = server.broker(&prefix).await;
    let mut deliveries = Deliveries::open(&broker, on("s", &["t:*"])).await.unwrap();
    let waiting = tokio::spawn(async move { deliveries.next().await.map(drop) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let client = redis::Client::open(&*server.url).unwrap();
    let mut monitor = client.get_async_monitor().await.unwrap();
    let mut told = Box::pin(monitor.on_message::<String>());
    let (mut commands, end) = (Vec::new(), Instant::now() + Duration::from_secs(WATCHED));
    while let Ok(Some(line)) = tokio::time::timeout_at(end, told.next()).await {
        if line.contains(&prefix) {
            commands.push(line);
        }
    }
    assert!(!commands.is_empty(), "it says that it is there");
    assert!(commands.len() as u64 <= 2 * WATCHED, "{} in {WATCHED} s: {commands:#?}", commands.len());
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn who_listens_without_a_group_hears_again_after_its_connection_was_cut() {
    let database = Database::fresh(8).await;
    let broker = database.broker().await;
    let all = pubsub_core::Subscription::broadcast(["t:*".parse().unwrap()]).unwrap();
    let mut listener = Deliveries::open(&broker, all).await.unwrap();
    for n in 0..5 {
        let heard = tokio::spawn(async move {
            let delivery = next(&mut listener).await;
            (delivery.event().id.as_str().to_owned(), listener)
        });
        database.until_blocked(1).await;
        database.kill_clients().await;
        let id = n.to_string();
        while broker.publish_one(named("t", "a", &id)).await.is_err() {}
        let (came, again) = heard.await.unwrap();
        assert_eq!(came, id, "also what was published while it was away");
        listener = again;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_broker_of_a_later_version_is_refused_by_name() {
    let server = Server::of_environment();
    let prefix = fresh_prefix();
    server.run(&command(&["HSET", &format!("{prefix}:broker"), "version", "2"])).await;
    let error = server.broker(&prefix).await.publish_one(event("t", "a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("newest known=1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn the_number_of_partitions_is_the_one_of_the_first_use() {
    let server = Server::of_environment();
    let prefix = fresh_prefix();
    let four = RedisBrokerConfig::new(server.config(&prefix)).with_partitions(4);
    let first = RedisBroker::connect(four).await.unwrap();
    let events: Vec<String> = (0..50).map(|n| format!("a{n}")).collect();
    for action in &events {
        first.publish_one(named("t", action, action)).await.unwrap();
    }
    let other = server.broker(&prefix).await;
    let mut member = Member::join(&other, on("s", &["t:*"]).with_prefetch(7)).await;
    let taken: BTreeSet<String> = member.take_many(50).await.into_iter().collect();
    assert_eq!(taken, events.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_new_group_of_an_action_finds_what_was_published_after_the_server_was_emptied() {
    let database = Database::fresh(9).await;
    let broker = database.broker().await;
    // From now on events of this action are added without a look at the index.
    for _ in 0..2 {
        broker.publish_one(event("t", "a")).await.unwrap();
    }
    let mut wild = Deliveries::open(&broker, on("wild", &["t:*"])).await.unwrap();
    next(&mut wild).await.ack().await.unwrap();
    database.flush().await;
    // The streams are there again before anything is published.
    let _other = Member::join(&database.broker().await, on("other", &["*:*"])).await;
    // The index is looked at once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let after = event("t", "a");
    broker.publish_one(after.clone()).await.unwrap();
    let mut late = Member::join(&database.broker().await, on("late", &["t:a"])).await;
    assert_eq!(late.next().await.event.id, after.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_attempt_whose_beginning_was_never_answered_is_closed_with_its_event() {
    let database = Database::fresh(10).await;
    let broker = database.broker().await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    for id in ids(0..20) {
        publish(&broker, [id]).await;
        let leased = member.next().await;
        tokio::select! {
            biased;
            _ = member.begin(&leased) => {}
            () = tokio::task::yield_now() => {}
        }
        member.ack(&leased).await;
    }
    let claims = database.server.run(&command(&["HVALS", "pipeline:{3}:claims"])).await;
    let claims: Vec<String> = redis::from_redis_value(claims).unwrap();
    assert!(claims.iter().all(|claim| claim.contains(r#""open":null"#)), "{claims:?}");
}
