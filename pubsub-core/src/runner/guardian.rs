//! A small process that outlives the worker just long enough to kill its commands.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;

use super::spawn::spawn;
use crate::RunId;

/// What the guardian runs.
///
/// It sleeps in `read` until the worker's end of the pipe closes, which the system does however the worker dies. So a
/// command costs it nothing. Then it reads the table of what lives. A line `group` names a process group. A line
/// `start` names a run whose command was just being started: the pipe closes only after that command has been executed
/// (until then it holds a copy of the worker's end), so it is there, and its environment names the run.
/// A stop signal that a supervisor sends to everybody must not end it before the worker.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM TSTP
while read -r line; do :; done
while read -r kind id; do
  case $kind in
    group) kill -KILL "-$id" ;;
    start)
      for file in $(grep -ls "PIPELINE_RUN_ID=$id" /proc/[0-9]*/environ); do
        file=${file#/proc/}
        kill -KILL "-${file%/environ}"
        kill -KILL "${file%/environ}"
      done ;;
  esac
done <&1
rm -rf -- "$1"
"#;

/// Bytes of one line of the table, its end included: the longest is `start`, a space and a run id.
const ENTRY_BYTES: usize = 64;

static GUARDIAN: Mutex<Option<Guardian>> = Mutex::new(None);

/// The guardian of this process, and the table that both share.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    /// Never written to: that it closes is the message.
    _alive: PipeWriter,
    /// A file that has no name. Where an entry is blank, it is free.
    table: File,
    used: Vec<bool>,
    /// Private to this user; the guardian removes it.
    folder: PathBuf,
}

impl Guardian {
    fn start() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("pipeline-").tempdir()?;
        let table = unnamed_file()?;
        let (reader, alive) = io::pipe()?;
        let child = shell(reader.into(), &table, folder.path())?;
        Ok(Self { child, _alive: alive, table, used: Vec::new(), folder: folder.keep() })
    }

    /// A guardian that died is replaced. The table goes on, so the new one knows what the old one knew.
    fn revive(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            let (reader, alive) = io::pipe()?;
            self.child = shell(reader.into(), &self.table, &self.folder)?;
            self._alive = alive;
        }
        Ok(())
    }

    fn write(&self, index: usize, text: &str) -> io::Result<()> {
        let entry = format!("{text:<width$}\n", width = ENTRY_BYTES - 1);
        self.table.write_all_at(entry.as_bytes(), (index * ENTRY_BYTES) as u64)
    }

    fn free(&mut self, index: usize) {
        if self.write(index, "").is_ok()
            && let Some(used) = self.used.get_mut(index)
        {
            *used = false;
        }
    }
}

fn shell(alive: Stdio, table: &File, folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT, "pipeline-guardian"])
        .arg(folder)
        .env_clear()
        .current_dir("/")
        // A group of its own: what is sent to the worker's group does not reach it.
        .process_group(0)
        .stdin(alive)
        .stdout(table.try_clone()?)
        .stderr(Stdio::null());
    let discard = |mut child: Child| {
        // It has ended.
        let _ = child.wait();
    };
    spawn(|| command.spawn(), |child| Some(child.id()), discard)
}

#[cfg(target_os = "linux")]
fn unnamed_file() -> io::Result<File> {
    // In memory: a write never waits for a busy disk.
    Ok(rustix::fs::memfd_create("pipeline-guardian", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

#[cfg(not(target_os = "linux"))]
fn unnamed_file() -> io::Result<File> {
    tempfile::tempfile()
}

fn lock() -> MutexGuard<'static, Option<Guardian>> {
    // Every change under the lock is one assignment, so what a panic leaves behind is whole.
    GUARDIAN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command's line in the guardian's table, from before it starts until nothing of it lives. Dropping it frees the line.
#[derive(Debug)]
pub(super) struct Guarded {
    index: usize,
    folder: PathBuf,
}

impl Guarded {
    /// Announces that a command of this run is about to start; starts the guardian where there is none. Blocks.
    pub(super) fn announce(run: &RunId) -> io::Result<Self> {
        let mut lock = lock();
        let guardian = match &mut *lock {
            Some(guardian) => {
                guardian.revive()?;
                guardian
            }
            none => none.insert(Guardian::start()?),
        };
        let index = guardian.used.iter().position(|used| !used).unwrap_or(guardian.used.len());
        guardian.write(index, &format!("start {run}"))?;
        match guardian.used.get_mut(index) {
            Some(used) => *used = true,
            None => guardian.used.push(true),
        }
        Ok(Self { index, folder: guardian.folder.clone() })
    }

    /// The command runs and leads this group.
    pub(super) fn lives(&self, group: Pid) -> io::Result<()> {
        match &*lock() {
            Some(guardian) => guardian.write(self.index, &format!("group {group}")),
            None => Ok(()),
        }
    }

    /// A folder that is private to this user and goes with this process.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(guardian) = &mut *lock() {
            guardian.free(self.index);
        }
    }
}

#[cfg(test)]
pub(super) fn guardian_id() -> u32 {
    lock().as_ref().expect("it runs").child.id()
}
