//! Signals to this program.

use std::time::Duration;

use pubsub_pipeline::{Cause, Stopper};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::codes::{Done, Failure};

/// How long a cut may take: KILL was sent, what is left is to say so. A worker whose store takes nothing needs 5 s to give
/// its event back.
const CUT: Duration = Duration::from_secs(8);

/// A signal that asks this program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Interrupt,
    Terminate,
}

impl Asked {
    /// The exit code of a program that it ended.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    /// The end of what was asked to stop: its failure is told, and its code is that of the signal.
    fn all_the_same<T>(self, done: Done<T>) -> Done<(Option<T>, Option<Self>)> {
        match done {
            Ok(done) => Ok((Some(done), Some(self))),
            Err(Failure::Error(error)) => {
                tracing::warn!(error = %error.chain(), "stopped by a signal");
                Ok((None, Some(self)))
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Takes the signals from the system: from now on they end nothing by themselves.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// A dropped call loses none.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Asked::Interrupt,
            Some(()) = self.terminate.recv() => Asked::Terminate,
            else => std::future::pending().await,
        }
    }

    /// Does what comes before any work, unless a signal comes first.
    pub(crate) async fn unless<T>(&mut self, start: impl Future<Output = Done<T>>) -> Done<Result<T, Asked>> {
        tokio::select! {
            started = start => Ok(Ok(started?)),
            asked = self.next() => Ok(Err(asked)),
        }
    }

    /// Waits for the end of work that `stopper` stops. The first signal asks it to stop, and `asked` is called; the
    /// second cuts it, as does the end of the time that it has then, where that is limited. What has not ended soon after
    /// that is left behind.
    pub(crate) async fn watch<T>(
        &mut self,
        ended: impl Future<Output = Done<T>>,
        stopper: &Stopper,
        asked: impl FnOnce() -> Done<()>,
        limit: Option<Duration>,
    ) -> Done<(Option<T>, Option<Asked>)> {
        let mut ended = std::pin::pin!(ended);
        let first = tokio::select! {
            done = &mut ended => return Ok((Some(done?), None)),
            first = self.next() => first,
        };
        asked()?;
        stopper.stop(Cause::Shutdown);
        tokio::select! {
            done = &mut ended => return first.all_the_same(done),
            _ = self.next() => {}
            () = over(limit) => {}
        }
        stopper.cut(Cause::Shutdown);
        match tokio::time::timeout(CUT, ended).await {
            Ok(done) => first.all_the_same(done),
            Err(_) => Ok((None, Some(first))),
        }
    }
}

/// Returns after the limit; never where there is none.
async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
