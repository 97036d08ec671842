//! The entries of a group's member.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{
    Begin, Claims, Conclusion, Error, ErrorKind, Event, Group, InBatches, LeaseId, Leased, Leases, Renewal,
    Result, Settlement, Stage, Subscription, Taken,
};
use tokio::sync::{Mutex, watch};

use super::Shared;
use super::claims::{self, Of};
use super::group::{self, Matcher};
use super::publish::{position, set_aside};
use super::session::now;
use super::take::{self, Row, Taker};
use super::writer::Queue;

/// Longest wait for what no signal told.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A member of a group; it leaves when the last part of its subscription is dropped.
pub(super) struct Member {
    shared: Arc<Shared>,
    owner: Arc<str>,
    /// The group's number; another once the group was dropped and made again.
    id: AtomicI64,
    group: Group,
    subscription: Subscription,
}

impl Member {
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: i64,
        owner: Arc<str>,
        group: Group,
        subscription: Subscription,
    ) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared), owner, id: AtomicI64::new(id), group, subscription })
    }

    fn id(&self) -> i64 {
        self.id.load(Ordering::Relaxed)
    }

    fn of(&self) -> Of {
        Of {
            group: self.id(),
            name: self.group.name.as_str().to_owned(),
            stage: self.group.stage.as_ref().map(|stage: &Stage| stage.as_str().to_owned()),
            lease: self.group.lease,
        }
    }

    async fn take(self: &Arc<Self>) -> Result<Batch> {
        let id = self.id();
        let mut taker = Taker {
            group: id,
            name: self.group.name.as_str().to_owned(),
            owner: Arc::clone(&self.owner),
            lease: self.group.lease,
            prefetch: self.subscription.prefetch(),
            matcher: Matcher::new(self.subscription.patterns(), self.group.stage.as_ref(), Some(id))?,
        };
        let (queue, owner) = (Arc::clone(&self.shared.queue), Arc::clone(&self.owner));
        let work = move |session: &mut super::session::Session| {
            let taken = take::take(session, &mut taker)?;
            Ok(Batch::new(&queue, id, &owner, taken))
        };
        match self.shared.queue.call(0, work).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.join_again().await?;
                let mut nothing = take::Taken::default();
                nothing.more = true;
                Ok(Batch::new(&self.shared.queue, id, &self.owner, nothing))
            }
            taken => taken,
        }
    }

    /// The group was dropped while this member was away for longer than the retention time: it is made again.
    async fn join_again(&self) -> Result<()> {
        tracing::warn!(group = %self.group.name, "the group is gone and is made again");
        let (group, on, owner) = (self.group.clone(), self.subscription.clone(), Arc::clone(&self.owner));
        let id = self.shared.queue.call(0, move |session| group::join(session, &group, &on, &owner)).await?;
        self.id.store(id, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let (id, owner) = (self.id(), Arc::clone(&self.owner));
        self.shared.queue.leave(move |session| group::leave(session, id, &owner));
    }
}

/// What a take brought, not decoded yet: the writing thread has other things to do. What is dropped as it is, is given
/// back, as on the way to a stream that was dropped meanwhile.
struct Batch {
    queue: Arc<Queue>,
    group: i64,
    owner: Arc<str>,
    taken: take::Taken,
}

impl Batch {
    fn new(queue: &Arc<Queue>, group: i64, owner: &Arc<str>, taken: take::Taken) -> Self {
        Self { queue: Arc::clone(queue), group, owner: Arc::clone(owner), taken }
    }

    fn lease(&self, row: &Row) -> LeaseId {
        let count = u64::try_from(row.count).unwrap_or(0);
        LeaseId { entry: position(row.seq), owner: Arc::clone(&self.owner), count }
    }

    /// Its events; what cannot be decoded is set aside.
    fn decoded(mut self) -> Taken {
        let rows = std::mem::take(&mut self.taken.rows);
        let decode = |row: Row| match Event::from_cloud_event(&row.body) {
            Ok(event) => {
                let lease = self.lease(&row);
                Some(Leased { event, position: lease.entry.clone(), lease: Some(lease) })
            }
            Err(error) => {
                let (seq, reason) = (row.seq, error.chain());
                self.queue.leave(move |session| set_aside(session, seq, &reason));
                None
            }
        };
        let leased: Vec<Leased> = rows.into_iter().filter_map(decode).collect();
        let (queue, group) = (Arc::clone(&self.queue), self.group);
        Taken::new(leased, move |left| give_back(&queue, group, left))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let left: Vec<LeaseId> = self.taken.rows.iter().map(|row| self.lease(row)).collect();
        if !left.is_empty() {
            give_back(&self.queue, self.group, left);
        }
    }
}

fn give_back(queue: &Queue, group: i64, left: Vec<LeaseId>) {
    queue.leave(move |session| take::give_back(session, group, &left));
}

/// What a member takes, as long as it has not ended.
struct Entries {
    member: Arc<Member>,
    events: watch::Receiver<u64>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Going,
    /// The last call failed and may succeed later.
    Pausing(u32),
    Ended,
}

/// The stream of a member's entries.
pub(super) fn entries(member: Arc<Member>) -> BoxStream<'static, Result<Leased>> {
    let events = member.shared.signals.events.subscribe();
    let entries = Entries { member, events, state: State::Going };
    let batches = stream::unfold(entries, |mut entries| async move {
        let item = entries.next().await?;
        Some((item, entries))
    });
    InBatches::new(batches).boxed()
}

impl Entries {
    async fn next(&mut self) -> Option<Result<Taken>> {
        loop {
            if self.member.shared.is_closed() || self.state == State::Ended {
                return None;
            }
            if let State::Pausing(failures) = self.state {
                let longest = 50_u64.saturating_mul(1 << failures.min(6));
                tokio::time::sleep(Duration::from_millis(fastrand::u64(10..=longest))).await;
            }
            self.events.borrow_and_update();
            match self.member.take().await {
                Ok(batch) => {
                    self.state = State::Going;
                    let (more, next_due) = (batch.taken.more, batch.taken.next_due);
                    let taken = batch.decoded();
                    if !taken.is_empty() {
                        return Some(Ok(taken));
                    }
                    if !more {
                        self.wait(next_due).await;
                    }
                }
                Err(error) if error.is_retryable() => {
                    let failures = if let State::Pausing(failures) = self.state { failures } else { 0 };
                    self.state = State::Pausing(failures.saturating_add(1));
                    return Some(Err(error));
                }
                Err(error) => {
                    self.state = State::Ended;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Waits for a change, the next due time, or a while.
    async fn wait(&mut self, next_due: Option<i64>) {
        let due = next_due.map_or(LONGEST_WAIT, |due| {
            Duration::from_micros(u64::try_from(due.saturating_sub(now())).unwrap_or(0))
        });
        // A millisecond more: timers round down, and a look that comes too early is for nothing.
        let wait = due.min(LONGEST_WAIT) + Duration::from_millis(1);
        // An error of the channel means that the broker is gone, which the next call says.
        let _ = tokio::time::timeout(wait, self.events.changed()).await;
    }
}

/// The leases and claims of a member.
pub(super) struct Keeper {
    member: Arc<Member>,
    cancels: Mutex<watch::Receiver<u64>>,
}

impl Keeper {
    pub(super) fn new(member: &Arc<Member>) -> Arc<Self> {
        let cancels = Mutex::new(member.shared.signals.cancels.subscribe());
        Arc::new(Self { member: Arc::clone(member), cancels })
    }

    fn needs_stage(&self) -> Result<()> {
        match self.member.group.stage {
            Some(_) => Ok(()),
            None => Err(Error::new(ErrorKind::Unsupported, "claims need a group that has a stage")),
        }
    }
}

#[async_trait]
impl Leases for Keeper {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let (of, leases) = (self.member.of(), leases.to_vec());
        self.member.shared.queue.call(0, move |session| claims::renew(session, &of, &leases)).await
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        let many = settlements.len();
        if many == 0 {
            return Vec::new();
        }
        let of = self.member.of();
        let settled =
            self.member.shared.queue.call(0, move |session| claims::settle(session, &of, &settlements)).await;
        settled.unwrap_or_else(|error| error.for_each(many))
    }

    async fn wake(&self) -> Result<()> {
        let mut cancels = self.cancels.lock().await;
        cancels.changed().await.map_err(|_| Error::new(ErrorKind::Closed, "the broker is closed"))
    }
}

#[async_trait]
impl Claims for Keeper {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        self.needs_stage()?;
        let (of, lease) = (self.member.of(), lease.clone());
        self.member.shared.queue.call(0, move |session| claims::begin(session, &of, &lease)).await
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        self.needs_stage()?;
        let (of, lease) = (self.member.of(), lease.clone());
        self.member
            .shared
            .queue
            .call(0, move |session| claims::conclude(session, &of, &lease, &conclusion))
            .await
    }
}
