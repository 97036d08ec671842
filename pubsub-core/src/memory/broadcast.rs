//! Subscriptions without a group: each event to each subscriber, at most once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::log::{position, until};
use crate::{ByPattern, Error, ErrorKind, Event, Leased, Result, Subscription};

/// How many events a subscriber may be behind, and how many may be due later; beyond that it misses some and is told.
const BROADCAST_BUFFER: usize = 1024;

/// Those who hear of each event that they want.
#[derive(Default)]
pub(super) struct Listeners(Mutex<ByPattern<Outlet>>);

/// Where the events of one listener go.
struct Outlet {
    subscription: Subscription,
    heard: mpsc::Sender<Heard>,
    missed: Arc<AtomicU64>,
}

/// An event, or nothing where some are missing.
type Heard = Option<Leased>;

impl Listeners {
    pub(super) fn listen(&self, subscription: Subscription, closed: Arc<watch::Sender<bool>>) -> Listener {
        // One place more: for where some are missing.
        let (heard, events) = mpsc::channel(BROADCAST_BUFFER + 1);
        let missed = Arc::new(AtomicU64::new(0));
        let patterns = subscription.patterns().to_vec();
        let outlet = Outlet { subscription, heard, missed: Arc::clone(&missed) };
        self.outlets().add(&patterns, outlet, |outlet| !outlet.heard.is_closed());
        Listener { events, missed, closed, later: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.outlets().is_empty()
    }

    /// Tells those who want an event.
    pub(super) fn tell(&self, number: u64, event: &Event) {
        let outlets = self.outlets();
        let wanting = outlets.may_match(event).filter(|outlet| outlet.subscription.wants(event));
        wanting.for_each(|outlet| outlet.tell(number, event));
    }

    fn outlets(&self) -> MutexGuard<'_, ByPattern<Outlet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    fn tell(&self, number: u64, event: &Event) {
        let heard = if self.heard.capacity() > 1 {
            Some(Leased { event: event.clone(), position: position(number), lease: None })
        } else if self.missed.fetch_add(1, Ordering::AcqRel) == 0 {
            None
        } else {
            return;
        };
        // There is room, unless the listener has gone.
        let _ = self.heard.try_send(heard);
    }
}

/// One subscriber without a group.
pub(super) struct Listener {
    events: mpsc::Receiver<Heard>,
    missed: Arc<AtomicU64>,
    closed: Arc<watch::Sender<bool>>,
    later: BTreeMap<(Instant, String), Leased>,
}

impl Listener {
    /// The next event that is due; `None` once the broker is closed.
    pub(super) async fn next(&mut self) -> Option<Result<Leased>> {
        let mut closed = self.closed.subscribe();
        loop {
            let due = self.later.first_key_value().map(|((when, _), _)| *when);
            let timer = async {
                match due {
                    Some(when) => tokio::time::sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return None,
                () = timer => return self.later.pop_first().map(|(_, event)| Ok(event)),
                heard = self.events.recv() => heard?,
            };
            let Some(event) = heard else {
                return Some(Err(missed(self.missed.swap(0, Ordering::AcqRel))));
            };
            match event.event.deliver_at.and_then(|at| until(Instant::now(), at)) {
                None => return Some(Ok(event)),
                Some(_) if self.later.len() >= BROADCAST_BUFFER => return Some(Err(missed(1))),
                Some(when) => {
                    self.later.insert((when, event.position.as_str().to_owned()), event);
                }
            }
        }
    }
}

fn missed(events: u64) -> Error {
    Error::new(ErrorKind::Unavailable, "the subscriber was too slow and missed events of the broker")
        .with("events", events)
}
