//! Decides when a command has ended, or has to.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::activity::Activity;
use super::group::{Group, Killed};
use super::printed::Printed;
use crate::command::Command;
use crate::{Cause, Exit, Stop};

/// What happened first.
enum Event {
    Exited(Option<ExitStatus>),
    Stop(Cause),
}

/// Waits for the end of the command, by itself or by us; when it returns, nothing of its group lives, and the readers
/// are told to take what is left.
pub(super) async fn supervise(
    command: &Command,
    group: &mut Group,
    mut stop: Stop,
    output: &impl Printed,
    activity: &Activity,
) -> Exit {
    let deadline = command.timeout.and_then(|limit| Instant::now().checked_add(limit));
    let event = tokio::select! {
        biased;
        status = group.exited() => Event::Exited(status),
        cause = stop.requested() => Event::Stop(cause),
        () = at(deadline) => Event::Stop(Cause::WallTimeout),
        () = quiet(activity, command.silence) => Event::Stop(Cause::SilenceTimeout),
    };
    let exit = match event {
        Event::Exited(status) => {
            settle(command.settle, group, &mut stop, deadline, output, activity).await;
            by_itself(status)
        }
        Event::Stop(cause) => {
            let reason = reason(cause, command);
            output.note("stop_requested", &reason);
            let status = end(command.grace, group, &mut stop, output).await;
            Exit {
                code: status.and_then(|status| status.code()),
                signal: status.and_then(|status| status.signal()),
                ..Exit::stopped(cause).with_detail(reason)
            }
        }
    };
    activity.end();
    exit
}

/// After the exit: goes on while output comes, for descendants may still print; then kills what is left of the group,
/// so that no later attempt runs beside it.
async fn settle(
    quiet: Duration,
    group: &mut Group,
    stop: &mut Stop,
    deadline: Option<Instant>,
    output: &impl Printed,
    activity: &Activity,
) {
    // The quiet counts from the exit.
    activity.touch();
    let all_gone = async {
        activity.closed().await;
        group.emptied().await;
    };
    tokio::select! {
        biased;
        () = all_gone => return,
        () = activity.quiet_for(quiet) => {}
        _ = stop.requested() => {}
        () = at(deadline) => {}
    }
    if !group.is_empty() {
        kill(group, output).await;
        output.note(
            "descendant_left",
            "processes that the command had started still ran after its exit; they were killed",
        );
    }
}

/// TERM to the group, one grace for all of it, KILL to what is left.
async fn end(
    grace: Duration,
    group: &mut Group,
    stop: &mut Stop,
    output: &impl Printed,
) -> Option<ExitStatus> {
    group.terminate();
    let grace = Instant::now().checked_add(grace);
    let gone = tokio::select! {
        biased;
        () = group.emptied() => true,
        _ = stop.cut() => false,
        () = at(grace) => false,
    };
    if !gone {
        kill(group, output).await;
    }
    group.status()
}

async fn kill(group: &mut Group, output: &impl Printed) {
    if group.kill().await == Killed::Hanging {
        output.note(
            "descendant_left",
            "killed processes of the command hang in the system and are not gone yet",
        );
    }
}

fn by_itself(status: Option<ExitStatus>) -> Exit {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => Exit::code(code),
        Some((None, Some(signal))) => Exit::signal(signal),
        _ => Exit { code: None, ..Exit::code(0) }.with_detail("the system did not tell how it ended"),
    }
}

fn reason(cause: Cause, command: &Command) -> String {
    let limit = |limit: Option<Duration>| limit.unwrap_or_default();
    match cause {
        Cause::WallTimeout => format!("it ran longer than {:?}", limit(command.timeout)),
        Cause::SilenceTimeout => format!("it printed nothing for {:?}", limit(command.silence)),
        Cause::Cancelled => "the action was cancelled".to_owned(),
        Cause::Shutdown => "the worker was stopped".to_owned(),
        Cause::LeaseLost => "another worker holds the event".to_owned(),
        Cause::Exit | Cause::Signal | Cause::NotStarted => "it was asked to stop".to_owned(),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn quiet(activity: &Activity, limit: Option<Duration>) {
    match limit {
        Some(limit) => activity.quiet_for(limit).await,
        None => std::future::pending().await,
    }
}
