//! Keeps the leases of one subscription: renews them, tells what becomes of them, gives back what was dropped.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::delivery::LeaseState;
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::{
    Backoff, Claims, Error, ErrorKind, Grouped, LeaseId, Leases, Renewal, Result, Seldom, Settlement,
};

/// Shortest time between two renewals out of turn, however often the broker wakes us.
const WAKE_PAUSE: Duration = Duration::from_millis(10);

/// Shared by the stream, its deliveries and the task that keeps the leases.
pub(crate) struct Keeper {
    leases: Arc<dyn Leases>,
    claims: Arc<dyn Claims>,
    settling: Grouped<(LeaseId, Settlement), Result<()>>,
    kept: Mutex<Kept>,
    /// Something was dropped.
    dropped: Notify,
    /// It could not be given back.
    in_vain: Seldom,
}

#[derive(Default)]
struct Kept {
    /// Deliveries that are not settled. The subscription's prefetch and its user bound them.
    live: HashMap<LeaseId, Live>,
    /// Deliveries that were dropped and are to be given back: each was one of `live`.
    dropped: Vec<(LeaseId, Instant)>,
    stream_ended: bool,
}

/// A delivery that is not settled.
struct Live {
    state: LeaseState,
    /// Whom to tell: nobody, until somebody wants to know.
    told: Option<watch::Sender<LeaseState>>,
}

impl Live {
    fn becomes(&mut self, new: LeaseState) {
        if self.state == new || self.state == LeaseState::Lost {
            return;
        }
        self.state = new;
        if let Some(told) = &self.told {
            told.send_replace(new);
        }
    }
}

impl Keeper {
    pub(crate) fn new(leases: Arc<dyn Leases>, claims: Arc<dyn Claims>) -> Self {
        let (settling, kept, dropped) = (Grouped::gathering(), Mutex::default(), Notify::new());
        Self { leases, claims, settling, kept, dropped, in_vain: Seldom::default() }
    }

    pub(crate) fn claims(&self) -> &dyn Claims {
        &*self.claims
    }

    /// Keeps the leases of what one read took.
    pub(crate) fn watch(&self, leases: Vec<LeaseId>) {
        let held = |lease| (lease, Live { state: LeaseState::Held, told: None });
        self.kept().live.extend(leases.into_iter().map(held));
    }

    /// Tells what becomes of a lease.
    pub(crate) fn state(&self, lease: Option<&LeaseId>) -> watch::Receiver<LeaseState> {
        let mut kept = self.kept();
        let Some(live) = lease.and_then(|lease| kept.live.get_mut(lease)) else {
            // Nobody will say anything.
            return watch::channel(LeaseState::Held).1;
        };
        let state = live.state;
        let mut receiver = live.told.get_or_insert_with(|| watch::Sender::new(state)).subscribe();
        if state != LeaseState::Held {
            receiver.mark_changed();
        }
        receiver
    }

    pub(crate) async fn settle(&self, lease: LeaseId, settlement: Settlement) -> Result<()> {
        let settle = |all| self.leases.settle(all);
        let no_answer =
            || Err(Error::new(ErrorKind::Unavailable, "settle: the broker did not answer for it"));
        self.settling.call((lease, settlement), settle).await.unwrap_or_else(no_answer)
    }

    /// The delivery is settled.
    pub(crate) fn forget(&self, lease: &LeaseId) {
        let mut kept = self.kept();
        kept.live.remove(lease);
        if kept.stream_ended && kept.live.is_empty() {
            self.dropped.notify_one();
        }
    }

    /// The delivery was dropped unsettled.
    pub(crate) fn release(&self, lease: LeaseId) {
        let mut kept = self.kept();
        if kept.live.remove(&lease).is_some() {
            kept.dropped.push((lease, Instant::now()));
            self.dropped.notify_one();
        }
    }

    /// Nothing more will be taken.
    pub(crate) fn stream_ended(&self) {
        self.kept().stream_ended = true;
        self.dropped.notify_one();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews and gives back until the stream and all deliveries are gone.
    pub(crate) async fn keep(self: Arc<Self>, lease: Duration) {
        let third = lease / 3;
        let mut next = Instant::now() + third;
        let mut failures = 0;
        loop {
            if !self.give_back(lease).await {
                next = next.min(Instant::now() + Backoff::default().delay(failures).min(third));
            }
            if self.is_over() {
                return;
            }
            let woken = async {
                // A broker that cannot be watched is asked by time alone.
                if self.leases.wake().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = self.dropped.notified() => continue,
                () = tokio::time::sleep_until(next) => {}
                () = woken => tokio::time::sleep(WAKE_PAUSE).await,
            }
            if self.renew(failures).await {
                failures = 0;
                next = Instant::now() + third;
            } else {
                // An outage is no loss: whoever expired meanwhile and was not taken is renewed afterwards.
                next = Instant::now() + Backoff::default().delay(failures).min(third);
                failures = failures.saturating_add(1);
            }
        }
    }

    fn is_over(&self) -> bool {
        let kept = self.kept();
        kept.stream_ended && kept.live.is_empty() && kept.dropped.is_empty()
    }

    /// Renews everything in one call, after so many failures in a row; `false` where the broker could not be asked.
    async fn renew(&self, failures: u32) -> bool {
        let leases: Vec<LeaseId> = self.kept().live.keys().cloned().collect();
        if leases.is_empty() {
            return true;
        }
        let answers = match self.leases.renew(&leases).await {
            Ok(answers) => answers,
            // One warning for each outage.
            Err(error) if failures == 0 => {
                tracing::warn!(error = %error.chain(), leases = leases.len(), "leases could not be renewed; the broker is tried again");
                return false;
            }
            Err(error) => {
                tracing::debug!(error = %error.chain(), failures, "leases could not be renewed again");
                return false;
            }
        };
        if failures > 0 {
            tracing::info!(failures, leases = leases.len(), "leases are renewed again");
        }
        let mut kept = self.kept();
        for (lease, answer) in leases.iter().zip(answers) {
            let Some(live) = kept.live.get_mut(lease) else { continue };
            match answer {
                Renewal::Held => {}
                Renewal::Cancelled => live.becomes(LeaseState::Cancelled),
                Renewal::Lost => live.becomes(LeaseState::Lost),
            }
        }
        true
    }

    /// Gives back what was dropped. `false` where some is to be tried again; what the broker does not take back within
    /// a lease returns by itself.
    async fn give_back(&self, lease: Duration) -> bool {
        let dropped = std::mem::take(&mut self.kept().dropped);
        if dropped.is_empty() {
            return true;
        }
        let release = |lease: &LeaseId| (lease.clone(), Settlement::Release { after: Duration::ZERO });
        let answers = self.leases.settle(dropped.iter().map(|(lease, _)| release(lease)).collect()).await;
        let mut left = Vec::new();
        for (dropped, answer) in dropped.into_iter().zip(answers) {
            match answer {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::LeaseLost => {}
                Err(error) if error.is_retryable() && dropped.1.elapsed() < lease => left.push(dropped),
                Err(error) => self.given_in_vain(&error),
            }
        }
        let given = left.is_empty();
        self.kept().dropped.extend(left);
        given
    }

    fn given_in_vain(&self, error: &Error) {
        if let Some(events) = self.in_vain.happened(1) {
            tracing::warn!(error = %error.chain(), events, "events could not be given back; they return after their leases");
        }
    }
}
