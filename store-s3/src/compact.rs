//! Merges the small segments of a run that has ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use pubsub_core::{Error, ErrorKind, Result, RunId, RunStatus};

use crate::blocks::{Fetched, fetch};
use crate::layout::Segment;
use crate::query::Wanted;
use crate::segment::{Block, Maker, Written};
use crate::store::{Inner, S3Store};
use crate::view::{Look, Part, View, parts_of};

/// About how many bytes of lines a merged segment has: what is held in memory, compressed, while it is made.
const MERGED_BYTES: u64 = 32 << 20;

/// How many requests are under way at once.
const AHEAD: usize = 4;

/// How often the record is written anew where others are faster each time.
const MAX_TRIES: usize = 10;

const DOING: &str = "merge segments";

impl S3Store {
    /// Merges the small segments of a run that has ended into larger ones; answers how many objects fewer there are. One
    /// that runs is left as it is, as are segments that are damaged. Readers and writers may go on meanwhile, and whoever
    /// is interrupted begins again.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a run that is not there, and where the bucket cannot be read or written.
    pub async fn compact(&self, run: &RunId) -> Result<usize> {
        let view = self.0.view(run, Look::Listed).await?;
        let view = view.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING).with("run", run))?;
        if view.stored.record.status == RunStatus::Running {
            return Ok(0);
        }
        let mut made = 0;
        for group in groups(&view.parts) {
            if let Some(merged) = merge(&self.0, &view, group).await? {
                self.0.store_segment(&view.stored.folder(), merged).await?;
                made += 1;
            }
        }
        // Whoever reads by the record must not look for what goes.
        self.0.name_segments(run, &view).await?;
        let gone = self.0.delete_covered(&view).await?;
        Ok(gone.saturating_sub(made))
    }
}

/// Neighbours that follow each other and are small enough together; not a segment that stands alone.
fn groups(parts: &[Part]) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let fits = groups.last().is_some_and(|group| {
            let printed: u64 = group.iter().chain([part]).map(|part| part.segment.printed).sum();
            let follows = group.last().is_some_and(|last| last.range.last.plus(1) == part.range.first);
            follows && printed <= MERGED_BYTES
        });
        match groups.last_mut() {
            Some(group) if fits => group.push(*part),
            _ => groups.push(vec![*part]),
        }
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// One segment of these parts; `None` where something of them cannot be read.
async fn merge(inner: &Arc<Inner>, view: &View, group: Vec<Part>) -> Result<Option<Written>> {
    let anything = Arc::new(Wanted::Anything);
    let mut fetched = fetch(Arc::clone(inner), view.stored.folder(), group, anything, AHEAD);
    let mut maker = Maker::new()?;
    while let Some(some) = fetched.next().await {
        let some = some?;
        let added = tokio::task::spawn_blocking(move || add(maker, &some));
        match added.await.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))?? {
            Some(more) => maker = more,
            None => return Ok(None),
        }
    }
    let done = tokio::task::spawn_blocking(move || maker.finish());
    done.await.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))?
}

/// `None` where something is damaged.
fn add(mut maker: Maker, fetched: &Fetched) -> Result<Option<Maker>> {
    let mut next = fetched.range.first;
    for (_, block) in fetched.blocks()? {
        let Block::Lines(lines) = block else { return Ok(None) };
        for batch in lines.batches().filter_map(|batch| batch.slice(fetched.range)) {
            if batch.first() != next {
                return Ok(None);
            }
            next = batch.last().plus(1);
            maker.add(&batch)?;
        }
    }
    Ok((next == fetched.range.last.plus(1)).then_some(maker))
}

impl Inner {
    /// Names in the record of a run that has ended which segments there are.
    async fn name_segments(&self, run: &RunId, view: &View) -> Result<()> {
        for _ in 0..MAX_TRIES {
            let stored =
                self.find(DOING, run).await?.filter(|stored| stored.own.made == view.stored.own.made);
            // Never made anew: it may have been removed meanwhile.
            let stored = stored.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING).with("run", run))?;
            let (record, own) = self.after(&stored, &stored.record).await?;
            if (record == stored.record && own == stored.own)
                || self.write(Some(&stored), &record, &own).await?
            {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "others write the record of the run all the time")
            .with("run", run))
    }

    /// Deletes segments of which nothing is needed beside the others; answers how many.
    async fn delete_covered(&self, view: &View) -> Result<usize> {
        let segments = self.listed(&view.stored).await?;
        let needed: BTreeSet<String> =
            parts_of(segments.clone()).iter().map(|part| part.segment.name()).collect();
        let names = segments.iter().map(Segment::name).filter(|name| !needed.contains(name));
        let keys: Vec<String> = names.map(|name| format!("{}/{name}", view.stored.folder())).collect();
        let count = keys.len();
        self.bucket.delete(DOING, keys).await?;
        Ok(count)
    }
}
