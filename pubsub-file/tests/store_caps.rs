//! Runs with a limit on their output in folders: the store, and a spool in front of it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pubsub_core::conformance::store::{at, read, shape};
use pubsub_core::{
    ActionId, Cap, Event, EventType, Execution, Exit, FanOut, Finality, Follow, FollowFrom, Followed,
    LineNumber, LineRange, Lines, MemoryStore, OutputReader as _, OutputSink, RunContext, RunKey, RunQuery,
    RunRecord, Search, SinkConfig, Stage, Stop, Stream, Target, copy, follow, handler_fn, verify,
    verify_against,
};
use pubsub_file::{FileStore, FileStoreConfig, SpoolConfig, Spooled};

const GAP: &str = "gap 100001-300000 over the limit of the output (2 MB)";

/// 400,000 lines of ten bytes, of which 1 MB is kept from each end; the file for the rest lies in `dir`.
async fn run(dir: &Path, sink: Arc<dyn OutputSink>, key: RunKey, event: Event) -> RunRecord {
    let prints = handler_fn(|context: RunContext| async move {
        for n in (1_u32..=400_000).step_by(1_000) {
            let lines: String = (n..n + 1_000).map(|n| format!("{n:09}\n")).collect();
            context.output.write(Stream::Stdout, lines.into()).await.unwrap();
        }
        Exit::code(0).into()
    });
    let fan_out = FanOut::new(vec![SinkConfig::required("file", sink)]);
    let execution = Execution::new().with_max_output(Cap::new(2_000_000).with_dir(dir));
    let (_stopper, stop) = Stop::pair();
    let executed = execution.run(&fan_out, &prints, Arc::new(event), key, stop, Finality::Final).await;
    executed.unwrap().report.record
}

fn event() -> (Event, RunKey) {
    let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
    let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), 1);
    (event, key)
}

#[tokio::test]
async fn a_capped_run_in_a_folder_answers_every_question() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::connect(FileStoreConfig::new(folder.path())).await.unwrap();
    let (event, key) = event();
    let target = Target::Run(key.run_id.clone());
    let followed =
        follow(Arc::new(store.clone()), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    let follower = tokio::spawn(async move {
        let items = followed.filter_map(async |followed| match followed.unwrap() {
            Followed::Item(item) => Some(item),
            _ => None,
        });
        items.collect::<Vec<_>>().await
    });
    let record = run(folder.path(), Arc::new(store.clone()), key, event).await;
    let id = &record.key.run_id;
    assert_eq!(shape(&follower.await.unwrap()), format!("1-100000 {GAP}; 300001-400000"));
    assert_eq!(shape(&read(&store, id, Lines::ALL).await), format!("1-100000 {GAP}; 300001-400000"));
    let last = read(&store, id, Lines::Last(100_001)).await;
    assert_eq!(shape(&last), format!("100000-100000 {GAP}; 300001-400000"));
    let range = Lines::Range(LineRange::new(at(300_000), at(300_001)));
    let around = read(&store, id, range).await;
    assert_eq!(shape(&around), format!("{}; 300001-300001", GAP.replace("100001", "300000")));
    assert!(verify(&store, id).await.unwrap().agrees());
    let search = Search::regex("^000(100000|100001|300000|300001)$").unwrap();
    let hits: Vec<_> = store.search(&RunQuery::of_run(id.clone()), &search).await.unwrap().collect().await;
    let numbers: Vec<u64> = hits.into_iter().map(|hit| hit.unwrap().line.number.get()).collect();
    assert_eq!(numbers, [100_000, 300_001]);
    let other = MemoryStore::new();
    copy(&store, id, &other).await.unwrap();
    assert!(verify(&other, id).await.unwrap().agrees());
    assert_eq!(verify_against(&store, &other, id).await.unwrap(), None);
}

#[tokio::test]
async fn a_capped_run_goes_through_a_spool() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let spool = Spooled::open(store.clone(), SpoolConfig::new(folder.path())).await.unwrap();
    let spool = Arc::new(spool);
    let (event, key) = event();
    let record = run(folder.path(), Arc::clone(&spool) as Arc<dyn OutputSink>, key, event).await;
    spool.close(Duration::from_secs(30)).await.unwrap();
    let id = &record.key.run_id;
    assert_eq!(shape(&read(&store, id, Lines::ALL).await), format!("1-100000 {GAP}; 300001-400000"));
    assert!(verify(&store, id).await.unwrap().agrees());
    assert_eq!(store.runs(&RunQuery::of_run(id.clone())).await.unwrap()[0].holes, []);
}
