//! Many groups of one action each beside many events of others: what each costs the server.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a test"
)]

mod own;

use std::collections::BTreeMap;
use std::time::Instant;

use own::{broker, counted, server};
use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{BrokerAdmin as _, Event, Publisher as _, Scope};
use pubsub_redis::RedisBroker;
use services::Redis;

/// Partitions of a broker, unless told otherwise.
const PARTITIONS: usize = 16;

/// As the broker has it.
fn partition_of(action: &str) -> usize {
    usize::try_from(crc32fast::hash(action.as_bytes())).unwrap() % PARTITIONS
}

fn stream(partition: usize) -> String {
    format!("pipeline:{{{partition}}}:events")
}

/// How often scripts were called.
fn scripts_called(redis: &Redis) -> usize {
    let told = redis.ask(&["INFO", "commandstats"]).unwrap();
    let of = |name: &str| -> usize {
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls="));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    };
    of("cmdstat_evalsha") + of("cmdstat_eval")
}

/// For each group of a stream how many entries it holds, and whether it has read all.
fn groups(redis: &Redis, stream: &str) -> BTreeMap<String, (usize, bool)> {
    let told = redis.ask(&["XINFO", "GROUPS", stream]).unwrap();
    let words: Vec<&str> = told.lines().collect();
    let (mut all, mut name) = (BTreeMap::<String, (usize, bool)>::new(), String::new());
    for pair in words.chunks_exact(2) {
        let [field, value] = pair else { continue };
        match *field {
            "name" => name = (*value).to_owned(),
            "pending" => all.entry(name.clone()).or_default().0 = value.parse().unwrap(),
            "lag" => all.entry(name.clone()).or_default().1 = *value == "0",
            _ => {}
        }
    }
    all
}

async fn publish(broker: &RedisBroker, events: Vec<Event>) {
    for answer in broker.publish(events).await {
        answer.unwrap();
    }
}

/// Lets a member look on until its group has read all of a stream.
async fn go_on_to_the_end(redis: &Redis, member: &mut Member, stream: &str, group: &str) {
    while !groups(redis, stream).get(group).is_some_and(|(_, has_read_all)| *has_read_all) {
        member.nothing().await;
    }
}

/// So many groups, each of which finds its event among so many of other actions and goes on past those that follow.
async fn each_finds_its_own(many: usize, events: usize) {
    let redis = server();
    let broker = broker(&redis).await;
    // The server knows all scripts from here on.
    publish(&broker, vec![named("t", "first", "first")]).await;
    Member::join(&broker, on("s", &["*:first"])).await.take().await;
    let batch = events / many;
    for n in 0..many {
        let others = |from: usize, to: usize| -> Vec<Event> {
            (n * batch + from..n * batch + to).map(|of| event("t", &format!("other-{}", of % 500))).collect()
        };
        publish(&broker, others(0, batch / 2)).await;
        publish(&broker, vec![named("t", &format!("own-{n}"), &format!("event-{n}"))]).await;
        publish(&broker, others(batch / 2, batch)).await;
    }
    let memory = counted(&redis, "used_memory");
    let (began, mut calls) = (Instant::now(), Vec::with_capacity(many));
    for n in 0..many {
        let before = scripts_called(&redis);
        let mut member = Member::join(&broker, on("s", &[&format!("*:own-{n}")])).await;
        assert_eq!(member.take().await, format!("event-{n}"));
        calls.push(scripts_called(&redis) - before);
    }
    // To join, to say that it is there, to look for what others left and for its own; and what the last one did that left. Now
    // and then somebody looks for what is old meanwhile.
    let of = |calls: &[usize]| calls.iter().sum::<usize>() / calls.len();
    let (begun, ended) = (of(&calls[..many / 10]), of(&calls[many - many / 10..]));
    assert!(begun <= 9 && ended <= 9, "{begun} calls each at the beginning, {ended} at the end");
    let each = began.elapsed() / u32::try_from(many).unwrap();
    println!("{many} groups beside {events} events: {each:.2?} each until its event is settled");
    let grown = counted(&redis, "used_memory").saturating_sub(memory) as f64 / many as f64;
    assert!(grown < 8.0 * 1024.0, "{grown} bytes for each group");

    // One of them goes on to the end, past all that is behind its event.
    let (before, stream_of_it) = (scripts_called(&redis), stream(partition_of("own-0")));
    let mut first = Member::join(&broker, on("s", &["*:own-0"])).await;
    go_on_to_the_end(&redis, &mut first, &stream_of_it, "s@*:own-0").await;
    let calls = scripts_called(&redis) - before;
    let behind: usize = redis.ask(&["XLEN", &stream_of_it]).unwrap().parse().unwrap();
    // One call passes over 240 of them.
    assert!(behind > 500 && calls <= 20 + behind / 200, "{calls} calls past {behind} events");
    // Nobody holds what is another's, nor anything.
    for n in 0..PARTITIONS {
        let holding: Vec<_> =
            groups(&redis, &stream(n)).into_iter().filter(|(_, (held, _))| *held > 0).collect();
        assert!(holding.is_empty(), "partition {n}: {holding:?}");
    }
    let all = broker.groups(&Scope::default()).await.unwrap();
    assert_eq!(all.len(), many + 1);
    assert!(all.iter().all(|group| group.depth.is_idle()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn each_of_many_groups_finds_its_event_by_few_calls_and_holds_nothing_of_others() {
    each_finds_its_own(200, 20_000).await;
}

/// A group of an action of which there is nothing has nothing to look through: it begins behind all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_group_of_an_action_without_events_begins_at_the_end_and_passes_over_what_is_not_its_own() {
    let redis = server();
    let broker = broker(&redis).await;
    let others = |many: usize| -> Vec<Event> { (0..many).map(|_| event("t", "other")).collect() };
    let partition = partition_of("other");
    let own = (0..).map(|n| format!("own-{n}")).find(|own| partition_of(own) == partition).unwrap();
    publish(&broker, others(3_000)).await;
    let mut member = Member::join(&broker, on("s", &[&format!("t:{own}")])).await;
    let at_the_end = (0, true);
    assert_eq!(groups(&redis, &stream(partition)).into_values().collect::<Vec<_>>(), [at_the_end]);
    publish(&broker, others(1_000)).await;
    publish(&broker, vec![named("t", &own, "mine")]).await;
    assert_eq!(member.take().await, "mine");
    publish(&broker, others(1_000)).await;
    go_on_to_the_end(&redis, &mut member, &stream(partition), &format!("s@t:{own}")).await;
    assert_eq!(groups(&redis, &stream(partition)).into_values().collect::<Vec<_>>(), [at_the_end]);
}

mod long {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: 10,000 groups beside a million events, and needs Redis"]
    async fn each_of_ten_thousand_groups_finds_its_event_beside_a_million() {
        super::each_finds_its_own(10_000, 1_000_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn what_is_to_be_done_of_an_action_is_asked_at_its_partition_alone() {
    let redis = server();
    let broker = broker(&redis).await;
    let _all = Member::join(&broker, on("all", &["t:*"])).await;
    let _one = Member::join(&broker, on("one", &["t:action-1"])).await;
    let _other = Member::join(&broker, on("other", &["t:action-2"])).await;
    publish(&broker, vec![named("t", "action-1", "1"), named("t", "action-2", "2")]).await;
    let scope = Scope { action: Some("action-1".parse().unwrap()), group: None };
    // What a first time costs is not counted.
    broker.groups(&scope).await.unwrap();
    let read = || redis.ask(&["INFO", "commandstats"]).unwrap();
    let hashes = |told: &str| -> u64 {
        let line = told.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls=")).unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let before = hashes(&read());
    let groups = broker.groups(&scope).await.unwrap();
    let asked = hashes(&read()) - before;
    assert_eq!(asked, 1, "partitions were asked for their groups");
    let found: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.depth.waiting)).collect();
    assert_eq!(found, [("all@t:*", 1), ("one@t:action-1", 1)]);
}
