//! What a file broker keeps, and what goes by age, by number and for want of room.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use pubsub_core::conformance::broker::{Member, named, on};
use pubsub_core::{Begin, ErrorKind, Event, Novelty, PublisherExt as _, Timestamp};
use pubsub_file::{FileBroker, FileBrokerConfig};

const LONG: Duration = Duration::from_secs(20);

async fn open(config: FileBrokerConfig) -> FileBroker {
    FileBroker::connect(config).await.unwrap()
}

fn short(dir: &tempfile::TempDir) -> FileBrokerConfig {
    FileBrokerConfig::new(dir.path()).with_retention(Duration::from_millis(200))
}

fn large(id: &str, bytes: usize) -> Event {
    named("t", "a", id).with_payload(format!("\"{}\"", "x".repeat(bytes)).parse().unwrap())
}

fn rows(dir: &tempfile::TempDir, table: &str) -> i64 {
    let db = rusqlite::Connection::open(dir.path().join("broker/events.db")).unwrap();
    db.busy_timeout(LONG).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let looking = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, looking).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_group_has_settled_goes_with_its_claims_once_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(short(&dir)).await;
    for id in ["settled", "begun", "waiting"] {
        broker.publish_one(named("t", "a", id)).await.unwrap();
    }
    broker.publish_one(named("nobody", "asks", "free")).await.unwrap();
    let later = Timestamp::now().plus(Duration::from_secs(3600));
    broker.publish_one(named("nobody", "asks", "delayed").with_deliver_at(later)).await.unwrap();
    let mut one = Member::join(&broker, on("s", &["t:a"])).await;
    let mut two = Member::join(&broker, on("s", &["t:*"])).await;
    let settled = one.next().await;
    assert!(matches!(one.begin(&settled).await.unwrap(), Begin::Go(_)));
    one.ack(&settled).await;
    assert_eq!(two.take().await, "settled");
    let begun = one.next().await;
    assert!(matches!(one.begin(&begun).await.unwrap(), Begin::Go(_)));
    // Left are: the one that is begun, the one that waits, and the one whose time has not come.
    until("old events go", || rows(&dir, "events") == 3).await;
    assert_eq!(rows(&dir, "claims"), 1, "a claim lives as long as its event");
    one.ack(&begun).await;
    assert_eq!(one.take().await, "waiting");
    assert_eq!(two.take_many(2).await, ["begun", "waiting"]);
    until("the rest goes", || rows(&dir, "events") == 1).await;
    assert_eq!(broker.publish_one(named("t", "a", "settled")).await.unwrap().novelty, Novelty::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_larger_than_the_limit_is_refused_with_both_sizes_before_anything_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(FileBrokerConfig::new(dir.path()).with_max_bytes(300_000)).await;
    for id in 0..5 {
        broker.publish_one(large(&id.to_string(), 20_000)).await.unwrap();
    }
    // Also one that would fit if the database itself took nothing.
    for bytes in [290_000, 400_000] {
        let error = broker.publish_one(large("large", bytes)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let text = error.to_string();
        assert!(text.contains("limit=300000") && text.contains(&format!("bytes={}", bytes / 1000)), "{text}");
    }
    assert_eq!(rows(&dir, "events"), 5);
    // What may fit one day is another thing: it has everything removed that nobody waits for.
    broker.publish_one(large("fits", 180_000)).await.unwrap();
    assert!(rows(&dir, "events") < 5);
}

/// An empty database is at least as small as is reckoned, so that what is not refused for good has a chance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_refused_for_good_fits_once_nothing_else_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(FileBrokerConfig::new(dir.path()).with_max_bytes(300_000)).await;
    let mut bytes = 300_000;
    loop {
        match broker.publish_one(large("largest", bytes)).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::TooLarge, "{bytes}: {error}"),
        }
        bytes -= 1000;
    }
    assert!(bytes > 180_000, "{bytes}");
}
