//! The store in MongoDB beside the driver itself: the same server, the same documents, the same batches, the same concerns.
//!
//! The server runs on the machine's own cores, for the limits as for ours.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use futures::TryStreamExt as _;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::WriteConcern;
use mongodb::{Client, Collection};
use pubsub_pipeline::{
    ActionId, Appended, EventId, LineBatch, LineEnd, LineNumber, Lines, MongoStore, MongoStoreConfig,
    OutputReader as _, OutputSink as _, RunKey, RunRecord, Stage, Stream, Timestamp,
};
use pubsub_pipeline_benches::{Curve, Row, Target, are_curves, runtime, shipper, sizes};
use services::{Mongo, MongoOptions, ShipTo, Shipper};
use tokio::runtime::Runtime;

/// With its line feed.
const LINE_BYTES: usize = 100;

/// Of one pass, where the table has it.
const LINES: u64 = 20_000;

/// As capture hands lines on, and as many of those as a sink gathers while the server works: a mebibyte.
const BATCH: u64 = 500;
const GATHERED: usize = 20;

/// What the store has in one insert.
const INSERTED: usize = 2_000;

/// Of one pass of a peer that inserts line by line: its time counts as if it had all.
const OF_PEERS: u64 = LINES / 200;

/// How many lines one document has where it is a block of them.
const BLOCK: usize = 250;

fn text() -> String {
    "x".repeat(LINE_BYTES - 1)
}

fn batches(lines: u64) -> Vec<LineBatch> {
    let batch = |first: u64| {
        let many = BATCH.min(lines - first);
        let bytes = format!("{}\n", text()).repeat(usize::try_from(many).unwrap());
        let number = LineNumber::new(first + 1).unwrap();
        LineBatch::split(number, Timestamp::now(), Stream::Stdout, bytes.into(), LineEnd::None).unwrap()
    };
    (0..lines).step_by(500).map(batch).collect()
}

/// What the store writes of a line of a run, and under which name.
fn document(run: &str, number: u64) -> Document {
    doc! {
        "_id": format!("{run}.{number:020}"), "action_id": "action-123", "stage": "build",
        "line_number": i64::try_from(number).unwrap(), "content": text(), "timestamp": DateTime::now(),
        "stream": "stdout", "micros": 123,
    }
}

async fn empty(mongo: &Mongo) {
    Client::with_uri_str(mongo.url()).await.unwrap().database("bench").drop().await.unwrap();
}

/// As the store writes.
async fn raw(mongo: &Mongo) -> Collection<Document> {
    let mut concern = WriteConcern::majority();
    concern.journal = Some(true);
    let options = mongodb::options::CollectionOptions::builder().write_concern(concern).build();
    let database = Client::with_uri_str(mongo.url()).await.unwrap().database("bench");
    database.collection_with_options("raw", options)
}

/// A store that has begun a run, in a database where nothing else is.
async fn begun(mongo: &Mongo) -> (MongoStore, RunKey) {
    empty(mongo).await;
    let config = MongoStoreConfig::new(mongo.url()).with_database("bench");
    let store = MongoStore::connect(config).await.unwrap();
    let (action, stage) = (ActionId::new("action-123").unwrap(), Stage::new("build").unwrap());
    let key = RunKey::new(action, stage, EventId::generate(), 1);
    store.begin(&RunRecord::begun(key.clone(), "bench")).await.unwrap();
    (store, key)
}

async fn store(mongo: &Mongo, lines: u64) -> (MongoStore, RunKey, Duration) {
    let (store, key) = begun(mongo).await;
    let batches = batches(lines);
    let begun = Instant::now();
    for gathered in batches.chunks(GATHERED) {
        assert_eq!(store.append(&key, gathered).await.unwrap(), Appended::all());
    }
    (store, key, begun.elapsed())
}

/// The documents of a run that the store has begun, and a collection for them in the same database, so that the server has
/// the same to do beside.
async fn beside_a_run(mongo: &Mongo, lines: u64) -> (Vec<Document>, Collection<Document>) {
    let (_store, key) = begun(mongo).await;
    let raw = raw(mongo).await;
    let runs = raw.client().database("bench").collection::<Document>("runs");
    let run = runs.find_one(doc! { "_id": key.run_id.as_str() }).await.unwrap().unwrap();
    let start = format!("{}.{}", key.run_id, run.get_str("made").unwrap());
    ((1..=lines).map(|n| document(&start, n)).collect(), raw)
}

async fn inserted(collection: &Collection<Document>, documents: &[Document], many: usize) -> Duration {
    let begun = Instant::now();
    for documents in documents.chunks(many) {
        collection.insert_many(documents).ordered(false).await.unwrap();
    }
    begun.elapsed()
}

fn writing(criterion: &mut Criterion) {
    let (runtime, mongo) = (runtime(), Mongo::start(&MongoOptions::new()).unwrap());
    let limit = |lines: u64| -> Duration {
        runtime.block_on(async {
            let (documents, raw) = beside_a_run(&mongo, lines).await;
            inserted(&raw, &documents, INSERTED).await
        })
    };
    let ours = |lines: u64| -> Duration { runtime.block_on(async { store(&mongo, lines).await.2 }) };
    for lines in sizes(LINES, [LINES / 10, LINES * 4]) {
        let (id, target) = ("mongo-output-lines", Target::Speed(0.9));
        Row { id, size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| limit(lines))
            .ours(|| ours(lines));
    }
    // What a document for each line costs beside one for each block of lines, which other tools cannot read.
    let blocks = || -> Duration {
        let (all, raw) = runtime.block_on(beside_a_run(&mongo, LINES));
        let block = |lines: &[Document]| {
            let contents: Vec<&str> = lines.iter().map(|line| line.get_str("content").unwrap()).collect();
            let mut block = lines.first().unwrap().clone();
            block.insert("content", contents);
            block
        };
        let blocks: Vec<Document> = all.chunks(BLOCK).map(block).collect();
        runtime.block_on(inserted(&raw, &blocks, INSERTED / BLOCK))
    };
    let (id, target) = ("mongo-lines-beside-blocks", Target::Speed(0.02));
    Row { id, size: LINES, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .limit(blocks)
        .ours(|| ours(LINES));
}

/// Log shippers that are fed the same lines.
fn beside(criterion: &mut Criterion) {
    if are_curves() {
        return;
    }
    let (runtime, mongo) = (runtime(), Mongo::start(&MongoOptions::new()).unwrap());
    for (id, program) in
        [("mongo-beside-rsyslog", Shipper::Rsyslog), ("mongo-beside-syslog-ng", Shipper::SyslogNg)]
    {
        let mut measured =
            Row { id, size: LINES, unit: "lines", target: Target::Peer(1.0), curve: Curve::No }
                .measure(criterion);
        measured.ours(|| runtime.block_on(async { store(&mongo, LINES).await.2 }));
        let to = ShipTo::Mongo { address: mongo.address(), collection: "shipped".to_owned() };
        let Some(shipping) = shipper(program, &to) else { continue };
        runtime.block_on(empty(&mongo));
        let shipped = collection_named(&runtime, &mongo, "shipped");
        let texts = format!("{}\n", text()).repeat(usize::try_from(OF_PEERS).unwrap());
        measured.peer(|| {
            runtime.block_on(async {
                let before = shipped.estimated_document_count().await.unwrap();
                let begun = Instant::now();
                shipping.give(texts.as_bytes()).unwrap();
                while shipped.estimated_document_count().await.unwrap() < before + OF_PEERS {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                begun.elapsed() * u32::try_from(LINES / OF_PEERS).unwrap()
            })
        });
    }
}

fn collection_named(runtime: &Runtime, mongo: &Mongo, name: &str) -> Collection<Document> {
    runtime.block_on(async {
        Client::with_uri_str(mongo.url()).await.unwrap().database("bench").collection(name)
    })
}

fn reading(criterion: &mut Criterion) {
    if are_curves() {
        return;
    }
    let (runtime, mongo) = (runtime(), Mongo::start(&MongoOptions::new()).unwrap());
    let (store, key, _) = runtime.block_on(store(&mongo, LINES));
    let limit = || -> Duration {
        runtime.block_on(async {
            let database = Client::with_uri_str(mongo.url()).await.unwrap().database("bench");
            let lines: Collection<Document> = database.collection("lines");
            let begun = Instant::now();
            let all = lines.find(doc! { "_id": { "$gte": key.run_id.as_str() } }).sort(doc! { "_id": 1 });
            let all: Vec<Document> = all.batch_size(1_000).await.unwrap().try_collect().await.unwrap();
            assert_eq!(all.len() as u64, LINES);
            begun.elapsed()
        })
    };
    let ours = || -> Duration {
        runtime.block_on(async {
            let begun = Instant::now();
            let items = store.lines(&key.run_id, Lines::ALL).await.unwrap().items;
            let lines =
                items.try_fold(0, async |lines, item| Ok(lines + item.range().lines())).await.unwrap();
            assert_eq!(lines, LINES);
            begun.elapsed()
        })
    };
    let (id, target) = ("mongo-read-lines", Target::Speed(0.9));
    Row { id, size: LINES, unit: "lines", target, curve: Curve::No }
        .measure(criterion)
        .limit(limit)
        .ours(ours);
}

criterion_group!(mongo, writing, beside, reading);

fn main() {
    mongo();
    Criterion::default().configure_from_args().final_summary();
}
