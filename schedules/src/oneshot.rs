//! A channel for one value: tokio's, with points around its calls.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot::error::{RecvError, TryRecvError};

use crate::run::point;

/// As [`tokio::sync::oneshot::channel`].
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    (Sender(sender), Receiver(receiver))
}

/// As [`tokio::sync::oneshot::Sender`].
#[derive(Debug)]
pub struct Sender<T>(tokio::sync::oneshot::Sender<T>);

/// As [`tokio::sync::oneshot::Receiver`].
#[derive(Debug)]
pub struct Receiver<T>(tokio::sync::oneshot::Receiver<T>);

impl<T> Sender<T> {
    /// As [`tokio::sync::oneshot::Sender::send`].
    ///
    /// # Errors
    /// Hands the value back where nobody waits for it.
    pub fn send(self, value: T) -> Result<(), T> {
        point();
        let sent = self.0.send(value);
        point();
        sent
    }

    /// As [`tokio::sync::oneshot::Sender::is_closed`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        point();
        self.0.is_closed()
    }
}

impl<T> Receiver<T> {
    /// As [`tokio::sync::oneshot::Receiver::try_recv`].
    ///
    /// # Errors
    /// Where nothing was sent, or nothing will be.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        point();
        self.0.try_recv()
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        point();
        Pin::new(&mut self.0).poll(context)
    }
}
