//! Hears of cancels, on a connection of its own that is opened when the first lease is kept.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use pubsub_core::{Error, ErrorKind, Result};
use redis::Msg;
use tokio::sync::{Mutex, watch};

use crate::connect::Link;

type Messages = Pin<Box<dyn Stream<Item = Msg> + Send>>;

/// The cancels of a broker, heard by whoever waits for one: the first hears for all.
pub(super) struct Cancels {
    channel: String,
    heard: watch::Sender<u64>,
    messages: Mutex<Option<Messages>>,
}

impl Cancels {
    pub(super) fn new(channel: String) -> Self {
        Self { channel, heard: watch::Sender::new(0), messages: Mutex::new(None) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// Returns when something may have been cancelled that `seen` does not know of: also after the connection was lost,
    /// since what was told meanwhile was not heard.
    ///
    /// # Cancel safety
    /// What was heard is told before anything can be dropped.
    pub(super) async fn heard(&self, link: &Link, seen: &mut watch::Receiver<u64>) -> Result<()> {
        tokio::select! {
            changed = seen.changed() => {
                changed.map_err(|_| Error::new(ErrorKind::Closed, "the broker is closed"))
            }
            heard = self.hear(link) => {
                seen.mark_unchanged();
                heard
            }
        }
    }

    async fn hear(&self, link: &Link) -> Result<()> {
        let mut messages = self.messages.lock().await;
        if let Some(stream) = &mut *messages {
            if stream.next().await.is_none() {
                *messages = None;
            }
        } else {
            let mut connection = link.listening().await?;
            connection.subscribe(&self.channel).await.map_err(crate::error::failed("hear of cancels"))?;
            *messages = Some(Box::pin(connection.into_on_message()));
        }
        self.heard.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}
