//! Who listens from now on, and how far the partitions that they want are read.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pubsub_core::{ByPattern, Error, ErrorKind, Event, Subscription};
use tokio::sync::watch;

use super::super::keys::EntryId;
use super::MAX_READ;
use super::heard::{Passed, Queue};
use crate::reply::Entry;

/// All that listen with one reader.
pub(super) struct Listeners {
    state: Mutex<State>,
    /// Counts the partitions that were begun.
    begun: watch::Sender<u64>,
}

struct State {
    outlets: ByPattern<Outlet>,
    places: Vec<Place>,
    is_over: bool,
}

/// Where the events of one listener go.
struct Outlet {
    on: Subscription,
    partitions: Arc<[u16]>,
    queue: Weak<Queue>,
}

/// A partition.
#[derive(Clone, Default)]
struct Place {
    listeners: usize,
    cursor: Option<Cursor>,
}

/// What a stream has had so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    pub(super) last: EntryId,
    pub(super) added: u64,
}

/// How far a partition is read, and of how many entries that is the last.
#[derive(Clone)]
struct Cursor {
    at: Reached,
    expected: Option<Expected>,
}

/// What the server said that there was, after the connection was lost: once it is read, what is missing is known.
#[derive(Clone, Copy)]
struct Expected {
    reached: Reached,
    is_counted: bool,
}

impl Cursor {
    /// How many up to there were removed before they were read.
    fn settle(&mut self) -> u64 {
        let Some(Expected { reached, is_counted }) = self.expected.take() else { return 0 };
        let missing = if is_counted { reached.added.saturating_sub(self.at.added) } else { 0 };
        self.at.added = reached.added;
        missing
    }

    /// Whether an entry is new. Counts what is missing before it.
    fn reads(&mut self, id: EntryId, missing: &mut u64) -> bool {
        if id <= self.at.last {
            return false;
        }
        if self.expected.is_some_and(|expected| id > expected.reached.last) {
            *missing += self.settle();
        }
        self.at = Reached { last: id, added: self.at.added.saturating_add(1) };
        true
    }
}

impl State {
    fn cursor(&mut self, n: u16) -> Option<&mut Cursor> {
        self.places.get_mut(usize::from(n))?.cursor.as_mut()
    }

    /// Those who read one of these partitions.
    fn readers(&self, is_one: impl Fn(u16) -> bool) -> impl Iterator<Item = Arc<Queue>> {
        let reads = move |outlet: &&Outlet| outlet.partitions.iter().any(|n| is_one(*n));
        self.outlets.values().filter(reads).filter_map(|outlet| outlet.queue.upgrade())
    }
}

impl Listeners {
    pub(super) fn new(partitions: u16) -> Self {
        let places = vec![Place::default(); usize::from(partitions)];
        let state = State { outlets: ByPattern::default(), places, is_over: false };
        Self { state: Mutex::new(state), begun: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody reads for them any more.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Adds a listener: from now on it hears what is read. Whoever enters leaves again.
    pub(super) fn enter(&self, on: Subscription, partitions: &Arc<[u16]>) -> Arc<Queue> {
        let (queue, mut state) = (Arc::<Queue>::default(), self.lock());
        if state.is_over {
            queue.end();
        }
        for n in partitions.iter() {
            if let Some(place) = state.places.get_mut(usize::from(*n)) {
                place.listeners += 1;
            }
        }
        let patterns = on.patterns().to_vec();
        let outlet = Outlet { on, partitions: Arc::clone(partitions), queue: Arc::downgrade(&queue) };
        state.outlets.add(&patterns, outlet, |outlet| outlet.queue.strong_count() > 0);
        queue
    }

    pub(super) fn leave(&self, partitions: &[u16]) {
        let mut state = self.lock();
        for n in partitions {
            let Some(place) = state.places.get_mut(usize::from(*n)) else { continue };
            place.listeners = place.listeners.saturating_sub(1);
            if place.listeners == 0 {
                place.cursor = None;
            }
        }
    }

    /// Where a partition is not read yet, it is from here on. Whoever entered before this was asked misses nothing by it.
    pub(super) fn begin(&self, n: u16, at: Reached) {
        let mut state = self.lock();
        let Some(place) = state.places.get_mut(usize::from(n)) else { return };
        if place.listeners > 0 && place.cursor.is_none() {
            place.cursor = Some(Cursor { at, expected: None });
            drop(state);
            self.begun.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Of these partitions those that are read, each with its last entry.
    pub(super) fn cursors(&self, partitions: &Range<u16>) -> Vec<(u16, EntryId)> {
        let state = self.lock();
        let cursor = |n: u16| Some((n, state.places.get(usize::from(n))?.cursor.as_ref()?.at.last));
        partitions.clone().filter_map(cursor).collect()
    }

    pub(super) fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// Waits until others of these partitions are to be read than those that are asked.
    pub(super) async fn more_than(&self, partitions: &Range<u16>, asked: &[(u16, EntryId)]) {
        let is_asked = |n: &(u16, EntryId)| asked.iter().any(|asked| asked.0 == n.0);
        let others = |_: &u64| !self.cursors(partitions).iter().all(is_asked);
        // The sender is this.
        let _ = self.begun().wait_for(others).await;
    }

    /// Takes what was read of a partition, and answers what is new of it. Less than a read brings at most is all that is there.
    pub(super) fn take(&self, n: u16, entries: Vec<Entry>) -> Vec<(EntryId, Entry)> {
        let mut state = self.lock();
        let Some(cursor) = state.cursor(n) else { return Vec::new() };
        let (is_all, mut missing) = (entries.len() < MAX_READ, 0);
        let new = |entry: Entry| {
            let id = EntryId::parse(&entry.id)?;
            cursor.reads(id, &mut missing).then_some((id, entry))
        };
        let new: Vec<_> = entries.into_iter().filter_map(new).collect();
        if is_all {
            missing += cursor.settle();
        }
        if missing > 0 {
            state.readers(|other| other == n).for_each(|queue| queue.removed(missing));
        }
        new
    }

    /// Compares how far a partition was read with what the server says after the connection was lost.
    pub(super) fn compare(&self, n: u16, reached: Reached) {
        let mut state = self.lock();
        let Some(cursor) = state.cursor(n) else { return };
        let is_counted = reached.last >= cursor.at.last && reached.added >= cursor.at.added;
        if reached.last < cursor.at.last {
            *cursor = Cursor { at: reached, expected: None };
        } else {
            cursor.expected = Some(Expected { reached, is_counted });
        }
        if !is_counted {
            let what = "the server lost events; how many of them were not read yet is not known";
            let error = Arc::new(Error::new(ErrorKind::Unavailable, what).with("partition", n));
            state.readers(|other| other == n).for_each(|queue| queue.fail(&error));
        }
    }

    pub(super) fn removed(&self, n: u16, many: u64) {
        self.lock().readers(|other| other == n).for_each(|queue| queue.removed(many));
    }

    /// Tells those who read one of these partitions.
    pub(super) fn fail(&self, partitions: &Range<u16>, error: &Error) {
        let error = Arc::new(error.again());
        self.lock().readers(|n| partitions.contains(&n)).for_each(|queue| queue.fail(&error));
    }

    /// Whether anybody wants an event.
    pub(super) fn want(&self, event: &Event) -> bool {
        self.lock().outlets.may_match(event).any(|outlet| outlet.on.wants(event))
    }

    pub(super) fn pass(&self, passed: &Arc<Passed>) {
        let state = self.lock();
        let wanting = state.outlets.may_match(&passed.event).filter(|outlet| outlet.on.wants(&passed.event));
        wanting.filter_map(|outlet| outlet.queue.upgrade()).for_each(|queue| queue.pass(passed));
    }

    /// Nobody reads for them any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.readers(|_| true).for_each(|queue| queue.end());
    }
}

#[cfg(test)]
mod tests;
