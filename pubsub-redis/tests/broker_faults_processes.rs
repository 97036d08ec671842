//! Workers and subscribers in processes of their own, also killed ones. The test binary runs itself again for each process.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]
#![expect(clippy::print_stdout, reason = "measured numbers are printed")]

mod own;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use own::{LONG, broker, connect, server};
use pubsub_core::conformance::broker::{event, named, on};
use pubsub_core::{
    DeadLetters as _, Event, Exit, FanOut, MemoryStore, Publisher as _, PublisherExt as _, RunContext,
    Settlement, SinkConfig, Stage, Stop, Subscriber as _, Worker, handler_fn,
};
use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
use services::Redis;

const ROLE: &str = "REDIS_FAULTS_ROLE";
const URL: &str = "REDIS_FAULTS_URL";

/// What a process says is marked, since the test harness prints as well.
const MARK: &str = "@@";

/// The event whose handler kills its own process.
const POISON: &str = "poison";

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{what}").unwrap();
    out.flush().unwrap();
}

/// Processes of this test binary at one server, and what they say, each with its number. They are killed where this is
/// dropped.
struct Crew {
    url: String,
    children: Vec<Child>,
    say: Sender<(usize, String)>,
    said: Receiver<(usize, String)>,
}

impl Crew {
    fn new(redis: &Redis) -> Self {
        let (say, said) = channel();
        Self { url: redis.url(), children: Vec::new(), say, said }
    }

    /// Starts one more in this role; it ends with whoever started it. Once it has ended it says `gone`.
    fn start(&mut self, role: &str) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_process_in_a_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(URL, &self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (number, say) = (self.children.len(), self.say.clone());
        // Read at once, so that no process waits for room in its pipe. It ends with the process.
        std::thread::spawn(move || {
            let told = output.lines().map_while(Result::ok);
            let told = told.filter_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
            for what in told.chain(["gone".to_owned()]) {
                if say.send((number, what)).is_err() {
                    return;
                }
            }
        });
        self.children.push(child);
    }

    /// What is said next, by whom.
    fn next(&self) -> (usize, String) {
        self.within(LONG).expect("nobody says anything")
    }

    /// The same, where something is said within this time.
    fn within(&self, time: Duration) -> Option<(usize, String)> {
        match self.said.recv_timeout(time) {
            Ok(said) => Some(said),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("all have ended"),
        }
    }

    /// Starts so many and waits until all of them have joined.
    fn start_all(&mut self, many: usize, role: &str) {
        (0..many).for_each(|_| self.start(role));
        (0..many).for_each(|_| assert_eq!(self.next().1, "ready"));
    }

    /// As `kill -9` does.
    fn kill(&mut self, number: usize) {
        self.children[number].kill().unwrap();
        self.children[number].wait().unwrap();
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It has ended already, or is not needed any more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Not a test of its own: what the other processes run.
#[test]
fn one_process_in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    // Whoever started this process is gone.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let redis = RedisConfig::new(std::env::var(URL).unwrap());
        let broker = connect(RedisBrokerConfig::new(redis)).await;
        let words: Vec<&str> = role.split(' ').collect();
        match words.as_slice() {
            ["work", lease, run] => work(broker, lease.parse().unwrap(), run.parse().unwrap()).await,
            ["take", stage, many] => take(&broker, stage, many.parse().unwrap()).await,
            _ => unreachable!("{role}"),
        }
    });
}

/// A worker of stage `s` at events of type `t`: each takes so many milliseconds.
async fn work(broker: RedisBroker, lease: u64, run: u64) {
    let handler = handler_fn(move |context: RunContext| async move {
        let (id, attempt) = (context.event.id.as_str(), context.key.attempt);
        say(&format!("began {id} {attempt}"));
        if id == POISON {
            let own = std::process::id().to_string();
            Command::new("kill").args(["-9", &own]).status().unwrap();
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(run)).await;
        say(&format!("ended {id} {attempt}"));
        Exit::code(0).into()
    });
    let sinks = FanOut::new(vec![SinkConfig::required("memory", Arc::new(MemoryStore::new()))]);
    let patterns = ["t:*".parse().unwrap()];
    let worker = Worker::new(Arc::new(broker), sinks, handler, Stage::new("s").unwrap(), patterns).unwrap();
    let worker = worker.with_lease(Duration::from_millis(lease)).unwrap();
    say("ready");
    let (_stopper, stop) = Stop::pair();
    worker.run(stop).await.unwrap();
}

/// The most memory that this process had so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Takes so many events in a group of its own, and says what memory that took at most.
async fn take(broker: &RedisBroker, stage: &str, many: usize) {
    let subscription = on(stage, &["t:*"]).with_prefetch(100);
    let mut on = broker.subscribe(subscription).await.unwrap();
    let (mut taken, mut batch) = (0, Vec::new());
    while taken < many {
        let leased = on.entries.next().await.unwrap().unwrap();
        assert_eq!(leased.event.payload.as_str().len(), 1024);
        batch.push((leased.lease.unwrap(), Settlement::Ack));
        if batch.len() == 100 {
            taken += batch.len();
            for answer in on.leases.settle(std::mem::take(&mut batch)).await {
                answer.unwrap();
            }
        }
    }
    say(&format!("peak {}", peak()));
}

/// While its owner lives nobody else begins a run, however long it takes.
async fn a_run_begins_once(lease: Duration, run: Duration) {
    let redis = server();
    let broker = broker(&redis).await;
    let mut crew = Crew::new(&redis);
    crew.start_all(3, &format!("work {} {}", lease.as_millis(), run.as_millis()));
    broker.publish_one(named("t", "a", "1")).await.unwrap();
    let (owner, said) = crew.next();
    assert_eq!(said, "began 1 1");
    let ended = crew.within(run + LONG).expect("it ends");
    assert_eq!(ended, (owner, "ended 1 1".to_owned()), "nobody else says anything before");
    // Longer than a lease: what was left open would be taken over by then.
    assert_eq!(crew.within(lease + Duration::from_secs(1)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn a_run_longer_than_its_lease_begins_once_while_its_worker_lives() {
    a_run_begins_once(Duration::from_secs(2), Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn after_a_kill_another_begins_the_next_attempt_within_the_lease_and_two_seconds() {
    let redis = server();
    let broker = broker(&redis).await;
    let mut crew = Crew::new(&redis);
    crew.start_all(3, "work 5000 60000");
    // Each has a name of its own at the server.
    let members = || {
        let key = redis.ask(&["KEYS", "pipeline:*:members:*"]).unwrap();
        std::future::ready(redis.ask(&["ZCARD", &key]).unwrap() == "3")
    };
    own::until("all three are members", members).await;
    for id in ["1", "2"] {
        broker.publish_one(named("t", id, id)).await.unwrap();
        let (killed, said) = crew.next();
        assert_eq!(said, format!("began {id} 1"));
        crew.kill(killed);
        let since = Instant::now();
        assert_eq!(crew.next(), (killed, "gone".to_owned()));
        let (next, said) = crew.next();
        assert_eq!(said, format!("began {id} 2"), "by {next}");
        assert_ne!(next, killed);
        let after = since.elapsed();
        println!("begun again {after:.2?} after the kill");
        assert!(after < Duration::from_secs(7), "{after:?} after the kill");
        // It is over, so that the next round has a free worker.
        crew.start_all(1, "work 5000 60000");
    }
}

/// An event that kills its worker ends among the dead letters, and nobody else's waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn an_event_that_kills_its_workers_is_tried_three_times_and_then_is_a_dead_letter() {
    const WORK: &str = "work 1000 10";
    let redis = server();
    let broker = broker(&redis).await;
    let mut crew = Crew::new(&redis);
    let bad = named("t", "bad", POISON).with_payload(r#"{"a": 1.0}"#.parse().unwrap());
    broker.publish_one(bad.clone()).await.unwrap();
    let good: Vec<Event> = (0..10).map(|n| named("t", &format!("good-{n}"), &n.to_string())).collect();
    for answer in broker.publish(good).await {
        answer.unwrap();
    }
    (0..2).for_each(|_| crew.start(WORK));
    let mut said = BTreeMap::<String, u32>::new();
    let began = Instant::now();
    let mut letters = Vec::new();
    while letters.is_empty() || said.keys().filter(|what| what.starts_with("ended")).count() < 10 {
        match crew.within(Duration::from_millis(200)) {
            // As a supervisor does.
            Some((_, what)) if what == "gone" => crew.start(WORK),
            Some((_, what)) => *said.entry(what).or_default() += 1,
            None => letters = broker.list(None, 10).await.unwrap(),
        }
        assert!(began.elapsed() < 2 * LONG, "{said:?}");
    }
    let tries: Vec<_> = said.iter().filter(|(what, _)| what.contains(POISON)).collect();
    let tries: Vec<_> = tries.into_iter().map(|(what, times)| (what.as_str(), *times)).collect();
    assert_eq!(tries, [("began poison 1", 1), ("began poison 2", 1), ("began poison 3", 1)]);
    for n in 0..10 {
        assert_eq!(said.get(&format!("ended {n} 1")), Some(&1), "{said:?}");
    }
    let letter = letters.remove(0);
    // What ends it has a number as well, and is no try.
    assert_eq!((letter.id.as_str(), letter.attempts, letter.crashes), (POISON, 4, 3));
    assert!(letter.reason.contains("died 3 times"), "{}", letter.reason);
    assert_eq!(Event::from_cloud_event(&letter.bytes).unwrap(), bad, "as it was published");
    // Again, as a new event: this one is no poison.
    let id = broker.replay(POISON, None).await.unwrap();
    let ended = format!("ended {id} 1");
    while crew.next().1 != ended {}
    assert!(broker.list(None, 10).await.unwrap().is_empty());
}

async fn publish_large(broker: &RedisBroker, many: usize) {
    let payload = format!("\"{}\"", "x".repeat(1022));
    for from in (0..many).step_by(500) {
        let event = |n: usize| event("t", &format!("a{}", n % 40)).with_payload(payload.parse().unwrap());
        for answer in broker.publish((from..many.min(from + 500)).map(event).collect()).await {
            answer.unwrap();
        }
    }
}

/// What a subscriber takes does not depend on how much waits.
async fn memory_is_flat(few: usize, many: usize) {
    const MOST: u64 = 16 * 1024;
    let redis = server();
    let broker = broker(&redis).await;
    let mut crew = Crew::new(&redis);
    publish_large(&broker, few).await;
    let mut peaks = Vec::new();
    let mut run = |role: String| {
        crew.start(&role);
        let Some((_, said)) = crew.within(20 * LONG) else { panic!("{role} does not end") };
        let kib: u64 = said.strip_prefix("peak ").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        while crew.next().1 != "gone" {}
        peaks.push(kib);
    };
    run(format!("take few {few}"));
    publish_large(&broker, many - few).await;
    run(format!("take beside-many {few}"));
    run(format!("take many {many}"));
    println!("KiB with {few} taken of {few}, {few} of {many}, {many} of {many}: {peaks:?}");
    let least = *peaks.iter().min().unwrap();
    assert!(peaks.iter().all(|peak| peak - least < MOST), "KiB: {peaks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis"]
async fn the_memory_of_a_subscriber_is_flat_however_much_waits() {
    memory_is_flat(2_000, 50_000).await;
}

mod long {
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: ten minutes, and needs Redis"]
    async fn a_run_of_ten_minutes_under_a_lease_of_five_seconds_begins_once() {
        super::a_run_begins_once(Duration::from_secs(5), Duration::from_secs(600)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: a million events, and needs Redis"]
    async fn the_memory_of_a_subscriber_is_flat_with_a_million_events_of_one_kib() {
        super::memory_is_flat(10_000, 1_000_000).await;
    }
}
