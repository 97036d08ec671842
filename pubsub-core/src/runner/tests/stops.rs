//! How commands are stopped.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::{Run, gone, lives, sh};
use crate::{Cause, Command, ExitClassification, ExitTable, Outcome};

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test]
async fn each_limit_stops_it_and_is_told_from_a_death() {
    let table = [
        (sh("sleep 300").with_timeout(millis(100)), Cause::WallTimeout),
        (sh("echo once; sleep 300").with_silence(millis(150)), Cause::SilenceTimeout),
    ];
    for (command, cause) in table {
        let ran = Run::new().end(&command).await;
        let exit = &ran.finished.exit;
        assert_eq!((exit.cause, exit.signal, exit.code), (cause, Some(15), None));
        assert_eq!(ExitTable::default().classify(exit).outcome, Outcome::TimedOut);
        assert_eq!(exit.shell_code(), 124);
        assert_eq!(ran.told(), ["stop_requested"]);
        assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    }
}

#[tokio::test]
async fn one_that_prints_is_not_silent() {
    let line = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done";
    let ran = Run::new().end(&sh(line).with_silence(millis(600))).await;
    assert_eq!(ran.finished.exit.code, Some(0));
}

#[tokio::test]
async fn what_it_prints_during_its_grace_is_kept_and_stands_after_the_note() {
    let line = "trap 'seq 1 1000; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let (ran, ()) = Run::new()
        .with(&sh(line), async |output, stopper| {
            output.printed("ready\n").await;
            stopper.stop(Cause::Cancelled);
        })
        .await;
    assert_eq!((ran.finished.exit.cause, ran.finished.exit.code), (Cause::Cancelled, Some(0)));
    assert_eq!(ran.told(), ["stop_requested"]);
    let after = &ran.stdout[ran.notes[0].after..];
    assert_eq!(after.lines().count(), 1000);
    assert!(after.ends_with("\n1000\n"));
}

#[tokio::test]
async fn a_cut_does_not_wait_for_the_grace() {
    let (ran, ()) = Run::new()
        .with(
            &sh("trap '' TERM; echo ready; while :; do sleep 0.05; done").with_grace(millis(300_000)),
            async |output, stopper| {
                output.printed("ready\n").await;
                stopper.stop(Cause::Shutdown);
                stopper.cut(Cause::Cancelled);
            },
        )
        .await;
    assert_eq!((ran.finished.exit.cause, ran.finished.exit.signal), (Cause::Shutdown, Some(9)));
    assert!(ran.took < Duration::from_secs(20));
}

#[tokio::test]
async fn one_asked_to_stop_before_its_start_never_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let run = Run::new();
    run.stopper.stop(Cause::LeaseLost);
    let ran = run.end(&Command::new("touch").with_args([mark.to_str().unwrap()])).await;
    assert_eq!(ran.finished.exit.cause, Cause::LeaseLost);
    assert!(!mark.exists());
}

#[tokio::test]
async fn a_stopped_process_hears_the_stop() {
    let ran = Run::new().end(&sh("kill -STOP $$").with_timeout(millis(150))).await;
    assert_eq!((ran.finished.exit.cause, ran.finished.exit.signal), (Cause::WallTimeout, Some(15)));
    assert!(ran.took < Duration::from_secs(5));
}

/// A shell that dies of TERM with a descendant that does not, which appends to `alive` as long as it lives.
fn stubborn(file: &str, starter: &str) -> Command {
    let inner = format!("trap : TERM; while :; do date >> {file}; sleep 0.02; done");
    sh(&format!("{starter} sh -c '{inner}' & wait")).with_timeout(millis(200)).with_grace(millis(200))
}

/// Runs it, and checks that nothing of it lives afterwards.
async fn stubborn_is_gone(starter: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alive");
    let ran = Run::new().end(&stubborn(file.to_str().unwrap(), starter)).await;
    assert_eq!(ran.finished.exit.cause, Cause::WallTimeout);
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    let size = || std::fs::metadata(&file).map_or(0, |m| m.len());
    let before = size();
    tokio::time::sleep(millis(100)).await;
    assert_eq!(size(), before, "something works on");
}

async fn many(rounds: usize, at_once: usize) {
    for _ in 0..rounds / at_once {
        join_all((0..at_once).map(|_| stubborn_is_gone(""))).await;
    }
}

#[tokio::test]
async fn a_timeout_kills_more_than_the_shell() {
    many(200, 25).await;
}

#[tokio::test]
#[ignore = "long: 200 rounds one after the other, with the times of a user"]
async fn a_timeout_kills_more_than_the_shell_in_the_long_form() {
    many(200, 1).await;
}

#[tokio::test]
async fn a_fork_loop_is_killed_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alive");
    let line = format!(
        "trap '' TERM; while :; do (trap '' TERM; sleep 0.2; echo x >> {}) & sleep 0.005; done",
        file.display()
    );
    let ran = Run::new().end(&sh(&line).with_timeout(millis(300)).with_grace(millis(100))).await;
    assert_eq!((ran.finished.exit.cause, ran.finished.exit.signal), (Cause::WallTimeout, Some(9)));
    let size = || std::fs::metadata(&file).map_or(0, |m| m.len());
    let before = size();
    tokio::time::sleep(millis(300)).await;
    assert_eq!(size(), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_left_the_group_is_a_stated_limit_even_where_it_prints_without_end() {
    let line = "setsid sh -c 'echo $$; trap : TERM; while :; do echo x; done' & wait";
    let ran = Run::new().end(&sh(line).with_timeout(millis(300)).with_grace(millis(100))).await;
    let pid = ran.stdout.lines().next().unwrap().to_owned();
    assert_eq!(ran.finished.exit.cause, Cause::WallTimeout);
    assert_eq!(ran.told(), ["stop_requested", "descendant_left"]);
    assert!(ran.took < Duration::from_secs(20));
    // Its pipe is gone, so its next line ends it where it does not expect that.
    std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    gone(&pid).await;
}

#[tokio::test]
async fn a_store_that_takes_nothing_delays_no_stop() {
    let table = [Some(Cause::Cancelled), None];
    for cancel in table {
        let run = Run::new();
        run.output.open(false);
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let line = format!(
            "seq 1 3000; echo $$ > {0}.new; mv {0}.new {0}; while :; do echo line; done",
            pid.display()
        );
        let command = if cancel.is_none() { sh(&line).with_timeout(millis(1500)) } else { sh(&line) };
        let (ran, dead_after) = run
            .with(&command, async |output, stopper| {
                while !pid.exists() {
                    tokio::time::sleep(millis(5)).await;
                }
                let pid = std::fs::read_to_string(&pid).unwrap();
                let asked = Instant::now();
                if let Some(cause) = cancel {
                    stopper.stop(cause);
                }
                gone(&pid).await;
                let dead_after = asked.elapsed();
                output.open(true);
                dead_after
            })
            .await;
        assert_eq!(ran.finished.exit.cause, cancel.unwrap_or(Cause::WallTimeout));
        assert!(dead_after < Duration::from_secs(5), "{dead_after:?}");
        // What it had printed until then is delivered nevertheless.
        assert!(ran.stdout.starts_with("1\n2\n") && ran.stdout.contains("\n3000\n"));
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_makes_no_command_silent() {
    let (ran, ()) = Run::new()
        .with(&sh("seq 1 200000; echo end").with_silence(millis(200)), async |output, _| {
            output.open(false);
            tokio::time::sleep(millis(600)).await;
            output.open(true);
        })
        .await;
    assert_eq!(ran.finished.exit.code, Some(0), "{:?}", ran.finished);
    assert!(ran.stdout.ends_with("200000\nend\n"));
}

#[tokio::test]
async fn dropping_the_run_kills_the_command() {
    let Run { output, event, key, stopper, stop } = Run::new();
    let command = sh("echo $$; sleep 300 & echo $!; wait; echo");
    let pids = tokio::select! {
        _ = super::super::run_printed(&command, &event, &key, &output, stop) => panic!("it ended"),
        pids = output.printed_lines(2) => pids,
    };
    drop(stopper);
    for pid in pids.lines() {
        gone(pid).await;
    }
    assert!(pids.lines().all(|pid| !lives(pid)));
}
