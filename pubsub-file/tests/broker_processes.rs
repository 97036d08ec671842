//! Several processes on one folder, also killed ones. The test binary runs itself again for each process.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use pubsub_core::{
    ActionId, BrokerAdmin, Deliveries, Event, EventId, EventType, LeaseState, PublisherExt, Scope,
    Settlement, Stage, Subscriber, Subscription,
};
use pubsub_file::{FileBroker, FileBrokerConfig};

const ROLE: &str = "FILE_BROKER_TEST_ROLE";
const LONG: Duration = Duration::from_secs(120);

async fn open(dir: &Path) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(dir)).await.unwrap()
}

fn work() -> Subscription {
    Subscription::for_stage(Stage::new("work").unwrap(), ["go:*".parse().unwrap()])
        .unwrap()
        .with_prefetch(20)
        .with_lease(Duration::from_secs(2))
        .unwrap()
}

fn go(id: &str) -> Event {
    Event::new(EventType::new("go").unwrap(), ActionId::new("a").unwrap()).with_id(EventId::new(id).unwrap())
}

/// Starts this test binary as another process in this role; it ends when its input does.
fn start(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_process_in_a_role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("FILE_BROKER_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a process said, by the word before: `published x`, `took x`.
fn said(child: &mut Child, word: &str) -> Vec<String> {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("@@").map(|(_, said)| said))
        .filter_map(|said| said.strip_prefix(word))
        .map(|rest| rest.trim().to_owned())
        .collect()
}

fn say(word: &str, what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@@{word} {what}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: what the other processes run.
#[test]
fn one_process_in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = std::path::PathBuf::from(std::env::var("FILE_BROKER_TEST_DIR").unwrap());
    // Whoever started this process is gone or wants it to end.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = open(&dir).await;
        let (kind, rest) = role.split_once(':').unwrap();
        if kind == "publish" {
            let (name, many) = rest.split_once(':').unwrap();
            for n in 0..many.parse::<u32>().unwrap() {
                let id = format!("{name}-{n}");
                broker.publish_one(go(&id)).await.unwrap();
                say("published", &id);
            }
            return;
        }
        let mut on = broker.subscribe(work()).await.unwrap();
        say("ready", rest);
        while let Some(got) = on.entries.next().await {
            let got = got.unwrap();
            let id = got.event.id.clone();
            on.leases.settle(vec![(got.lease.unwrap(), Settlement::Ack)]).await.pop().unwrap().unwrap();
            say("took", id.as_str());
        }
    });
}

async fn until_idle(broker: &FileBroker) {
    let idle = async {
        loop {
            let groups = broker.groups(&Scope::default()).await.unwrap();
            if groups.first().is_some_and(|group| group.depth.is_idle()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, idle).await.unwrap();
}

#[tokio::test]
async fn eight_processes_take_each_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let mut takers: Vec<Child> = (0..4).map(|n| start(&format!("take:{n}"), dir.path())).collect();
    let mut publishers: Vec<Child> =
        (0..4).map(|n| start(&format!("publish:p{n}:500"), dir.path())).collect();
    let mut published = Vec::new();
    for publisher in &mut publishers {
        published.extend(said(publisher, "published"));
        assert!(publisher.wait().unwrap().success());
    }
    assert_eq!(published.len(), 2000);
    until_idle(&broker).await;
    let mut times: HashMap<String, u32> = HashMap::new();
    for taker in &mut takers {
        drop(taker.stdin.take());
        for id in said(taker, "took") {
            *times.entry(id).or_default() += 1;
        }
        taker.wait().unwrap();
    }
    assert!(times.values().all(|count| *count == 1), "some twice");
    assert_eq!(times.into_keys().collect::<HashSet<_>>(), published.into_iter().collect());
}

#[tokio::test]
async fn what_was_published_survives_the_kill_of_anybody_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut published, mut took) = (HashSet::new(), HashSet::new());
    for round in 0..10 {
        let mut taker = start("take:0", dir.path());
        let mut publisher = start(&format!("publish:r{round}:100000"), dir.path());
        // Killed after some events, so that the moment is somewhere in the work whatever the machine's speed.
        let mut lines = BufReader::new(publisher.stdout.take().unwrap()).lines();
        let moment = rng.usize(1..60);
        let mut seen = 0;
        while seen < moment {
            let line = lines.next().expect("it publishes").unwrap();
            if let Some((_, id)) = line.split_once("@@published ") {
                published.insert(id.to_owned());
                seen += 1;
            }
        }
        let (first, second) =
            if rng.bool() { (&mut publisher, &mut taker) } else { (&mut taker, &mut publisher) };
        first.kill().unwrap();
        second.kill().unwrap();
        publisher.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some((_, id)) = line.split_once("@@published ") {
                published.insert(id.to_owned());
            }
        }
        took.extend(said(&mut taker, "took"));
        taker.wait().unwrap();
    }
    let broker = open(dir.path()).await;
    assert!(broker.repair().is_none());
    let mut on = broker.subscribe(work()).await.unwrap();
    let mut left: HashSet<String> = HashSet::new();
    let missing = |left: &HashSet<String>| {
        published.iter().filter(|id| !took.contains(*id) && !left.contains(*id)).count()
    };
    let rest = async {
        // One that was settled but not said so before the kill cannot be told from a lost one: at most one a round.
        loop {
            let idle =
                broker.groups(&Scope::default()).await.unwrap().iter().all(|group| group.depth.is_idle());
            if idle {
                return;
            }
            let got = on.entries.next().await.unwrap().unwrap();
            let id = got.event.id.as_str().to_owned();
            assert!(!took.contains(&id), "{id} was settled and came again");
            on.leases.settle(vec![(got.lease.unwrap(), Settlement::Ack)]).await.pop().unwrap().unwrap();
            left.insert(id);
        }
    };
    tokio::time::timeout(LONG, rest).await.unwrap();
    assert!(missing(&left) <= 10, "{} of {} are missing", missing(&left), published.len());
    // Each is one event still, whoever publishes it again.
    for id in &published {
        let answer = broker.publish_one(go(id)).await.unwrap();
        assert_eq!(answer.novelty, pubsub_core::Novelty::Duplicate, "{id} was acknowledged and is gone");
    }
}

/// As a shell makes them: each opens the broker, publishes one event and ends, often as the only one that has it open.
#[test]
fn many_short_lived_processes_beside_each_other_open_and_publish() {
    let dir = tempfile::tempdir().unwrap();
    let publish = |line: usize| {
        for n in 0..25 {
            let mut child = start(&format!("publish:p{line}-{n}:1"), dir.path());
            let published = said(&mut child, "published");
            assert!(child.wait().unwrap().success() && published.len() == 1, "{line} {n}: {published:?}");
        }
    };
    std::thread::scope(|scope| {
        for line in 0..6 {
            scope.spawn(move || publish(line));
        }
    });
}

/// What was held while nobody could renew it, because a process was stopped in the middle of a transaction, stays its
/// holder's: it only has to be quick once it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_locked_for_longer_than_a_lease_takes_nothing_from_the_living() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, other) = (open(dir.path()).await, open(dir.path()).await);
    let on = work().with_lease(Duration::from_secs(1)).unwrap();
    for n in 0..20 {
        broker.publish_one(go(&n.to_string())).await.unwrap();
    }
    let mut deliveries = Deliveries::open(&broker, on.clone()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(deliveries.next().await.unwrap().unwrap());
    }
    let mut rival = other.subscribe(on).await.unwrap();
    let stopped = rusqlite::Connection::open(dir.path().join("broker").join("events.db")).unwrap();
    for _ in 0..3 {
        stopped.execute_batch("BEGIN IMMEDIATE").unwrap();
        // Longer than a lease, while the rival looks for what it may take.
        let taken = tokio::time::timeout(Duration::from_secs(2), rival.entries.next()).await;
        assert!(taken.is_err(), "{taken:?}");
        stopped.execute_batch("ROLLBACK").unwrap();
        let taken = tokio::time::timeout(Duration::from_secs(2), rival.entries.next()).await;
        assert!(taken.is_err(), "{taken:?}");
    }
    for delivery in held {
        assert_eq!(*delivery.state().borrow(), LeaseState::Held);
        delivery.ack().await.unwrap();
    }
}
