//! What a file broker keeps, and what goes by age, by number and for want of room.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::time::Duration;

use pubsub_core::conformance::broker::{Member, event, named, on};
use pubsub_core::{
    Begin, BrokerAdmin as _, DeadLetters as _, ErrorKind, Event, Novelty, PublisherExt as _, Scope,
    Settlement, Timestamp,
};
use pubsub_file::{FileBroker, FileBrokerConfig};

const LONG: Duration = Duration::from_secs(20);

async fn open(config: FileBrokerConfig) -> FileBroker {
    FileBroker::connect(config).await.unwrap()
}

fn short(dir: &tempfile::TempDir) -> FileBrokerConfig {
    FileBrokerConfig::new(dir.path()).with_retention(Duration::from_millis(200))
}

fn large(id: &str) -> Event {
    named("t", "a", id).with_payload(format!("\"{}\"", "x".repeat(20_000)).parse().unwrap())
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
async fn a_full_broker_names_the_group_that_holds_it_back_and_drops_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(FileBrokerConfig::new(dir.path()).with_max_bytes(1 << 20)).await;
    let mut slow = Member::join(&broker, on("slow", &["t:a"])).await;
    let mut quick = Member::join(&broker, on("quick", &["t:*"])).await;
    let mut published = Vec::new();
    let error = loop {
        let id = published.len().to_string();
        match broker.publish_one(large(&id)).await {
            Ok(_) => published.push(id),
            Err(error) => break error,
        }
        assert_eq!(quick.take().await, *published.last().unwrap());
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("slow@t:a"), "{error}");
    assert!(published.len() > 20, "{}", published.len());
    let known = broker.publish_one(large("0")).await.unwrap();
    assert_eq!(known.novelty, Novelty::Duplicate, "what is there needs no room");
    assert_eq!(slow.take_many(published.len()).await, published, "nothing unsettled was trimmed");
    // What everybody has settled makes room again, long before it is old.
    let publishing = async {
        while broker.publish_one(large("one more")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, publishing).await.expect("there is room again");
    assert_eq!((slow.take().await, quick.take().await), ("one more".to_owned(), "one more".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_by_age_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let config = short(&dir).with_retention(Duration::from_secs(2)).with_max_dead_letters(3);
    let broker = open(config).await;
    let mut member = Member::join(&broker, on("s", &["t:a"])).await;
    for id in 0..6 {
        broker.publish_one(named("t", "a", &id.to_string())).await.unwrap();
        let leased = member.next().await;
        member.settle(&leased, Settlement::DeadLetter { reason: "no good".to_owned() }).await.unwrap();
    }
    until("too many go", || rows(&dir, "dead") <= 3).await;
    let kept: Vec<String> =
        broker.list(None, 10).await.unwrap().into_iter().map(|letter| letter.id).collect();
    assert!(["3", "4", "5"].ends_with(&kept.iter().map(String::as_str).collect::<Vec<_>>()), "{kept:?}");
    until("old ones go", || rows(&dir, "dead") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_without_members_goes_after_its_time_and_holds_nothing_back_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let config = short(&dir).with_group_retention(Duration::from_millis(300));
    let broker = open(config).await;
    let gone = Member::join(&broker, on("s", &["t:a"])).await;
    broker.publish_one(event("t", "a")).await.unwrap();
    drop(gone);
    until("the event goes", || rows(&dir, "events") == 0).await;
    assert!(broker.groups(&Scope::default()).await.unwrap().is_empty());
}
