//! Redis among several stores: the same answers, a run into all and from each to each.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod server;

use std::sync::Arc;

use pubsub_core::conformance::answers::{LINES, QUICK_LINES, same_answers};
use pubsub_core::conformance::fan_out::goes_into_all_and_from_each_to_each;
use pubsub_core::conformance::store::{Share, Spanned};
use pubsub_core::{MemoryStore, Store};
use pubsub_file::{FileStore, FileStoreConfig};
use pubsub_redis::{RedisStore, RedisStoreConfig};
use server::{Server, fresh_prefix};

async fn redis() -> Arc<dyn Store> {
    let config = RedisStoreConfig::new(Server::of_environment().config(&fresh_prefix()));
    Arc::new(RedisStore::connect(config).await.unwrap())
}

async fn file(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(FileStore::connect(FileStoreConfig::new(folder.path())).await.unwrap())
}

mod long {
    use super::{LINES, redis, same_answers};

    #[tokio::test]
    #[ignore = "long: forty searches that each read 200,000 lines, in release; needs Redis"]
    async fn the_answers_over_200_000_lines_are_those_of_the_log() {
        same_answers(&[("redis", redis().await)], LINES).await;
    }
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn redis_answers_as_the_log_alone_and_beside_other_stores() {
    let folder = tempfile::tempdir().unwrap();
    let same = Spanned::new(redis().await, file(&folder).await, Share::Same);
    let bounded = Spanned::new(Arc::new(MemoryStore::new()), redis().await, Share::Bounded);
    let stores: [(&str, Arc<dyn Store>); 3] =
        [("redis", redis().await), ("redis, file", Arc::new(same)), ("memory, redis", Arc::new(bounded))];
    same_answers(&stores, QUICK_LINES).await;
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn one_run_goes_into_all_stores_and_from_each_to_each() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [
        ("redis", redis().await),
        ("file", file(&folder).await),
        ("memory", Arc::new(MemoryStore::new()) as Arc<dyn Store>),
    ];
    goes_into_all_and_from_each_to_each(&stores, 5_000).await;
}
