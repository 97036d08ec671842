//! A store behind a spool passes the whole suite.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use pubsub_core::conformance::store::StoreFixture;
use pubsub_core::{
    Appended, Hit, Keep, LineBatch, Lines, MEMORY_STORE, MemoryStore, Output, OutputReader, OutputSink,
    Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Store, store_conformance,
};
use pubsub_file::{SpoolConfig, Spooled};
use tempfile::TempDir;

/// Writes into the spool, and reads once it has shipped what was written before.
#[derive(Clone)]
struct InASpool(
    Arc<Spooled<MemoryStore>>,
    #[expect(dead_code, reason = "removed with the fixture")] Arc<TempDir>,
);

#[async_trait]
impl OutputSink for InASpool {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.0.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[async_trait]
impl OutputReader for InASpool {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.shipped().await;
        self.0.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.0.shipped().await;
        self.0.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.0.shipped().await;
        self.0.search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.0.shipped().await;
        self.0.changes(query).await
    }
}

#[async_trait]
impl Retention for InASpool {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.shipped().await;
        self.0.expire(keep).await
    }
}

#[async_trait]
impl StoreFixture for InASpool {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spooled = Spooled::open_store(MemoryStore::new(), SpoolConfig::new(dir.path())).await.unwrap();
        Self(Arc::new(spooled), Arc::new(dir))
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

store_conformance!(InASpool, MEMORY_STORE);
pubsub_core::store_stress!(InASpool, MEMORY_STORE, 2, 10);
