//! Which outcomes are tried again, how often, and when.

use std::time::Duration;

use crate::{Backoff, Outcome, Retryable, Verdict};

/// Which outcomes are tried again, how often, and when.
///
/// ```
/// use pubsub_core::{Outcome, Chain, RetryPolicy, Verdict};
/// let policy = RetryPolicy::default();
/// let failed = Verdict::new(Outcome::Failed, Chain::Stops);
/// assert!(policy.next(failed, 0).is_some() && policy.next(failed, 2).is_none(), "three attempts in all");
/// assert!(policy.next(Verdict::new(Outcome::TimedOut, Chain::Continues), 0).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many attempts in all, at least 1.
    pub attempts: u32,
    /// How long before each further one.
    pub backoff: Backoff,
    /// Which outcomes are tried again.
    pub outcomes: Vec<Outcome>,
}

impl Default for RetryPolicy {
    /// Three attempts where the work failed, after 1 s and then longer, at most 5 minutes.
    fn default() -> Self {
        let backoff = Backoff { base: Duration::from_secs(1), factor: 2, cap: Duration::from_secs(300) };
        Self { attempts: 3, backoff, outcomes: vec![Outcome::Failed] }
    }
}

impl RetryPolicy {
    /// One attempt.
    #[must_use]
    pub fn none() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// With another number of attempts in all.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// With other waits.
    #[must_use]
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// With other outcomes that are tried again.
    #[must_use]
    pub fn with_outcomes(mut self, outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        self.outcomes = outcomes.into_iter().collect();
        self
    }

    /// When to try again after so many failures before this one; `None` where this outcome is the conclusion.
    #[must_use]
    pub fn next(&self, verdict: Verdict, failures: u32) -> Option<Duration> {
        let again = verdict.retryable == Retryable::ByPolicy
            && self.outcomes.contains(&verdict.outcome)
            && failures.saturating_add(1) < self.attempts;
        again.then(|| self.backoff.delay(failures))
    }
}
