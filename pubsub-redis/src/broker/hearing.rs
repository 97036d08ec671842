//! Whether the server was out of reach for long: then leases may have ended whose holders live.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a member heard of the server last, and up to when it leaves alone what ended meanwhile.
///
/// A member hears of the server at least each third of a lease. Where it did not for longer, as while a server sleeps or
/// starts anew, all others may have been cut off as well: for a lease they get the time to renew what they hold. So they do
/// from a member that has just joined, for it does not know what was before.
pub(super) struct Hearing {
    lease: Duration,
    state: Mutex<State>,
}

struct State {
    heard: Instant,
    spares_until: Instant,
}

impl Hearing {
    pub(super) fn new(lease: Duration) -> Self {
        let now = Instant::now();
        Self { lease, state: Mutex::new(State { heard: now, spares_until: now + lease }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server answered.
    pub(super) fn heard(&self) {
        let (now, mut state) = (Instant::now(), self.lock());
        // Whoever renewed a third of a lease before a shorter time has not lost anything by it.
        if now.duration_since(state.heard) > self.lease * 2 / 3 {
            state.spares_until = now + self.lease;
        }
        state.heard = now;
    }

    /// How long leases that ended are still left alone.
    pub(super) fn spares(&self) -> Option<Duration> {
        let left = self.lock().spares_until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::Hearing;

    const LEASE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn only_at_first_and_after_a_long_silence_are_leases_spared_and_only_for_one_lease() {
        let hearing = Hearing::new(LEASE);
        assert_eq!(hearing.spares(), Some(LEASE), "of what was before it knows nothing");
        for thirds in 1..10 {
            advance(LEASE / 3).await;
            hearing.heard();
            assert_eq!(hearing.spares().is_some(), thirds < 3);
        }
        advance(LEASE).await;
        assert_eq!(hearing.spares(), None, "what is said now is not known");
        hearing.heard();
        assert_eq!(hearing.spares(), Some(LEASE));
        advance(LEASE / 3).await;
        hearing.heard();
        assert_eq!(hearing.spares(), Some(LEASE * 2 / 3), "that it goes on to answer makes it no longer");
        advance(LEASE * 2 / 3).await;
        assert_eq!(hearing.spares(), None);
    }
}
