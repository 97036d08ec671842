//! A store behind `Retrying` passes the whole suite.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use pubsub_core::conformance::store::StoreFixture;
use pubsub_core::{
    Appended, Backoff, Hit, Keep, LineBatch, Lines, MEMORY_STORE, MemoryStore, Output, OutputReader,
    OutputSink, Result, Retention, Retrying, RunId, RunKey, RunQuery, RunRecord, Search, Store,
};

/// Writes through the wrapper, and reads the store itself.
struct Both {
    sink: Retrying<MemoryStore>,
    store: MemoryStore,
}

#[async_trait]
impl OutputSink for Both {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.sink.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.sink.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.sink.finish(record).await
    }
}

#[async_trait]
impl OutputReader for Both {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.store.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.store.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.store.search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.store.changes(query).await
    }
}

#[async_trait]
impl Retention for Both {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.store.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.store.expire(keep).await
    }
}

struct Fixture(MemoryStore);

#[async_trait]
impl StoreFixture for Fixture {
    async fn new() -> Self {
        Self(MemoryStore::new())
    }

    fn store(&self) -> Arc<dyn Store> {
        let sink = Retrying::new(self.0.clone(), Backoff::default(), 3);
        Arc::new(Both { sink, store: self.0.clone() })
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

pubsub_core::store_conformance!(Fixture, MEMORY_STORE);
