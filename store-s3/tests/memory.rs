//! The store passes the whole suite on a bucket in memory, and in a folder.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use store_s3::{S3_STORE, S3Store, S3StoreConfig};

fn config(url: impl Into<String>) -> S3StoreConfig {
    S3StoreConfig::new(url).with_look_every(Duration::from_millis(20))
}

struct InMemoryBucket {
    bucket: Arc<InMemory>,
    store: S3Store,
}

impl InMemoryBucket {
    fn open(bucket: &Arc<InMemory>) -> S3Store {
        S3Store::on(bucket.clone(), "some/prefix", config("memory:///")).unwrap()
    }
}

#[async_trait::async_trait]
impl StoreFixture for InMemoryBucket {
    async fn new() -> Self {
        let bucket = Arc::new(InMemory::new());
        Self { store: Self::open(&bucket), bucket }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(Self::open(&self.bucket))
    }
}

pubsub_core::store_conformance!(InMemoryBucket, S3_STORE);
pubsub_core::store_stress!(InMemoryBucket, S3_STORE, 2, 10);

mod folder {
    use std::sync::Arc;

    use pubsub_core::Store;
    use pubsub_core::conformance::store::StoreFixture;
    use store_s3::{S3_STORE, S3Store};

    struct InFolder {
        folder: tempfile::TempDir,
        store: S3Store,
    }

    async fn open(folder: &tempfile::TempDir) -> S3Store {
        S3Store::connect(super::config(format!("file://{}", folder.path().display()))).await.unwrap()
    }

    #[async_trait::async_trait]
    impl StoreFixture for InFolder {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { store: open(&folder).await, folder }
        }

        fn store(&self) -> Arc<dyn Store> {
            Arc::new(self.store.clone())
        }

        async fn reopen(&self) -> Arc<dyn Store> {
            Arc::new(open(&self.folder).await)
        }
    }

    pubsub_core::store_conformance!(InFolder, S3_STORE);
}

mod merged {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use pubsub_core::conformance::store::{SampleRun, lines};
    use pubsub_core::verify;

    use super::InMemoryBucket;

    #[tokio::test]
    async fn a_merged_run_is_whole() {
        let store = InMemoryBucket::open(&Arc::new(InMemory::new()));
        let mut run = SampleRun::new();
        run.begin(&store).await;
        for portion in 0..20 {
            let batches: Vec<_> = (0..100)
                .map(|n| {
                    lines(portion * 5_000 + n * 50 + 1, (0..50).map(|line| format!("{portion} {n} {line}")))
                })
                .collect();
            run.append(&store, &batches).await;
        }
        run.finish(&store).await;
        assert_eq!(verify(&store, run.id()).await.unwrap().problem(), None);
        assert_eq!(store.compact(run.id()).await.unwrap(), 19);
        assert_eq!(verify(&store, run.id()).await.unwrap().problem(), None);
    }
}
