//! Appends lines: each call stores them as segments of their own, so that what it answered is there for good.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Appended, Error, ErrorKind, LineBatch, Result, RunKey};

use crate::layout::{self, FORMAT_KEY, Segment};
use crate::segment::{Written, segments_of};
use crate::store::Inner;

/// How many segments of one call are stored at once.
const AT_ONCE: usize = 4;

const DOING: &str = "store lines";

impl Inner {
    pub(crate) async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let (given, most) = (batches.to_vec(), self.config.segment_bytes());
        // Compressing takes milliseconds, and others use this thread.
        let made = tokio::task::spawn_blocking(move || segments_of(&given, most));
        let Some(stored) = self.find(DOING, &run.run_id).await? else {
            return Err(self.not_found(run).await);
        };
        let segments = made.await.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))??;
        let folder = stored.folder();
        let stored = stream::iter(segments.into_iter().map(|segment| self.store_segment(&folder, segment)));
        stored.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        if !batches.is_empty() {
            self.tell();
        }
        Ok(Appended::all())
    }

    /// Stores a segment under its name. One that is there has the same lines.
    pub(crate) async fn store_segment(&self, folder: &str, written: Written) -> Result<()> {
        let segment = Segment { range: written.range, printed: written.printed, size: written.bytes() };
        let key = format!("{folder}/{}", segment.name());
        if self.bucket.put_new(DOING, &key, written.pieces).await?
            || self.bucket.size(DOING, &key).await?.is_some()
        {
            return Ok(());
        }
        // Some say so also of a write that another one hinders.
        Err(Error::new(ErrorKind::Unavailable, "a segment is said to be there, and is not")
            .with("object", key))
    }

    /// That the run is not there; unless all is gone, as where another bucket is behind the name for a while.
    async fn not_found(&self, run: &RunKey) -> Error {
        match self.bucket.size(DOING, FORMAT_KEY).await {
            Ok(Some(_)) => Error::new(ErrorKind::NotFound, DOING).with("run", &run.run_id),
            Ok(None) => Error::new(ErrorKind::Unavailable, "nothing that this store wrote is in the bucket")
                .with("object", layout::FORMAT_KEY),
            Err(error) => error,
        }
    }
}
