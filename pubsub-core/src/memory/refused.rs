//! Refused lines in memory.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::{Error, ErrorKind, Refused, RefusedLines, Result, RunId};

/// What an entry costs beside its texts and bytes.
const ENTRY_BYTES: usize = size_of::<Refused>() + 256;

/// Keeps refused lines in memory, up to a bound: for tests, and as the readable reference.
///
/// A clone is another handle to the same lines.
///
/// ```
/// use pubsub_core::{
///     ActionId, EventId, LineBatch, LineEnd, LineNumber, MemoryRefusedLines, Refused, RefusedLines, RunKey, Stage, Stream,
///     Timestamp,
/// };
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let kept = MemoryRefusedLines::new(1 << 20);
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// let now = Timestamp::now();
/// let lines = LineBatch::split(LineNumber::FIRST, now, Stream::Stdout, "odd\n".into(), LineEnd::None)?;
/// kept.keep(&[Refused::new("elastic", key.clone(), lines, "mapping")]).await?;
/// assert_eq!(kept.list(Some(&key.run_id), 10).await?[0].reason, "mapping");
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct MemoryRefusedLines {
    max_bytes: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    refused: Vec<Refused>,
    bytes: usize,
}

impl MemoryRefusedLines {
    /// At most so many bytes of memory.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(refused: &Refused) -> usize {
    let lines = &refused.lines;
    ENTRY_BYTES + lines.bytes().len() + lines.len() * size_of::<u32>() + refused.reason.len()
}

#[async_trait]
impl RefusedLines for MemoryRefusedLines {
    async fn keep(&self, refused: &[Refused]) -> Result<()> {
        let mut kept = self.kept();
        let bytes = kept.bytes + refused.iter().map(cost).sum::<usize>();
        if bytes > self.max_bytes {
            return Err(Error::new(ErrorKind::Full, "keep refused lines"));
        }
        kept.bytes = bytes;
        kept.refused.extend_from_slice(refused);
        Ok(())
    }

    async fn list(&self, run: Option<&RunId>, limit: usize) -> Result<Vec<Refused>> {
        let mut seen = HashSet::new();
        let kept = self.kept();
        let of_run = kept.refused.iter().filter(|refused| run.is_none_or(|run| *run == refused.run.run_id));
        let once = of_run.filter(|refused| {
            seen.insert((refused.sink.clone(), refused.run.run_id.clone(), refused.lines.range()))
        });
        Ok(once.take(limit).cloned().collect())
    }

    async fn remove(&self, run: &RunId) -> Result<bool> {
        let mut kept = self.kept();
        let before = kept.refused.len();
        kept.refused.retain(|refused| refused.run.run_id != *run);
        kept.bytes = kept.refused.iter().map(cost).sum();
        Ok(kept.refused.len() < before)
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryRefusedLines;
    use crate::conformance::store::{SampleRun, lines};
    use crate::{ErrorKind, Refused, RefusedLines as _};

    #[tokio::test]
    async fn what_is_refused_is_listed_once_until_its_run_is_removed_and_never_over_the_bound() {
        let kept = MemoryRefusedLines::new(4096);
        let (one, two) = (SampleRun::new(), SampleRun::new());
        let odd = |run: &SampleRun, first: u64| {
            Refused::new("elastic", run.key().clone(), lines(first, ["odd"]), "mapping")
        };
        kept.keep(&[odd(&one, 7), odd(&one, 9)]).await.unwrap();
        kept.keep(&[odd(&two, 3), odd(&one, 7)]).await.unwrap();
        let numbers = async |run: Option<&SampleRun>, limit| {
            let listed = kept.list(run.map(SampleRun::id), limit).await.unwrap();
            listed.iter().map(|refused| refused.lines.first().get()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(None, 9).await, [7, 9, 3]);
        assert_eq!((numbers(Some(&one), 9).await, numbers(None, 1).await), (vec![7, 9], vec![7]));
        let many: Vec<Refused> = (20..40).map(|n| odd(&two, n)).collect();
        assert_eq!(kept.keep(&many).await.unwrap_err().kind(), ErrorKind::Full);
        assert_eq!(numbers(Some(&two), 99).await, [3], "all of them, or none");
        assert!(kept.remove(one.id()).await.unwrap() && !kept.remove(one.id()).await.unwrap());
        assert_eq!(numbers(None, 9).await, [3]);
    }
}
