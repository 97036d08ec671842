//! The store, as the traits of the family see it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, UpdateVersion};
use pubsub_core::{
    Appended, Durability, Error, ErrorKind, Hit, Keep, LineBatch, Lines, Output, OutputReader, OutputSink,
    Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Seldom, StoreCapabilities, Support,
    async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, watch};

use crate::blocks::Indexes;
use crate::bucket::Bucket;
use crate::config::S3StoreConfig;
use crate::connect;
use crate::layout::{FORMAT, FORMAT_KEY};
use crate::read::Reader;
use crate::search;

/// What [`S3Store`] can do.
///
/// What was appended is visible at once, and survives a power loss: each append is stored as objects of its own before it
/// is answered. So a sink should gather for long, as [`S3_STORE_DELAY`] says.
pub const S3_STORE: StoreCapabilities = StoreCapabilities {
    name: "s3",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::No,
    visible_within: Duration::ZERO,
    durability: Durability::PowerLoss,
};

/// How long a sink should gather lines for this store: each append costs requests, so a run then costs at most one append
/// in five seconds, or for each mebibyte.
pub const S3_STORE_DELAY: Duration = Duration::from_secs(5);

/// How long may be waited for the bucket when a store is connected.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// An output store in a bucket: segments that are written once, and a record for each run.
///
/// Any number of processes may use one bucket at once. A clone is another handle to the same store.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use pubsub_core::{OutputReader, RunQuery};
/// use store_s3::{S3Store, S3StoreConfig};
/// let store = S3Store::connect(S3StoreConfig::new("memory:///")).await?;
/// assert!(store.runs(&RunQuery::all().with_limit(10)).await?.is_empty());
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Cancel safety
/// A dropped call may have happened, in part or as a whole; repeat it.
#[derive(Clone, Debug)]
pub struct S3Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) bucket: Bucket,
    pub(crate) config: S3StoreConfig,
    durability: Durability,
    pub(crate) indexes: Indexes,
    /// Told of what this handle writes.
    changed: watch::Sender<()>,
    /// That the bucket is one that can be written.
    ready: OnceCell<()>,
    /// Records in lists that could not be read.
    pub(crate) unreadable: Seldom,
}

/// What stands at [`FORMAT_KEY`].
#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

impl S3Store {
    /// A store in this bucket. One that is out of reach just now is an error of each call; what is wrong for good is told
    /// here, as far as the bucket answers within three seconds.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a setting that cannot be right, with its name; [`Refused`](ErrorKind::Refused)
    /// for credentials or a bucket that the server does not take; [`TooNew`](ErrorKind::TooNew) for a bucket that a newer
    /// version wrote.
    pub async fn connect(config: S3StoreConfig) -> Result<Self> {
        let (bucket, durability) = connect::bucket(&config)?;
        let store = Self::with_bucket(bucket, durability, config);
        match tokio::time::timeout(CONNECT_LIMIT, store.0.format()).await {
            Ok(Err(error)) if !error.is_retryable() => Err(error),
            _ => Ok(store),
        }
    }

    /// A store in a bucket that the driver has opened already, at a prefix; of the configuration, its URL and options are
    /// not used. It has to write on condition: [`PutMode::Create`](object_store::PutMode) and `Update`.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a prefix that no key can have, and as for [`connect`](Self::connect).
    pub fn on(bucket: Arc<dyn ObjectStore>, prefix: &str, config: S3StoreConfig) -> Result<Self> {
        config.checked_url()?;
        let prefix = Path::parse(prefix)
            .map_err(|e| Error::invalid("no key has this prefix").with("prefix", prefix).with_source(e))?;
        Ok(Self::with_bucket(Bucket::new(bucket, prefix, None), Durability::PowerLoss, config))
    }

    fn with_bucket(bucket: Bucket, durability: Durability, config: S3StoreConfig) -> Self {
        Self(Arc::new(Inner {
            bucket,
            config,
            durability,
            indexes: Indexes::default(),
            changed: watch::Sender::new(()),
            ready: OnceCell::new(),
            unreadable: Seldom::default(),
        }))
    }

    /// What an acknowledged append survives: a power loss, but in memory.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.0.durability
    }
}

impl Inner {
    /// The version of what is in the bucket; `None` where nothing is.
    async fn format(&self) -> Result<Option<u32>> {
        let doing = "look at the bucket";
        let Some(read) = self.bucket.get(doing, FORMAT_KEY).await? else { return Ok(None) };
        let corrupt = |e| Error::new(ErrorKind::Corrupt, doing).with("object", FORMAT_KEY).with_source(e);
        let Format { format } = serde_json::from_slice(&read.bytes).map_err(corrupt)?;
        if format > FORMAT {
            return Err(Error::new(ErrorKind::TooNew, doing)
                .with("version", format)
                .with("newest known", FORMAT));
        }
        Ok(Some(format))
    }

    /// Makes sure, once, that runs may be written here.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.ready.get_or_try_init(|| self.make_ready()).await.copied()
    }

    async fn make_ready(&self) -> Result<()> {
        let doing = "prepare the bucket";
        let format = serde_json::to_vec(&Format { format: FORMAT });
        let format = Bytes::from(format.map_err(|e| Error::new(ErrorKind::Internal, doing).with_source(e))?);
        let _ = self.format().await?;
        // Twice: the second one has to be told that it is there.
        for _ in 0..2 {
            if !self.bucket.put_new(doing, FORMAT_KEY, vec![format.clone()]).await? {
                return self.refuses_stale(doing, format).await;
            }
        }
        Err(Error::unsupported(
            "this server takes no notice of If-None-Match: two writers would overwrite each other",
        ))
    }

    /// A write of what nobody has read has to be refused.
    async fn refuses_stale(&self, doing: &'static str, format: Bytes) -> Result<()> {
        let stale = UpdateVersion { e_tag: Some(format!("\"{}\"", u64::MAX)), version: Some("1".to_owned()) };
        // An error is a refusal as well, of a version that the server could not even read.
        match self.bucket.put_over(doing, FORMAT_KEY, format, Some(&stale)).await {
            Ok(true) => Err(Error::unsupported(
                "this server takes no notice of If-Match: two writers would overwrite each other",
            )),
            _ => Ok(()),
        }
    }

    /// Tells whoever follows by this handle.
    pub(crate) fn tell(&self) {
        self.changed.send_replace(());
    }
}

#[async_trait]
impl OutputSink for S3Store {
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
impl OutputReader for S3Store {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.matching(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let (reader, complete_through) = Reader::open(Arc::clone(&self.0), run, lines).await?;
        Ok(reader.output(complete_through))
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        search::hits(Arc::clone(&self.0), query, search).await
    }

    /// No object store tells of changes: an item comes for what this handle writes, and every so often for what others may
    /// have written.
    async fn changes(&self, _query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        let mut changed = self.0.changed.subscribe();
        changed.mark_changed();
        // The store is held, so that items come as long as somebody waits.
        let next = |(inner, mut changed): (Arc<Inner>, watch::Receiver<()>)| async move {
            // A closed channel cannot be: its sender is in what is held. The time is up where nothing was told.
            let _ = tokio::time::timeout(inner.config.look_every(), changed.changed()).await;
            Some((Ok(()), (inner, changed)))
        };
        Ok(stream::unfold((Arc::clone(&self.0), changed), next).boxed())
    }
}

#[async_trait]
impl Retention for S3Store {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    /// What is dropped stops after the run that it removes just now.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.expire(keep).await
    }
}
