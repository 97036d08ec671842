//! One process of an engine.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::place::Place;

/// How long an engine may take to start, to stop, or to come to a state; slow only where the machine is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// How often is asked.
const STEP: Duration = Duration::from_millis(10);

/// What a restart does with the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It is there again, as far as the engine keeps it.
    Kept,
    /// The folder is emptied before the start.
    Lost,
}

/// A process that runs in its own folder, with its output in a file `log` there.
#[derive(Debug)]
pub(crate) struct Engine {
    program: PathBuf,
    words: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
    // After all else, so that it is dropped last.
    place: Arc<Place>,
}

impl Engine {
    /// Starts it; whether it is ready is asked by [`until`].
    pub(crate) fn start(
        place: &Arc<Place>,
        program: PathBuf,
        words: Vec<String>,
        folder: PathBuf,
    ) -> io::Result<Self> {
        let mut engine = Self { program, words, folder, child: None, place: Arc::clone(place) };
        engine.spawn()?;
        Ok(engine)
    }

    /// With one more word on its command line, from its next start on.
    pub(crate) fn add_word(&mut self, word: &str) {
        self.words.push(word.to_owned());
    }

    pub(crate) fn spawn(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(&self.program)
            .args(&self.words)
            .current_dir(&self.folder)
            // What a terminal sends to everybody is not for it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.program.display())))?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its process, where it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Asks until the answer is yes; fails where the process ends meanwhile, with what it said.
    pub(crate) fn until(&mut self, what: &str, ready: impl FnMut() -> bool) -> io::Result<()> {
        let mut ready = ready;
        let child = &mut self.child;
        let mut ended = None;
        let done = until(what, || {
            ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            ended.is_some() || ready()
        });
        match ended {
            None => done,
            Some(status) => {
                self.child = None;
                let said = fs::read_to_string(self.log()).unwrap_or_default();
                let said: Vec<&str> = said.lines().rev().take(5).collect();
                Err(io::Error::other(format!("{what}: ended ({status}): {}", said.join(" | "))))
            }
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("it does not run"))?;
        Ok(rustix::process::kill_process(id, signal)?)
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let child = &mut self.child;
        let ended = until("stop", || {
            child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
        });
        ended.or_else(|_| self.kill())?;
        self.child = None;
        Ok(())
    }

    pub(crate) fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn go_on(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.place.is_kept() {
            // The guardian of its place does it otherwise.
            let _ = self.kill();
        }
    }
}

/// Asks until the answer is yes.
pub(crate) fn until(what: &str, mut ready: impl FnMut() -> bool) -> io::Result<()> {
    let began = Instant::now();
    while !ready() {
        if began.elapsed() > LIMIT {
            let text = format!("{what}: not within {} s", LIMIT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        sleep(STEP);
    }
    Ok(())
}

/// Whether the process still is the engine that was started in this folder.
#[must_use]
pub fn is_running(id: u32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == folder)
}

/// Ends an engine that another process started, in this folder.
///
/// # Errors
/// Where it is still there after being killed.
pub fn end(id: u32, folder: &Path) -> io::Result<()> {
    let Some(process) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return Ok(()) };
    if is_running(id, folder) {
        // Where it ended by itself meanwhile, there is nothing to do.
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
    until("end an engine", || !is_running(id, folder))
}
