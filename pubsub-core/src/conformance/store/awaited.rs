//! A store that is read once what was written before is in it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{
    Appended, Hit, Keep, LineBatch, Lines, Output, OutputReader, OutputSink, Result, Retention, RunId,
    RunKey, RunQuery, RunRecord, Search, Store,
};

/// A store behind something that ships later what is written: each read waits for that first, as the suite expects of any
/// store.
pub struct Awaited<S> {
    store: Arc<S>,
    shipped: for<'s> fn(&'s S) -> BoxFuture<'s, ()>,
}

impl<S> Awaited<S> {
    /// Around this one; `shipped` returns once all is there that was written before.
    #[must_use]
    pub fn new(store: S, shipped: for<'s> fn(&'s S) -> BoxFuture<'s, ()>) -> Self {
        Self { store: Arc::new(store), shipped }
    }

    async fn all(&self) -> &S {
        (self.shipped)(&self.store).await;
        &self.store
    }
}

impl<S> Clone for Awaited<S> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), shipped: self.shipped }
    }
}

impl<S> fmt::Debug for Awaited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Store> OutputSink for Awaited<S> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.store.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.store.finish(record).await
    }
}

#[async_trait]
impl<S: Store> OutputReader for Awaited<S> {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.all().await.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.all().await.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.all().await.search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.all().await.changes(query).await
    }
}

#[async_trait]
impl<S: Store> Retention for Awaited<S> {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.store.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.all().await.expire(keep).await
    }
}
