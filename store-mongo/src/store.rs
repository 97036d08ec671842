//! The store: what it can do, and the traits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{
    Appended, Durability, ErrorKind, Hit, Keep, LineBatch, Lines, Output, OutputReader, OutputSink, Result,
    Retention, RunId, RunKey, RunQuery, RunRecord, Search, Seldom, StoreCapabilities, Support, async_trait,
};

use crate::config::MongoStoreConfig;
use crate::connect::Link;
use crate::known::Known;
use crate::watch::{Changes, Part, Watch};
use crate::{read, search};

/// What [`MongoStore`] can do.
///
/// Its durability is that of its default settings: most servers have a write in their journals before it counts.
pub const MONGO_STORE: StoreCapabilities = StoreCapabilities {
    name: "mongo",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::No,
    visible_within: Duration::ZERO,
    durability: Durability::PowerLoss,
};

/// An output store in MongoDB: a document for each line and one for each run, which other tools read as they are.
///
/// Any number of processes may use one deployment at once. A clone is another handle to the same store; all of them share the
/// driver's connections, and, while anybody follows, one change stream. Where a deployment has none, as a server of its own,
/// whoever follows looks four times a second.
///
/// ```no_run
/// // Not run: it needs a server.
/// use pubsub_core::{OutputReader, RunQuery};
/// use store_mongo::{MongoStore, MongoStoreConfig};
/// # async fn list() -> pubsub_core::Result<()> {
/// let store = MongoStore::connect(MongoStoreConfig::new("mongodb://127.0.0.1")).await?;
/// for run in store.runs(&RunQuery::all().with_limit(10)).await? {
///     println!("{} {:?}", run.key.run_id, run.status);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// A dropped call may have happened, in part or as a whole; repeat it.
#[derive(Clone, Debug)]
pub struct MongoStore(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Arc<Link>,
    pub(crate) known: Known,
    /// Records in lists that could not be read.
    pub(crate) unreadable: Seldom,
    watch: Watch,
}

impl MongoStore {
    /// The store in this deployment, which is asked for its format. One that is away is waited for as long as the connect
    /// limit says; then it is no error here but one of each call, until it is there.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a setting that cannot be right, with its name;
    /// [`TooNew`](ErrorKind::TooNew) where a newer version of this store wrote what is there.
    pub async fn connect(config: MongoStoreConfig) -> Result<Self> {
        config.check()?;
        let link = Arc::new(Link::new(config));
        match link.collections("connect to MongoDB").await {
            Err(error)
                if matches!(error.kind(), ErrorKind::TooNew | ErrorKind::Invalid | ErrorKind::Corrupt) =>
            {
                return Err(error);
            }
            Err(error) => tracing::warn!(error = error.chain(), "MongoDB cannot be used for now"),
            Ok(_) => {}
        }
        let (known, unreadable) = (Known::default(), Seldom::default());
        Ok(Self(Arc::new(Inner { watch: Watch::new(Arc::clone(&link)), link, known, unreadable })))
    }

    /// As [`runs`](OutputReader::runs), of those alone whose metadata has all of these texts under these names.
    ///
    /// # Errors
    /// As for `runs`.
    pub async fn runs_with(
        &self,
        query: &RunQuery,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<RunRecord>> {
        let found = self.0.matching(query, metadata).await?;
        Ok(found.into_iter().map(|stored| stored.record).collect())
    }
}

#[async_trait]
impl OutputSink for MongoStore {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.put(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.0.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.put(record).await
    }
}

#[async_trait]
impl OutputReader for MongoStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        read::output(Arc::clone(&self.0), run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        search::hits(Arc::clone(&self.0), query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        // The store is held, so that it is watched as long as somebody waits.
        let waiting = (Arc::clone(&self.0), self.0.watch.subscribe(Part::of(query)));
        let next = |(inner, mut changes): (Arc<Inner>, Changes)| async move {
            let told = changes.next().await?;
            Some((told, (inner, changes)))
        };
        let now = stream::once(std::future::ready(Ok(())));
        Ok(now.chain(stream::unfold(waiting, next)).boxed())
    }
}

#[async_trait]
impl Retention for MongoStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    /// What is dropped stops within the run that it removes just now: no reader sees that any more, and the next call brings
    /// it to an end.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.expire(keep).await
    }
}
