//! The server of the tests, and databases of their own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mongodb::bson::Document;
use store_mongo::{MongoStore, MongoStoreConfig};

/// The server that the environment names.
pub(crate) fn url() -> String {
    std::env::var("PIPELINE_TEST_MONGO").expect("PIPELINE_TEST_MONGO names the server of the tests")
}

/// The one without change streams.
pub(crate) fn standalone_url() -> String {
    let name = "PIPELINE_TEST_MONGO_STANDALONE";
    std::env::var(name).unwrap_or_else(|_| panic!("{name} names a server without a replica set"))
}

/// A database that nobody else has.
pub(crate) fn fresh_database() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A store in a database of its own.
pub(crate) fn config() -> MongoStoreConfig {
    config_at(url())
}

/// The same on another server. All tests share one, which may be slow on a busy machine.
pub(crate) fn config_at(url: String) -> MongoStoreConfig {
    let patient = Duration::from_secs(60);
    let config = MongoStoreConfig::new(url).with_database(fresh_database());
    config.with_connect_limit(patient).with_answer_limit(patient)
}

pub(crate) async fn connect(config: &MongoStoreConfig) -> MongoStore {
    MongoStore::connect(config.clone()).await.unwrap()
}

/// The database of a store, past it.
pub(crate) async fn database(url: &str, name: &str) -> mongodb::Database {
    mongodb::Client::with_uri_str(url).await.unwrap().database(name)
}

/// Lets so many commands of these names fail, at the server: `data` is what `failCommand` takes.
pub(crate) async fn fail(url: &str, times: i32, data: Document) {
    let admin = database(url, "admin").await;
    let mode = mongodb::bson::doc! { "times": times };
    let fail = mongodb::bson::doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
    admin.run_command(fail).await.unwrap();
}
