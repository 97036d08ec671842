//! The locks and counters of the standard library.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use crate::Flaw;
use crate::run::{has, is_checking, point};

/// As [`std::sync::Mutex`].
#[derive(Debug)]
pub struct Mutex<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    Plain(std::sync::Mutex<T>),
    Checked(shuttle::sync::Mutex<T>),
}

/// As [`std::sync::MutexGuard`].
#[derive(Debug)]
pub struct MutexGuard<'a, T>(&'a Mutex<T>, Guard<'a, T>);

#[derive(Debug)]
enum Guard<'a, T> {
    Plain(std::sync::MutexGuard<'a, T>),
    Checked(shuttle::sync::MutexGuard<'a, T>),
}

impl<T> Mutex<T> {
    /// As [`std::sync::Mutex::new`].
    pub fn new(value: T) -> Self {
        Self(if is_checking() {
            Inner::Checked(shuttle::sync::Mutex::new(value))
        } else {
            Inner::Plain(std::sync::Mutex::new(value))
        })
    }

    /// As [`std::sync::Mutex::lock`].
    ///
    /// # Errors
    /// Where a holder panicked.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match &self.0 {
            Inner::Plain(plain) => held(plain.lock(), |guard| MutexGuard(self, Guard::Plain(guard))),
            Inner::Checked(checked) => held(checked.lock(), |guard| MutexGuard(self, Guard::Checked(guard))),
        }
    }
}

fn held<G, H>(locked: LockResult<G>, wrap: impl Fn(G) -> H) -> LockResult<H> {
    locked.map(&wrap).map_err(|poisoned| PoisonError::new(wrap(poisoned.into_inner())))
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.1 {
            Guard::Plain(guard) => guard,
            Guard::Checked(guard) => guard,
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.1 {
            Guard::Plain(guard) => guard,
            Guard::Checked(guard) => guard,
        }
    }
}

/// As [`std::sync::Condvar`]; in a check no time passes.
#[derive(Debug)]
pub struct Condvar(std::sync::Condvar, Option<shuttle::sync::Condvar>);

/// As [`std::sync::WaitTimeoutResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut(bool);

impl TimedOut {
    /// As [`std::sync::WaitTimeoutResult::timed_out`].
    #[must_use]
    pub const fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// As [`std::sync::Condvar::new`].
    #[must_use]
    pub fn new() -> Self {
        Self(std::sync::Condvar::new(), is_checking().then(shuttle::sync::Condvar::new))
    }

    /// As [`std::sync::Condvar::notify_one`].
    pub fn notify_one(&self) {
        match &self.1 {
            None => self.0.notify_one(),
            Some(checked) => checked.notify_one(),
        }
    }

    /// As [`std::sync::Condvar::wait_timeout`].
    ///
    /// # Errors
    /// Where a holder of the lock panicked.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        wait: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, TimedOut)> {
        let MutexGuard(mutex, guard) = guard;
        let guard = match guard {
            Guard::Checked(guard) if has(Flaw::LateCondvar) => {
                drop(guard);
                point();
                let MutexGuard(_, guard) = mutex.lock().unwrap_or_else(PoisonError::into_inner);
                guard
            }
            guard => guard,
        };
        match (guard, &self.1) {
            (Guard::Checked(guard), Some(checked)) => {
                held(checked.wait(guard), |guard| (MutexGuard(mutex, Guard::Checked(guard)), TimedOut(false)))
            }
            (Guard::Plain(guard), _) => held(self.0.wait_timeout(guard, wait), |(guard, late)| {
                (MutexGuard(mutex, Guard::Plain(guard)), TimedOut(late.timed_out()))
            }),
            (guard, None) => Ok((MutexGuard(mutex, guard), TimedOut(true))),
        }
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

/// As [`std::sync::atomic::AtomicUsize`]; in a check every thread sees the last value.
#[derive(Debug)]
pub struct AtomicUsize(std::sync::atomic::AtomicUsize);

impl AtomicUsize {
    /// As [`std::sync::atomic::AtomicUsize::new`].
    #[must_use]
    pub const fn new(value: usize) -> Self {
        Self(std::sync::atomic::AtomicUsize::new(value))
    }

    /// As [`std::sync::atomic::AtomicUsize::load`].
    pub fn load(&self, ordering: Ordering) -> usize {
        point();
        self.0.load(ordering)
    }

    /// As [`std::sync::atomic::AtomicUsize::fetch_add`].
    pub fn fetch_add(&self, value: usize, ordering: Ordering) -> usize {
        self.change(ordering, |before| before.wrapping_add(value))
    }

    /// As [`std::sync::atomic::AtomicUsize::fetch_sub`].
    pub fn fetch_sub(&self, value: usize, ordering: Ordering) -> usize {
        self.change(ordering, |before| before.wrapping_sub(value))
    }

    fn change(&self, ordering: Ordering, change: impl Fn(usize) -> usize) -> usize {
        point();
        if has(Flaw::TornCounter) {
            let before = self.0.load(Ordering::SeqCst);
            point();
            self.0.store(change(before), Ordering::SeqCst);
            return before;
        }
        // Orderings that are no loads fit here as well: the change always happens.
        self.0
            .fetch_update(ordering, Ordering::Relaxed, |before| Some(change(before)))
            .unwrap_or_else(|same| same)
    }
}
