//! What the server gives in batches of documents.

use std::time::Duration;

use futures::StreamExt as _;
use mongodb::bson::RawDocument;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use pubsub_core::{Error, ErrorKind, Result};

use crate::connect::Link;
use crate::error::failed;

impl Link {
    /// The next batch; `None` after the last.
    pub(crate) async fn batch(
        &self,
        doing: &'static str,
        cursor: &mut RawBatchCursor,
    ) -> Result<Option<RawBatch>> {
        self.batch_within(self.config().answer_limit(), doing, cursor).await
    }

    /// The same with a limit of its own.
    pub(crate) async fn batch_within(
        &self,
        limit: Duration,
        doing: &'static str,
        cursor: &mut RawBatchCursor,
    ) -> Result<Option<RawBatch>> {
        self.answer_within(limit, doing, async { cursor.next().await.transpose() }).await
    }
}

/// The documents of a batch, as they lie in it.
pub(crate) fn documents<'a>(doing: &'static str, batch: &'a RawBatch) -> Result<Vec<&'a RawDocument>> {
    let document = |value: mongodb::bson::error::Result<mongodb::bson::RawBsonRef<'a>>| {
        let document = value.ok().and_then(|value| value.as_document());
        document
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, doing).with_source("the server gave no document"))
    };
    batch.doc_slices().map_err(failed(doing))?.into_iter().map(document).collect()
}
