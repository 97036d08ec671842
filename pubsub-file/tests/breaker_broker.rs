//! Attacks on the file broker's promises.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::io::{Seek as _, SeekFrom, Write as _};

use pubsub_core::{ActionId, Event, EventType, Publisher as _, PublisherExt as _};
use pubsub_file::{FileBroker, FileBrokerConfig};

fn event(action: &str) -> Event {
    Event::new(EventType::new("t").unwrap(), ActionId::new(action).unwrap())
        .with_payload(format!("\"{}\"", "x".repeat(100)).parse().unwrap())
}

/// One process of `many_short_lived_processes_open_and_publish`; does nothing by itself.
#[tokio::test]
async fn one_short_lived_publisher() {
    let Some(dir) = std::env::var_os("BREAKER_DIR") else { return };
    let broker = FileBroker::connect(FileBrokerConfig::new(dir)).await.unwrap();
    broker.publish_one(event("a")).await.unwrap();
    broker.close().await.unwrap();
}

/// Short-lived publishers beside each other, as a shell makes them: opening never answers "database is locked".
#[test]
fn many_short_lived_processes_open_and_publish() {
    let dir = tempfile::tempdir().unwrap();
    let one = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_short_lived_publisher"])
            .env("BREAKER_DIR", dir.path())
            .output()
            .unwrap()
    };
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..6).map(|_| scope.spawn(|| (0..40).map(|_| one()).collect::<Vec<_>>())).collect();
        let all = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        all.filter(|o| !o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).collect()
    });
    assert!(failed.is_empty(), "{} of 240 failed, the first: {:?}", failed.len(), failed.first());
}

/// FAULTS "Torn or zero-filled record": opens each time, the damaged part is set aside and reported. Here the broker was
/// closed in order before the damage, so that the mark `clean` keeps the check away, at this and every later opening.
#[tokio::test]
async fn a_damaged_page_after_an_orderly_close_is_repaired_when_opened() {
    let dir = tempfile::tempdir().unwrap();
    {
        let broker = FileBroker::connect(FileBrokerConfig::new(dir.path())).await.unwrap();
        for n in 0..60 {
            broker.publish_one(event(&format!("a{n}"))).await.unwrap();
        }
        broker.close().await.unwrap();
    }
    let path = walk(dir.path());
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for page in [3_u64, 5, 7, 9, 11] {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xA5; 4096]).unwrap();
    }
    drop(file);
    let mut answers = Vec::new();
    for _ in 0..3 {
        match FileBroker::connect(FileBrokerConfig::new(dir.path())).await {
            Ok(broker) => {
                answers.push(broker.publish_one(event("later")).await.map(|_| broker.repair().is_some()));
                let _ = broker.close().await;
            }
            Err(error) => answers.push(Err(error)),
        }
    }
    assert!(answers.last().unwrap().is_ok(), "still broken at the third opening: {answers:?}");
}

fn walk(dir: &std::path::Path) -> std::path::PathBuf {
    let found = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    found
        .filter_map(|p| if p.is_dir() { Some(walk(&p)).filter(|p| p.is_file()) } else { Some(p) })
        .find(|p| p.ends_with("events.db"))
        .unwrap_or_default()
}
