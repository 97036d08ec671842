//! Whether those who hold leases could renew them.

use std::time::{Duration, Instant};

/// What kept this process from the database kept the holders of leases from renewing them as well: they need a moment
/// before what they hold counts as left.
#[derive(Debug)]
pub(super) struct Hindered {
    /// When that ended, and how long it had lasted.
    last: Option<(Instant, Duration)>,
}

impl Hindered {
    pub(super) const fn new() -> Self {
        Self { last: None }
    }

    /// The database was another's for so long.
    pub(super) fn waited(&mut self, time: Duration) {
        let longer = self.last.filter(|(ended, before)| *before > time && ended.elapsed() < *before);
        self.last = Some(longer.unwrap_or((Instant::now(), time)));
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
    fn a_wait_of_half_a_lease_leaves_leases_alone_for_as_long() {
        let mut hindered = Hindered::new();
        hindered.waited(LEASE / 3);
        assert_eq!(hindered.left(LEASE), Duration::ZERO);
        hindered.waited(LEASE);
        hindered.waited(Duration::ZERO);
        assert!(hindered.left(LEASE) > LEASE / 3 && hindered.left(LEASE) <= LEASE / 2);
        assert_eq!(hindered.left(3 * LEASE), Duration::ZERO, "a longer lease was not over");
    }
}
