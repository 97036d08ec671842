//! Worker processes of two stages on one folder.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pubsub_core::{
    ActionId, Event, EventId, EventType, Exit, FanOut, OutputReader as _, Publisher as _, RunContext,
    RunQuery, SinkConfig, Stage, Stop, Worker, handler_fn,
};

use super::{Process, broker, say, store, until_idle};

/// Events of one publish: as a program that has several to publish does.
const BATCH: usize = 10;

/// Actions of each publisher.
const ACTIONS: usize = 50;

pub(super) fn go(id: &str, action: &str) -> Event {
    Event::new(EventType::new("go").unwrap(), ActionId::new(action).unwrap())
        .with_id(EventId::new(id).unwrap())
}

pub(super) async fn publish(folder: &Path, name: &str, many: usize) {
    let broker = broker(folder).await;
    for from in (0..many).step_by(BATCH) {
        let event = |n: usize| go(&format!("{name}-{n}"), &format!("{name}-{}", n % ACTIONS));
        let events = (from..many.min(from + BATCH)).map(event);
        for answer in broker.publish(events.collect()).await {
            answer.unwrap();
        }
    }
}

pub(super) async fn work(folder: &Path) {
    let (broker, store) = (Arc::new(broker(folder).await), Arc::new(store(folder).await));
    let worker = |stage: &'static str, pattern: &str| {
        let handler = handler_fn(move |context: RunContext| async move {
            let payload = context.event.payload.as_str().len();
            say(&format!("{stage} {} {} {payload}", context.event.id, context.key.attempt));
            let _ = context.output.line(context.event.id.as_str()).await;
            Exit::code(0).into()
        });
        let sinks = FanOut::new(vec![SinkConfig::required("file", Arc::clone(&store) as Arc<_>)]);
        let (broker, pattern) = (Arc::clone(&broker), pattern.parse().unwrap());
        let worker = Worker::new(broker, sinks, handler, Stage::new(stage).unwrap(), [pattern]);
        worker.unwrap().with_concurrency(4).with_lease(super::sharing::LEASE).unwrap()
    };
    let build = worker("build", "go:*").with_then(EventType::new("built").unwrap());
    let deploy = worker("deploy", "built:*");
    let (_stopper, stop) = Stop::pair();
    let (built, deployed) = tokio::join!(build.run(stop.clone()), deploy.run(stop));
    built.unwrap();
    deployed.unwrap();
}

/// How often each stage was run at each event, and with which attempt last.
pub(super) fn ran(processes: Vec<Process>) -> HashMap<(String, String), (usize, u32, usize)> {
    let mut ran = HashMap::<_, (usize, u32, usize)>::new();
    for said in processes.into_iter().flat_map(Process::end) {
        let [stage, event, attempt, payload] = said.split(' ').collect::<Vec<_>>()[..] else {
            unreachable!("{said}")
        };
        let seen = ran.entry((stage.to_owned(), event.to_owned())).or_default();
        *seen = (seen.0 + 1, attempt.parse().unwrap(), payload.parse().unwrap());
    }
    ran
}

fn count(folder: &Path, sql: &str) -> usize {
    let db = rusqlite::Connection::open(folder.join("broker/events.db")).unwrap();
    db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().try_into().unwrap()
}

/// So many events from four processes, worked off by eight of two stages each.
async fn each_is_concluded_once(events: usize) {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let workers = Process::many(8, |_| "work".to_owned(), folder.path());
    let publishers = Process::many(4, |n| format!("publish p{n} {}", events / 4), folder.path());
    publishers.into_iter().for_each(|publisher| drop(publisher.wait_for_end()));
    let published = began.elapsed();
    until_idle(&broker(folder.path()).await, 2).await;
    let took = began.elapsed();
    println!(
        "{events} events of two stages: published in {published:.1?}, all concluded after {took:.1?}, {:.0} runs/s",
        2.0 * events as f64 / took.as_secs_f64()
    );
    let ran = ran(workers);
    assert_eq!(ran.len(), 2 * events, "each stage at each event");
    assert!(ran.values().all(|(times, attempt, _)| (*times, *attempt) == (1, 1)));
    let concluded = "SELECT count(*) FROM claims WHERE json_extract(claim, '$.conclusion') IS NOT NULL";
    assert_eq!(count(folder.path(), concluded), 2 * events);
    for stage in ["build", "deploy"] {
        let told = format!("SELECT count(*) FROM events WHERE type = '{stage}-completed'");
        assert_eq!(count(folder.path(), &told), events);
    }
    let runs = store(folder.path()).await.runs(&RunQuery::all()).await.unwrap();
    assert_eq!(runs.len(), 2 * events);
    assert!(runs.iter().all(|run| run.is_final && run.counts.lines == 1));
}

#[tokio::test]
async fn eight_workers_of_two_stages_conclude_each_event_once() {
    each_is_concluded_once(200).await;
}

#[tokio::test]
#[ignore = "long: 20,000 events through two stages"]
async fn eight_workers_of_two_stages_conclude_each_of_many_events_once() {
    each_is_concluded_once(20_000).await;
}
