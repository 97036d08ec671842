//! A broker on Redis Streams.

mod ahead;
mod batch;
mod broadcast;
mod claims;
mod config;
mod dead;
mod depth;
mod doubts;
mod group;
mod hearing;
mod idle;
mod indexed;
mod keys;
mod known;
mod leases;
mod looking;
mod member;
mod page;
mod publish;
mod reads;
mod retention;
mod scripts;
mod shared;
mod stream;
mod sweep;
mod take;
mod taker;
mod wake;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use pubsub_core::{
    ActionId, Broker, BrokerAdmin, BrokerCapabilities, DeadLetter, DeadLetters, Durability, Error, ErrorKind,
    Event, EventId, Group, GroupInfo, GroupName, Order, Position, Published, Publisher, Result, Scope,
    Subscribed, Subscriber, Subscription, Support,
};

use config::DEFAULT_MAX_EVENT_BYTES;
pub use config::RedisBrokerConfig;

use member::Member;
use publish::Ready;
use shared::Shared;

/// What a Redis broker can do.
pub const REDIS_BROKER: BrokerCapabilities = BrokerCapabilities {
    name: "redis",
    groups: Support::Yes,
    broadcast: Support::Yes,
    broadcast_start: Support::Yes,
    delay: Support::Yes,
    dead_letters: Support::Yes,
    cancel: Support::Yes,
    order: Order::Member,
    // A server without an append-only file keeps nothing over its own end; with one, more.
    durability: Durability::Memory,
    dedupe_window: None,
    max_event_bytes: DEFAULT_MAX_EVENT_BYTES,
};

/// A broker on the streams of a Redis or Valkey server, a cluster of them, or a master that sentinels watch, shared by any
/// number of processes.
///
/// Events lie in partitions, by a hash of their action; a group reads those of its actions. All that belongs together,
/// such as a lease and its claim, is changed by one script at the server. Reads that wait have connections of their own: one
/// for each subscriber, in a cluster one for each partition that it reads, so that
/// [`with_partitions`](RedisBrokerConfig::with_partitions) bounds them.
///
/// A subscription without a group gets each event at most once. All of a handle that start from now on share one such read;
/// each has room for 4,096 events, or 64 MiB, that it has not taken yet, and is told in an `Err` item that can be followed by
/// more how many it missed: because it was slow, or because they were removed at the server while that was out of reach. What
/// the server kept is not missed over a lost connection. One that starts at a position reads for itself and misses nothing
/// by being slow.
///
/// What an acknowledged publish survives is up to the server's persistence; what was not passed on yet to a replica that
/// takes over is lost.
///
/// ```no_run
/// // Not run: it needs a server.
/// use pubsub_core::{ActionId, Event, EventType, Publisher, PublisherExt};
/// use pubsub_redis::{RedisBroker, RedisBrokerConfig, RedisConfig};
/// # async fn publish() -> pubsub_core::Result<()> {
/// let broker = RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new("redis://127.0.0.1"))).await?;
/// broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
/// broker.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    _upkeep: Arc<retention::Upkeep>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("redis", self.shared.config.redis()).finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// A broker at this deployment. Nothing is reached yet: a server that is away is an error of each call that uses it.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a wrong setting.
    // Its connections belong to the runtime that it is called in.
    #[expect(clippy::unused_async, reason = "it needs a runtime, and every backend connects like this")]
    pub async fn connect(config: RedisBrokerConfig) -> Result<Self> {
        config.check()?;
        let shared = Arc::new(Shared::new(config)?);
        let upkeep = Arc::new(retention::Upkeep::begin(&shared));
        Ok(Self { shared, _upkeep: upkeep })
    }

    async fn join(&self, group: Group, on: Subscription, partitions: u16) -> Result<Arc<Member>> {
        let shared = &self.shared;
        let owner: Arc<str> = format!("{:x}-{:012x}", std::process::id(), fastrand::u64(..1 << 48)).into();
        let places = group::places(&shared.keys, &group.name, on.patterns(), partitions);
        let home = shared.keys.home(&group.name, partitions);
        let noted = group::join(shared, (&home, &places), (&group, &on, &owner), None).await?;
        Ok(Member::new(shared, owner, (group, on), (home, places), noted, partitions))
    }
}

#[async_trait]
impl Publisher for RedisBroker {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        let shared = &*self.shared;
        let _under_way = shared.gate.read().await;
        let opened = match shared.refuse_closed() {
            Ok(()) => shared.all_partitions().await,
            Err(error) => Err(error),
        };
        let partitions = match opened {
            Ok(partitions) => partitions,
            Err(error) => return error.for_each(events.len()),
        };
        let mut refused: Vec<Option<Error>> = Vec::with_capacity(events.len());
        let mut ready = Vec::with_capacity(events.len());
        for event in events {
            let looked_at = Ready::new(event, partitions, shared.config.max_event_bytes());
            refused.push(match looked_at {
                Ok(one) => {
                    ready.push(one);
                    None
                }
                Err(error) => Some(error),
            });
        }
        let many = ready.len();
        let answers = if many == 0 {
            Vec::new()
        } else {
            let insert = |batches| publish::insert(shared, batches);
            let no_answer = || Error::new(ErrorKind::Unavailable, "publish: no answer").for_each(many);
            shared.publishing.call(Arc::new(ready), insert).await.unwrap_or_else(no_answer)
        };
        let mut answers = answers.into_iter();
        let unanswered = || Err(Error::new(ErrorKind::Internal, "the broker answered nothing"));
        refused
            .into_iter()
            .map(|refused| refused.map_or_else(|| answers.next().unwrap_or_else(unanswered), Err))
            .collect()
    }

    async fn close(&self) -> Result<()> {
        self.shared.close();
        drop(self.shared.gate.write().await);
        self.shared.chores.done().await;
        Ok(())
    }
}

#[async_trait]
impl Subscriber for RedisBroker {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        let shared = &self.shared;
        shared.refuse_closed()?;
        let partitions = shared.partitions().await?;
        let Some(group) = subscription.group().cloned() else {
            return broadcast::subscribe(shared, subscription, partitions).await;
        };
        let member = self.join(group, subscription, partitions).await?;
        let keeper = leases::Keeper::new(&member);
        Ok(Subscribed {
            entries: stream::entries(member),
            leases: Arc::<leases::Keeper>::clone(&keeper),
            claims: keeper,
        })
    }
}

#[async_trait]
impl BrokerAdmin for RedisBroker {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        depth::groups(&self.shared, scope).await
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        dead::cancel(&self.shared, action).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        depth::remove_group(&self.shared, group).await
    }
}

#[async_trait]
impl DeadLetters for RedisBroker {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        dead::list(&self.shared, group, limit).await
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        dead::replay(&self.shared, id, group).await
    }
}

impl Broker for RedisBroker {
    fn capabilities(&self) -> BrokerCapabilities {
        BrokerCapabilities { max_event_bytes: self.shared.config.max_event_bytes(), ..REDIS_BROKER }
    }
}
