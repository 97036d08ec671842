//! The output store on Redis Streams.

mod append;
mod clock;
mod config;
mod entry;
mod expire;
mod layout;
mod list;
mod numbers;
mod read;
mod record;
mod search;
mod server;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{
    Appended, Durability, Hit, Keep, LineBatch, Lines, Output, OutputReader, OutputSink, Result, Retention,
    RunId, RunKey, RunQuery, RunRecord, Search, Seldom, StoreCapabilities, Support, Timestamp, async_trait,
};
use redis::Value;

pub use config::RedisStoreConfig;

use crate::connect::Link;
use crate::script::{Commands, Request};
use layout::Layout;
use read::Reader;
use server::Answers;
use watch::{Changes, Part, Watch};

/// What [`RedisStore`] can do.
///
/// Its durability is that of a server as it comes: lines are in the server's memory, and a crash of the server loses what
/// was written since its last snapshot. What a server does otherwise, [`RedisStore::durability`] says.
pub const REDIS_STORE: StoreCapabilities = StoreCapabilities {
    name: "redis",
    search: Support::Yes,
    follow: Support::Yes,
    remove: Support::Yes,
    ordered: Support::Yes,
    visible_within: Duration::ZERO,
    durability: Durability::Memory,
};

/// An output store on Redis Streams: a stream for the lines of each run, which other tools read, and a hash with its record.
///
/// Any number of processes may use one server at once. A clone is another handle to the same store; all of them share a
/// connection for what is answered at once, and, while anybody follows, one more that waits for changes.
///
/// ```no_run
/// // Not run: it needs a server.
/// use pubsub_core::{OutputReader, RunQuery};
/// use pubsub_redis::{RedisConfig, RedisStore, RedisStoreConfig};
/// # async fn list() -> pubsub_core::Result<()> {
/// let store = RedisStore::connect(RedisStoreConfig::new(RedisConfig::new("redis://127.0.0.1"))).await?;
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
pub struct RedisStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    commands: Commands,
    layout: Layout,
    config: RedisStoreConfig,
    watch: Watch,
    /// The clock of this machine.
    now: fn() -> Timestamp,
    /// Records in lists that could not be read.
    unreadable: Seldom,
}

impl RedisStore {
    /// A store in this deployment. Nothing is reached yet: a server that is away is an error of each call.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) for a setting that cannot be right, with its name.
    pub async fn connect(config: RedisStoreConfig) -> Result<Self> {
        config.check()?;
        Ok(Self(Arc::new(Inner::new(config, Timestamp::now)?)))
    }

    /// What an acknowledged append survives by the server's settings: [`PowerLoss`](Durability::PowerLoss) with an
    /// append-only file that is synced always, [`ProcessCrash`](Durability::ProcessCrash) with one that is synced otherwise,
    /// [`Memory`](Durability::Memory) without one. A failover to a replica may lose what that had not got yet.
    ///
    /// # Errors
    /// Where the server cannot be asked.
    pub async fn durability(&self) -> Result<Durability> {
        let doing = "ask what the server survives";
        let setting = Request::new("CONFIG").arg("GET").arg("appendfsync");
        let requests = vec![Request::new("INFO").arg("persistence"), setting];
        let mut answers = self.0.run(doing, requests).await?;
        let info = match server::taken(doing, &mut answers)? {
            Value::BulkString(info) => String::from_utf8_lossy(&info).into_owned(),
            Value::VerbatimString { text, .. } => text,
            _ => return Err(server::strange(doing)),
        };
        if !info.lines().any(|line| line.trim_end() == "aof_enabled:1") {
            return Ok(Durability::Memory);
        }
        // Who may not read settings is told the lesser.
        let synced = match server::taken(doing, &mut answers) {
            Ok(Value::Array(setting)) => server::texts(setting).iter().any(|text| text == b"always"),
            _ => false,
        };
        Ok(if synced { Durability::PowerLoss } else { Durability::ProcessCrash })
    }
}

impl Inner {
    fn new(config: RedisStoreConfig, now: fn() -> Timestamp) -> Result<Self> {
        let link = Link::new(config.redis().clone())?;
        let layout = Layout::new(config.redis().prefix());
        let commands = Commands::new(link.clone());
        let watch = Watch::new(link, layout.wakes());
        Ok(Self { commands, layout, config, watch, now, unreadable: Seldom::default() })
    }

    /// Runs all of these, which may be repeated, in one round trip; in a cluster only those of one hash tag in their order.
    async fn run(&self, doing: &'static str, requests: Vec<Request>) -> Result<Answers> {
        Ok(self.commands.repeatable(requests, doing).await?.into_iter())
    }

    /// As [`run`](Self::run), of steps each of which needs that those before it are done.
    async fn run_in_order<const N: usize>(
        &self,
        doing: &'static str,
        steps: [Vec<Request>; N],
    ) -> Result<Answers> {
        Ok(self.commands.in_order(steps, doing).await?.into_iter())
    }

    /// Runs one, which may be repeated.
    async fn ask(&self, doing: &'static str, request: Request) -> Result<Value> {
        server::taken(doing, &mut self.run(doing, vec![request]).await?)
    }

    /// Tells whoever follows the run.
    fn wake(&self, run: &RunKey) -> Request {
        let wake = Request::new("XADD").arg(self.layout.wakes()).arg("MAXLEN").arg("~").arg(watch::KEPT);
        wake.arg("*").arg("run").arg(run.run_id.as_str()).arg("action").arg(run.action_id.as_str())
    }
}

#[async_trait]
impl OutputSink for RedisStore {
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
impl OutputReader for RedisStore {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        Ok(Reader::open(Arc::clone(&self.0), run, lines).await?.output())
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
impl Retention for RedisStore {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    /// What is dropped stops after the run that it removes just now.
    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.expire(keep).await
    }
}
