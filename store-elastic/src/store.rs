//! The output store in Elasticsearch or OpenSearch.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{
    Appended, Durability, Hit, Keep, LineBatch, Lines, Output, OutputReader, OutputSink, Result, Retention,
    RunId, RunKey, RunQuery, RunRecord, Search, Seldom, StoreCapabilities, Support, async_trait,
};
use tokio::sync::{OnceCell, Semaphore};

use crate::config::ElasticStoreConfig;
use crate::connect::Link;
use crate::layout::Layout;
use crate::read::Reader;
use crate::search::Indexed;
use crate::template;
use crate::watch::{Changes, Part, Watch};

/// What [`ElasticStore`] can do, as it is set up unless told otherwise.
pub const ELASTIC_STORE: StoreCapabilities = StoreCapabilities {
    name: "elastic",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::No,
    // The server shows what came every second, and is asked twice a second.
    visible_within: Duration::from_secs(2),
    durability: Durability::PowerLoss,
};

/// An output store in Elasticsearch or OpenSearch: a document for each line and for each run, in indices by day.
///
/// Any number of processes may use one server at once. A clone is another handle to the same store.
///
/// ```no_run
/// // Not run: it needs a server.
/// use pubsub_core::{RunQuery, Search, OutputReader};
/// use store_elastic::{ElasticStore, ElasticStoreConfig};
/// # async fn search() -> pubsub_core::Result<()> {
/// let config = ElasticStoreConfig::new("https://search:9200").with_password("ci", "secret");
/// let store = ElasticStore::connect(config).await?;
/// let hits = store.search(&RunQuery::all(), &Search::regex(r"(?i)error: code=\d+$")?).await?;
/// # drop(hits);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// A dropped call may have happened, in part or as a whole; repeat it.
#[derive(Clone, Debug)]
pub struct ElasticStore(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) link: Arc<Link>,
    pub(crate) layout: Layout,
    pub(crate) config: ElasticStoreConfig,
    /// Whether the server was asked what it is, and has the templates.
    prepared: OnceCell<()>,
    /// How many requests with lines there may be at once.
    pub(crate) requests: Semaphore,
    /// How large such a request may be just now, before compression.
    pub(crate) most_bytes: AtomicUsize,
    /// Whether the last such request failed as a whole.
    pub(crate) is_failing: AtomicBool,
    /// The index with lines that was made last.
    made_last: Mutex<Option<String>>,
    /// Which indices can narrow a search.
    pub(crate) indexed: Indexed,
    watch: Watch,
    /// Records in lists that could not be read.
    pub(crate) unreadable: Seldom,
}

impl ElasticStore {
    /// The store at this server. Asks it what it is, and makes the index templates where they are not there yet; where the
    /// server is out of reach, the first call that reaches it does so, and until then that is an error of each call.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for a setting that cannot be right, with its name;
    /// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) for a server that is too old,
    /// [`TooNew`](pubsub_core::ErrorKind::TooNew) for templates of a newer version of this crate, and
    /// [`Refused`](pubsub_core::ErrorKind::Refused) where this user may not make templates and indices.
    pub async fn connect(config: ElasticStoreConfig) -> Result<Self> {
        config.check()?;
        let link = Arc::new(Link::new(&config)?);
        let layout = Layout::new(config.prefix());
        let watch = Watch::new(Arc::clone(&link), layout.clone(), config.refresh());
        let store = Self(Arc::new(Inner {
            prepared: OnceCell::new(),
            requests: Semaphore::new(config.requests()),
            most_bytes: AtomicUsize::new(config.bulk_bytes()),
            is_failing: AtomicBool::new(false),
            made_last: Mutex::default(),
            indexed: Indexed::default(),
            link,
            layout,
            config,
            watch,
            unreadable: Seldom::default(),
        }));
        match store.ready().await {
            Err(error) if !error.is_retryable() => Err(error),
            _ => Ok(store),
        }
    }

    /// What is known to be ready; asked for first by each call.
    async fn ready(&self) -> Result<&Arc<Inner>> {
        self.0.prepared.get_or_try_init(|| self.0.prepare()).await?;
        Ok(&self.0)
    }

    /// How it was set up.
    #[must_use]
    pub fn config(&self) -> &ElasticStoreConfig {
        &self.0.config
    }
}

impl Inner {
    /// Asks the server what it is, and makes templates and the index of the runs where they are not there.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.link.check().await?;
        *self.made_last() = None;
        template::prepare(&self.link, &self.layout, &self.config).await
    }

    pub(crate) fn made_last(&self) -> MutexGuard<'_, Option<String>> {
        self.made_last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OutputSink for ElasticStore {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.ready().await?.put(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.ready().await?.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.ready().await?.put(record).await
    }
}

#[async_trait]
impl OutputReader for ElasticStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        Ok(self.ready().await?.matching(query).await?.into_iter().map(|stored| stored.record).collect())
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        Ok(Reader::open(Arc::clone(self.ready().await?), run, lines).await?.output())
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        crate::search::hits(Arc::clone(self.ready().await?), query, search).await
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
impl Retention for ElasticStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.ready().await?.remove(run).await
    }

    /// What is dropped stops after the run that it removes just now.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.ready().await?.expire(keep).await
    }
}
