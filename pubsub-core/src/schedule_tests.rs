//! What is put together by hand, under many schedules. Each part is also played with something broken in it, which the
//! checker has to catch: lost wake-ups, what is put back by nobody, locks that are none.

mod grouped;
mod keeper;
mod stop;

/// Schedules of one scene in every test run, and in the long form.
pub(crate) const QUICK: usize = 200;
pub(crate) const LONG: usize = 20_000;

/// Until a broken part has to be caught.
pub(crate) const BROKEN: usize = 2_000;
