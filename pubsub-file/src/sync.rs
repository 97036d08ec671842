//! Locks and wake-ups of the broker's writing thread. In the crate's own tests they are those of the schedule checker, which
//! are these same ones outside a check.

#[cfg(not(test))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(test)]
pub(crate) use schedules::{Condvar, Mutex, MutexGuard, oneshot};
#[cfg(not(test))]
pub(crate) use tokio::sync::oneshot;
