//! Checks concurrency that is written by hand over many schedules of its threads: the real code, not a copy.
//!
//! A crate takes its locks, counters and wake-ups from a module of its own, which names the plain ones and, in the crate's
//! own tests, those from here. Outside a [`check`] these are the plain ones as well; inside, each call of one is a point
//! at which another thread may go on, and [shuttle](https://docs.rs/shuttle) decides which does. So the usual test run
//! has both, without a second build of everything.
//!
//! - Why not loom: it tries every schedule, also of weak memory, and for that needs its own types in all that the code
//!   uses. What we use are tokio's, which loom checks where they are made. What is left to us is how they are put
//!   together: few instructions between them, but long scenes, for which schedules drawn at random find more.
//! - Tokio's types stay the real ones, with a point before and after each call. Channels that stand in public signatures
//!   have no points of their own: those of the locks around them have to do.
//! - Every thread polls its own task, so a poll may be cut in two by another task's, as in the multi-thread runtime.
//! - No time passes: what only time would wake sleeps for ever, and that nobody can go on is a failure. So a timer never
//!   hides a lost wake-up.
//! - A check that cannot fail is none: [`catches`] runs a scene with a [`Flaw`] in these types, or one of broken code, and
//!   fails where that goes unnoticed.
//!
//! A failure prints its schedule; `shuttle::replay` plays it again.
//!
//! ```
//! use schedules::{Mutex, check, spawn};
//! use std::sync::Arc;
//! check(10, || async {
//!     let sum = Arc::new(Mutex::new(0));
//!     let adds = [1, 2].map(|n| {
//!         let sum = Arc::clone(&sum);
//!         spawn(async move { *sum.lock().unwrap() += n })
//!     });
//!     for add in adds {
//!         add.await.unwrap();
//!     }
//!     assert_eq!(*sum.lock().unwrap(), 3);
//! });
//! ```

mod locks;
pub mod oneshot;
mod run;
mod tasks;
mod wakes;

pub use locks::{AtomicUsize, Condvar, Mutex, MutexGuard};
pub use run::{
    Flaw, Joined, Thread, catches, catches_flaw, check, drawn, dropped_somewhere, ever, pause, point, spawn,
    thread,
};
pub use tasks::{AbortHandle, JoinSet};
pub use wakes::{AsyncMutex, AsyncMutexGuard, Notify};
