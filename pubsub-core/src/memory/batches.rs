//! Hands out one by one what was taken in batches, and tells how much is left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{BoxStream, Stream, StreamExt as _};

use crate::{Leased, Result};

/// The entries of a subscription.
pub(super) struct InBatches {
    batches: BoxStream<'static, Result<Vec<Leased>>>,
    left: VecDeque<Leased>,
}

impl InBatches {
    pub(super) fn new(batches: impl Stream<Item = Result<Vec<Leased>>> + Send + 'static) -> Self {
        Self { batches: batches.boxed(), left: VecDeque::new() }
    }
}

impl Stream for InBatches {
    type Item = Result<Leased>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(leased) = self.left.pop_front() {
                return Poll::Ready(Some(Ok(leased)));
            }
            match ready!(self.batches.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(batch)) => self.left = batch.into(),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.len(), None)
    }
}
