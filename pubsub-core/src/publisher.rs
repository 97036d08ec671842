//! The trait that sends events.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Error, ErrorKind, Event, Position, Result};

/// Sends events.
///
/// # Cancel safety
/// A dropped call may have published any of its events; publish them again: an id that is there already is one event.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes events in their order and answers for each. An `Ok` survives a crash of any process here.
    ///
    /// Errors for one event: [`Full`](ErrorKind::Full) at the retention limit, naming the group that holds it back;
    /// [`TooLarge`](ErrorKind::TooLarge) with the limit; [`Unavailable`](ErrorKind::Unavailable) where it may or may not
    /// have happened and is to be repeated.
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>>;

    /// Waits for what is under way and refuses more with [`Closed`](ErrorKind::Closed).
    ///
    /// # Errors
    /// Where what was under way could not be finished.
    async fn close(&self) -> Result<()>;
}

/// What a broker says of an event that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it stands.
    pub position: Position,
    /// Whether it is new or was there already.
    pub novelty: Novelty,
}

/// Whether a published event is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Novelty {
    /// It was not there before.
    New,
    /// An event with this id was there; nothing changed.
    Duplicate,
}

/// Conveniences over [`Publisher`].
#[async_trait]
pub trait PublisherExt: Publisher {
    /// Publishes one event.
    ///
    /// # Errors
    /// As [`Publisher::publish`] answers for it.
    async fn publish_one(&self, event: Event) -> Result<Published> {
        let mut answers = self.publish(vec![event]).await;
        answers.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the broker answered nothing")))
    }
}

impl<T: Publisher + ?Sized> PublisherExt for T {}

#[async_trait]
impl<T: Publisher + ?Sized> Publisher for Arc<T> {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        (**self).publish(events).await
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}
