//! Trying again, later each time.

use std::time::Duration;

use async_trait::async_trait;

use crate::sink::in_order;
use crate::{Appended, Error, ErrorKind, LineBatch, OutputSink, Result, RunKey, RunRecord};

/// How long to wait before each further try: growing, capped, with jitter so that many do not come at once.
///
/// ```
/// use pubsub_core::Backoff;
/// use std::time::Duration;
/// let backoff = Backoff::default();
/// assert!(backoff.delay(0) >= Duration::from_millis(50) && backoff.delay(0) <= Duration::from_millis(100));
/// assert!(backoff.delay(1000) <= Duration::from_secs(30));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait at the longest.
    pub base: Duration,
    /// How much longer each wait is than the one before.
    pub factor: u32,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 100 ms, doubled up to 30 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), factor: 2, cap: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// Always the same wait.
    #[must_use]
    pub const fn fixed(wait: Duration) -> Self {
        Self { base: wait, factor: 1, cap: wait }
    }

    /// The wait before try `tries + 1`: half of it certain, half by chance.
    #[must_use]
    pub fn delay(&self, tries: u32) -> Duration {
        let grown = self.base.saturating_mul(self.factor.saturating_pow(tries.min(40))).min(self.cap);
        let half = grown / 2;
        half + half.mul_f64(fastrand::f64())
    }
}

/// How long one call to a sink may take, unless told otherwise.
pub const DEFAULT_CALL_LIMIT: Duration = Duration::from_secs(30);

/// The call's answer; [`TimedOut`](ErrorKind::TimedOut) where it takes longer, and the call is dropped.
pub(crate) async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorKind::TimedOut, "the sink did not answer"));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

/// Repeats what a sink answers with a retryable error or not in time, and those lines that it wants again, a few times.
///
/// The fan-out does this by itself, without an end; this wrapper is for a sink that is used alone, as by
/// [`copy`](crate::copy()).
#[derive(Clone, Debug)]
pub struct Retrying<S> {
    sink: S,
    backoff: Backoff,
    tries: u32,
    call_limit: Duration,
}

impl<S: OutputSink> Retrying<S> {
    /// Tries each call up to `tries` times.
    pub const fn new(sink: S, backoff: Backoff, tries: u32) -> Self {
        Self { sink, backoff, tries, call_limit: DEFAULT_CALL_LIMIT }
    }

    /// With another limit on the time of one call.
    #[must_use]
    pub const fn with_call_limit(mut self, limit: Duration) -> Self {
        self.call_limit = limit;
        self
    }

    async fn repeat<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tried = 0;
        loop {
            match limited(self.call_limit, call()).await {
                Err(error) if error.is_retryable() && tried + 1 < self.tries => {
                    tokio::time::sleep(self.backoff.delay(tried)).await;
                    tried += 1;
                }
                answer => return answer,
            }
        }
    }
}

#[async_trait]
impl<S: OutputSink> OutputSink for Retrying<S> {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.repeat(|| self.sink.begin(record)).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut answer = Appended::all();
        let mut left: Vec<LineBatch> = batches.to_vec();
        for tried in 0..self.tries.max(1) {
            let appended = self.repeat(|| self.sink.append(run, &left)).await?;
            left = appended.left_of(&left);
            answer.refused.extend(appended.refused);
            answer.dropped.extend(appended.dropped);
            answer.again = in_order(&appended.again);
            if left.is_empty() || tried + 1 >= self.tries {
                break;
            }
            tokio::time::sleep(self.backoff.delay(tried)).await;
        }
        Ok(answer)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.repeat(|| self.sink.finish(record)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;

    use super::{Backoff, Retrying};
    use crate::{Appended, ErrorKind, EventId, LineBatch, OutputSink, Result, RunKey, RunRecord};

    /// Leaves every call but the third unanswered.
    #[derive(Default)]
    struct Deaf(AtomicU32);

    impl Deaf {
        async fn hear(&self) {
            if self.0.fetch_add(1, Ordering::SeqCst) != 2 {
                std::future::pending::<()>().await;
            }
        }
    }

    #[async_trait]
    impl OutputSink for Deaf {
        async fn begin(&self, _: &RunRecord) -> Result<()> {
            self.hear().await;
            Ok(())
        }

        async fn append(&self, _: &RunKey, _: &[LineBatch]) -> Result<Appended> {
            self.hear().await;
            Ok(Appended::all())
        }

        async fn finish(&self, _: &RunRecord) -> Result<()> {
            self.hear().await;
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_is_dropped_and_repeated_a_few_times() {
        let key = RunKey::new("a".parse().unwrap(), "s".parse().unwrap(), EventId::generate(), 1);
        let record = RunRecord::begun(key.clone(), "w");
        let sink = || Retrying::new(Deaf::default(), Backoff::default(), 3);
        sink().begin(&record).await.unwrap();
        sink().append(&key, &[]).await.unwrap();
        sink().finish(&record).await.unwrap();
        let started = tokio::time::Instant::now();
        let twice =
            Retrying::new(Deaf::default(), Backoff::default(), 2).with_call_limit(Duration::from_secs(5));
        assert_eq!(twice.finish(&record).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 10);
    }
}
