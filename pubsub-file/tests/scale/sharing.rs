//! Workers that share a folder take nothing twice and nothing half-written, also where one is killed or paused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use pubsub_core::conformance::broker::{Member, on};
use pubsub_core::{
    Begin, Conclusion, ErrorKind, Event, Leased, Payload, PublisherExt as _, Renewal, Result, RunKey,
    RunRecord, Settlement, Stage, Subscription,
};
use tokio::sync::mpsc;

use super::workers::{go, ran};
use super::{Process, broker, say, until_idle};

/// Short, so that what a dead process held is taken soon, and longer than a busy machine keeps a live one from renewing.
pub(super) const LEASE: Duration = Duration::from_secs(8);

/// How often the slow publisher is stopped: while it is, it may have the database locked, and nobody can renew.
const STOPS: usize = 25;

const LARGE_BYTES: usize = 20 << 20;

/// A member of the workers' group.
fn worker() -> Subscription {
    on("build", &["go:*"]).with_lease(LEASE).unwrap().with_prefetch(1)
}

fn large() -> Event {
    let text = "0123456789".repeat(LARGE_BYTES / 10);
    let payload: Payload = format!("\"{text}\"").parse().unwrap();
    go("large", "large").with_payload(payload)
}

pub(super) async fn publish_large(folder: &Path) {
    let broker = broker(folder).await;
    let event = large();
    say("publishing");
    broker.publish_one(event).await.unwrap();
}

fn conclusion(leased: &Leased) -> Conclusion {
    let event = &leased.event;
    let stage = Stage::new("build").unwrap();
    let key = RunKey::new(event.action_id.clone(), stage, event.id.clone(), 1);
    Conclusion { record: RunRecord::begun(key, "held"), values: BTreeMap::new() }
}

fn kind<T>(answer: Result<T>) -> Option<ErrorKind> {
    answer.err().map(|error| error.kind())
}

/// Takes one event, begins it, and does the rest when it is told to.
pub(super) async fn hold(folder: &Path, told: &mut mpsc::Receiver<String>) {
    let broker = broker(folder).await;
    let mut member = Member::join(&broker, worker()).await;
    let leased = member.next().await;
    let Begin::Go(numbers) = member.begin(&leased).await.unwrap() else { unreachable!("it is new") };
    say(&format!("began {} {}", leased.event.id, numbers.attempt));
    while let Some(what) = told.recv().await {
        let answer = match what.as_str() {
            "renew" => (member.renew(&leased).await == Renewal::Lost).then_some(ErrorKind::LeaseLost),
            "conclude" => kind(member.conclude(&leased, conclusion(&leased)).await),
            "release" => kind(member.settle(&leased, Settlement::Release { after: Duration::ZERO }).await),
            "acknowledge" => kind(member.settle(&leased, Settlement::Ack).await),
            _ => unreachable!("{what}"),
        };
        say(&format!("{answer:?}"));
    }
}

fn ask(process: &mut Process, what: &str) -> String {
    process.tell(what);
    process.next()
}

/// Whatever a process does that was paused past its lease, it is told that the event is another's.
fn can_do_nothing(paused: &mut Process) {
    paused.signal("CONT");
    for what in ["renew", "conclude", "release", "acknowledge"] {
        assert_eq!(ask(paused, what), "Some(LeaseLost)", "{what}");
    }
}

#[tokio::test]
async fn a_worker_that_was_paused_past_its_lease_can_neither_finish_nor_unlock_what_another_holds() {
    let folder = tempfile::tempdir().unwrap();
    broker(folder.path()).await.publish_one(go("held", "a")).await.unwrap();
    let mut paused = Process::start("hold", folder.path());
    assert_eq!(paused.next(), "began held 1");
    paused.signal("STOP");
    let mut next = Process::start("hold", folder.path());
    assert_eq!(next.next(), "began held 2");
    can_do_nothing(&mut paused);
    for what in ["renew", "conclude", "acknowledge"] {
        assert_eq!(ask(&mut next, what), "None", "{what}");
    }
    until_idle(&broker(folder.path()).await, 1).await;
}

/// One process publishes a large event, and is stopped again and again meanwhile.
fn publish_slowly(folder: &Path) {
    let publisher = Process::start("publish-large", folder);
    assert_eq!(publisher.next(), "publishing");
    for _ in 0..STOPS {
        if publisher.said.recv_timeout(Duration::from_millis(2)) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        publisher.signal("STOP");
        std::thread::sleep(Duration::from_millis(20));
        publisher.signal("CONT");
    }
    publisher.wait_for_end();
}

/// Eight workers, four publishers; two more workers hold an event each, one is killed and one is paused.
async fn each_is_run_once(events: usize) {
    let folder = tempfile::tempdir().unwrap();
    let own = broker(folder.path()).await;
    for id in ["killed", "paused"] {
        own.publish_one(go(id, id)).await.unwrap();
    }
    let mut killed = Process::start("hold", folder.path());
    assert_eq!(killed.next(), "began killed 1");
    let mut paused = Process::start("hold", folder.path());
    assert_eq!(paused.next(), "began paused 1");
    killed.child.kill().unwrap();
    paused.signal("STOP");
    let workers = Process::many(8, |_| "work".to_owned(), folder.path());
    let publishers = Process::many(3, |n| format!("publish p{n} {}", events / 3), folder.path());
    publish_slowly(folder.path());
    publishers.into_iter().for_each(|publisher| drop(publisher.wait_for_end()));
    until_idle(&own, 2).await;
    can_do_nothing(&mut paused);
    let mut ran = ran(workers);
    ran.retain(|(stage, _), _| stage == "build");
    let mut taken = |id: &str| ran.remove(&("build".to_owned(), id.to_owned())).unwrap();
    assert_eq!(taken("large"), (1, 1, LARGE_BYTES + 2), "it came whole");
    for id in ["killed", "paused"] {
        let (times, attempt, _) = taken(id);
        assert_eq!((times, attempt), (1, 2), "{id} was run by another");
    }
    assert_eq!(ran.len(), events / 3 * 3);
    ran.retain(|_, (times, attempt, _)| (*times, *attempt) != (1, 1));
    assert!(ran.is_empty(), "run again: {ran:?}");
}

#[tokio::test]
async fn workers_take_nothing_twice_and_nothing_half_written() {
    each_is_run_once(150).await;
}

#[tokio::test]
#[ignore = "long: 5,000 events"]
async fn workers_take_nothing_of_thousands_twice_and_nothing_half_written() {
    each_is_run_once(5_000).await;
}
