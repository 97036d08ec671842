//! What can be asked of a broker and told to it beside the events.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    ActionId, BrokerCapabilities, EventId, GroupName, Pattern, Position, Publisher, Result, Stage,
    Subscriber, Timestamp,
};

/// Looks after groups and actions.
#[async_trait]
pub trait BrokerAdmin: Send + Sync {
    /// The groups that fit and how much of them is waiting, delayed and leased, matching events alone.
    ///
    /// # Errors
    /// Where the broker could not be asked.
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>>;

    /// Marks an action: every event whose chain began up to now is to be concluded as interrupted, whether it runs,
    /// waits, is delayed or taken over. Answers the position up to which it reaches.
    ///
    /// # Errors
    /// Where the broker could not be told.
    async fn cancel(&self, action: &ActionId) -> Result<Position>;

    /// Drops a group with all that it has not settled; `false` where it was not there.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) while it has members.
    async fn remove_group(&self, group: &GroupName) -> Result<bool>;
}

/// Looks after what will never be delivered again.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// The dead letters, oldest first: of one group, or all; at most so many.
    ///
    /// # Errors
    /// Where the broker could not be asked.
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>>;

    /// Makes a new event of a dead letter, with a new id and `replay_of`, for its group alone, and removes it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for an unknown id; [`Conflict`](crate::ErrorKind::Conflict) where
    /// several groups have it and none is named; [`Invalid`](crate::ErrorKind::Invalid) for what cannot be decoded.
    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId>;
}

/// Everything that a broker is.
pub trait Broker: Publisher + Subscriber + BrokerAdmin + DeadLetters {
    /// What it can do.
    fn capabilities(&self) -> BrokerCapabilities;
}

/// Which groups, and which of their events count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only events of this action, and only groups whose patterns can match it.
    pub action: Option<ActionId>,
    /// Only this group.
    pub group: Option<GroupName>,
}

/// A group as its broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// What it is called.
    pub name: GroupName,
    /// The work done at its events.
    pub stage: Option<Stage>,
    /// What it subscribes to.
    pub patterns: Vec<Pattern>,
    /// How long its leases are.
    pub lease: Duration,
    /// How many members gave a sign of life within a lease or a minute, whichever is longer.
    pub members: u64,
    /// How much it has to do.
    pub depth: Depth,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// Ready to be taken.
    pub waiting: u64,
    /// Due later.
    pub delayed: u64,
    /// Taken and not settled.
    pub leased: u64,
}

impl Depth {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.waiting == 0 && self.delayed == 0 && self.leased == 0
    }
}

/// For brokers that drop a group after its time without members: says in one log line, and counts in
/// `pipeline_broker_dropped_events_total`, what it had not settled.
pub fn group_dropped(name: &GroupName, unsettled: Depth) {
    if unsettled.is_idle() {
        tracing::debug!(group = %name, "a group without members is dropped after its time");
        return;
    }
    let Depth { waiting, delayed, leased } = unsettled;
    metrics::counter!("pipeline_broker_dropped_events_total").increment(waiting + delayed + leased);
    tracing::warn!(
        group = %name,
        waiting,
        delayed,
        leased,
        "a group without members is dropped after its time, with what it had not settled"
    );
}

/// What will never be delivered again, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's id; a made-up one for what could not be decoded.
    pub id: String,
    /// Whose it was; `None` for what could not be decoded.
    pub group: Option<GroupName>,
    /// The action, where it could be decoded.
    pub action_id: Option<ActionId>,
    /// Why.
    pub reason: String,
    /// The event as it was kept.
    pub bytes: Vec<u8>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// How many of them were left in silence.
    pub crashes: u32,
    /// When it became one.
    pub time: Timestamp,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::{Depth, group_dropped};
    use crate::GroupName;

    #[derive(Default)]
    struct Dropped(Arc<AtomicU64>);

    impl Recorder for Dropped {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            assert_eq!(key.name(), "pipeline_broker_dropped_events_total");
            Counter::from_arc(Arc::clone(&self.0))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn what_dropped_groups_had_not_settled_is_counted() {
        let (dropped, name) = (Dropped::default(), GroupName::new("g").unwrap());
        metrics::with_local_recorder(&dropped, || {
            group_dropped(&name, Depth::default());
            group_dropped(&name, Depth { waiting: 3, delayed: 2, leased: 1 });
            group_dropped(&name, Depth { waiting: 1, ..Depth::default() });
        });
        assert_eq!(dropped.0.load(Ordering::Relaxed), 7);
    }
}
