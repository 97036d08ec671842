//! A member of a group of the memory broker: takes, renews, settles, begins and concludes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::broker::{MemoryBroker, Shared, State, number};
use super::group::GroupState;
use crate::{
    Begin, Claim, Claims, Conclusion, DeadLetter, Error, ErrorKind, EventId, Group, GroupName, Holder,
    LeaseId, Leased, Leases, Mark, OpenAttempt, Position, Renewal, Result, Settlement, Stage, StartAt,
    Subscribed, Subscriber, Subscription, Timestamp,
};

/// One member; shared by its stream, its leases and its claims.
#[derive(Debug)]
struct Member {
    broker: Arc<Shared>,
    group: GroupName,
    owner: Arc<str>,
    prefetch: usize,
    /// How many cancels it has seen.
    cancels: AtomicU64,
}

#[async_trait]
impl Subscriber for MemoryBroker {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        let Some(group) = subscription.group().cloned() else { return Ok(self.broadcast(subscription)) };
        let cancels = self.0.change(|state| {
            join(state, &group, &subscription)?;
            Ok(state.cancel_count)
        })?;
        let member = Arc::new(Member {
            broker: Arc::clone(&self.0),
            group: group.name,
            owner: EventId::generate().as_str().into(),
            prefetch: subscription.prefetch(),
            cancels: AtomicU64::new(cancels),
        });
        let taken = Taken { member: Arc::clone(&member), waiting: VecDeque::new() };
        let entries = stream::unfold(taken, |mut taken| async move {
            let leased = taken.next().await?;
            Some((Ok(leased), taken))
        });
        Ok(Subscribed {
            entries: entries.boxed(),
            leases: Arc::clone(&member) as Arc<dyn Leases>,
            claims: member,
        })
    }
}

impl MemoryBroker {
    fn broadcast(&self, subscription: Subscription) -> Subscribed {
        let published = self.0.published.subscribe();
        let changed = self.0.changed.subscribe();
        let start = (published, changed, Arc::clone(&self.0));
        let entries = stream::unfold(start, move |(mut published, mut changed, broker)| {
            let subscription = subscription.clone();
            async move {
                loop {
                    let event = tokio::select! {
                        event = published.recv() => event,
                        _ = changed.changed() => {
                            if broker.lock().closed { return None }
                            continue;
                        }
                    };
                    let item = match event {
                        Ok((position, event)) if subscription.wants(&event) => {
                            Ok(Leased { event, position, lease: None })
                        }
                        Ok(_) => continue,
                        Err(RecvError::Lagged(missed)) => {
                            Err(Error::new(ErrorKind::Unavailable, "receive events").with("missed", missed))
                        }
                        Err(RecvError::Closed) => return None,
                    };
                    return Some((item, (published, changed, broker)));
                }
            }
        });
        Subscribed { entries: entries.boxed(), leases: Arc::new(NoGroup), claims: Arc::new(NoGroup) }
    }
}

/// Joins a group, making it where it is new.
fn join(state: &mut State, group: &Group, subscription: &Subscription) -> Result<()> {
    if state.closed {
        return Err(Error::new(ErrorKind::Closed, "the broker is closed"));
    }
    let cursor = match subscription.start() {
        StartAt::Earliest => 0,
        StartAt::Latest => state.last(),
        StartAt::After(position) => number(position)
            .ok_or_else(|| Error::invalid("this is no position of this broker").with("position", position))?,
    };
    let patterns = subscription.patterns();
    let standing = state
        .groups
        .entry(group.name.clone())
        .or_insert_with(|| GroupState::new(group.clone(), patterns.to_vec(), cursor));
    if standing.spec != *group || standing.patterns != patterns {
        let told = |spec: &Group, patterns: &[crate::Pattern]| {
            let stage = spec.stage.as_ref().map_or("none", Stage::as_str);
            format!("{patterns:?} stage {stage} lease {:?}", spec.lease)
        };
        return Err(Error::new(ErrorKind::Conflict, "join a group that is another")
            .with("group", &group.name)
            .with("there", told(&standing.spec, &standing.patterns))
            .with("here", told(group, patterns)));
    }
    standing.members += 1;
    Ok(())
}

/// What the stream has taken and not handed out.
struct Taken {
    member: Arc<Member>,
    waiting: VecDeque<Leased>,
}

impl Taken {
    /// The next event; `None` once the broker is closed or the group is gone.
    async fn next(&mut self) -> Option<Leased> {
        let mut changed = self.member.broker.changed.subscribe();
        loop {
            if let Some(leased) = self.waiting.pop_front() {
                return Some(leased);
            }
            let next_time = {
                let mut state = self.member.broker.lock();
                if state.closed {
                    return None;
                }
                self.waiting = self.member.take(&mut state)?;
                state.groups.get(&self.member.group)?.next_time()
            };
            if !self.waiting.is_empty() {
                continue;
            }
            let due = async {
                match next_time {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in the broker, which the member holds.
                _ = changed.changed() => {}
                () = due => {}
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let member = &self.member;
        member.broker.change(|state| {
            for lease in waiting.into_iter().filter_map(|leased| leased.lease) {
                // Its lease may have been taken by another; then there is nothing to give back.
                let _ = member.settle_one(
                    state,
                    &lease,
                    &Settlement::Release { after: std::time::Duration::ZERO },
                );
            }
            if let Some(group) = state.groups.get_mut(&member.group) {
                group.members = group.members.saturating_sub(1);
            }
        });
    }
}

impl Member {
    /// Takes up to `prefetch` events: first what is due again, then what is new.
    fn take(&self, state: &mut State) -> Option<VecDeque<Leased>> {
        let now = Instant::now();
        let mut taken = VecDeque::new();
        let State { events, groups, .. } = state;
        let group = groups.get_mut(&self.group)?;
        while taken.len() < self.prefetch {
            let at = if let Some(at) = group.ready(now) {
                at
            } else if let Some((at, stored)) = events.range(group.cursor + 1..).next() {
                group.cursor = *at;
                if !group.wants(stored) {
                    continue;
                }
                if let Some(time) = stored.not_before.filter(|time| *time > now) {
                    group.put_off(*at, time);
                    continue;
                }
                *at
            } else {
                break;
            };
            let Some(stored) = events.get(&at) else {
                group.settle(at);
                continue;
            };
            let lease = group.lease(at, &self.owner, now);
            let position = Position::new(at.to_string());
            taken.push_back(Leased { event: stored.event.clone(), position, lease: Some(lease) });
        }
        Some(taken)
    }

    /// Where a lease's event stands, if this lease holds it.
    fn held(&self, state: &State, lease: &LeaseId) -> Result<u64> {
        number(&lease.entry)
            .filter(|at| state.groups.get(&self.group).is_some_and(|group| group.holds(*at, lease)))
            .ok_or_else(|| {
                Error::new(ErrorKind::LeaseLost, "another holds this event by now, or it is gone")
                    .with("entry", &lease.entry)
            })
    }

    fn settle_one(&self, state: &mut State, lease: &LeaseId, settlement: &Settlement) -> Result<()> {
        let at = self.held(state, lease)?;
        let now = Instant::now();
        let holder = Holder::new(self.group.as_str(), lease);
        let event = state.events.get(&at).map(|stored| stored.event.clone());
        let Some(group) = state.groups.get_mut(&self.group) else { return Ok(()) };
        let claim = event.as_ref().zip(group.spec.stage.as_ref()).and_then(|(event, stage)| {
            state.claims.get_mut(&event.id).and_then(|claims| claims.get_mut(stage))
        });
        let (mut attempts, mut crashes) = (0, 0);
        if let Some(claim) = claim {
            match settlement {
                Settlement::Retry { .. } => claim.retried(&holder),
                _ => claim.closed(&holder),
            }
            (attempts, crashes) = (claim.attempts, claim.crashes);
        }
        match settlement {
            Settlement::Ack => group.settle(at),
            Settlement::Retry { after } | Settlement::Release { after } => group.put_off(at, now + *after),
            Settlement::DeadLetter { reason } => {
                if let Some(event) = event {
                    state.dead.push(DeadLetter {
                        id: event.id.to_string(),
                        group: Some(self.group.clone()),
                        action_id: Some(event.action_id.clone()),
                        reason: reason.clone(),
                        bytes: event.to_cloud_event()?.into_bytes(),
                        attempts,
                        crashes,
                        time: Timestamp::now(),
                    });
                }
                group.settle(at);
            }
        }
        Ok(())
    }

    /// The claim of a leased event, with its position; made where there is none.
    fn claim<'a>(&self, state: &'a mut State, at: u64) -> Result<&'a mut Claim> {
        let stage = state.groups.get(&self.group).and_then(|group| group.spec.stage.clone());
        let stage = stage.ok_or_else(|| Error::unsupported("a group without a stage has no runs"))?;
        let event = state.events.get(&at).map(|stored| stored.event.id.clone());
        let event = event.ok_or_else(|| Error::new(ErrorKind::LeaseLost, "the event is gone"))?;
        Ok(state.claims.entry(event).or_default().entry(stage).or_default())
    }
}

#[async_trait]
impl Leases for Member {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        let mut state = self.broker.lock();
        let now = Instant::now();
        let renew = |lease: &LeaseId| {
            let Ok(at) = self.held(&state, lease) else { return Renewal::Lost };
            if let Some(group) = state.groups.get_mut(&self.group) {
                group.renew(at, now);
            }
            match state.mark(at) {
                Mark::Cancelled => Renewal::Cancelled,
                Mark::None => Renewal::Held,
            }
        };
        Ok(leases.iter().map(renew).collect())
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        self.broker.change(|state| settlements.iter().map(|(l, s)| self.settle_one(state, l, s)).collect())
    }

    async fn wake(&self) -> Result<()> {
        let mut changed = self.broker.changed.subscribe();
        loop {
            let count = self.broker.lock().cancel_count;
            if self.cancels.swap(count, Ordering::Relaxed) != count {
                return Ok(());
            }
            if changed.changed().await.is_err() {
                return Err(Error::new(ErrorKind::Closed, "the broker is closed"));
            }
        }
    }
}

#[async_trait]
impl Claims for Member {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        let mut guard = self.broker.lock();
        let state = &mut *guard;
        let at = self.held(state, lease)?;
        let mark = state.mark(at);
        let now = Instant::now();
        let holder = Holder::new(self.group.as_str(), lease);
        let open = self.claim(state, at)?.open.clone().filter(|open| *open != holder);
        let mut judged = OpenAttempt::Left;
        if let Some(open) = open {
            let other =
                state.groups.iter_mut().find(|(name, _)| name.as_str() == open.group).map(|(_, group)| group);
            let pending = open.entry.parse::<u64>().ok().zip(other);
            if let Some((entry, group)) = pending {
                let stands = group.pending.get(&entry).is_some_and(|p| {
                    p.holder.as_deref() == Some(open.owner.as_str()) && p.count == open.count
                });
                match group.pending.get(&entry) {
                    Some(pending) if stands && pending.at > now => judged = OpenAttempt::Held,
                    // Whoever had it hears at its next renewal that it is another's.
                    Some(_) if stands => group.put_off(entry, now),
                    _ => {}
                }
            }
        }
        Ok(self.claim(state, at)?.begin(holder, judged, mark))
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        let mut guard = self.broker.lock();
        let state = &mut *guard;
        let at = self.held(state, lease)?;
        self.claim(state, at)?.conclude(&Holder::new(self.group.as_str(), lease), conclusion)
    }
}

/// What a subscription without a group has in their place.
#[derive(Debug)]
struct NoGroup;

fn no_group() -> Error {
    Error::unsupported("a subscription without a group has no leases and no runs")
}

#[async_trait]
impl Leases for NoGroup {
    async fn renew(&self, _leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        Err(no_group())
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        settlements.iter().map(|_| Err(no_group())).collect()
    }

    async fn wake(&self) -> Result<()> {
        Err(no_group())
    }
}

#[async_trait]
impl Claims for NoGroup {
    async fn begin(&self, _lease: &LeaseId) -> Result<Begin> {
        Err(no_group())
    }

    async fn conclude(&self, _lease: &LeaseId, _conclusion: Conclusion) -> Result<()> {
        Err(no_group())
    }
}
