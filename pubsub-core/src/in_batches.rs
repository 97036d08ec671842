//! Hands out one by one what a broker takes in batches.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{BoxStream, Stream, StreamExt as _};

use crate::{LeaseId, Leased, Result};

/// What one call of a broker took. Whatever is not handed out is given back when it is dropped, wherever that happens:
/// in the stream, or on the way to one that was dropped meanwhile.
pub struct Taken {
    leased: VecDeque<Leased>,
    give_back: Option<GiveBack>,
}

type GiveBack = Box<dyn FnOnce(Vec<LeaseId>) + Send>;

impl Taken {
    /// With what is to be done with the leases that nobody got. It is called from a destructor: it must not wait.
    pub fn new(
        leased: impl IntoIterator<Item = Leased>,
        give_back: impl FnOnce(Vec<LeaseId>) + Send + 'static,
    ) -> Self {
        Self { leased: leased.into_iter().collect(), give_back: Some(Box::new(give_back)) }
    }
}

impl Taken {
    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leased.is_empty()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let left: Vec<LeaseId> = self.leased.drain(..).filter_map(|leased| leased.lease).collect();
        if let Some(give_back) = self.give_back.take()
            && !left.is_empty()
        {
            give_back(left);
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("left", &self.leased.len()).finish_non_exhaustive()
    }
}

/// The entries of a [`Subscribed`](crate::Subscribed), made of a stream of what each call took; a backend's stream of
/// batches waits until there is something, so an empty batch only costs a turn.
///
/// The lower bound of its `size_hint` says how many of the batch are left, as whoever keeps the leases needs it.
pub struct InBatches {
    /// Dropped first: giving back may need what the stream keeps open.
    current: Option<Taken>,
    batches: BoxStream<'static, Result<Taken>>,
}

impl InBatches {
    /// The entries of these batches.
    pub fn new(batches: impl Stream<Item = Result<Taken>> + Send + 'static) -> Self {
        Self { current: None, batches: batches.boxed() }
    }
}

impl Stream for InBatches {
    type Item = Result<Leased>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(leased) = self.current.as_mut().and_then(|taken| taken.leased.pop_front()) {
                return Poll::Ready(Some(Ok(leased)));
            }
            match ready!(self.batches.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(taken)) => self.current = Some(taken),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.current.as_ref().map_or(0, |taken| taken.leased.len()), None)
    }
}

impl fmt::Debug for InBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InBatches").field("current", &self.current).finish_non_exhaustive()
    }
}
