//! A server that is open to its users alone.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::time::Duration;

use mongodb::bson::doc;
use pubsub_core::conformance::store::{SampleRun, lines, read_lines};
use pubsub_core::{ErrorKind, Lines, OutputReader as _, OutputSink as _, RunQuery};
use server::{connect, database};
use services::{Mongo, MongoOptions};
use store_mongo::MongoStoreConfig;

/// With what means something in a URL.
const PASSWORD: &str = "hush#/@%41+=:x";

/// The same in a URL.
const IN_A_URL: &str = "hush%23%2F%40%2541+=%3Ax";

/// A server with a user `ci` who may write, and one `eye` who may read.
async fn closed() -> Mongo {
    let mut mongo = Mongo::start(&MongoOptions::new()).unwrap();
    let admin = database(&mongo.url(), "admin").await;
    for (user, role) in [("ci", "readWrite"), ("eye", "read")] {
        let roles = [doc! { "role": role, "db": "test" }];
        admin.run_command(doc! { "createUser": user, "pwd": PASSWORD, "roles": &roles[..] }).await.unwrap();
    }
    mongo.close_to_strangers().unwrap();
    mongo
}

/// The store as this user, `user:password` or the user alone.
fn config(mongo: &Mongo, who: &str) -> MongoStoreConfig {
    let url = format!("mongodb://{who}@127.0.0.1:{}/?directConnection=true", mongo.port());
    MongoStoreConfig::new(url).with_database("test")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn who_has_the_right_password_is_let_in_and_nobody_else_and_it_is_shown_nowhere() {
    let mongo = closed().await;
    let in_the_url = config(&mongo, &format!("ci:{IN_A_URL}"));
    let beside_it = config(&mongo, "ci").with_password(PASSWORD);
    for config in [in_the_url, beside_it] {
        let store = connect(&config).await;
        let mut run = SampleRun::new();
        run.begin(&store).await;
        run.append(&store, &[lines(1, ["a"])]).await;
        run.finish(&store).await;
        assert_eq!(read_lines(&store, run.id(), Lines::ALL).await.len(), 1);
        assert!(!format!("{store:?} {config:?}").contains("hush"), "{store:?} {config:?}");
    }
    let wrong = [
        config(&mongo, "ci:hush-hush"),
        config(&mongo, "ci").with_password("hush-hush"),
        config(&mongo, "nobody").with_password(PASSWORD),
        MongoStoreConfig::new(mongo.url()).with_database("test"),
    ];
    for config in wrong {
        let store = connect(&config.with_connect_limit(Duration::from_secs(2))).await;
        let run = SampleRun::new();
        let errors = [
            store.begin(&run.record).await.unwrap_err(),
            store.append(run.key(), &[lines(1, ["a"])]).await.unwrap_err(),
            store.runs(&RunQuery::all()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
            assert!(!error.is_retryable(), "{error:?}");
            let shown = format!("{} {error:?} {store:?}", error.chain());
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MongoDB"]
async fn who_may_only_read_reads_and_is_refused_the_rest() {
    let mongo = closed().await;
    let writer = connect(&config(&mongo, "ci").with_password(PASSWORD)).await;
    let run = SampleRun::written(&writer, &[lines(1, ["a"])]).await;
    let reader = connect(&config(&mongo, "eye").with_password(PASSWORD)).await;
    assert_eq!(read_lines(&reader, run.id(), Lines::ALL).await.len(), 1);
    let error = reader.begin(&SampleRun::new().record).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
}
