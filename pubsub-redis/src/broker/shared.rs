//! What a broker, its streams and its leases share.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use pubsub_core::{Error, ErrorKind, Grouped, Published, Result};
use tokio::sync::{OnceCell, RwLock, watch};
use tokio::task::JoinSet;

use super::broadcast::Hub;
use super::config::RedisBrokerConfig;
use super::indexed::Indexed;
use super::keys::{Keys, Partition};
use super::publish::Batch;
use super::retention::Full;
use super::wake::Cancels;
use crate::connect::Link;
use crate::reply::{fixed, number};
use crate::script::{Commands, Request};

/// The version of what is kept at the server.
const VERSION: i64 = 1;

pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) commands: Commands,
    /// For what counts only once replicas have it, where the setting asks for that; otherwise the same.
    pub(super) durable: Commands,
    pub(super) keys: Keys,
    pub(super) config: RedisBrokerConfig,
    pub(super) publishing: Grouped<Batch, Vec<Result<Published>>>,
    pub(super) cancels: Cancels,
    pub(super) hub: Hub,
    pub(super) full: Full,
    pub(super) indexed: Indexed,
    pub(super) chores: Chores,
    /// Held for reading by every publish under way.
    pub(super) gate: RwLock<()>,
    closed: watch::Sender<bool>,
    partitions: OnceCell<Box<[Arc<Partition>]>>,
}

impl Shared {
    pub(super) fn new(config: RedisBrokerConfig) -> Result<Self> {
        let link = Link::new(config.redis().clone())?;
        let keys = Keys::new(config.redis().prefix());
        let commands = Commands::new(link.clone());
        let durable = match config.replicas() {
            0 => commands.clone(),
            replicas => {
                let (redis, wait) = (config.redis().clone(), config.replica_limit());
                let limit = redis.answer_limit() + wait;
                Commands::replicated(Link::new(redis.with_answer_limit(limit))?, replicas, wait)
            }
        };
        Ok(Self {
            commands,
            durable,
            cancels: Cancels::new(keys.cancels_channel()),
            keys,
            hub: Hub::default(),
            publishing: Grouped::new(),
            full: Full::default(),
            indexed: Indexed::default(),
            chores: Chores::default(),
            gate: RwLock::default(),
            closed: watch::Sender::new(false),
            partitions: OnceCell::new(),
            config,
            link,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(super) fn refuse_closed(&self) -> Result<()> {
        if self.is_closed() { Err(Error::new(ErrorKind::Closed, "the broker is closed")) } else { Ok(()) }
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// How many partitions the broker has: what the server says, once it was first used.
    pub(super) async fn partitions(&self) -> Result<u16> {
        Ok(u16::try_from(self.all_partitions().await?.len()).unwrap_or(u16::MAX))
    }

    /// The keys of each partition, by its number.
    pub(super) async fn all_partitions(&self) -> Result<&[Arc<Partition>]> {
        let noted = async || Ok((0..self.note().await?).map(|n| Arc::new(self.keys.partition(n))).collect());
        self.partitions.get_or_try_init(noted).await.map(|all| &**all)
    }

    /// Notes version and partitions at the server where they are not noted yet, and reads what stands there.
    pub(super) async fn note(&self) -> Result<u16> {
        let doing = "open the broker";
        let key = self.keys.broker();
        let put = |name: &str, value: i64| Request::new("HSETNX").arg(&key).arg(name).arg(value);
        let requests = vec![
            put("version", VERSION),
            put("partitions", i64::from(self.config.partitions())),
            Request::new("HMGET").arg(&key).arg("version").arg("partitions"),
        ];
        let mut answers = self.commands.all(requests, doing).await?;
        let last = answers.pop().ok_or_else(|| Error::new(ErrorKind::Internal, doing))?;
        let [version, partitions] = fixed::<2>(last.get(doing)?)?;
        let version = number(version)?.unwrap_or(VERSION);
        if version > VERSION {
            return Err(Error::new(ErrorKind::TooNew, "open a broker that a later version made")
                .with("version", version)
                .with("newest known", VERSION));
        }
        if let Some(partitions) = number(partitions)?.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
            return Ok(partitions);
        }
        // The server may have refused to note it.
        for answer in answers {
            answer.get(doing)?;
        }
        Err(Error::new(ErrorKind::Corrupt, "read how many partitions the broker has").with("key", key))
    }
}

/// What goes on after whoever began it is gone, such as giving back what a dropped stream had taken. Closing waits for it.
#[derive(Default)]
pub(super) struct Chores(Mutex<JoinSet<()>>);

impl Chores {
    /// Without a runtime nothing goes on; what was taken comes back after its lease.
    pub(super) fn begin(&self, chore: impl Future<Output = ()> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(chore, &runtime);
        }
    }

    /// Waits for all that was begun up to now, and for what that began.
    pub(super) async fn done(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}
