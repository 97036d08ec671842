//! The process group of a command.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

use super::guardian::Guarded;

/// How long killed processes may take to be gone. What is not gone by then hangs in the system (a dead network file
/// system), runs nothing more of its own, and is told of.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The system does not tell when a group becomes empty, so that is looked at: soon, then more rarely.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// A command and what it started, as far as that stayed in its group. Dropping it kills what is left.
///
/// The number of a group cannot be given to another process while anything of the group lives or its leader was not
/// waited for. Between the leader's wait and the look at the group nothing is awaited, and numbers are given in turn, so
/// no signal reaches a stranger.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    id: Pid,
    /// `None` once the group is known to be empty.
    guarded: Option<Guarded>,
}

/// Whether killed processes are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Killed {
    Gone,
    Hanging,
}

impl Group {
    /// The group that this child leads.
    pub(super) fn new(child: Child, id: Pid, guarded: Guarded) -> Self {
        Self { child, id, guarded: Some(guarded) }
    }

    /// Waits for the leader. `None` where its status is lost, as when the application ignores its children.
    ///
    /// # Cancel safety
    /// Nothing is lost; called again it gives the same answer.
    pub(super) async fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.wait().await.ok();
        self.look();
        status
    }

    /// How the leader ended, where it has by now.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Whether the last look found nothing of it.
    pub(super) const fn is_empty(&self) -> bool {
        self.guarded.is_none()
    }

    /// Waits until nothing of it lives.
    pub(super) async fn emptied(&mut self) {
        let mut pause = FIRST_LOOK;
        self.exited().await;
        while !self.is_empty() {
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
            self.look();
            // Where nobody waits for orphans (a container whose first process is no init), they stay as zombies.
            if !self.is_empty() && pause >= LAST_LOOK / 8 && only_zombies(self.id).await {
                self.guarded = None;
            }
        }
    }

    /// Asks everything in it to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
        // A stopped process hears nothing until it goes on.
        self.signal(Signal::CONT);
    }

    /// Kills everything in it and waits until it is gone.
    pub(super) async fn kill(&mut self) -> Killed {
        let limit = Instant::now() + KILL_LIMIT;
        // The system sends the signal to all members at once and lets none of them fork with it pending. What is looked
        // at again is only whether they are gone.
        self.signal(Signal::KILL);
        match timeout_at(limit, self.emptied()).await {
            Ok(()) => Killed::Gone,
            Err(_) => Killed::Hanging,
        }
    }

    fn signal(&self, signal: Signal) {
        if self.guarded.is_some() {
            // No such group is what we want; a member of another user (setuid) is out of reach for good.
            let _ = kill_process_group(self.id, signal);
        }
    }

    /// Looks whether anything of it is left. While the leader was not waited for, it counts.
    fn look(&mut self) {
        if self.child.id().is_some() || self.is_empty() {
            return;
        }
        let any = |id| test_kill_process_group(id) != Err(Errno::SRCH);
        if any(self.id) {
            // Where this process adopts orphans (the first one of a container), nobody else waits for them.
            while let Ok(Some(_)) = waitpgid(self.id, WaitOptions::NOHANG) {}
            if any(self.id) {
                return;
            }
        }
        self.guarded = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader is waited for by tokio.
        self.signal(Signal::KILL);
    }
}

#[cfg(target_os = "linux")]
async fn only_zombies(group: Pid) -> bool {
    let look = move || {
        let processes = std::fs::read_dir("/proc")?;
        let alive = processes.filter_map(Result::ok).any(|entry| {
            // `pid (name) state parent group …`; the name may hold anything, also a parenthesis (proc(5)).
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            let state = fields.next();
            let of_group = fields.nth(1).and_then(|id| id.parse().ok()) == Some(group.as_raw_nonzero().get());
            of_group && !matches!(state, Some("Z" | "X"))
        });
        std::io::Result::Ok(!alive)
    };
    tokio::task::spawn_blocking(look).await.is_ok_and(|looked| looked.unwrap_or(false))
}

#[cfg(not(target_os = "linux"))]
async fn only_zombies(_group: Pid) -> bool {
    // The first process of these systems waits for every orphan.
    false
}
