//! Points at which a test lets the process die; compiled in by the feature `fault-points` alone.
//!
//! `PIPELINE_FAULT=<point>:<nth>` names the point, and which time that it is reached is the last.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every point. `cargo xtask crash` fails where one of them never killed anybody.
pub const POINTS: [&str; 46] = [
    // What a transaction changed is there and not committed; the log of the commit is torn; it is committed and nobody
    // was answered.
    "broker.publish.changed",
    "broker.publish.torn",
    "broker.publish.committed",
    "broker.take.changed",
    "broker.take.torn",
    "broker.take.committed",
    "broker.begin.changed",
    "broker.begin.torn",
    "broker.begin.committed",
    "broker.conclude.changed",
    "broker.conclude.torn",
    "broker.conclude.committed",
    "broker.settle.changed",
    "broker.settle.torn",
    "broker.settle.committed",
    // In the step of an upkeep, not committed.
    "broker.retention",
    // Half of the bytes are written; half of their index entries; all, and nobody was answered.
    "store.output",
    "store.index",
    "store.appended",
    // A small file that is written as a whole, before and after it has its name.
    "store.record.written",
    "store.record.renamed",
    "store.id.written",
    "store.id.renamed",
    "spool.record.written",
    "spool.record.renamed",
    "spool.cursor.written",
    "spool.cursor.renamed",
    // Half of an entry of the catalog; the entry without its number.
    "store.catalog.torn",
    "store.catalog.entered",
    // Half of a frame; lines that are not on the disk yet at the end of a run; shipped and not noted; a segment that was
    // shipped; a run's folder half removed.
    "spool.append",
    "spool.sync",
    "spool.shipped",
    "spool.segment",
    "spool.remove",
    // Half of a block of what is over the limit of an output.
    "cap.ring",
    // In this order, the steps of a worker.
    "worker.begun",
    "run.recorded",
    "command.spawned",
    "command.guarded",
    "run.ended",
    "run.seal",
    "worker.sealed",
    "worker.concluded",
    "worker.outcome",
    "worker.published",
    "worker.settled",
];

/// The point that is named, and how often it may still be passed.
struct Fault {
    point: String,
    left: AtomicU64,
}

fn fault() -> Option<&'static Fault> {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    FAULT
        .get_or_init(|| {
            let named = std::env::var("PIPELINE_FAULT").ok()?;
            let (point, nth) = named.rsplit_once(':')?;
            Some(Fault { point: point.to_owned(), left: AtomicU64::new(nth.parse().ok()?) })
        })
        .as_ref()
}

/// Dies here where this point is named, and it is its time.
pub fn point(name: &str) {
    if is_due(name) {
        die();
    }
}

/// Counts that this point is reached; answers whether the process is to die there.
#[must_use]
pub fn is_due(name: &str) -> bool {
    debug_assert!(POINTS.contains(&name), "{name} stands in the table");
    fault().is_some_and(|fault| fault.point == name && fault.left.fetch_sub(1, Ordering::Relaxed) == 1)
}

/// Ends the process without a word, as a kill would: nothing is dropped, flushed or told.
pub fn die() -> ! {
    std::process::abort()
}
