//! The broker in memory.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::broadcast::Listeners;
use super::group::GroupState;
use super::log::{Log, MemoryLimits, number_of};
use super::member::Member;
use crate::{
    ActionId, Broker, BrokerAdmin, BrokerCapabilities, DeadLetter, DeadLetters, Depth, Durability, Error,
    ErrorKind, Event, EventId, GroupInfo, GroupName, InBatches, NoLeases, Novelty, Order, Position,
    Published, Publisher, Result, Scope, StartAt, Subscribed, Subscriber, Subscription, Support, Timestamp,
};

/// What the broker in memory can do.
pub const MEMORY_BROKER: BrokerCapabilities = BrokerCapabilities {
    name: "memory",
    groups: Support::Yes,
    broadcast: Support::Yes,
    broadcast_start: Support::No,
    delay: Support::Yes,
    dead_letters: Support::Yes,
    cancel: Support::Yes,
    order: Order::Group,
    durability: Durability::Memory,
    dedupe_window: None,
    max_event_bytes: 4 * 1024 * 1024,
};

/// A broker in memory: the reference of what every broker does, and the quickest for tests and for programs that are
/// one process. Clones are the same handle; [`another`](Self::another) makes one that closes on its own.
///
/// ```
/// use pubsub_core::{ActionId, Deliveries, Event, EventType, MemoryBroker, PublisherExt, Stage, Subscription};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let broker = MemoryBroker::new();
/// broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
///
/// let subscription = Subscription::for_stage(Stage::new("build")?, ["build-requested:*".parse()?])?;
/// let mut deliveries = Deliveries::open(&broker, subscription).await?;
/// let delivery = deliveries.next().await.unwrap()?;
/// assert_eq!(delivery.event().action_id.as_str(), "action-123");
/// delivery.ack().await?;
/// deliveries.close().await;
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    closed: Arc<watch::Sender<bool>>,
}

/// What all handles share.
pub(super) struct Shared {
    log: Mutex<Log>,
    /// Counts cancels.
    pub(super) marks: watch::Sender<u64>,
    listeners: Listeners,
    owners: AtomicU64,
}

impl Shared {
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_owner(&self) -> Arc<str> {
        format!("member-{}", self.owners.fetch_add(1, Ordering::Relaxed) + 1).into()
    }
}

impl MemoryBroker {
    /// An empty broker with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(MemoryLimits::default())
    }

    /// An empty broker that keeps as much as these limits say.
    #[must_use]
    pub fn with_limits(limits: MemoryLimits) -> Self {
        let shared = Shared {
            log: Mutex::new(Log::new(limits)),
            marks: watch::Sender::new(0),
            listeners: Listeners::default(),
            owners: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), closed: Arc::new(watch::Sender::new(false)) }
    }

    /// Another handle to the same data, as another process would have: closing one leaves the other open.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), closed: Arc::new(watch::Sender::new(false)) }
    }

    /// Publishes what arrived as CloudEvents JSON. What cannot be decoded becomes a dead letter and stops nobody.
    ///
    /// # Errors
    /// As [`Publisher::publish`] answers; what cannot be decoded answers with why, once it is a dead letter.
    pub fn publish_bytes(&self, bytes: &[u8]) -> Result<Published> {
        self.refuse_closed()?;
        Event::from_cloud_event(bytes).and_then(|event| self.publish_now(event)).inspect_err(|error| {
            if !matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooNew) {
                return;
            }
            let letter = DeadLetter {
                id: EventId::generate().as_str().to_owned(),
                group: None,
                action_id: None,
                reason: error.chain(),
                bytes: bytes.to_vec(),
                attempts: 0,
                crashes: 0,
                time: Timestamp::now(),
            };
            let (mut log, now) = (self.shared.log(), Instant::now());
            match log.make_room(now, letter.bytes.len()) {
                Ok(()) => log.bury(now, letter),
                Err(full) => tracing::warn!(error = %full, "what cannot be decoded could not be kept"),
            }
        })
    }

    fn publish_now(&self, event: Event) -> Result<Published> {
        let bytes = size(&event)?;
        let mut log = self.shared.log();
        let published = log.publish(Instant::now(), event, bytes, None)?;
        // Told under the lock of the log, so that all hear in one order.
        if published.novelty == Novelty::New && !self.shared.listeners.is_empty() {
            let number = number_of(&published.position)?;
            if let Some(kept) = log.kept(number) {
                self.shared.listeners.tell(number, &kept.event);
            }
        }
        Ok(published)
    }

    fn refuse_closed(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the broker was closed"));
        }
        Ok(())
    }

    fn listen(&self, subscription: Subscription) -> Result<Subscribed> {
        if *subscription.start() != StartAt::Latest {
            return Err(Error::unsupported("a subscription without a group starts at the latest event"));
        }
        let listener = self.shared.listeners.listen(subscription, Arc::clone(&self.closed));
        let entries = futures::stream::unfold(listener, |mut listener| async {
            let next = listener.next().await?;
            Some((next, listener))
        });
        Ok(Subscribed { entries: Box::pin(entries), leases: Arc::new(NoLeases), claims: Arc::new(NoLeases) })
    }
}

/// The bytes of an event's JSON, or a little more.
fn size(event: &Event) -> Result<usize> {
    let texts = event.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
        + event.source.len()
        + event.origin.as_ref().map_or(0, |origin| origin.root_position.as_str().len());
    // Each byte of a text becomes at most twelve, escaped twice; ids and names are bounded.
    let most = event.payload.as_str().len() + 12 * texts + 16 * 1024;
    let size = if most <= MEMORY_BROKER.max_event_bytes {
        event.payload.as_str().len() + texts + 512
    } else {
        event.to_cloud_event()?.len()
    };
    if size > MEMORY_BROKER.max_event_bytes {
        return Err(Error::new(ErrorKind::TooLarge, "publish")
            .with("bytes", size)
            .with("limit", MEMORY_BROKER.max_event_bytes));
    }
    Ok(size)
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

#[async_trait]
impl Publisher for MemoryBroker {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        events.into_iter().map(|event| self.refuse_closed().and_then(|()| self.publish_now(event))).collect()
    }

    async fn close(&self) -> Result<()> {
        self.closed.send_replace(true);
        Ok(())
    }
}

#[async_trait]
impl Subscriber for MemoryBroker {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        self.refuse_closed()?;
        let Some(group) = subscription.group().cloned() else { return self.listen(subscription) };
        let now = Instant::now();
        {
            let mut log = self.shared.log();
            log.drop_idle_groups(now);
            match log.groups.get(&group.name) {
                Some(standing) => agree(standing, &subscription)?,
                None => log.make_group(now, &subscription)?,
            }
            if let Some(standing) = log.groups.get_mut(&group.name) {
                standing.members += 1;
            }
        }
        let (shared, closed) = (Arc::clone(&self.shared), Arc::clone(&self.closed));
        let member = Arc::new(Member::new(shared, closed, &group, subscription.prefetch()));
        let taking = Some(Arc::clone(&member));
        let entries = futures::stream::unfold(taking, |member| async {
            let member = member?;
            let taken = member.take().await?;
            let goes_on = taken.is_ok();
            Some((taken, goes_on.then_some(member)))
        });
        Ok(Subscribed {
            entries: Box::pin(InBatches::new(entries)),
            leases: Arc::clone(&member) as Arc<_>,
            claims: member as Arc<_>,
        })
    }
}

/// Refuses a member that means another group by the same name.
fn agree(standing: &GroupState, subscription: &Subscription) -> Result<()> {
    let Some(group) = subscription.group() else { return Ok(()) };
    if standing.group == *group && standing.patterns == subscription.patterns() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "subscribe: the group is another one")
        .with("group", &group.name)
        .with("there", describe(&standing.group, &standing.patterns))
        .with("asked for", describe(group, subscription.patterns())))
}

fn describe(group: &crate::Group, patterns: &[crate::Pattern]) -> String {
    let stage = group.stage.as_ref().map_or("none", |stage| stage.as_str());
    let patterns = patterns.iter().map(crate::Pattern::as_str).collect::<Vec<_>>().join(",");
    format!("stage {stage}, lease {:?}, patterns {patterns}", group.lease)
}

#[async_trait]
impl BrokerAdmin for MemoryBroker {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let now = Instant::now();
        let mut log = self.shared.log();
        log.drop_idle_groups(now);
        let numbers: Vec<u64> =
            scope.action.as_ref().map(|action| log.events_of(action).collect()).unwrap_or_default();
        let mut infos = Vec::new();
        for (name, group) in &mut log.groups {
            let asked = scope.group.as_ref().is_none_or(|wanted| wanted == name);
            let fits =
                scope.action.as_ref().is_none_or(|a| group.patterns.iter().any(|p| p.matches_action(a)));
            if !asked || !fits {
                continue;
            }
            group.turn(now);
            let depth: Depth = match &scope.action {
                Some(_) => group.depth_of(numbers.iter().copied()),
                None => group.depth(),
            };
            infos.push(GroupInfo {
                name: name.clone(),
                stage: group.group.stage.clone(),
                patterns: group.patterns.clone(),
                lease: group.group.lease,
                members: group.members,
                depth,
            });
        }
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        let position = self.shared.log().cancel(Instant::now(), action);
        self.shared.marks.send_modify(|marks| *marks += 1);
        Ok(position)
    }

    async fn remove_group(&self, name: &GroupName) -> Result<bool> {
        let mut log = self.shared.log();
        match log.groups.get(name) {
            None => Ok(false),
            Some(group) if group.members > 0 => {
                Err(Error::new(ErrorKind::Conflict, "remove a group that has members")
                    .with("group", name)
                    .with("members", group.members))
            }
            Some(_) => {
                log.drop_group(name);
                Ok(true)
            }
        }
    }
}

#[async_trait]
impl DeadLetters for MemoryBroker {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut log = self.shared.log();
        log.drop_old(Instant::now());
        let fits = |letter: &&DeadLetter| group.is_none_or(|group| letter.group.as_ref() == Some(group));
        Ok(log.dead.iter().map(|buried| &buried.letter).filter(fits).take(limit).cloned().collect())
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        self.refuse_closed()?;
        let (mut log, now) = (self.shared.log(), Instant::now());
        // Before it is looked for: what goes later would change its place.
        log.drop_old(now);
        let fits = |letter: &DeadLetter| {
            letter.id == id && group.is_none_or(|group| letter.group.as_ref() == Some(group))
        };
        let letters = log.dead.iter().map(|buried| &buried.letter).enumerate();
        let found: Vec<usize> = letters.filter(|(_, letter)| fits(letter)).map(|(index, _)| index).collect();
        let index = match found.as_slice() {
            [] => return Err(Error::new(ErrorKind::NotFound, "replay a dead letter").with("id", id)),
            [index] => *index,
            [index, rest @ ..] => {
                let first = log.dead.get(*index).map(|buried| &buried.letter.group);
                if rest.iter().any(|other| log.dead.get(*other).map(|buried| &buried.letter.group) != first) {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "replay: several groups have this dead letter, name one",
                    )
                    .with("id", id));
                }
                *index
            }
        };
        let Some(letter) = log.dead.get(index).map(|buried| &buried.letter) else {
            return Err(Error::new(ErrorKind::NotFound, "replay a dead letter").with("id", id));
        };
        let mut event = Event::from_cloud_event(&letter.bytes)?;
        let Some(group) = letter.group.clone().filter(|name| log.groups.contains_key(name)) else {
            return Err(Error::new(ErrorKind::NotFound, "replay: its group is gone").with("id", id));
        };
        event.replay_of = Some(std::mem::replace(&mut event.id, EventId::generate()));
        event.deliver_at = None;
        let replay = event.id.clone();
        let bytes = letter.bytes.len();
        log.publish(now, event, bytes, Some(group))?;
        log.unbury(index);
        Ok(replay)
    }
}

impl Broker for MemoryBroker {
    fn capabilities(&self) -> BrokerCapabilities {
        MEMORY_BROKER
    }
}
