//! Starts a command.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Pid;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::group::Group;
use super::guardian::Guarded;
use super::spawn::spawn;
use super::values::ValuesFile;
use crate::command::{Command, Environment, MAX_PAYLOAD_VARIABLE_BYTES, Stdin};
use crate::{Event, Exit, Payload, RunId, RunKey, StartFailure};

/// All that is needed to start, none of it borrowed.
#[derive(Debug)]
pub(super) struct Start {
    command: std::process::Command,
    program: String,
    working_dir: Option<PathBuf>,
    run: RunId,
    payload: Option<Payload>,
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) group: Group,
    pub(super) feed: Option<Feed>,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
    pub(super) values: ValuesFile,
}

/// What of the payload did not fit into the pipe at once.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) stdin: ChildStdin,
    pub(super) payload: Payload,
    pub(super) written: usize,
}

impl Start {
    /// Of this command, for this run.
    pub(super) fn new(command: &Command, event: &Event, key: &RunKey) -> Self {
        let mut process = std::process::Command::new(&command.program);
        process.args(&command.args);
        if let Some(folder) = &command.working_dir {
            process.current_dir(folder);
        }
        environment(&mut process, command);
        // An outer run's payload is not this one's.
        process.env_remove("PIPELINE_PAYLOAD");
        if event.payload.as_str().len() <= MAX_PAYLOAD_VARIABLE_BYTES {
            process.env("PIPELINE_PAYLOAD", event.payload.as_str());
        }
        process
            .env("PIPELINE_ACTION_ID", key.action_id.as_str())
            .env("PIPELINE_STAGE", key.stage.as_str())
            .env("PIPELINE_RUN_ID", key.run_id.as_str())
            .env("PIPELINE_ATTEMPT", key.attempt.to_string())
            .env("PIPELINE_EVENT_TYPE", event.event_type.as_str())
            .env("PIPELINE_EVENT_ID", event.id.as_str());
        Self {
            command: process,
            program: command.program.clone(),
            working_dir: command.working_dir.clone(),
            run: key.run_id.clone(),
            payload: (command.stdin == Stdin::Payload).then(|| event.payload.clone()),
        }
    }

    /// Starts it; where it cannot be started, says why. Blocks, and needs tokio's runtime around it.
    pub(super) fn start(self) -> Result<Started, Exit> {
        let (program, working_dir) = (self.program.clone(), self.working_dir.clone());
        self.try_start().map_err(|failure| match failure {
            Failure::Ours(e) => Exit::not_started(StartFailure::Other)
                .with_detail(format!("what a command needs could not be set up: {e}")),
            Failure::Spawn(e) => match working_dir {
                Some(folder) if !folder.is_dir() => Exit::not_started(StartFailure::NotFound)
                    .with_detail(format!("the working directory {} is not there", folder.display())),
                _ => Exit::not_started(kind_of(&e)).with_detail(format!("could not start {program}: {e}")),
            },
        })
    }

    fn try_start(mut self) -> Result<Started, Failure> {
        let guarded = Guarded::announce(&self.run)?;
        let values = ValuesFile::create(guarded.folder())?;
        self.command.env("PIPELINE_OUTPUT", values.path());
        let mut rest = None;
        match self.payload {
            Some(payload) => {
                let (reader, writer, written) = filled_pipe(payload.as_str().as_bytes())?;
                self.command.stdin(reader);
                rest = (written < payload.as_str().len()).then_some((writer, payload, written));
            }
            None => {
                self.command.stdin(Stdio::null());
            }
        }
        let mut process = tokio::process::Command::from(self.command);
        process.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        // One that is dropped is waited for by tokio.
        let mut child = spawn(|| process.spawn(), tokio::process::Child::id, drop).map_err(Failure::Spawn)?;
        #[cfg(feature = "fault-points")]
        crate::fault::point("command.spawned");
        // Our copy of the reading end would keep the command's input open for ever.
        drop(process);
        let pipes = (child.stdout.take(), child.stderr.take());
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (Some(id), (Some(stdout), Some(stderr))) = (id, pipes) else {
            return Err(io::Error::other("the new process has no number or no pipes").into());
        };
        let alive = guarded.lives(id);
        #[cfg(feature = "fault-points")]
        crate::fault::point("command.guarded");
        let group = Group::new(child, id, guarded);
        alive?;
        let feed = match rest {
            Some((writer, payload, written)) => {
                let stdin = ChildStdin::from_std(OwnedFd::from(writer).into())?;
                Some(Feed { stdin, payload, written })
            }
            None => None,
        };
        Ok(Started { group, feed, stdout, stderr, values })
    }
}

enum Failure {
    Ours(io::Error),
    Spawn(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Ours(e)
    }
}

fn environment(process: &mut std::process::Command, command: &Command) {
    match &command.environment {
        Environment::Inherit => {
            for name in command.withheld() {
                process.env_remove(name);
            }
        }
        Environment::Listed(names) => {
            process.env_clear();
            for name in names.iter().filter(|name| !command.withheld().any(|other| other == *name)) {
                if let Some(value) = std::env::var_os(name) {
                    process.env(name, value);
                }
            }
        }
        Environment::Cleared => {
            process.env_clear();
        }
    }
    process.envs(&command.variables);
}

/// A pipe with as much of the payload in it as it takes: nearly always all, so that nobody has to attend to it.
fn filled_pipe(payload: &[u8]) -> io::Result<(PipeReader, PipeWriter, usize)> {
    let (reader, mut writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    let mut written = 0;
    while let Some(rest @ [_, ..]) = payload.get(written..) {
        match writer.write(rest) {
            Ok(count) => written += count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok((reader, writer, written))
}

/// What the system's refusal means.
fn kind_of(e: &io::Error) -> StartFailure {
    use rustix::io::Errno;
    match Errno::from_io_error(e) {
        // ENOENT is also what a script gets whose interpreter is missing.
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => StartFailure::NotFound,
        Some(Errno::ACCESS | Errno::NOEXEC | Errno::ISDIR) => StartFailure::NotExecutable,
        Some(Errno::TOOBIG | Errno::NAMETOOLONG | Errno::INVAL) => StartFailure::Unacceptable,
        // A NUL in an argument or a variable is found before the system is asked.
        None if e.kind() == io::ErrorKind::InvalidInput => StartFailure::Unacceptable,
        _ => StartFailure::Other,
    }
}
