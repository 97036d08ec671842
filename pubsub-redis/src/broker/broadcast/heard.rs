//! What waits for one subscriber: bounded, and what there is no room for is counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pubsub_core::{Error, ErrorKind, Event};
use tokio::sync::Notify;

use super::super::keys::EntryId;

/// Most events that wait for a subscriber: as many as one read at 16 partitions brings.
const MAX_EVENTS: usize = 16 * super::MAX_READ;

/// Most bytes of events that wait for a subscriber, unless a single one has more.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Most failures that wait for it beside them.
const MAX_NOTES: usize = 64;

/// An event as it was read, shared by all that hear of it.
pub(super) struct Passed {
    pub(super) n: u16,
    pub(super) id: EntryId,
    pub(super) event: Event,
    pub(super) bytes: usize,
}

/// What a subscriber hears.
pub(super) enum Heard {
    Event(Arc<Passed>),
    Missed(Missed),
    Failed(Arc<Error>),
}

/// Events that a subscriber does not hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    /// Those that it wanted, and was too slow for.
    pub(super) slow: u64,
    /// Those that the server removed, and of which nobody knows who wanted them.
    pub(super) removed: u64,
}

impl Missed {
    pub(super) fn error(self) -> Error {
        if self.slow == 0 {
            let what = "events that may be the subscriber's were removed at the server before they were read";
            return Error::new(ErrorKind::Unavailable, what).with("events", self.removed);
        }
        let what = "the subscriber was too slow and missed events of the broker";
        let error = Error::new(ErrorKind::Unavailable, what).with("events", self.slow);
        if self.removed == 0 { error } else { error.with("removed at the server", self.removed) }
    }
}

/// What waits, and tells whoever waits for it.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    heard: VecDeque<Heard>,
    bytes: usize,
    is_over: bool,
}

impl Waiting {
    fn miss(&mut self, more: Missed) {
        if let Some(Heard::Missed(missed)) = self.heard.back_mut() {
            missed.slow = missed.slow.saturating_add(more.slow);
            missed.removed = missed.removed.saturating_add(more.removed);
        } else {
            self.heard.push_back(Heard::Missed(more));
        }
    }
}

impl Queue {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.lock());
        self.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, or counts it as missed.
    pub(super) fn pass(&self, passed: &Arc<Passed>) {
        self.change(|waiting| {
            let fits = waiting.bytes == 0 || waiting.bytes + passed.bytes <= MAX_BYTES;
            if fits && waiting.heard.len() < MAX_EVENTS {
                waiting.bytes += passed.bytes;
                waiting.heard.push_back(Heard::Event(Arc::clone(passed)));
            } else {
                waiting.miss(Missed { slow: 1, removed: 0 });
            }
        });
    }

    /// So many were removed at the server.
    pub(super) fn removed(&self, many: u64) {
        self.change(|waiting| waiting.miss(Missed { slow: 0, removed: many }));
    }

    pub(super) fn fail(&self, error: &Arc<Error>) {
        self.change(|waiting| {
            if waiting.heard.len() < MAX_EVENTS + MAX_NOTES {
                waiting.heard.push_back(Heard::Failed(Arc::clone(error)));
            }
        });
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.change(|waiting| waiting.is_over = true);
    }

    /// The next; `None` once it has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost where it is dropped.
    pub(super) async fn next(&self) -> Option<Heard> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(heard) = waiting.heard.pop_front() {
                    if let Heard::Event(passed) = &heard {
                        waiting.bytes = waiting.bytes.saturating_sub(passed.bytes);
                    }
                    return Some(heard);
                }
                if waiting.is_over {
                    return None;
                }
            }
            // What was told since is remembered: one alone waits here.
            self.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pubsub_core::{ActionId, EventType};

    fn passed(seq: u64, bytes: usize) -> Arc<Passed> {
        let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
        Arc::new(Passed { n: 0, id: EntryId { ms: 1, seq }, event, bytes })
    }

    async fn next(queue: &Queue) -> Result<u64, Missed> {
        match queue.next().await.unwrap() {
            Heard::Event(passed) => Ok(passed.id.seq),
            Heard::Missed(missed) => Err(missed),
            Heard::Failed(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn who_is_too_slow_gets_what_there_was_room_for_and_then_how_many_are_missing() {
        let (queue, room) = (Queue::default(), u64::try_from(MAX_EVENTS).unwrap());
        for seq in 0..room + 7 {
            queue.pass(&passed(seq, 10));
        }
        queue.removed(3);
        assert_eq!(next(&queue).await, Ok(0));
        queue.pass(&passed(room + 7, 10));
        for seq in 1..room {
            assert_eq!(next(&queue).await, Ok(seq));
        }
        let missed = next(&queue).await.unwrap_err();
        assert_eq!(missed, Missed { slow: 8, removed: 3 });
        let text = missed.error().to_string();
        assert!(text.contains("events=8") && text.contains("removed at the server=3"), "{text}");
        queue.pass(&passed(99, 10));
        assert_eq!(next(&queue).await, Ok(99));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_one_event_always_fits() {
        let queue = Queue::default();
        queue.pass(&passed(1, 2 * MAX_BYTES));
        queue.pass(&passed(2, 1));
        assert_eq!(next(&queue).await, Ok(1));
        assert_eq!(next(&queue).await, Err(Missed { slow: 1, removed: 0 }));
        queue.pass(&passed(3, 1));
        queue.end();
        assert_eq!(next(&queue).await, Ok(3));
        assert!(queue.next().await.is_none());
    }
}
