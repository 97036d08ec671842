//! What a backend can do, as data: checked when an application is wired, asserted by the suites, shown in the
//! support table.

use std::time::Duration;

/// Whether a backend can do a thing; what it cannot is answered [`Unsupported`](crate::ErrorKind::Unsupported).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Support {
    /// It can.
    Yes,
    /// It answers `Unsupported`.
    No,
}

impl Support {
    /// Whether it can.
    #[must_use]
    pub const fn is_yes(self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// What survives what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing outlives the process.
    Memory,
    /// What was acknowledged survives the crash of any process.
    ProcessCrash,
    /// What was acknowledged survives a power loss as well.
    PowerLoss,
}

/// Across what the events of an action keep their order, as long as none is retried or delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Within one member of a group.
    Member,
    /// Across all members of a group.
    Group,
}

/// What a broker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerCapabilities {
    /// Its name in the support table.
    pub name: &'static str,
    /// Durable groups with leases, claims and settling.
    pub groups: Support,
    /// Subscriptions without a group.
    pub broadcast: Support,
    /// Subscriptions without a group that start elsewhere than at the latest event.
    pub broadcast_start: Support,
    /// `deliver_at` and retry after a time.
    pub delay: Support,
    /// Dead letters and their replay.
    pub dead_letters: Support,
    /// Cancel marks.
    pub cancel: Support,
    /// Across what order holds.
    pub order: Order,
    /// What an acknowledged publish survives, as configured by default.
    pub durability: Durability,
    /// How long an id that the caller chose is known; `None` as long as its event is kept.
    pub dedupe_window: Option<Duration>,
    /// Largest event, in bytes of its CloudEvents JSON.
    pub max_event_bytes: usize,
}

/// What an output store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCapabilities {
    /// Its name in the support table.
    pub name: &'static str,
    /// Searching.
    pub search: Support,
    /// Following while a run prints.
    pub follow: Support,
    /// Removing runs.
    pub remove: Support,
    /// Whether the sink must get lines in number order: then nothing passes a line that is to be tried again.
    pub ordered: Support,
    /// How long after an append its lines are visible at the latest.
    pub visible_within: Duration,
    /// What an acknowledged append survives, as configured by default.
    pub durability: Durability,
}
