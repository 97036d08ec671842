//! Subscriptions without a group: each event to each subscriber, at most once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::log::{position, until};
use crate::{
    Begin, Claims, Conclusion, Error, ErrorKind, LeaseId, Leased, Leases, Renewal, Result, Settlement,
    Subscription,
};

/// How many events a subscriber may be behind, and how many may be due later; beyond that it misses some and is told.
pub(super) const BROADCAST_BUFFER: usize = 1024;

/// One subscriber without a group.
pub(super) struct Listener {
    pub(super) subscription: Subscription,
    pub(super) events: broadcast::Receiver<Leased>,
    pub(super) closed: Arc<watch::Sender<bool>>,
    pub(super) later: BTreeMap<(Instant, String), Leased>,
}

impl Listener {
    /// The next event that is wanted and due; `None` once the broker is closed.
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
            let event = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return None,
                () = timer => return self.later.pop_first().map(|(_, event)| Ok(event)),
                event = self.events.recv() => event,
            };
            match event {
                Ok(event) if !self.subscription.wants(&event.event) => {}
                Ok(event) => match event.event.deliver_at.and_then(|at| until(Instant::now(), at)) {
                    None => return Some(Ok(event)),
                    Some(_) if self.later.len() >= BROADCAST_BUFFER => return Some(Err(missed(1))),
                    Some(when) => {
                        self.later.insert((when, event.position.as_str().to_owned()), event);
                    }
                },
                Err(broadcast::error::RecvError::Lagged(events)) => return Some(Err(missed(events))),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn missed(events: u64) -> Error {
    Error::new(ErrorKind::Unavailable, "the subscriber was too slow and missed events of the broker")
        .with("events", events)
}

/// Where `Leased` comes from for those that hold no lease.
pub(super) fn handed(number: u64, event: crate::Event) -> Leased {
    Leased { event, position: position(number), lease: None }
}

/// What a subscription without a group answers: it holds no leases and makes no claims.
pub(super) struct NoLeases;

fn no_group() -> Error {
    Error::unsupported("a subscription without a group has no leases and no runs")
}

#[async_trait::async_trait]
impl Leases for NoLeases {
    async fn renew(&self, _: &[LeaseId]) -> Result<Vec<Renewal>> {
        Err(no_group())
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        settlements.iter().map(|_| Err(no_group())).collect()
    }

    async fn wake(&self) -> Result<()> {
        Err(no_group())
    }
}

#[async_trait::async_trait]
impl Claims for NoLeases {
    async fn begin(&self, _: &LeaseId) -> Result<Begin> {
        Err(no_group())
    }

    async fn conclude(&self, _: &LeaseId, _: Conclusion) -> Result<()> {
        Err(no_group())
    }
}
