//! What wakes a task: tokio's types, with points around their calls.

use crate::Flaw;
use crate::run::{has, point};

/// As [`tokio::sync::Notify`].
#[derive(Debug, Default)]
pub struct Notify(tokio::sync::Notify);

impl Notify {
    /// As [`tokio::sync::Notify::new`].
    #[must_use]
    pub const fn new() -> Self {
        Self(tokio::sync::Notify::const_new())
    }

    /// As [`tokio::sync::Notify::notify_one`].
    pub fn notify_one(&self) {
        point();
        if has(Flaw::ForgetfulNotify) {
            self.0.notify_waiters();
        } else {
            self.0.notify_one();
        }
        point();
    }

    /// As [`tokio::sync::Notify::notify_waiters`].
    pub fn notify_waiters(&self) {
        point();
        self.0.notify_waiters();
        point();
    }

    /// As [`tokio::sync::Notify::notified`].
    pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        point();
        self.0.notified()
    }
}

/// As [`tokio::sync::Mutex`], for a lock that guards nothing but a turn.
#[derive(Debug)]
pub struct AsyncMutex<T>(tokio::sync::Mutex<T>);

/// As [`tokio::sync::MutexGuard`].
#[derive(Debug)]
pub struct AsyncMutexGuard<'a, T>(Option<tokio::sync::MutexGuard<'a, T>>);

impl<T> AsyncMutex<T> {
    /// As [`tokio::sync::Mutex::new`].
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(tokio::sync::Mutex::const_new(value))
    }

    /// As [`tokio::sync::Mutex::try_lock`].
    ///
    /// # Errors
    /// Where another holds it.
    pub fn try_lock(&self) -> Result<AsyncMutexGuard<'_, T>, tokio::sync::TryLockError> {
        point();
        let locked = self.0.try_lock().map(Some);
        point();
        if locked.is_err() && has(Flaw::OpenLock) {
            return Ok(AsyncMutexGuard(None));
        }
        locked.map(AsyncMutexGuard)
    }

    /// As [`tokio::sync::Mutex::lock`].
    pub async fn lock(&self) -> AsyncMutexGuard<'_, T> {
        point();
        let guard = AsyncMutexGuard(Some(self.0.lock().await));
        point();
        guard
    }
}

impl<T> Drop for AsyncMutexGuard<'_, T> {
    fn drop(&mut self) {
        point();
        drop(self.0.take());
        point();
    }
}
