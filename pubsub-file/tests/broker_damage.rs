//! A damaged database opens: what can be read is kept, the rest is set aside and counted.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use pubsub_core::{
    ActionId, DeadLetters, ErrorKind, Event, EventType, Publisher, PublisherExt, Settlement, Stage,
    Subscriber, Subscription,
};
use pubsub_file::{FileBroker, FileBrokerConfig, Repair};

const EVENTS: usize = 1000;

fn event() -> Event {
    Event::new(EventType::new("build-requested").unwrap(), ActionId::new("a").unwrap())
        .with_payload(format!("\"{}\"", "x".repeat(100)).parse().unwrap())
}

async fn open(dir: &Path) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(dir)).await.unwrap()
}

/// The files of a broker as a crash would leave them: copied while it is open.
async fn crashed() -> (tempfile::TempDir, HashSet<String>) {
    let (live, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = open(live.path()).await;
    let events: Vec<Event> = (0..EVENTS).map(|_| event()).collect();
    let ids = events.iter().map(|event| event.id.as_str().to_owned()).collect();
    for answer in broker.publish(events).await {
        answer.unwrap();
    }
    std::fs::create_dir(copy.path().join("broker")).unwrap();
    for name in ["events.db", "events.db-wal"] {
        std::fs::copy(live.path().join("broker").join(name), copy.path().join("broker").join(name)).unwrap();
    }
    (copy, ids)
}

/// As [`crashed`], with everything in the main file.
async fn crashed_after_checkpoint() -> (tempfile::TempDir, HashSet<String>) {
    let (dir, ids) = crashed().await;
    drop(rusqlite::Connection::open(main_file(dir.path())).unwrap().query_row(
        "PRAGMA wal_checkpoint(TRUNCATE)",
        [],
        |_| Ok(()),
    ));
    (dir, ids)
}

fn main_file(dir: &Path) -> PathBuf {
    dir.join("broker/events.db")
}

/// Opens it, takes everything that is there, publishes one more, and opens it again.
async fn survivors(dir: &Path) -> (HashSet<String>, Option<Repair>, usize) {
    let broker = open(dir).await;
    let repair = broker.repair().cloned();
    let last = event();
    broker.publish_one(last.clone()).await.unwrap();
    let on = Subscription::for_stage(Stage::new("s").unwrap(), ["*:*".parse().unwrap()]).unwrap();
    let mut on = broker.subscribe(on.with_prefetch(100)).await.unwrap();
    let mut ids = HashSet::new();
    loop {
        let got =
            tokio::time::timeout(Duration::from_secs(20), on.entries.next()).await.unwrap().unwrap().unwrap();
        on.leases.settle(vec![(got.lease.unwrap(), Settlement::Ack)]).await.pop().unwrap().unwrap();
        if got.event.id == last.id {
            break;
        }
        assert!(ids.insert(got.event.id.as_str().to_owned()), "twice");
    }
    let letters = broker.list(None, 10_000).await.unwrap().len();
    drop(on);
    drop(broker);
    assert!(open(dir).await.repair().is_none(), "the repaired one is sound");
    (ids, repair, letters)
}

#[tokio::test]
async fn a_crash_alone_loses_nothing_and_repairs_nothing() {
    let (dir, ids) = crashed().await;
    let (found, repair, letters) = survivors(dir.path()).await;
    assert_eq!((found, repair, letters), (ids, None, 0));
}

#[tokio::test]
async fn a_torn_end_costs_at_most_what_lay_there() {
    let (dir, ids) = crashed_after_checkpoint().await;
    let file = OpenOptions::new().write(true).open(main_file(dir.path())).unwrap();
    file.set_len(file.metadata().unwrap().len() - 7).unwrap();
    let (found, repair, letters) = survivors(dir.path()).await;
    let repair = repair.expect("it is told");
    assert!(repair.set_aside.exists() && repair.rows_kept >= 900, "{repair:?}");
    assert!(found.is_subset(&ids));
    assert!(found.len() + letters >= EVENTS - 40, "{} {letters} {repair:?}", found.len());
}

#[tokio::test]
async fn zeros_behind_the_end_cost_nothing() {
    for name in ["events.db", "events.db-wal"] {
        let (dir, ids) = crashed().await;
        let file = OpenOptions::new().write(true).open(dir.path().join("broker").join(name)).unwrap();
        file.write_all_at(&[0; 4096], file.metadata().unwrap().len()).unwrap();
        assert_eq!(survivors(dir.path()).await.0, ids);
    }
}

#[tokio::test]
async fn random_bytes_in_the_middle_cost_only_their_pages() {
    let (dir, ids) = crashed_after_checkpoint().await;
    let file = OpenOptions::new().write(true).open(main_file(dir.path())).unwrap();
    let mut noise = vec![0_u8; 4096];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    let pages = file.metadata().unwrap().len() / 4096;
    file.write_all_at(&noise, pages / 2 * 4096).unwrap();
    let (found, repair, letters) = survivors(dir.path()).await;
    assert!(found.is_subset(&ids));
    assert!(found.len() + letters >= EVENTS - 60, "{} {letters} {repair:?}", found.len());
    assert!(repair.is_some_and(|repair| repair.set_aside.exists() && !repair.damage.is_empty()));
}

#[tokio::test]
async fn an_emptied_log_costs_what_only_it_had_and_a_ruined_head_everything_but_the_opening() {
    let (dir, ids) = crashed().await;
    OpenOptions::new().write(true).open(dir.path().join("broker/events.db-wal")).unwrap().set_len(0).unwrap();
    assert!(survivors(dir.path()).await.0.is_subset(&ids));
    let (dir, _) = crashed_after_checkpoint().await;
    let file = OpenOptions::new().write(true).open(main_file(dir.path())).unwrap();
    file.write_all_at(&[7; 100], 0).unwrap();
    let (found, repair, _) = survivors(dir.path()).await;
    assert!(found.is_empty() && repair.unwrap().set_aside.exists());
}

#[tokio::test]
async fn what_cannot_be_decoded_goes_to_the_dead_letters_and_stops_nobody() {
    let (dir, ids) = crashed().await;
    {
        let db = rusqlite::Connection::open(main_file(dir.path())).unwrap();
        db.execute("UPDATE events SET body = CAST('not JSON' AS BLOB) WHERE seq = 500", []).unwrap();
        db.execute("UPDATE events SET type = '' WHERE seq = 501", []).unwrap();
    }
    let (found, _, letters) = survivors(dir.path()).await;
    assert_eq!((found.len(), letters), (EVENTS - 2, 2));
    assert!(found.is_subset(&ids));
}

#[tokio::test]
async fn a_newer_version_is_refused_by_name_and_left_alone() {
    let (dir, _) = crashed().await;
    rusqlite::Connection::open(main_file(dir.path()))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = FileBroker::connect(FileBrokerConfig::new(dir.path())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("version=99"), "{error}");
    let names = std::fs::read_dir(dir.path().join("broker")).unwrap();
    assert!(names.into_iter().all(|e| !e.unwrap().file_name().to_string_lossy().contains("damaged")));
}

#[tokio::test]
async fn opening_waits_while_another_has_the_database_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let config = FileBrokerConfig::new(dir.path());
    FileBroker::connect(config.clone()).await.unwrap().close().await.unwrap();
    // As whoever recovers the log after a crash has it, or takes it back at the end.
    let other = rusqlite::Connection::open(main_file(dir.path())).unwrap();
    other.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
    other.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
    let (busy, since) = (Duration::from_millis(100), Instant::now());
    let refused = FileBroker::connect(config.clone().with_busy(busy)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{}", refused.chain());
    assert!(since.elapsed() >= busy, "it waited {:?}", since.elapsed());
    let opening = tokio::spawn(FileBroker::connect(config));
    drop(other);
    opening.await.unwrap().unwrap();
}

/// A broker that was closed in order, with so many events.
async fn closed() -> (tempfile::TempDir, HashSet<String>) {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let events: Vec<Event> = (0..EVENTS).map(|_| event()).collect();
    let ids = events.iter().map(|event| event.id.as_str().to_owned()).collect();
    for answer in broker.publish(events).await {
        answer.unwrap();
    }
    broker.close().await.unwrap();
    (dir, ids)
}

#[tokio::test]
async fn damage_after_an_orderly_close_is_found_as_well() {
    for noise in [0xA5_u8, 0] {
        let (dir, ids) = closed().await;
        let file = OpenOptions::new().write(true).open(main_file(dir.path())).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        for page in [pages / 3, pages / 2] {
            file.write_all_at(&[noise; 4096], page * 4096).unwrap();
        }
        let (found, repair, letters) = survivors(dir.path()).await;
        assert!(found.is_subset(&ids));
        assert!(found.len() + letters >= EVENTS - 100, "{} {letters} {repair:?}", found.len());
        assert!(repair.is_some_and(|repair| repair.set_aside.exists() && repair.rows_lost > 0));
    }
}

#[tokio::test]
async fn an_emptied_database_is_told_and_works_again() {
    let (dir, _) = closed().await;
    OpenOptions::new().write(true).open(main_file(dir.path())).unwrap().set_len(0).unwrap();
    let (found, repair, _) = survivors(dir.path()).await;
    assert!(found.is_empty());
    assert!(repair.is_some_and(|repair| repair.damage.contains("empty")));
}
