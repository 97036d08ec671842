//! Removes runs: one, or the oldest; and what writers and removers that died have left.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Judgement, Keep, Result, RunId, RunQuery, Timestamp};

use crate::layout::{self, BY_DAY, Marker, RUNS};
use crate::record::Stored;
use crate::store::Inner;

/// How many records are read at once.
const AT_ONCE: usize = 16;

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
        let until = keep.since.filter(|_| only_age);
        let mut query = RunQuery::all();
        query.until = until;
        let mut runs = self.matching(&query).await?;
        let mut left = (runs.len() as u64, runs.iter().map(Stored::bytes).fold(0, u64::saturating_add));
        let mut removed = 0;
        while let Some(oldest) = runs.pop() {
            if !keep.is_exceeded(oldest.record.started_at, left.0, left.1) {
                break;
            }
            if oldest.record.judge(Timestamp::now()) != Judgement::Running
                && self.remove(&oldest.record.key.run_id).await?
            {
                removed += 1;
                left = (left.0.saturating_sub(1), left.1.saturating_sub(oldest.bytes()));
            }
        }
        self.tidy().await?;
        Ok(removed)
    }

    /// Takes away what died writers and removers left: markers without their run, and folders of runs without a record.
    async fn tidy(&self) -> Result<()> {
        let before = Timestamp::now().minus(LEFT_FOR);
        let mut left = Vec::new();
        for root in [BY_DAY, "by-action", "by-event"] {
            let listed = self.bucket.list(DOING, root).await?;
            let old = listed.into_iter().filter(|object| object.written < before);
            let marked = old.filter_map(|object| {
                let marker = Marker::parse(object.name.rsplit('/').next()?)?;
                Some(async move {
                    Ok::<_, pubsub_core::Error>(
                        self.marked(marker).await?.is_none().then(|| format!("{root}/{}", object.name)),
                    )
                })
            });
            let gone: Vec<Option<String>> =
                stream::iter(marked).buffer_unordered(AT_ONCE).try_collect().await?;
            left.extend(gone.into_iter().flatten());
        }
        let listed = self.bucket.list(DOING, RUNS).await?;
        let run_of = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        let with_record: BTreeSet<String> = listed
            .iter()
            .filter(|object| object.name.ends_with("/record.json"))
            .map(|object| run_of(&object.name))
            .collect();
        let orphans = listed
            .iter()
            .filter(|object| object.written < before && !with_record.contains(&run_of(&object.name)));
        left.extend(orphans.map(|object| format!("{RUNS}/{}", object.name)));
        self.bucket.delete(DOING, left).await
    }
}

fn keys_of(stored: &Stored) -> Vec<String> {
    stored.marker().keys(&stored.record.key, stored.record.started_at).into()
}
