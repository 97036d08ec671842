//! What goes from the broker in memory by age, by number and for want of room.

use std::time::Duration;

use tokio::time::Instant;

use super::{Buried, Log};
use crate::memory::group::GroupState;
use crate::{DeadLetter, Error, ErrorKind, GroupName, Result, group_dropped};

/// How much is kept and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLimits {
    /// Most events. At this limit what every group has settled goes before its time, and where that is not enough a
    /// publish answers [`Full`](ErrorKind::Full) and names the group with the most that it has not settled.
    pub events: usize,
    /// Most bytes of events and dead letters, roughly; as with `events`. An event that is larger alone is refused as
    /// [`TooLarge`](ErrorKind::TooLarge). Dead letters are kept all the same, up to `dead_letters`.
    pub bytes: usize,
    /// How long what every group has settled is kept, from its publish on or from when it was due, and a dead letter.
    pub retention: Duration,
    /// How long a group without members is kept.
    pub group_retention: Duration,
    /// Most dead letters, after which the oldest go.
    pub dead_letters: usize,
}

impl Default for MemoryLimits {
    /// A million events, 512 MiB, seven days, 100,000 dead letters.
    fn default() -> Self {
        const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
        Self {
            events: 1_000_000,
            bytes: 512 * 1024 * 1024,
            retention: WEEK,
            group_retention: WEEK,
            dead_letters: 100_000,
        }
    }
}

/// Longest time between two looks for groups without members.
const LOOK_FOR_IDLE: Duration = Duration::from_secs(1);

impl Log {
    /// Drops groups that had no members for their time, and says what they had not settled.
    pub(in crate::memory) fn drop_idle_groups(&mut self, now: Instant) {
        let retention = self.limits.group_retention;
        let idle = |g: &GroupState| g.members == 0 && now.duration_since(g.idle_since) >= retention;
        let names: Vec<GroupName> =
            self.groups.iter().filter(|(_, group)| idle(group)).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(group) = self.groups.get_mut(&name) {
                group.turn(now);
                group_dropped(&name, group.depth());
            }
            self.drop_group(&name);
        }
    }

    /// Forgets what is older than the retention: groups without members, what no group holds, dead letters.
    pub(in crate::memory) fn drop_old(&mut self, now: Instant) {
        let age = self.limits.retention;
        let is_old = |since: Instant| since <= now && now.duration_since(since) >= age;
        if now >= self.next_idle_look {
            self.next_idle_look = now + self.limits.group_retention.min(LOOK_FOR_IDLE);
            self.drop_idle_groups(now);
        }
        while let Some((since, number)) = self.free.first().copied()
            && is_old(since)
        {
            self.forget(number);
        }
        while self.dead.front().is_some_and(|buried| is_old(buried.since)) {
            self.unbury(0);
        }
    }

    /// Keeps a dead letter, whatever else there is: its event was kept until now. The oldest make room for it.
    pub(in crate::memory) fn bury(&mut self, now: Instant, letter: DeadLetter) {
        self.drop_old(now);
        self.bytes = self.bytes.saturating_add(letter.bytes.len());
        self.dead.push_back(Buried { letter, since: now });
        let excess = self.dead.len().saturating_sub(self.limits.dead_letters);
        for _ in 0..excess {
            self.unbury(0);
        }
        if excess > 0 {
            tracing::warn!(excess, "there are too many dead letters: the oldest were removed");
        }
    }

    pub(in crate::memory) fn unbury(&mut self, index: usize) {
        if let Some(buried) = self.dead.remove(index) {
            self.bytes = self.bytes.saturating_sub(buried.letter.bytes.len());
        }
    }

    /// Forgets what every group has settled, oldest first, as much as the new one needs.
    pub(in crate::memory) fn make_room(&mut self, now: Instant, bytes: usize) -> Result<()> {
        if bytes > self.limits.bytes {
            return Err(Error::new(ErrorKind::TooLarge, "publish: larger than all that may be kept")
                .with("bytes", bytes)
                .with("limit", self.limits.bytes));
        }
        if !self.fits(bytes) {
            self.drop_idle_groups(now);
        }
        let mut removed = 0_usize;
        while !self.fits(bytes)
            && let Some((_, number)) = self.free.first().copied()
        {
            self.forget(number);
            removed += 1;
        }
        if removed > 0 {
            tracing::warn!(
                events = removed,
                "events that no group waits for were removed before their time, to make room for new ones"
            );
        }
        if self.fits(bytes) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Full, "publish: the broker keeps as much as it may");
        let most = self.groups.iter().max_by_key(|(_, group)| group.len());
        let error = match most.filter(|(_, group)| group.len() > 0) {
            Some((name, group)) => {
                error.with("held back by group", name).with("unsettled there", group.len())
            }
            None => error.with("held back by group", "none"),
        };
        Err(error.with("dead letters", self.dead.len()))
    }

    fn fits(&self, bytes: usize) -> bool {
        self.kept.len() < self.limits.events && self.bytes.saturating_add(bytes) <= self.limits.bytes
    }

    fn forget(&mut self, number: u64) {
        let Some(kept) = self.kept.remove(&number) else { return };
        self.free.remove(&(kept.since, number));
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.ids.remove(&kept.event.id);
        let action = &kept.event.action_id;
        let Some(numbers) = self.by_action.get_mut(action) else { return };
        numbers.remove(&number);
        if numbers.is_empty() {
            self.by_action.remove(action);
            // A chain that began before the mark may still go on: the mark stays as long as an event would.
            let retention = self.limits.retention;
            if self.marks.get(action).is_some_and(|(_, when)| when.elapsed() >= retention) {
                self.marks.remove(action);
            }
        }
    }
}
