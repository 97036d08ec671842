//! Removes runs: one, or the oldest; and what writers and removers that died have left.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt as _;
use pubsub_core::{Judgement, Keep, Result, RunId, RunQuery, Timestamp};

use crate::layout::{self, BY_ACTION, BY_DAY, BY_EVENT, Marker, RUNS};
use crate::record::Stored;
use crate::store::Inner;

/// What nobody needs goes only once it is so old: whoever begins a run writes its markers first.
const LEFT_FOR: Duration = Duration::from_secs(3_600);

const DOING: &str = "remove a run";

impl Inner {
    /// Also a run whose record cannot be read: what lies in its folder goes.
    pub(crate) async fn remove(&self, run: &RunId) -> Result<bool> {
        let markers = match self.find(DOING, run).await {
            Ok(Some(stored)) => keys_of(&stored),
            // Its markers are found by whoever expires.
            Ok(None) | Err(_) => Vec::new(),
        };
        // The record first: without it nothing of the run is given any more.
        let record = layout::record(run);
        let folder = layout::run_folder(run);
        let there = self.bucket.list(DOING, &folder).await?;
        if there.is_empty() {
            return Ok(false);
        }
        self.bucket.delete(DOING, vec![record]).await?;
        let rest = self.bucket.list(DOING, &folder).await?;
        let segments = rest.iter().filter(|object| object.name.contains('/'));
        let mut keys: Vec<String> = segments.map(|object| format!("{folder}/{}", object.name)).collect();
        keys.extend(markers);
        self.bucket.delete(DOING, keys).await?;
        self.tell();
        Ok(true)
    }

    pub(crate) async fn expire(&self, keep: &Keep) -> Result<u64> {
        let only_age = keep.runs.is_none() && keep.bytes.is_none();
        if only_age && keep.since.is_none() {
            return Ok(0);
        }
        let mut query = RunQuery::all();
        query.until = keep.since.filter(|_| only_age);
        // Newest first. Of each only what is needed: there may be very many.
        let mut runs: Vec<Known> = Vec::new();
        self.visit(&query, |stored| runs.push(Known::of(&stored))).await?;
        let mut left = (runs.len() as u64, runs.iter().map(|run| run.bytes).fold(0, u64::saturating_add));
        let mut removed = 0;
        while let Some(oldest) = runs.pop().filter(|oldest| keep.is_exceeded(oldest.began, left.0, left.1)) {
            let stored = self.find(DOING, &oldest.run).await?;
            let has_ended =
                stored.is_none_or(|stored| stored.record.judge(Timestamp::now()) != Judgement::Running);
            if has_ended && self.remove(&oldest.run).await? {
                removed += 1;
                left = (left.0.saturating_sub(1), left.1.saturating_sub(oldest.bytes));
            }
        }
        self.tidy().await?;
        Ok(removed)
    }

    /// Takes away what died writers and removers left: markers of runs of which nothing is there, and what lies in folders
    /// of runs without a record.
    async fn tidy(&self) -> Result<()> {
        let before = Timestamp::now().minus(LEFT_FOR);
        let there: BTreeSet<String> = self.bucket.folders(DOING, RUNS).await?.into_iter().collect();
        let (mut marked, mut left) = (BTreeSet::new(), Vec::new());
        for root in [BY_DAY, BY_ACTION, BY_EVENT] {
            let mut markers = self.bucket.each(DOING, root);
            while let Some(object) = markers.try_next().await? {
                let marker = object.name.rsplit('/').next().and_then(Marker::parse);
                let Some(run) = marker.map(|marker| marker.run.to_string()) else { continue };
                if !there.contains(&run) && object.written < before {
                    left.push(format!("{root}/{}", object.name));
                } else if root == BY_DAY {
                    marked.insert(run);
                }
            }
        }
        for run in there.difference(&marked) {
            let folder = format!("{RUNS}/{run}");
            let objects = self.bucket.list(DOING, &folder).await?;
            if objects.iter().all(|object| object.written < before && object.name.contains('/')) {
                left.extend(objects.iter().map(|object| format!("{folder}/{}", object.name)));
            }
        }
        self.bucket.delete(DOING, left).await
    }
}

/// What has to be known of a run that may have to go.
struct Known {
    run: RunId,
    began: Timestamp,
    bytes: u64,
}

impl Known {
    fn of(stored: &Stored) -> Self {
        let record = &stored.record;
        Self { run: record.key.run_id.clone(), began: record.started_at, bytes: stored.bytes() }
    }
}

fn keys_of(stored: &Stored) -> Vec<String> {
    stored.marker().keys(&stored.record.key, stored.record.started_at).into()
}
