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

use activity::Activity;
use printed::Printed;
use pump::{Ended, feed, pump};
use start::{Start, Started};
use supervise::supervise;
use values::ValuesFile;

use crate::command::Command;
use crate::{Event, Exit, Finished, RunContext, RunKey, Stop, StopState, Stream};

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
    if let StopState::Stop(cause) | StopState::Cut(cause) = stop.state() {
        return Exit::stopped(cause).with_detail("stopped before it was started").into();
    }
    let start = Start::new(command, event, key);
    // Blocks as tokio's own `spawn` does, for some hundred microseconds, most of them the system's; a thread for it would
    // cost a tenth of a short command.
    let started = start.start();
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
