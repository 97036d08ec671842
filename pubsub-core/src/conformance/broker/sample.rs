//! What the rules share: events, subscriptions, and a member whose leases nobody keeps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::{Instant, timeout};

use crate::{
    ActionId, Begin, Broker, Claims, Conclusion, Error, ErrorKind, Event, EventId, EventType, GroupName,
    LeaseId, Leased, Leases, PublisherExt as _, Renewal, Result, RunKey, RunRecord, Scope, Settlement, Stage,
    Subscribed, Subscription, Try,
};

/// How long a rule waits for what has to come.
pub(super) const LONG: Duration = Duration::from_secs(15);

/// How long a rule watches that nothing comes.
const WHILE: Duration = Duration::from_millis(120);

/// How soon a rule looks again for what nothing tells it of.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

tokio::task_local! {
    /// How many times as long all that has to do with time is, where a rule runs beside many others.
    pub(crate) static PACE: u32;
}

/// As long as this by a rule's own pace.
pub(super) fn paced(time: Duration) -> Duration {
    time * PACE.try_with(|pace| *pace).unwrap_or(1)
}

/// A lease that a rule can see the end of.
pub(super) fn short_lease() -> Duration {
    paced(Duration::from_millis(500))
}

/// A delay that a rule can see.
pub(super) fn soon() -> Duration {
    paced(Duration::from_secs(1))
}

/// Sees that what had to happen so long after `began` came then, and no later than a broker needs to see it.
pub(super) fn assert_came_after(began: Instant, time: Duration) {
    let after = began.elapsed();
    assert!(after >= time && after < time + paced(Duration::from_secs(3)), "it came after {after:?}");
}

/// An event of this type and action.
#[must_use]
pub fn event(event_type: &str, action: &str) -> Event {
    Event::new(EventType::new(event_type).unwrap(), ActionId::new(action).unwrap())
}

/// An event with an id that says which it is.
#[must_use]
pub fn named(event_type: &str, action: &str, id: &str) -> Event {
    event(event_type, action).with_id(EventId::new(id).unwrap())
}

/// The subscription of a stage.
#[must_use]
pub fn on(stage: &str, patterns: &[&str]) -> Subscription {
    let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
    Subscription::for_stage(Stage::new(stage).unwrap(), patterns).unwrap()
}

pub(super) fn short(stage: &str, patterns: &[&str]) -> Subscription {
    on(stage, patterns).with_lease(short_lease()).unwrap()
}

pub(super) fn group_of(subscription: &Subscription) -> GroupName {
    subscription.group().unwrap().name.clone()
}

pub(super) async fn publish(broker: &dyn Broker, events: &[Event]) {
    for event in events {
        broker.publish_one(event.clone()).await.unwrap();
    }
}

pub(super) fn assert_kind<T: fmt::Debug>(answer: Result<T>, kind: ErrorKind) -> Error {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error
}

/// The conclusion of an attempt at an event.
pub(super) fn conclusion(event: &Event, stage: &str, attempt: u32) -> Conclusion {
    let key = RunKey::new(event.action_id.clone(), Stage::new(stage).unwrap(), event.id.clone(), attempt);
    Conclusion { record: RunRecord::begun(key, "owner"), values: BTreeMap::new() }
}

/// Attempt, failures and crashes of an attempt that goes.
pub(super) fn go(answer: Begin) -> (u32, u32, u32) {
    let Begin::Go(numbers) = answer else { panic!("not to be run: {answer:?}") };
    counts(numbers)
}

pub(super) const fn counts(numbers: Try) -> (u32, u32, u32) {
    (numbers.attempt, numbers.failures, numbers.crashes)
}

/// Waiting, delayed and leased of the only group that fits.
pub(super) async fn depth(broker: &dyn Broker, scope: &Scope) -> (u64, u64, u64) {
    let groups = broker.groups(scope).await.unwrap();
    assert_eq!(groups.len(), 1, "{groups:?}");
    (groups[0].depth.waiting, groups[0].depth.delayed, groups[0].depth.leased)
}

/// A member of a group as the broker sees it: nobody renews what it takes. One that does nothing is as good as dead.
pub struct Member {
    /// Never locked: it makes the member one that threads can share.
    entries: Mutex<BoxStream<'static, Result<Leased>>>,
    leases: Arc<dyn Leases>,
    claims: Arc<dyn Claims>,
}

impl Member {
    /// Subscribes.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn join(broker: &dyn Broker, subscription: Subscription) -> Self {
        let Subscribed { entries, leases, claims } = broker.subscribe(subscription).await.unwrap();
        Self { entries: Mutex::new(entries), leases, claims }
    }

    fn entries(&mut self) -> &mut BoxStream<'static, Result<Leased>> {
        self.entries.get_mut().unwrap()
    }

    /// Waits for the next event.
    ///
    /// # Panics
    /// Where none comes.
    pub async fn next(&mut self) -> Leased {
        timeout(LONG, self.next_whenever()).await.expect("no event comes")
    }

    /// As [`next`](Self::next), where others may be faster for as long as they want.
    pub(super) async fn next_whenever(&mut self) -> Leased {
        loop {
            match self.entries().next().await.expect("the stream has ended") {
                Err(error) if error.is_retryable() => {}
                leased => return leased.unwrap(),
            }
        }
    }

    /// The id of the next event, which is acknowledged.
    pub async fn take(&mut self) -> String {
        let leased = self.next().await;
        self.ack(&leased).await;
        leased.event.id.as_str().to_owned()
    }

    /// The ids of so many events, which are acknowledged.
    pub async fn take_many(&mut self, many: usize) -> Vec<String> {
        let mut ids = Vec::with_capacity(many);
        for _ in 0..many {
            ids.push(self.take().await);
        }
        ids
    }

    /// Sees that nothing comes for a little while.
    ///
    /// # Panics
    /// Where something comes.
    pub async fn nothing(&mut self) {
        if let Ok(came) = timeout(WHILE, self.entries().next()).await {
            panic!("nothing was to come, and {came:?} came");
        }
    }

    /// Waits for the end of the stream.
    pub(super) async fn end(&mut self) {
        while let Some(item) = timeout(LONG, self.entries().next()).await.expect("the stream does not end") {
            drop(item);
        }
    }

    pub(super) async fn poll_once(&mut self) -> Option<Leased> {
        let next = self.entries().next();
        let biased = async {
            tokio::select! {
                biased;
                next = next => next,
                () = tokio::task::yield_now() => None,
            }
        };
        biased.await.map(Result::unwrap)
    }

    /// Begins the work.
    pub async fn begin(&self, leased: &Leased) -> Result<Begin> {
        self.claims.begin(lease(leased)).await
    }

    /// Concludes it.
    pub async fn conclude(&self, leased: &Leased, conclusion: Conclusion) -> Result<()> {
        self.claims.conclude(lease(leased), conclusion).await
    }

    /// Settles it.
    pub async fn settle(&self, leased: &Leased, settlement: Settlement) -> Result<()> {
        self.settle_all(vec![(lease(leased).clone(), settlement)]).await.pop().unwrap()
    }

    pub(super) async fn settle_all(&self, all: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        let many = all.len();
        let answers = self.leases.settle(all).await;
        assert_eq!(answers.len(), many, "each settlement is answered");
        answers
    }

    /// Acknowledges it.
    ///
    /// # Panics
    /// Where that is refused.
    pub async fn ack(&self, leased: &Leased) {
        self.settle(leased, Settlement::Ack).await.unwrap();
    }

    pub(super) async fn retry(&self, leased: &Leased, after: Duration) {
        self.settle(leased, Settlement::Retry { after }).await.unwrap();
    }

    pub(super) async fn release(&self, leased: &Leased, after: Duration) {
        self.settle(leased, Settlement::Release { after }).await.unwrap();
    }

    pub(super) async fn bury(&self, leased: &Leased, reason: &str) {
        self.settle(leased, Settlement::DeadLetter { reason: reason.to_owned() }).await.unwrap();
    }

    /// Renews it.
    pub async fn renew(&self, leased: &Leased) -> Renewal {
        self.renew_all(&[lease(leased).clone()]).await.unwrap().pop().unwrap()
    }

    pub(super) async fn renew_all(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        self.leases.renew(leases).await
    }
}

pub(super) fn lease(leased: &Leased) -> &LeaseId {
    leased.lease.as_ref().expect("a group leases what it hands out")
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}
