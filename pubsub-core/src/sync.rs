//! Locks, counters, tasks and wake-ups of what is put together by hand. In core's own tests they are those of the schedule
//! checker, which are these same ones outside a check.

#[cfg(not(test))]
pub(crate) use std::sync::atomic::AtomicUsize;
#[cfg(not(test))]
pub(crate) use std::sync::{Mutex, MutexGuard};

#[cfg(test)]
pub(crate) use schedules::{
    AbortHandle, AsyncMutex, AtomicUsize, JoinSet, Mutex, MutexGuard, Notify, oneshot,
};
#[cfg(not(test))]
pub(crate) use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};
#[cfg(not(test))]
pub(crate) use tokio::task::{AbortHandle, JoinSet};
