//! How commands end by themselves.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::{Run, gone, lives, sh};
use crate::{Cause, Command, Exit, ExitClassification, ExitTable, Outcome, Retryable, StartFailure, Stop};

#[tokio::test]
async fn both_streams_and_the_code_arrive() {
    let ran = Run::new().end(&sh("echo out; echo err >&2; printf half; exit 7")).await;
    assert_eq!(ran.finished.exit, Exit::code(7));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\nhalf", "err\n"));
    assert!(ran.notes.is_empty());
}

#[tokio::test]
async fn six_deaths_are_six_exits_and_none_is_success() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    let table = [
        (sh("kill -KILL $$"), Exit::signal(9), Retryable::ByPolicy),
        (sh("kill -SEGV $$"), Exit::signal(11), Retryable::ByPolicy),
        (sh("exit 137"), Exit::code(137), Retryable::ByPolicy),
        (sh("exit 255"), Exit::code(255), Retryable::ByPolicy),
        (Command::new("no-such-program-here"), Exit::not_started(StartFailure::NotFound), Retryable::Never),
        (
            Command::new(plain.to_str().unwrap()),
            Exit::not_started(StartFailure::NotExecutable),
            Retryable::Never,
        ),
    ];
    for (command, expected, retryable) in table {
        let exit = Run::new().end(&command).await.finished.exit;
        let verdict = ExitTable::default().classify(&exit);
        assert_eq!((verdict.outcome, verdict.retryable), (Outcome::Failed, retryable), "{exit:?}");
        assert_eq!(Exit { detail: None, ..exit }, expected);
    }
}

#[tokio::test]
async fn what_the_system_will_never_take_is_told_by_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "echo no first line\n").unwrap();
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755)).unwrap();
    let table = [
        (Command::new("true").with_args(["a\0b"]), StartFailure::Unacceptable),
        (Command::new("true").with_variable("A", "b\0c"), StartFailure::Unacceptable),
        (Command::new("true").with_args(["x".repeat(3_000_000)]), StartFailure::Unacceptable),
        (Command::new("true").with_working_dir(folder.path().join("none")), StartFailure::NotFound),
        (Command::new(folder.path().to_str().unwrap()), StartFailure::NotExecutable),
        (Command::new(""), StartFailure::NotFound),
        (Command::new(text.to_str().unwrap()), StartFailure::NotExecutable),
        (Command::new(text.join("x").to_str().unwrap()), StartFailure::NotFound),
    ];
    for (command, expected) in table {
        let exit = Run::new().end(&command).await.finished.exit;
        assert_eq!(exit.start_failure, Some(expected), "{exit:?}");
        assert!(exit.detail.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_for_which_the_machine_lacks_something_is_made_again_a_few_times_and_others_are_not() {
    let lack = || Err::<(), _>(Exit::not_started(StartFailure::OutOfResources));
    let (stopper, stop) = Stop::pair();
    let (mut tries, began) = (0, tokio::time::Instant::now());
    let mut count = |answer: &dyn Fn(u32) -> Result<(), Exit>| {
        tries += 1;
        answer(tries)
    };
    let passes = |tries| if tries < 4 { lack() } else { Ok(()) };
    assert_eq!(super::super::started(|| count(&passes), stop.clone()).await, Ok(()));
    assert_eq!((tries, began.elapsed()), (4, Duration::from_millis(700)));

    let (mut tries, began) = (0, tokio::time::Instant::now());
    let lasts = || {
        tries += 1;
        lack()
    };
    assert_eq!(super::super::started(lasts, stop.clone()).await, lack());
    assert_eq!((tries, began.elapsed()), (5, Duration::from_millis(1500)));

    let mut tries = 0;
    let not_found = Err::<(), _>(Exit::not_started(StartFailure::NotFound));
    let refused = || {
        tries += 1;
        not_found.clone()
    };
    assert_eq!(super::super::started(refused, stop.clone()).await, not_found);
    assert_eq!(tries, 1, "what will not pass is not tried again");

    let stopped = || {
        stopper.stop(Cause::Shutdown);
        lack()
    };
    let began = tokio::time::Instant::now();
    let exit = super::super::started(stopped, stop).await.unwrap_err();
    assert_eq!((exit.cause, began.elapsed()), (Cause::Shutdown, Duration::ZERO), "a stop waits for nothing");
}

#[tokio::test]
async fn the_message_of_a_failed_start_is_masked() {
    let exit = Run::new().end(&Command::new("/no/S3cr3t-Value-42/x")).await.finished.exit;
    let detail = exit.detail.unwrap();
    assert!(!detail.contains("S3cr3t-Value-42") && detail.contains("***"), "{detail}");
}

#[tokio::test]
async fn a_descendant_that_keeps_the_pipe_does_not_keep_the_run() {
    let command = sh("echo ready; sleep 300 & echo $!; exit 3");
    for command in [command.clone(), command.with_timeout(Duration::from_secs(50))] {
        let ran = Run::new().end(&command).await;
        assert_eq!(ran.finished.exit, Exit::code(3));
        let (ready, sleeper) = ran.stdout.split_once('\n').unwrap();
        assert_eq!(ready, "ready");
        assert_eq!(ran.told(), ["descendant_left"]);
        assert!(!lives(sleeper));
        assert!(ran.took < Duration::from_secs(10), "{:?}", ran.took);
    }
}

#[tokio::test]
async fn a_descendant_without_the_pipe_is_left_behind_no_less() {
    let ran = Run::new().end(&sh("sleep 300 </dev/null >/dev/null 2>&1 & echo $!")).await;
    assert_eq!(ran.finished.exit, Exit::code(0));
    assert_eq!(ran.told(), ["descendant_left"]);
    assert!(!lives(&ran.stdout));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_that_left_the_group_lives_on_and_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark").display().to_string();
    let line = format!(
        "setsid sh -c 'echo $$ | tee {mark}; exec sleep 300' & while [ ! -s {mark} ]; do sleep 0.01; done"
    );
    let ran = Run::new().end(&sh(&line)).await;
    assert_eq!(ran.finished.exit, Exit::code(0));
    assert_eq!(ran.told(), ["descendant_left"]);
    assert!(ran.notes[0].text.contains("left running"));
    assert!(lives(&ran.stdout));
    std::process::Command::new("kill").args(["-KILL", ran.stdout.trim()]).status().unwrap();
    gone(&ran.stdout).await;
}

#[tokio::test]
async fn late_lines_come_while_the_pipe_is_active() {
    let ran = Run::new().end(&sh("(for i in 1 2 3 4 5; do sleep 0.3; echo late$i; done) & exit 0")).await;
    assert_eq!(ran.finished.exit, Exit::code(0));
    assert_eq!(ran.stdout, "late1\nlate2\nlate3\nlate4\nlate5\n");
    assert!(ran.notes.is_empty(), "{:?}", ran.notes);
}

#[tokio::test]
async fn the_quiet_counts_from_the_exit() {
    let ran = Run::new().end(&sh("(sleep 0.9; echo late) & sleep 0.7; exit 0")).await;
    assert_eq!(ran.stdout, "late\n");
    assert!(ran.notes.is_empty(), "{:?}", ran.notes);
}

#[tokio::test]
async fn a_slow_store_gets_the_whole_tail_after_the_exit() {
    let (ran, ()) = Run::new()
        .with(&sh("seq 1 20000"), async |output, _| {
            output.open(false);
            // What fits into the pipe is written and the command may be gone, while nothing is taken.
            tokio::time::sleep(Duration::from_millis(700)).await;
            output.open(true);
        })
        .await;
    assert_eq!(ran.finished.exit, Exit::code(0));
    assert!(ran.stdout.ends_with("\n19999\n20000\n"));
    assert_eq!(ran.stdout.lines().count(), 20_000);
    assert!(ran.notes.is_empty(), "{:?}", ran.notes);
}

#[tokio::test]
async fn large_output_arrives_whole() {
    let ran = Run::new().end(&sh("seq 1 1000000")).await;
    assert_eq!(ran.finished.exit.cause, Cause::Exit);
    let expected = (1..=1_000_000).fold(String::new(), |all, n| all + &n.to_string() + "\n");
    assert!(ran.stdout == expected);
}
