//! Starts a process that no signal meant for others ends on the way.

use std::io::{self, Read as _};

/// Starts after which one is taken as it is: only a flood of signals gets there.
const TRIES: u32 = 100;

/// Starts a process. A new one is in the worker's process group until it gets its own, just before it executes its
/// program, so a signal that a supervisor sends to that group ends it there. Such a one never ran anything: it is
/// discarded, and started again.
pub(super) fn spawn<C>(
    mut start: impl FnMut() -> io::Result<C>,
    id: impl Fn(&C) -> Option<u32>,
    discard: impl Fn(C),
) -> io::Result<C> {
    for _ in 1..TRIES {
        let child = start()?;
        if !id(&child).is_some_and(ended_before_it_ran) {
            return Ok(child);
        }
        discard(child);
    }
    start()
}

/// Whether this child, which was not waited for, ended before it executed a program. Asked once its start returned:
/// by then it has executed it, or ends.
#[cfg(target_os = "linux")]
fn ended_before_it_ran(id: u32) -> bool {
    // Of the kernel's `PF_` flags (include/linux/sched.h).
    const EXITING: u32 = 0x4;
    const FORKED_AND_NOT_EXECUTED: u32 = 0x40;
    // More than what stands before the flags: six numbers, and a name of at most 64 bytes (kernel threads have the longest).
    let mut start = [0; 256];
    let read = std::fs::File::open(format!("/proc/{id}/stat")).and_then(|mut stat| stat.read(&mut start));
    let stat = String::from_utf8_lossy(read.ok().and_then(|read| start.get(..read)).unwrap_or_default());
    // `pid (name) state parent group session terminal terminal's-group flags …`; the name may hold anything, also a
    // parenthesis (proc(5)).
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING != 0 && flags & FORKED_AND_NOT_EXECUTED != 0)
}

#[cfg(not(target_os = "linux"))]
fn ended_before_it_ran(_id: u32) -> bool {
    // Elsewhere the system does not say so.
    false
}
