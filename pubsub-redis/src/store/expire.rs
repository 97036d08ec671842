//! Removes runs: one, or the oldest.

use pubsub_core::{Judgement, Keep, Result, RunId, RunKey, Timestamp};
use redis::Value;

use super::Inner;
use super::layout::RunKeys;
use super::list::Entered;
use super::record::Stored;
use super::server::{self, Said, call, said, taken, texts};

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
        let mut names = redis::cmd("HMGET");
        names.arg(self.layout.record(run)).arg(&["action_id", "stage", "event_id"]);
        let Value::Array(names) = self.server.ask(DOING, names).await? else {
            return Err(server::strange(DOING));
        };
        let names = texts(names).into_iter().map(|name| String::from_utf8_lossy(&name).into_owned());
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
        let mut remove = call(&self.server.remove, keys);
        remove.arg(record);
        Ok(said(DOING, self.server.ask(DOING, remove).await?)?.0)
    }

    /// Takes it out of its sets, and tells.
    async fn leave(&self, key: &RunKey) -> Result<()> {
        let mut commands = redis::pipe();
        for set in self.layout.sets(key) {
            commands.cmd("ZREM").arg(set).arg(key.run_id.as_str());
        }
        commands.add_command(self.wake(key));
        let mut answers = self.server.run(DOING, commands).await?;
        answers.try_for_each(|answer| answer.map(drop).map_err(crate::error::failed(DOING)))
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
        if stored.record.judge(Timestamp::now()) == Judgement::Running
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
            let mut commands = redis::pipe();
            for Entered { run, .. } in page {
                commands.cmd("HMGET").arg(self.layout.record(run)).arg(&["bytes", "version"]);
            }
            let mut answers = self.server.run(DOING, commands).await?;
            for _ in page {
                let Value::Array(fields) = taken(DOING, &mut answers)? else { continue };
                let [bytes, version] = fields.as_slice() else { continue };
                there.runs += u64::from(*version != Value::Nil);
                if let Value::BulkString(bytes) = bytes {
                    let bytes = std::str::from_utf8(bytes).ok().and_then(|bytes| bytes.parse().ok());
                    there.bytes = there.bytes.saturating_add(bytes.unwrap_or(0));
                }
            }
        }
        Ok(there)
    }
}
