//! When a member asks for what the server may have leased to it without its knowledge.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// For the way of a read to its server.
const WAY: Duration = Duration::from_secs(1);

/// The instants at which to ask, the earliest first.
///
/// What was asked by a call that failed may have been done by now; once a read that was given up can wait at its server no
/// longer; or later, as where a request is on its way for so long that its connection was given up, or where its server is the
/// master again only then.
#[derive(Default)]
pub(super) struct Doubts(VecDeque<Instant>);

impl Doubts {
    /// A call failed, of a member whose reads wait up to `read` and whose leases last for `lease`. Asking begins anew: what an
    /// earlier failure left is asked for at once as well, and at the end.
    pub(super) fn begin(&mut self, now: Instant, read: Duration, lease: Duration) {
        let mut all = [now, now + read + WAY, now + lease];
        all.sort_unstable();
        self.0 = all.into();
    }

    /// When to ask next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().copied()
    }

    /// It was asked, and answered.
    pub(super) fn asked(&mut self, at: Instant) {
        self.0.retain(|next| *next > at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_is_asked_at_once_and_once_reads_are_over_and_after_a_lease() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for (lease, later) in [(30, [6, 30]), (2, [2, 6])] {
            let mut doubts = Doubts::default();
            assert_eq!(doubts.next(), None);
            doubts.begin(now, 5 * second, lease * second);
            for next in [0, later[0], later[1]] {
                let at = now + next * second;
                assert_eq!(doubts.next(), Some(at));
                doubts.asked(at);
            }
            assert_eq!(doubts.next(), None);
        }
    }

    #[test]
    fn however_often_it_fails_there_are_three_questions() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut doubts = Doubts::default();
        for tenth in 0..10_000 {
            doubts.begin(now + tenth * second / 10, second, second);
            assert_eq!(doubts.0.len(), 3);
        }
        doubts.asked(now + 1_010 * second);
        assert_eq!(doubts.next(), None);
    }
}
