//! What a group of the memory broker knows: how far it has read, and what it has not settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::{Group, LeaseId, Pattern, Position};

#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) spec: Group,
    pub(super) patterns: Vec<Pattern>,
    /// Everything up to here was looked at.
    pub(super) cursor: u64,
    /// What was taken, or is due later, by position.
    pub(super) pending: BTreeMap<u64, Pending>,
    /// When each of them may be taken.
    times: BTreeSet<(Instant, u64)>,
    pub(super) members: u64,
}

/// One event of a group that is not settled.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Who holds it.
    pub(super) holder: Option<Arc<str>>,
    /// How often it was taken.
    pub(super) count: u64,
    /// When it may be taken: the end of the lease and a little chance, or when it is due.
    pub(super) at: Instant,
}

impl Pending {
    pub(super) const fn is_held(&self) -> bool {
        self.holder.is_some()
    }
}

impl GroupState {
    pub(super) const fn new(spec: Group, patterns: Vec<Pattern>, cursor: u64) -> Self {
        Self { spec, patterns, cursor, pending: BTreeMap::new(), times: BTreeSet::new(), members: 0 }
    }

    /// Everything up to here is settled.
    pub(super) fn settled_through(&self) -> u64 {
        self.pending.first_key_value().map_or(self.cursor, |(at, _)| at.saturating_sub(1).min(self.cursor))
    }

    /// When the next pending event may be taken.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.times.first().map(|(time, _)| *time)
    }

    /// The pending event that may be taken now and waits longest.
    pub(super) fn ready(&self, now: Instant) -> Option<u64> {
        self.times.first().filter(|(time, _)| *time <= now).map(|(_, at)| *at)
    }

    /// Hands an event to an owner.
    pub(super) fn lease(&mut self, at: u64, owner: &Arc<str>, now: Instant) -> LeaseId {
        let count = self.pending.get(&at).map_or(0, |pending| pending.count) + 1;
        let until = now + self.spec.lease;
        // What was held in a crash comes back with a jitter, so that suspects rarely share a worker again.
        let comes_back = until + self.spec.lease.mul_f64(fastrand::f64() / 4.0);
        self.put(at, Pending { holder: Some(Arc::clone(owner)), count, at: comes_back });
        LeaseId { entry: Position::new(at.to_string()), owner: Arc::clone(owner), count }
    }

    /// Puts an event off: nobody holds it, and it is due at a time.
    pub(super) fn put_off(&mut self, at: u64, due: Instant) {
        let count = self.pending.get(&at).map_or(0, |pending| pending.count);
        self.put(at, Pending { holder: None, count, at: due });
    }

    fn put(&mut self, at: u64, pending: Pending) {
        self.times.insert((pending.at, at));
        if let Some(before) = self.pending.insert(at, pending.clone())
            && before.at != pending.at
        {
            self.times.remove(&(before.at, at));
        }
    }

    pub(super) fn settle(&mut self, at: u64) {
        if let Some(pending) = self.pending.remove(&at) {
            self.times.remove(&(pending.at, at));
        }
    }

    /// Whether this lease is the last of its entry and not settled; whether its time is up does not count.
    pub(super) fn holds(&self, at: u64, lease: &LeaseId) -> bool {
        self.pending.get(&at).is_some_and(|pending| {
            pending.holder.as_ref() == Some(&lease.owner) && pending.count == lease.count
        })
    }

    /// Starts a lease's time anew.
    pub(super) fn renew(&mut self, at: u64, now: Instant) {
        if let Some(mut pending) = self.pending.get(&at).cloned() {
            pending.at = now + self.spec.lease + self.spec.lease.mul_f64(fastrand::f64() / 4.0);
            self.put(at, pending);
        }
    }

    /// What is due later and fits is due now.
    pub(super) fn hurry(&mut self, fits: impl Fn(u64) -> bool) {
        let now = Instant::now();
        let later: Vec<u64> = self
            .pending
            .iter()
            .filter(|(at, pending)| !pending.is_held() && pending.at > now && fits(**at))
            .map(|(at, _)| *at)
            .collect();
        later.into_iter().for_each(|at| self.put_off(at, now));
    }
}
