//! Trying again, later each time.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Appended, LineBatch, OutputSink, Result, RunKey, RunRecord};

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

/// Repeats what a sink answers with a retryable error, and those lines that it wants again, a few times.
///
/// The fan-out does this by itself, without an end; this wrapper is for a sink that is used alone, as by
/// [`copy`](crate::copy()).
#[derive(Clone, Debug)]
pub struct Retrying<S> {
    sink: S,
    backoff: Backoff,
    tries: u32,
}

impl<S: OutputSink> Retrying<S> {
    /// Tries each call up to `tries` times.
    pub const fn new(sink: S, backoff: Backoff, tries: u32) -> Self {
        Self { sink, backoff, tries }
    }

    async fn repeat<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut tried = 0;
        loop {
            match call().await {
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
            answer.refused.extend(appended.refused);
            answer.again = appended.again;
            // In number order, also where a sink names them otherwise.
            answer.again.sort_unstable_by_key(|range| range.first);
            left =
                answer.again.iter().flat_map(|range| left.iter().filter_map(|b| b.slice(*range))).collect();
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
