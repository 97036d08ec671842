//! The record of a run: read, and written where it is still the one that was read.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use object_store::UpdateVersion;
use pubsub_core::{
    Error, ErrorKind, LineNumber, LineRange, RECORD_VERSION, Result, RunId, RunRecord, RunStatus,
};
use serde::{Deserialize, Serialize};

use crate::layout::{self, Marker, Segment};
use crate::store::Inner;
use crate::view::{Part, parts_of};

/// How often a record is written anew where others are faster each time.
const MAX_TRIES: u32 = 50;

/// As many segments are named in the record: it is read for each run of a list.
const MOST_NAMED: usize = 100;

/// What the store itself says in a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Own {
    pub(crate) format: u32,
    /// A name that no other beginning of this run has.
    pub(crate) made: String,
    /// Bytes of the lines that are there, once the run has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// All segments by first number, last number, bytes of lines, and length, once the run has ended; not where they are
    /// many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    segments: Option<Vec<(LineNumber, LineNumber, u64, u64)>>,
}

/// A record as it lies there.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) record: RunRecord,
    pub(crate) own: Own,
    version: UpdateVersion,
}

#[derive(Deserialize)]
struct WithOwn {
    store: Own,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    record: &'a RunRecord,
    store: &'a Own,
}

impl Own {
    fn new() -> Self {
        let made = format!("{:016x}", fastrand::u64(..));
        Self { format: layout::FORMAT, made, bytes: None, segments: None }
    }

    /// The segments, where they are named here.
    pub(crate) fn segments(&self) -> Option<Vec<Segment>> {
        let segment = |&(first, last, printed, size): &(LineNumber, LineNumber, u64, u64)| Segment {
            range: LineRange::new(first, last),
            printed,
            size,
        };
        Some(self.segments.as_ref()?.iter().map(segment).collect())
    }

    /// What there is at the end of the run.
    fn sum_up(&mut self, parts: &[Part]) {
        let named = parts.iter().map(|Part { segment, .. }| {
            (segment.range.first, segment.range.last, segment.printed, segment.size)
        });
        self.bytes = Some(parts.iter().map(|part| part.segment.printed).sum());
        self.segments = (parts.len() <= MOST_NAMED).then(|| named.collect());
    }
}

impl Stored {
    fn read(bytes: &Bytes, version: UpdateVersion) -> Result<Self> {
        let corrupt = |e: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, "read what the store says of a run").with_source(e)
        };
        let WithOwn { store: own } = serde_json::from_slice(bytes).map_err(corrupt)?;
        if own.format > layout::FORMAT {
            let error = Error::new(ErrorKind::TooNew, "read what the store says of a run");
            return Err(error.with("version", own.format).with("newest known", layout::FORMAT));
        }
        Ok(Self { record: RunRecord::from_json(bytes)?, own, version })
    }

    pub(crate) fn marker(&self) -> Marker {
        marker(&self.record, &self.own)
    }

    /// The folder of its segments.
    pub(crate) fn folder(&self) -> String {
        layout::segments(&self.record.key.run_id, &self.own.made)
    }

    /// How many bytes of lines it has: what the store counted, or what its owner last said.
    pub(crate) fn bytes(&self) -> u64 {
        self.own.bytes.unwrap_or(self.record.counts.bytes)
    }
}

fn marker(record: &RunRecord, own: &Own) -> Marker {
    let (run, made) = (record.key.run_id.clone(), own.made.clone());
    Marker { began: layout::began(record.started_at), run, made }
}

impl Inner {
    /// `None` where the run is not there.
    pub(crate) async fn find(&self, doing: &'static str, run: &RunId) -> Result<Option<Stored>> {
        let read = self.bucket.get(doing, &layout::record(run)).await?;
        read.map(|read| Stored::read(&read.bytes, read.version)).transpose().map_err(|e| e.with("run", run))
    }

    /// Takes a record, where it moves the run forward, and fills holes whose lines have come.
    pub(crate) async fn put(&self, record: &RunRecord) -> Result<()> {
        let doing = "store a record";
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, doing).with("version", record.version));
        }
        self.ready().await?;
        for tries in 0..MAX_TRIES {
            let stored = self.find(doing, &record.key.run_id).await?;
            let (next, own) = match &stored {
                None => (record.clone(), Own::new()),
                Some(stored) => self.after(stored, record).await?,
            };
            if stored.as_ref().is_some_and(|stored| stored.record == next && stored.own == own)
                || self.write(stored.as_ref(), &next, &own).await?
            {
                return Ok(());
            }
            // Others write it just now: not all at once again.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=u64::from(tries.min(8)) * 10))).await;
        }
        Err(Error::new(ErrorKind::Unavailable, "others write the record of the run all the time")
            .with("run", &record.key.run_id))
    }

    /// What is to be there after this record came.
    pub(crate) async fn after(&self, stored: &Stored, record: &RunRecord) -> Result<(RunRecord, Own)> {
        let mut next = stored.record.followed_by(record).unwrap_or_else(|| stored.record.clone());
        let mut own = stored.own.clone();
        let ended = next.status == RunStatus::Completed;
        if ended || !next.holes.is_empty() {
            let parts = parts_of(self.listed(stored).await?);
            parts.iter().for_each(|part| next.fill(part.range));
            if ended {
                own.sum_up(&parts);
            }
        }
        Ok((next, own))
    }

    /// Writes markers, and then the record; answers whether it still was the one that was read.
    pub(crate) async fn write(&self, stored: Option<&Stored>, next: &RunRecord, own: &Own) -> Result<bool> {
        let doing = "store a record";
        let marker = marker(next, own);
        if stored.is_none_or(|stored| stored.marker() != marker) {
            let keys = marker.keys(&next.key, next.started_at);
            // A run that is there is found, whenever its writer dies.
            try_join_all(keys.iter().map(|key| self.bucket.put(doing, key, Bytes::new()))).await?;
        }
        let document = serde_json::to_vec(&Document { record: next, store: own });
        let document = document.map_err(|e| Error::new(ErrorKind::Internal, doing).with_source(e))?;
        let key = layout::record(&next.key.run_id);
        let written = self.bucket.put_over(doing, &key, document.into(), stored.map(|s| &s.version)).await?;
        if written {
            self.tell();
        }
        Ok(written)
    }
}
