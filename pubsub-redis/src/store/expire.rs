//! Removes runs: one, or the oldest.

use pubsub_core::{Judgement, Keep, Result, RunId, RunKey};
use redis::Value;

use super::Inner;
use super::layout::RunKeys;
use super::list::Entered;
use super::record::Stored;
use super::server::{REMOVE, Said, call, said, taken, texts};
use crate::reply::{count, fixed, items};
use crate::script::Request;

/// How many runs are looked at in one round trip.
const PAGE: usize = 200;

const DOING: &str = "remove a run";

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    runs: u64,
    bytes: u64,
}

impl Inner {
    /// Also a run whose record cannot be read.
    pub(super) async fn remove(&self, run: &RunId) -> Result<bool> {
        let names = Request::new("HMGET").arg(self.layout.record(run));
        let names = self.ask(DOING, names.arg(&["action_id", "stage", "event_id"])).await?;
        let names = texts(items(names)?).into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
        let Ok([action, stage, event]) = <[String; 3]>::try_from(names.collect::<Vec<_>>()) else {
            return Ok(false);
        };
        let keys = self.layout.run(run, &action, &stage);
        let removed = self.remove_if(&keys, &[]).await? == Said::Done;
        if removed {
            let mut key = RunKey::new(action.parse()?, stage.parse()?, event.parse()?, 1);
            key.run_id = run.clone();
            self.leave(&key).await?;
        }
        Ok(removed)
    }

    /// Removes a run whose record is this one, or any where it is empty.
    async fn remove_if(&self, keys: &RunKeys, record: &[u8]) -> Result<Said> {
        Ok(said(DOING, self.ask(DOING, call(&REMOVE, keys).arg(record)).await?)?.0)
    }

    /// Takes it out of its sets, and tells.
    async fn leave(&self, key: &RunKey) -> Result<()> {
        let leave = |set: String| Request::new("ZREM").arg(set).arg(key.run_id.as_str());
        let mut requests: Vec<Request> = self.layout.sets(key).into_iter().map(leave).collect();
        requests.push(self.wake(key));
        self.run(DOING, requests).await?.try_for_each(|answer| answer.get(DOING).map(drop))
    }

    pub(super) async fn expire(&self, keep: &Keep) -> Result<u64> {
        let only_age = keep.runs.is_none() && keep.bytes.is_none();
        if only_age && keep.since.is_none() {
            return Ok(0);
        }
        let entered = self.oldest(keep.since.filter(|_| only_age)).await?;
        let mut there = if only_age { There::default() } else { self.count(&entered).await? };
        let (set, mut removed) = (self.layout.all_runs(), 0);
        for page in entered.chunks(PAGE) {
            let mut stored = self.records(&set, page.to_vec()).await?;
            stored.sort_by_cached_key(|stored| (stored.record.started_at, stored.record.key.run_id.clone()));
            for stored in stored {
                if !keep.is_exceeded(stored.record.started_at, there.runs, there.bytes) {
                    return Ok(removed);
                }
                if self.has_gone(&stored).await? {
                    removed += 1;
                    there.runs = there.runs.saturating_sub(1);
                    there.bytes = there.bytes.saturating_sub(stored.bytes);
                }
            }
        }
        Ok(removed)
    }

    /// Removes it where it is not running, by the record that was looked at.
    async fn has_gone(&self, stored: &Stored) -> Result<bool> {
        if self.seen(stored).judge((self.now)()) == Judgement::Running
            || self.remove_if(&stored.keys, &stored.text).await? != Said::Done
        {
            return Ok(false);
        }
        self.leave(&stored.record.key).await?;
        Ok(true)
    }

    async fn count(&self, entered: &[Entered]) -> Result<There> {
        let mut there = There::default();
        for page in entered.chunks(PAGE) {
            let ask = |entered: &Entered| {
                Request::new("HMGET").arg(self.layout.record(&entered.run)).arg(&["bytes", "version"])
            };
            let mut answers = self.run(DOING, page.iter().map(ask).collect()).await?;
            for _ in page {
                let [bytes, version] = fixed::<2>(taken(DOING, &mut answers)?)?;
                there.runs += u64::from(version != Value::Nil);
                there.bytes = there.bytes.saturating_add(count(bytes)?);
            }
        }
        Ok(there)
    }
}
