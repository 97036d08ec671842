//! Whether those who hold leases could renew them.

use std::time::{Duration, Instant};

/// What kept this process from the database, or moved the wall clock by which leases end: it kept the holders of leases
/// from renewing them as well, and they need a moment before what they hold counts as left.
#[derive(Debug)]
pub(super) struct Hindered {
    /// When that ended, and how long it had lasted.
    last: Option<(Instant, Duration)>,
    /// Both clocks at the last look, the wall's in microseconds.
    clocks: Option<(Instant, i64)>,
}

impl Hindered {
    pub(super) const fn new() -> Self {
        Self { last: None, clocks: None }
    }

    /// The database was another's for so long.
    pub(super) fn waited(&mut self, time: Duration) {
        let longer = self.last.filter(|(ended, before)| *before > time && ended.elapsed() < *before);
        self.last = Some(longer.unwrap_or((Instant::now(), time)));
    }

    /// Compares the wall clock with the one that only grows.
    pub(super) fn look(&mut self, wall: i64) {
        let now = Instant::now();
        if let Some((then, wall_then)) = self.clocks.replace((now, wall)) {
            let passed = i64::try_from(now.duration_since(then).as_micros()).unwrap_or(i64::MAX);
            let jumped = wall.saturating_sub(wall_then).saturating_sub(passed).unsigned_abs();
            self.waited(Duration::from_micros(jumped));
        }
    }

    /// How long leases of this length are still to be left alone. Their holders renew them every third of it, so that less
    /// than half of it ends none.
    pub(super) fn left(&self, lease: Duration) -> Duration {
        let Some((ended, _)) = self.last.filter(|(_, time)| *time >= lease / 2) else {
            return Duration::ZERO;
        };
        (lease / 2).saturating_sub(ended.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::Hindered;
    use std::time::Duration;

    const LEASE: Duration = Duration::from_secs(3600);

    #[test]
    fn a_wait_of_half_a_lease_or_a_jump_leaves_leases_alone_for_as_long() {
        let mut hindered = Hindered::new();
        hindered.waited(LEASE / 3);
        assert_eq!(hindered.left(LEASE), Duration::ZERO);
        hindered.waited(LEASE);
        hindered.waited(Duration::ZERO);
        assert!(hindered.left(LEASE) > LEASE / 3 && hindered.left(LEASE) <= LEASE / 2);
        assert_eq!(hindered.left(3 * LEASE), Duration::ZERO, "a longer lease was not over");
        for jump in [-1, 1] {
            let mut hindered = Hindered::new();
            hindered.look(7);
            hindered.look(8);
            assert_eq!(hindered.left(LEASE), Duration::ZERO);
            hindered.look(8 + jump * 3_600_000_000);
            assert!(hindered.left(LEASE) > LEASE / 3);
        }
    }
}
