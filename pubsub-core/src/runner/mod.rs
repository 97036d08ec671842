//! Runs a command: starts it, reads it, stops it, and leaves nothing of it behind.

mod activity;
mod group;
mod guardian;
mod printed;
mod pump;
mod spawn;
mod start;
mod supervise;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use activity::Activity;
use printed::Printed;
use pump::{Ended, feed, pump};
use start::{Start, Started};
use supervise::supervise;
use values::ValuesFile;

use crate::command::Command;
use crate::{Event, Exit, Finished, RunContext, RunKey, StartFailure, Stop, StopState, Stream};

/// The waits before a command is started again for which the machine lacked something. They bound the rate of such starts
/// where the lack lasts.
const START_AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Runs a command to its end.
///
/// # Cancel safety
/// Dropped, it kills the command's group at once.
pub(crate) async fn run(command: &Command, context: RunContext) -> Finished {
    let RunContext { event, key, output, stop } = context;
    run_printed(command, &event, &key, &output, stop).await
}

async fn run_printed(
    command: &Command,
    event: &Event,
    key: &RunKey,
    output: &impl Printed,
    stop: Stop,
) -> Finished {
    // Blocks as tokio's own `spawn` does, for some hundred microseconds, most of them the system's; a thread for it would
    // cost a tenth of a short command.
    let started = started(|| Start::new(command, event, key).start(), stop.clone()).await;
    let Started { mut group, feed: rest, stdout, stderr, values } = match started {
        Ok(started) => started,
        Err(mut exit) => {
            exit.detail = exit.detail.map(|detail| output.mask(&detail));
            return exit.into();
        }
    };
    let activity = Activity::new(2);
    // One task for all of it: where a store holds up a reader, the supervision goes on.
    let (mut exit, out, err, ()) = tokio::join!(
        supervise(command, &mut group, stop, output, &activity),
        pump(stdout, Stream::Stdout, output, &activity),
        pump(stderr, Stream::Stderr, output, &activity),
        feed(rest, &activity),
    );
    exit.detail = exit.detail.map(|detail| output.mask(&detail));
    if [out, err].contains(&Ended::Held) {
        output.note(
            "descendant_left",
            "a process that the command had started outside its process group holds its output open; it was left running",
        );
    }
    Finished { exit, values: read_values(values, output).await }
}

/// Starts; where the machine is out of something, soon again, until the waits are over or it is asked to stop.
async fn started<T>(mut start: impl FnMut() -> Result<T, Exit>, mut stop: Stop) -> Result<T, Exit> {
    let stopped = |cause| Exit::stopped(cause).with_detail("stopped before it was started");
    let mut waits = START_AGAIN.into_iter();
    loop {
        if let StopState::Stop(cause) | StopState::Cut(cause) = stop.state() {
            return Err(stopped(cause));
        }
        match (start(), waits.next()) {
            (Err(exit), Some(wait)) if exit.start_failure == Some(StartFailure::OutOfResources) => {
                tokio::select! {
                    cause = stop.requested() => return Err(stopped(cause)),
                    () = tokio::time::sleep(wait) => {}
                }
            }
            (done, _) => return done,
        }
    }
}

/// The values for the next stage. They travel in events, so one that holds a secret is left out.
async fn read_values(file: ValuesFile, output: &impl Printed) -> BTreeMap<String, String> {
    let mut read = file.read().await;
    if let Some(complaint) = &read.complaint {
        output.note("values_refused", complaint);
    }
    read.values.retain(|key, value| {
        let open = output.mask(value) == *value && output.mask(key) == *key;
        if !open {
            output.note("values_refused", &format!("the value of {key} in $PIPELINE_OUTPUT holds a secret"));
        }
        open
    });
    read.values
}
