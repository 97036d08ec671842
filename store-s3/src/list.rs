//! Which runs there are: markers tell it day by day, and the records decide.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use pubsub_core::{ErrorKind, Result, RunQuery, RunRecord};

use crate::layout::{self, BY_DAY, Marker};
use crate::record::Stored;
use crate::store::Inner;

/// How many records are read at once.
const AT_ONCE: usize = 16;

const DOING: &str = "list runs";

impl Inner {
    /// The records of the runs that fit, newest first.
    pub(crate) async fn matching(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        let mut found = Vec::new();
        self.visit(query, |stored| found.push(stored.record)).await?;
        Ok(found)
    }

    /// Shows the runs that fit, newest first, as they are stored.
    pub(crate) async fn visit(&self, query: &RunQuery, mut see: impl FnMut(Stored)) -> Result<()> {
        let mut left = query.limit.unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(());
        }
        if let Some(run) = &query.run {
            let found = self.find(DOING, run).await?;
            found.into_iter().filter(|stored| query.matches(&stored.record)).for_each(see);
            return Ok(());
        }
        for (_, folders) in self.days(query).await?.into_iter().rev() {
            let markers = self.markers(&folders, query).await?;
            let asked = markers.into_iter().rev().map(|marker| self.marked(marker));
            let mut records = stream::iter(asked).buffered(AT_ONCE);
            while let Some(stored) = records.try_next().await? {
                let Some(stored) = stored.filter(|stored| query.matches(&stored.record)) else { continue };
                see(stored);
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The days on which runs began that may fit, and the folders that have their markers.
    async fn days(&self, query: &RunQuery) -> Result<BTreeMap<String, Vec<String>>> {
        let folders = match (&query.event, &query.action, &query.stage) {
            (Some(event), _, _) => vec![layout::of_event(event.as_str())],
            (None, Some(action), Some(stage)) => vec![layout::of_stage(action.as_str(), stage.as_str())],
            (None, Some(action), None) => {
                let folder = layout::of_action(action.as_str());
                let stages = self.bucket.folders(DOING, &folder).await?;
                stages.into_iter().map(|stage| format!("{folder}/{stage}")).collect()
            }
            (None, None, _) => vec![BY_DAY.to_owned()],
        };
        let (since, until) = (query.since.map(layout::day), query.until.map(layout::day));
        let mut days: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for folder in folders {
            for day in self.bucket.folders(DOING, &folder).await? {
                let fits = since.as_ref().is_none_or(|since| day >= *since)
                    && until.as_ref().is_none_or(|until| day <= *until);
                if fits {
                    let within = format!("{folder}/{day}");
                    days.entry(day).or_default().push(within);
                }
            }
        }
        Ok(days)
    }

    /// The markers in these folders, by time begun and run id.
    async fn markers(&self, folders: &[String], query: &RunQuery) -> Result<BTreeSet<Marker>> {
        let since = query.since.map_or(0, layout::began);
        let until = query.until.map_or(u64::MAX, layout::began);
        let mut markers = BTreeSet::new();
        for folder in folders {
            let listed = self.bucket.list(DOING, folder).await?;
            let there = listed.iter().filter_map(|object| Marker::parse(&object.name));
            // A time before 1970 counts as 1970: the record decides.
            markers.extend(there.filter(|marker| marker.began >= since && marker.began <= until));
        }
        Ok(markers)
    }

    /// The run that a marker speaks of; `None` where it is another by now, or gone, or cannot be read.
    async fn marked(&self, marker: Marker) -> Result<Option<Stored>> {
        match self.find(DOING, &marker.run).await {
            Ok(stored) => Ok(stored.filter(|stored| stored.marker() == marker)),
            // One that cannot be read must not hide all others; asked for by its id, it is an error.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => {
                if let Some(times) = self.unreadable.happened(1) {
                    let error = error.chain();
                    tracing::warn!(run = %marker.run, error, times, "the record of a run cannot be read");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
