//! One group: what waits, what is due later and what is leased.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Depth, Group, LeaseId, Pattern};

/// What was held in a crash comes back a little later, by chance up to this part of the lease and this long, so that
/// suspects rarely share a worker again.
const JITTER: (f64, Duration) = (0.25, Duration::from_secs(1));

/// The state of one group. Whoever reads it calls [`turn`](Self::turn) first.
#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) group: Group,
    pub(super) patterns: Vec<Pattern>,
    pub(super) members: u64,
    /// When the last member left, or the group was made.
    pub(super) idle_since: Instant,
    /// Told whenever something became ready, or something will sooner than was known.
    pub(super) changed: Arc<Notify>,
    entries: HashMap<u64, Entry>,
    ready: BTreeSet<u64>,
    /// When entries are due and when leases end.
    timers: BTreeSet<(Instant, u64)>,
    leased: u64,
}

#[derive(Debug)]
struct Entry {
    /// How often it was taken.
    count: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Ready,
    Due(Instant),
    Leased {
        owner: Arc<str>,
        until: Instant,
    },
    /// Ready for anybody, but still its last holder's as long as nobody took it.
    Expired {
        owner: Arc<str>,
    },
}

impl GroupState {
    pub(super) fn new(group: Group, patterns: Vec<Pattern>, now: Instant) -> Self {
        Self {
            group,
            patterns,
            members: 0,
            idle_since: now,
            changed: Arc::default(),
            entries: HashMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            leased: 0,
        }
    }

    /// A new entry, to be delivered at once or later.
    pub(super) fn offer(&mut self, number: u64, due: Option<Instant>) {
        self.entries.insert(number, Entry { count: 0, place: Place::Ready });
        self.put(number, due);
    }

    /// Moves what is due and what expired by now to what is ready.
    pub(super) fn turn(&mut self, now: Instant) {
        while let Some((when, number)) = self.timers.first().copied()
            && when <= now
        {
            self.timers.pop_first();
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.place = match &entry.place {
                Place::Leased { owner, .. } => {
                    self.leased = self.leased.saturating_sub(1);
                    Place::Expired { owner: Arc::clone(owner) }
                }
                _ => Place::Ready,
            };
            self.ready.insert(number);
        }
    }

    /// Leases what is ready, in publish order.
    pub(super) fn take(&mut self, now: Instant, owner: &Arc<str>, most: usize) -> Vec<(u64, u64)> {
        let known = self.next_timer();
        let mut taken = Vec::with_capacity(most.min(self.ready.len()));
        while taken.len() < most
            && let Some(number) = self.ready.pop_first()
        {
            let until = now + self.lease_with_jitter();
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.count += 1;
            entry.place = Place::Leased { owner: Arc::clone(owner), until };
            self.timers.insert((until, number));
            self.leased += 1;
            taken.push((number, entry.count));
        }
        // The others sleep until the timer that they knew of.
        if known.is_none() || self.next_timer() < known {
            self.changed.notify_waiters();
        }
        taken
    }

    fn lease_with_jitter(&self) -> Duration {
        let lease = self.group.lease;
        lease + lease.mul_f64(JITTER.0).min(JITTER.1).mul_f64(fastrand::f64())
    }

    /// When something will be ready that is not now.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(when, _)| *when)
    }

    /// Whether the lease is its holder's: also an expired one, as long as nobody took it.
    pub(super) fn is_held(&self, number: u64, lease: &LeaseId) -> bool {
        self.entries.get(&number).is_some_and(|entry| {
            entry.count == lease.count
                && match &entry.place {
                    Place::Leased { owner, .. } | Place::Expired { owner } => *owner == lease.owner,
                    Place::Ready | Place::Due(_) => false,
                }
        })
    }

    /// Whether this lease stands: not expired, not taken, not settled.
    pub(super) fn stands(&self, number: u64, owner: &str, count: u64) -> bool {
        self.entries.get(&number).is_some_and(|entry| {
            entry.count == count
                && matches!(&entry.place, Place::Leased { owner: current, .. } if **current == *owner)
        })
    }

    /// Starts a lease's time anew; `false` where it is not the holder's.
    pub(super) fn renew(&mut self, now: Instant, number: u64, lease: &LeaseId) -> bool {
        if !self.is_held(number, lease) {
            return false;
        }
        self.lift(number);
        let until = now + self.lease_with_jitter();
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.place = Place::Leased { owner: Arc::clone(&lease.owner), until };
            self.timers.insert((until, number));
            self.leased += 1;
        }
        true
    }

    /// Puts an entry back, to be taken at once or later.
    pub(super) fn put(&mut self, number: u64, due: Option<Instant>) {
        self.lift(number);
        let Some(entry) = self.entries.get_mut(&number) else { return };
        if let Some(due) = due {
            entry.place = Place::Due(due);
            self.timers.insert((due, number));
        } else {
            entry.place = Place::Ready;
            self.ready.insert(number);
        }
        self.changed.notify_waiters();
    }

    /// Makes what is due later ready at once.
    pub(super) fn hurry(&mut self, number: u64) {
        if matches!(self.entries.get(&number), Some(Entry { place: Place::Due(_), .. })) {
            self.put(number, None);
        }
    }

    /// The entry is settled.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        self.lift(number);
        self.entries.remove(&number).is_some()
    }

    /// Takes an entry out of the sets that its place names.
    fn lift(&mut self, number: u64) {
        match self.entries.get(&number).map(|entry| &entry.place) {
            Some(Place::Ready | Place::Expired { .. }) => {
                self.ready.remove(&number);
            }
            Some(Place::Due(when)) => {
                self.timers.remove(&(*when, number));
            }
            Some(Place::Leased { until, .. }) => {
                self.timers.remove(&(*until, number));
                self.leased = self.leased.saturating_sub(1);
            }
            None => {}
        }
    }

    /// All that is not settled.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.keys().copied()
    }

    /// How much is not settled.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn depth(&self) -> Depth {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let waiting = count(self.ready.len());
        let delayed = count(self.entries.len()).saturating_sub(waiting).saturating_sub(self.leased);
        Depth { waiting, delayed, leased: self.leased }
    }

    /// The depth of these entries alone.
    pub(super) fn depth_of(&self, numbers: impl Iterator<Item = u64>) -> Depth {
        let mut depth = Depth::default();
        for number in numbers {
            match self.entries.get(&number).map(|entry| &entry.place) {
                Some(Place::Ready | Place::Expired { .. }) => depth.waiting += 1,
                Some(Place::Due(_)) => depth.delayed += 1,
                Some(Place::Leased { .. }) => depth.leased += 1,
                None => {}
            }
        }
        depth
    }
}
