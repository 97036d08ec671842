//! The store behind a spool passes the whole suite as well.

#![expect(clippy::unwrap_used, reason = "a test")]

mod server;

use std::sync::Arc;

use futures::FutureExt as _;
use pubsub_core::conformance::store::{Awaited, SampleRun, StoreFixture};
use pubsub_core::{Retention as _, Store};
use pubsub_file::{SpoolConfig, Spooled};
use store_s3::{S3_STORE, S3Store};
use tempfile::TempDir;

/// Writes into the spool, and reads once it has shipped what was written before.
struct InASpool {
    store: Awaited<Spooled<S3Store>>,
    /// Removed with the fixture.
    _dir: TempDir,
}

#[async_trait::async_trait]
impl StoreFixture for InASpool {
    async fn new() -> Self {
        let (store, dir) = (S3Store::connect(server::config()).await.unwrap(), tempfile::tempdir().unwrap());
        // A bucket that was used before: an empty one may be another than is meant, and says nothing of its runs.
        let run = SampleRun::written(&store, &[]).await;
        assert!(store.remove(run.id()).await.unwrap());
        let spooled = Spooled::open_store(store, SpoolConfig::new(dir.path())).await.unwrap();
        Self { store: Awaited::new(spooled, |spooled| spooled.shipped().boxed()), _dir: dir }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

pubsub_core::store_conformance!(
    #[ignore = "needs S3"]
    InASpool,
    S3_STORE
);
