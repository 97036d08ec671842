//! What the output of a command is doing, as seen by whoever decides about its end.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Shared by the two readers and the supervision of one command.
#[derive(Debug)]
pub(super) struct Activity {
    origin: Instant,
    /// When something was last read or handed on, in nanoseconds after `origin`.
    last: AtomicU64,
    /// How many of the readers wait for a store.
    handing_on: AtomicU32,
    open: watch::Sender<u32>,
    ending: watch::Sender<bool>,
}

impl Activity {
    /// Of this many readers.
    pub(super) fn new(readers: u32) -> Self {
        Self {
            origin: Instant::now(),
            last: AtomicU64::new(0),
            handing_on: AtomicU32::new(0),
            open: watch::Sender::new(readers),
            ending: watch::Sender::new(false),
        }
    }

    /// Something happens now.
    pub(super) fn touch(&self) {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(nanos, Ordering::Relaxed);
    }

    /// A reader waits for a store until the answer is dropped.
    pub(super) fn hand_on(&self) -> HandingOn<'_> {
        self.touch();
        self.handing_on.fetch_add(1, Ordering::Relaxed);
        HandingOn(self)
    }

    /// Waits until nothing has come for so long. The time that a store takes does not count: the command may be held up
    /// by it and cannot be blamed.
    pub(super) async fn quiet_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let since = if self.handing_on.load(Ordering::Relaxed) > 0 {
                now
            } else {
                self.origin + Duration::from_nanos(self.last.load(Ordering::Relaxed))
            };
            let Some(end) = since.checked_add(limit) else { return std::future::pending().await };
            if end <= now {
                return;
            }
            sleep_until(end).await;
        }
    }

    /// A reader is through.
    pub(super) fn close(&self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }

    /// Waits until all readers are through.
    pub(super) async fn closed(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Tells the readers to take what is there and end.
    pub(super) fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Waits until the readers are told so.
    pub(super) async fn ending(&self) {
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }
}

/// See [`Activity::hand_on`].
#[derive(Debug)]
pub(super) struct HandingOn<'a>(&'a Activity);

impl Drop for HandingOn<'_> {
    fn drop(&mut self) {
        self.0.handing_on.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}
