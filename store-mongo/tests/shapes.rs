//! What other tools see, and what the store makes of what they do.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, DateTime, Document, doc};
use pubsub_core::conformance::store::{SampleRun, batch, lines, read, read_lines, shape};
use pubsub_core::{
    ActionId, ErrorKind, Keep, LineEnd, Lines, OutputReader as _, OutputSink as _, Retention as _, RunId,
    RunQuery, Search, Stream, Timestamp,
};
use server::{connect, database, fresh_database, url};
use store_mongo::{MongoStore, MongoStoreConfig};

/// A store, and its database past it.
async fn store() -> (MongoStore, mongodb::Database) {
    let name = fresh_database();
    let store = connect(&MongoStoreConfig::new(url()).with_database(&name)).await;
    (store, database(&url(), &name).await)
}

async fn all(database: &mongodb::Database, collection: &str) -> Vec<Document> {
    let collection = database.collection::<Document>(collection);
    let found = collection.find(doc! {}).sort(doc! { "_id": 1 }).await;
    found.unwrap().try_collect().await.unwrap()
}

/// Whether a document is that of this run.
fn is(document: &Document, run: &RunId) -> bool {
    document.get_str("_id").is_ok_and(|id| id == run.as_str())
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn a_line_is_a_document_that_says_what_it_is() {
    let (store, database) = store().await;
    let mut run = SampleRun::of("action-123", "build");
    run.begin(&store).await;
    let given = [
        batch(1, Stream::Stdout, "hello\n", LineEnd::None),
        batch(2, Stream::Stderr, &b"caf\xe9\r\n"[..], LineEnd::None),
    ];
    run.append(&store, &given).await;
    run.finish(&store).await;
    let [first, second] = <[Document; 2]>::try_from(all(&database, "lines").await).unwrap();
    let id = first.get_str("_id").unwrap();
    assert!(id.starts_with(run.id().as_str()) && id.ends_with(".00000000000000000001"), "{id}");
    let seen = |line: &Document, name: &str| line.get(name).cloned().unwrap_or(Bson::Null);
    for (name, value) in [
        ("action_id", "action-123".into()),
        ("stage", "build".into()),
        ("line_number", Bson::Int64(1)),
        ("content", "hello".into()),
        ("stream", "stdout".into()),
        ("timestamp", Bson::DateTime(DateTime::from_millis(1_764_045_141_500))),
        ("micros", Bson::Int32(2)),
        ("raw", Bson::Null),
        ("end", Bson::Null),
    ] {
        assert_eq!(seen(&first, name), value, "{name}");
    }
    assert_eq!(second.get_str("content").unwrap(), "caf\u{fffd}");
    assert_eq!(second.get_binary_generic("raw").unwrap(), b"caf\xe9");
    assert_eq!(second.get_str("end").unwrap(), "crlf");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn a_run_is_a_document_and_is_found_by_its_metadata_whatever_the_names() {
    let (store, database) = store().await;
    let names = ["branch", "a.b", "$where", "", "indexed_at", "nested.$a.b", "100%"];
    let mut run = SampleRun::of("action-123", "build");
    run.record.command = vec!["make".to_owned(), "all".to_owned()];
    run.record.metadata = names.iter().map(|name| ((*name).to_owned(), format!("of {name}"))).collect();
    run.begin(&store).await;
    run.finish(&store).await;
    let other = SampleRun::written(&store, &[]).await;
    let stored = all(&database, "runs").await.into_iter().find(|run_of| is(run_of, run.id()));
    let stored = stored.unwrap();
    assert_eq!(stored.get_str("status").unwrap(), "completed");
    assert_eq!(stored.get_str("outcome").unwrap(), "succeeded");
    assert_eq!(stored.get_array("command").unwrap(), &["make".into(), "all".into()]);
    let metadata = stored.get_document("metadata").unwrap();
    assert_eq!((metadata.len(), metadata.get_str("branch").unwrap()), (names.len() + 1, "of branch"));
    assert!(metadata.get_datetime("indexed_at").is_ok());
    for name in names {
        let one = BTreeMap::from([(name.to_owned(), format!("of {name}"))]);
        let found = store.runs_with(&RunQuery::all(), &one).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&run.record), "{name:?}");
        let wrong = BTreeMap::from([(name.to_owned(), "other".to_owned())]);
        assert_eq!(store.runs_with(&RunQuery::all(), &wrong).await.unwrap(), [], "{name:?}");
    }
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), [other.record, run.record]);
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn what_others_change_is_a_gap_and_what_is_not_ours_is_passed_over() {
    let (store, database) = store().await;
    let run = SampleRun::written(&store, &[lines(1, ["a", "b", "c", "d"])]).await;
    let documents = database.collection::<Document>("lines");
    let second = all(&database, "lines").await[1].get_str("_id").unwrap().to_owned();
    let change = doc! { "$set": { "content": "b\nb" } };
    documents.update_one(doc! { "_id": &second }, change).await.unwrap();
    let other = second.replace("00000000000000000002", "2x000000000000000000");
    documents.insert_one(doc! { "_id": other, "content": "note" }).await.unwrap();
    let items = read(&store, run.id(), Lines::ALL).await;
    assert_eq!(shape(&items), "1-1 gap 2-2 the line was changed after it was stored; 3-4");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn a_newer_format_is_refused_by_name_and_left_alone() {
    let (store, database) = store().await;
    let run = SampleRun::written(&store, &[lines(1, ["a"])]).await;
    let old = SampleRun::written(&store, &[]).await;
    let newer = doc! { "$set": { "version": 2 } };
    let this = doc! { "_id": run.id().as_str() };
    database.collection::<Document>("runs").update_one(this, newer.clone()).await.unwrap();
    for error in [
        store.lines(run.id(), Lines::ALL).await.unwrap_err(),
        store.runs(&run.query()).await.unwrap_err(),
        store.begin(&run.record).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.to_string().contains("version=2"), "{error}");
    }
    // It hides nobody else.
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), [old.record]);
    database.collection::<Document>("format").update_one(doc! {}, newer).await.unwrap();
    let config = MongoStoreConfig::new(url()).with_database(database.name());
    let error = MongoStore::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(store.remove(run.id()).await.unwrap(), "also a run that cannot be read goes");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn a_removal_that_was_left_in_the_middle_is_brought_to_its_end() {
    let (store, database) = store().await;
    let (mut again, expired) = (
        SampleRun::written(&store, &[lines(1, ["a"])]).await,
        SampleRun::written(&store, &[lines(1, ["a"])]).await,
    );
    let marked = doc! { "$set": { "removing": true } };
    database.collection::<Document>("runs").update_many(doc! {}, marked).await.unwrap();
    for run in [&again, &expired] {
        assert_eq!(store.lines(run.id(), Lines::ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(
            store.append(run.key(), &[lines(2, ["b"])]).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
    assert_eq!(store.runs(&RunQuery::all()).await.unwrap(), []);
    again.record.revision = 1;
    again.record.status = pubsub_core::RunStatus::Running;
    again.begin(&store).await;
    assert_eq!(read_lines(&store, again.id(), Lines::ALL).await, []);
    assert_eq!(store.expire(&Keep::new()).await.unwrap(), 0);
    assert_eq!(all(&database, "lines").await, Vec::<Document>::new(), "nothing is left of either");
    assert_eq!(all(&database, "runs").await.len(), 1);
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn a_text_of_a_user_is_never_a_pattern_or_an_operator() {
    let (store, _) = store().await;
    let hostile = [r#"{"$gt":""}"#, "a.1", "ab1", "a*", ".*", "$where"];
    for action in hostile {
        let mut run = SampleRun::of(action, "build");
        run.begin(&store).await;
        run.append(
            &store,
            &[lines(1, ["why?", "wh", "*x", "x", "a.1", "ab1", &format!("{}!", "a".repeat(40))])],
        )
        .await;
        run.finish(&store).await;
    }
    for action in hostile {
        let query = RunQuery::all().with_action(ActionId::new(action).unwrap());
        assert_eq!(store.runs(&query).await.unwrap().len(), 1, "{action}");
        for (text, number) in [("why?", 1), ("*x", 3), ("a.1", 5)] {
            let hits = store.search(&query, &Search::literal(text).unwrap()).await.unwrap();
            let hits: Vec<_> = hits.map_ok(|hit| hit.line.number.get()).try_collect().await.unwrap();
            assert_eq!(hits, [number], "{text}");
        }
        let nested = Search::regex("(a+)+$").unwrap().with_time_limit(Duration::from_secs(20));
        let hits: Vec<_> = store.search(&query, &nested).await.unwrap().try_collect().await.unwrap();
        assert_eq!(hits.len(), 0);
    }
    assert!(serde_json::from_str::<ActionId>(r#"{"$gt":""}"#).is_err(), "an object is no id");
}

#[tokio::test]
#[ignore = "needs MongoDB"]
async fn what_goes_by_itself_says_when() {
    let name = fresh_database();
    let day = Duration::from_secs(24 * 3_600);
    let store = connect(&MongoStoreConfig::new(url()).with_database(&name).with_keep(day)).await;
    let database = database(&url(), &name).await;
    let (mut long_ago, running) = (SampleRun::new(), SampleRun::new());
    long_ago.record.started_at = Timestamp::now().minus(day * 3);
    for run in [&long_ago, &running] {
        run.begin(&store).await;
    }
    long_ago.append(&store, &[lines(1, ["a"])]).await;
    long_ago.finish(&store).await;
    let runs = all(&database, "runs").await;
    let goes = |id: &RunId| {
        let run = runs.iter().find(|run| is(run, id)).unwrap();
        run.get_datetime("expires_at").unwrap().timestamp_millis() / 1_000
            - DateTime::now().timestamp_millis() / 1_000
    };
    assert!((3_500..=3_600).contains(&goes(long_ago.id())), "an hour after its end");
    assert!((86_300..=86_400).contains(&goes(running.id())), "a day after its last sign of life");
    let line = &all(&database, "lines").await[0];
    assert!(line.get_datetime("expires_at").unwrap().timestamp_millis() > DateTime::now().timestamp_millis());
    for collection in ["runs", "lines"] {
        let indexes = database.collection::<Document>(collection).list_indexes().await.unwrap();
        let indexes: Vec<_> = indexes.try_collect().await.unwrap();
        let is_so = |index: &mongodb::IndexModel| {
            index.options.as_ref().is_some_and(|options| options.expire_after == Some(Duration::ZERO))
        };
        assert_eq!(indexes.iter().filter(|index| is_so(index)).count(), 1, "{collection}");
    }
}
