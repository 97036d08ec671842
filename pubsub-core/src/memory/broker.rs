//! A broker in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::group::GroupState;
use crate::{
    ActionId, Broker, BrokerAdmin, BrokerCapabilities, Claim, DeadLetter, DeadLetters, Depth, Durability,
    Error, ErrorKind, Event, EventId, GroupInfo, GroupName, Mark, Novelty, Order, Position, Published,
    Publisher, Result, Scope, Stage, Support, Timestamp, wants,
};

/// What [`MemoryBroker`] can do.
pub const MEMORY_BROKER: BrokerCapabilities = BrokerCapabilities {
    name: "memory",
    groups: Support::Yes,
    broadcast: Support::Yes,
    delay: Support::Yes,
    dead_letters: Support::Yes,
    cancel: Support::Yes,
    order: Order::Member,
    durability: Durability::Memory,
    dedupe_window: None,
    max_event_bytes: 16 << 20,
};

/// Most events that are kept; what every group has settled makes room.
pub const MEMORY_BROKER_EVENTS: usize = 1_000_000;

/// How many events a broadcast subscriber may be behind.
const BROADCAST_EVENTS: usize = 1024;

/// A broker in memory: for tests, for work within one process, and as the readable reference of a broker.
///
/// A clone is another handle to the same events.
///
/// ```
/// use pubsub_core::{ActionId, Deliveries, Event, EventType, MemoryBroker, PublisherExt, Stage, Subscription};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let broker = MemoryBroker::new();
/// broker.publish_one(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
/// let subscription = Subscription::for_stage(Stage::new("build")?, ["build-requested:*".parse()?])?;
/// let mut deliveries = Deliveries::open(&broker, subscription).await?;
/// let delivery = deliveries.next().await.unwrap()?;
/// assert_eq!(delivery.event().action_id.as_str(), "action-123");
/// delivery.ack().await?;
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct MemoryBroker(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Told after each change; who waits looks again.
    pub(super) changed: watch::Sender<()>,
    pub(super) published: broadcast::Sender<(Position, Event)>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// By position.
    pub(super) events: BTreeMap<u64, Stored>,
    ids: HashMap<EventId, u64>,
    last: u64,
    pub(super) groups: BTreeMap<GroupName, GroupState>,
    pub(super) claims: HashMap<EventId, BTreeMap<Stage, Claim>>,
    /// For each action the position up to which its chains are cancelled.
    cancels: HashMap<ActionId, u64>,
    /// How many cancels there were.
    pub(super) cancel_count: u64,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) closed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) event: Event,
    /// Not to be delivered before.
    pub(super) not_before: Option<Instant>,
    /// For this group alone.
    pub(super) only: Option<GroupName>,
}

impl MemoryBroker {
    /// A broker without events.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            published: broadcast::channel(BROADCAST_EVENTS).0,
        }))
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes who waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.changed.send_replace(());
        answer
    }
}

/// A position of this broker as a number.
pub(super) fn number(position: &Position) -> Option<u64> {
    position.as_str().parse().ok()
}

fn position(number: u64) -> Position {
    Position::new(number.to_string())
}

impl State {
    fn publish(&mut self, event: Event, only: Option<GroupName>) -> Result<Published> {
        if self.closed {
            return Err(Error::new(ErrorKind::Closed, "the broker is closed"));
        }
        if let Some(number) = self.ids.get(&event.id) {
            return Ok(Published { position: position(*number), novelty: Novelty::Duplicate });
        }
        let bytes = event.payload.as_str().len()
            + event.headers.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        if bytes > MEMORY_BROKER.max_event_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event")
                .with("bytes", bytes)
                .with("limit", MEMORY_BROKER.max_event_bytes));
        }
        if self.events.len() >= MEMORY_BROKER_EVENTS {
            self.trim()?;
        }
        self.last += 1;
        let wait = event.deliver_at.map(|time| time.since(Timestamp::now())).filter(|wait| !wait.is_zero());
        self.ids.insert(event.id.clone(), self.last);
        let not_before = wait.map(|wait| Instant::now() + wait);
        self.events.insert(self.last, Stored { event, not_before, only });
        Ok(Published { position: position(self.last), novelty: Novelty::New })
    }

    /// Drops what every group has settled, oldest first.
    fn trim(&mut self) -> Result<()> {
        let mut holds = None;
        let mut through = self.last;
        for (name, group) in &self.groups {
            let settled = group.settled_through();
            if settled < through {
                through = settled;
                holds = Some(name.clone());
            }
        }
        let kept = self.events.split_off(&(through + 1));
        let dropped = std::mem::replace(&mut self.events, kept);
        for stored in dropped.values() {
            self.ids.remove(&stored.event.id);
            self.claims.remove(&stored.event.id);
        }
        match holds {
            Some(group) if dropped.is_empty() => {
                Err(Error::new(ErrorKind::Full, "publish an event: the broker is full")
                    .with("limit", MEMORY_BROKER_EVENTS)
                    .with("held back by group", group))
            }
            _ => Ok(()),
        }
    }

    /// Whether the chain of the event at this position was cancelled.
    pub(super) fn mark(&self, at: u64) -> Mark {
        let Some(event) = self.events.get(&at).map(|stored| &stored.event) else { return Mark::None };
        let began = event.origin.as_ref().and_then(|origin| number(&origin.root_position)).unwrap_or(at);
        match self.cancels.get(&event.action_id) {
            Some(through) if began <= *through => Mark::Cancelled,
            _ => Mark::None,
        }
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    fn depth(&self, group: &GroupState, action: Option<&ActionId>, now: Instant) -> Depth {
        let fits = |at: u64| {
            let event = self.events.get(&at).map(|stored| &stored.event);
            event.is_some_and(|event| action.is_none_or(|action| *action == event.action_id))
        };
        let mut depth = Depth::default();
        for (at, pending) in group.pending.iter().filter(|(at, _)| fits(**at)) {
            let place = if pending.is_held() && pending.at > now {
                &mut depth.leased
            } else if pending.at > now && self.mark(*at) == Mark::None {
                &mut depth.delayed
            } else {
                &mut depth.waiting
            };
            *place += 1;
        }
        for (at, stored) in self.events.range(group.cursor + 1..) {
            if fits(*at) && group.wants(stored) {
                let delayed = stored.not_before.is_some_and(|time| time > now);
                *(if delayed { &mut depth.delayed } else { &mut depth.waiting }) += 1;
            }
        }
        depth
    }
}

#[async_trait]
impl Publisher for MemoryBroker {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        self.0.change(|state| {
            let publish = |event: Event| {
                let listeners = self.0.published.receiver_count() > 0;
                let copy = listeners.then(|| event.clone());
                let published = state.publish(event, None)?;
                if let Some(event) = copy.filter(|_| published.novelty == Novelty::New) {
                    // Nobody listens any more: then nobody misses it.
                    let _ = self.0.published.send((published.position.clone(), event));
                }
                Ok(published)
            };
            events.into_iter().map(publish).collect()
        })
    }

    async fn close(&self) -> Result<()> {
        self.0.change(|state| state.closed = true);
        Ok(())
    }
}

#[async_trait]
impl BrokerAdmin for MemoryBroker {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let state = self.0.lock();
        let now = Instant::now();
        let fits = |name: &GroupName, group: &GroupState| {
            scope.group.as_ref().is_none_or(|wanted| wanted == name)
                && scope
                    .action
                    .as_ref()
                    .is_none_or(|action| group.patterns.iter().any(|p| p.matches_action(action)))
        };
        let infos =
            state.groups.iter().filter(|(name, group)| fits(name, group)).map(|(name, group)| GroupInfo {
                name: name.clone(),
                stage: group.spec.stage.clone(),
                patterns: group.patterns.clone(),
                lease: group.spec.lease,
                members: group.members,
                depth: state.depth(group, scope.action.as_ref(), now),
            });
        Ok(infos.collect())
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        let through = self.0.change(|state| {
            let through = state.last;
            state.cancels.insert(action.clone(), through);
            state.cancel_count += 1;
            let State { events, groups, .. } = state;
            for group in groups.values_mut() {
                group.hurry(|at| events.get(&at).is_some_and(|stored| stored.event.action_id == *action));
            }
            for stored in events.values_mut().filter(|stored| stored.event.action_id == *action) {
                stored.not_before = None;
            }
            through
        });
        Ok(position(through))
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        self.0.change(|state| match state.groups.get(group) {
            None => Ok(false),
            Some(found) if found.members > 0 => {
                Err(Error::new(ErrorKind::Conflict, "remove a group that has members")
                    .with("group", group)
                    .with("members", found.members))
            }
            Some(_) => Ok(state.groups.remove(group).is_some()),
        })
    }
}

#[async_trait]
impl DeadLetters for MemoryBroker {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        let state = self.0.lock();
        let fits = |letter: &&DeadLetter| group.is_none_or(|group| letter.group.as_ref() == Some(group));
        Ok(state.dead.iter().filter(fits).take(limit).cloned().collect())
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        self.0.change(|state| {
            let fits = |letter: &DeadLetter| {
                letter.id == id && group.is_none_or(|group| letter.group.as_ref() == Some(group))
            };
            let found: Vec<usize> =
                (0..state.dead.len()).filter(|at| state.dead.get(*at).is_some_and(fits)).collect();
            let [at] = found.as_slice() else {
                let kind = if found.is_empty() { ErrorKind::NotFound } else { ErrorKind::Conflict };
                let what = if found.is_empty() {
                    "there is no such dead letter"
                } else {
                    "several groups have it: name one"
                };
                return Err(Error::new(kind, format!("replay a dead letter: {what}")).with("id", id));
            };
            let Some(letter) = state.dead.get(*at).cloned() else {
                return Err(Error::new(ErrorKind::NotFound, "replay a dead letter").with("id", id));
            };
            let mut event = Event::from_cloud_event(&letter.bytes)?;
            event.replay_of = Some(event.id);
            event.id = EventId::generate();
            event.deliver_at = None;
            // Its chain begins anew: a cancel of before does not cover it.
            if let Some(origin) = &mut event.origin {
                origin.root_position = position(state.last + 1);
            }
            let new = event.id.clone();
            state.publish(event, letter.group)?;
            state.dead.remove(*at);
            Ok(new)
        })
    }
}

impl Broker for MemoryBroker {
    fn capabilities(&self) -> BrokerCapabilities {
        MEMORY_BROKER
    }
}

impl GroupState {
    pub(super) fn wants(&self, stored: &Stored) -> bool {
        stored.only.as_ref().is_none_or(|only| *only == self.spec.name)
            && wants(&self.patterns, self.spec.stage.as_ref(), &stored.event)
    }
}
