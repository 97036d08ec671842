//! The server of the tests, and prefixes of their own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::conformance::store::{SampleRun, lines, read, shape};
use pubsub_core::{LineBatch, Lines, Store};
use store_elastic::{ElasticStore, ElasticStoreConfig};

/// The server that the environment names.
pub(crate) fn url() -> String {
    std::env::var("PIPELINE_TEST_OPENSEARCH").expect("PIPELINE_TEST_OPENSEARCH names the server of the tests")
}

/// Its port.
pub(crate) fn port() -> u16 {
    url().rsplit(':').next().unwrap().parse().unwrap()
}

/// A prefix that no other test has.
pub(crate) fn fresh_prefix() -> String {
    format!("t{:016x}", fastrand::u64(..))
}

/// A store of its own at this port.
pub(crate) fn config_at(port: u16) -> ElasticStoreConfig {
    let url = format!("http://127.0.0.1:{port}");
    ElasticStoreConfig::new(url).with_prefix(fresh_prefix()).with_answer_limit(Duration::from_secs(60))
}

pub(crate) async fn store_at(port: u16) -> ElasticStore {
    ElasticStore::connect(config_at(port)).await.unwrap()
}

/// `first` to `last`, each being `line <number>`, in batches of ten.
pub(crate) fn numbered(first: u64, last: u64) -> Vec<LineBatch> {
    let starts = (first..=last).step_by(10);
    starts.map(|from| lines(from, (from..=last.min(from + 9)).map(|n| format!("line {n}")))).collect()
}

/// What a store has of a run, as text.
pub(crate) async fn shape_of(store: &Arc<dyn Store>, run: &SampleRun) -> String {
    shape(&read(&**store, run.id(), Lines::ALL).await)
}
