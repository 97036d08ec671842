//! Removes runs: one, or the oldest.

use mongodb::bson::{Document, doc};
use pubsub_core::{Judgement, Keep, Result, RunId, Timestamp};

use crate::batch::documents;
use crate::layout::Ids;
use crate::run::{Found, Stored, found, is_run, number, wake};
use crate::store::Inner;

const DOING: &str = "remove a run";

/// How many runs are looked at in one request.
const BATCH: u32 = 200;

impl Inner {
    /// Also a run whose record cannot be read, and what another has begun to remove.
    pub(crate) async fn remove(&self, run: &RunId) -> Result<bool> {
        let runs = self.link.collections(DOING).await?.runs;
        let asked = runs.find_one(doc! { "_id": run.as_str() });
        let asked = asked.projection(doc! { "made": 1, "action_id": 1 });
        let Some(document) = self.link.answer(DOING, asked).await? else { return Ok(false) };
        let text = |name| document.get_str(name).unwrap_or_default();
        let (made, action) = (text("made"), text("action_id"));
        self.mark(doc! { "_id": run.as_str(), "made": made }, action).await?;
        self.clear(DOING, run, made).await
    }

    /// Says that the run goes, which no reader sees from now on; whoever finds it so brings it to an end.
    async fn mark(&self, wanted: Document, action: &str) -> Result<bool> {
        let runs = self.link.collections(DOING).await?.runs;
        let mark = doc! { "$set": { "removing": true, "wake": wake(action) } };
        Ok(self.link.answer(DOING, runs.update_one(wanted, mark)).await?.matched_count > 0)
    }

    /// Removes what is marked: its lines, and then its document. `false` where another did.
    pub(crate) async fn clear(&self, doing: &'static str, run: &RunId, made: &str) -> Result<bool> {
        self.known.forget(run);
        self.remove_lines(&Ids::of(run, made)).await?;
        let runs = self.link.collections(doing).await?.runs;
        let gone = runs.delete_one(doc! { "_id": run.as_str(), "made": made, "removing": true });
        Ok(self.link.answer(doing, gone).await?.deleted_count > 0)
    }

    pub(crate) async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.clear_marked().await?;
        let only_age = keep.runs.is_none() && keep.bytes.is_none();
        if only_age && keep.since.is_none() {
            return Ok(0);
        }
        let (mut runs, mut bytes) = if only_age { (0, 0) } else { self.count().await? };
        let mut wanted = doc! { "removing": { "$exists": false } };
        if let Some(since) = keep.since.filter(|_| only_age) {
            wanted.insert("began", doc! { "$lt": since.as_micros() });
        }
        let mut removed = 0;
        let collection = self.link.collections(DOING).await?.runs;
        let asked = collection.find(wanted).sort(doc! { "began": 1, "_id": 1 }).batch_size(BATCH).batch();
        let mut oldest = self.link.answer(DOING, asked).await?;
        while let Some(batch) = self.link.batch(DOING, &mut oldest).await? {
            for document in documents(DOING, &batch)? {
                let stored = match found(document) {
                    Ok(Found::Run(stored)) => stored,
                    Ok(Found::Removing { .. }) => continue,
                    Err(error) => {
                        self.pass_over(document.get_str("_id").ok(), &error);
                        continue;
                    }
                };
                if !keep.is_exceeded(stored.record.started_at, runs, bytes) {
                    return Ok(removed);
                }
                if self.has_gone(&stored).await? {
                    removed += 1;
                    runs = runs.saturating_sub(1);
                    bytes = bytes.saturating_sub(stored.bytes);
                }
            }
        }
        Ok(removed)
    }

    /// Removes it where it is not running, by the record that was looked at.
    async fn has_gone(&self, stored: &Stored) -> Result<bool> {
        let key = &stored.record.key;
        if stored.record.judge(Timestamp::now()) == Judgement::Running {
            return Ok(false);
        }
        let mut seen = is_run(&key.run_id, &stored.made);
        seen.insert("writes", stored.writes);
        Ok(self.mark(seen, key.action_id.as_str()).await?
            && self.clear(DOING, &key.run_id, &stored.made).await?)
    }

    /// Brings to an end what others have marked and left.
    async fn clear_marked(&self) -> Result<()> {
        let runs = self.link.collections(DOING).await?.runs;
        let asked =
            runs.find(doc! { "removing": true }).projection(doc! { "made": 1 }).batch_size(BATCH).batch();
        let mut marked = self.link.answer(DOING, asked).await?;
        while let Some(batch) = self.link.batch(DOING, &mut marked).await? {
            for document in documents(DOING, &batch)? {
                let (run, made) = (document.get_str("_id"), document.get_str("made"));
                if let (Ok(run), Ok(made)) = (run.map(RunId::new), made) {
                    self.clear(DOING, &run?, made).await?;
                }
            }
        }
        Ok(())
    }

    /// How many runs there are, and how many bytes of lines.
    async fn count(&self) -> Result<(u64, u64)> {
        let runs = self.link.collections(DOING).await?.runs;
        let sums = doc! { "_id": null, "runs": { "$sum": 1_i64 }, "bytes": { "$sum": "$bytes" } };
        let asked = [doc! { "$match": { "removing": { "$exists": false } } }, doc! { "$group": sums }];
        let mut sums = self.link.answer(DOING, runs.aggregate(asked)).await?;
        Ok(match self.link.answer(DOING, sums.advance()).await? {
            true => (number(sums.current(), "runs"), number(sums.current(), "bytes")),
            false => (0, 0),
        })
    }
}
