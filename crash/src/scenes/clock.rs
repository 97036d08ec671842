//! A wall clock that jumps an hour forward, and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Stage, until};
use crate::nobody_is_left;

/// The clock of a scene: Debian's faketime, told by a file. Time that only grows is left as it is.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(stage: &Stage) -> Self {
        let library = ["x86_64", "aarch64"]
            .map(|machine| PathBuf::from(format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1")))
            .into_iter()
            .find(|library| library.exists());
        let clock =
            Self { file: stage.path().join("clock"), library: library.expect("faketime is installed") };
        clock.set("+0");
        clock
    }

    fn set(&self, offset: &str) {
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{offset}\n")).unwrap();
        fs::rename(&next, &self.file).unwrap();
    }

    /// The program, by this clock.
    fn command(&self, stage: &Stage, words: &[&str]) -> Command {
        let mut command = stage.command(&[], words);
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }
}

fn words_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Durations are not the wall clock's: nothing ends early or late, nothing runs again, nothing is lost.
pub(super) fn jumps(program: &Path) {
    let stage = Stage::new(program);
    let clock = Clock::new(&stage);
    let ran = stage.path().join("ran");
    let publish = |words: &[&str]| {
        let words = [&["publish", "a", "t"], words].concat();
        assert!(clock.command(&stage, &words).output().unwrap().status.success());
    };
    publish(&["--id", "long"]);
    // Prints for four seconds; a silence of three would end it, and so would ten seconds in all.
    let script = r#"echo "$PIPELINE_EVENT_ID $PIPELINE_ATTEMPT" >>ran
        [ "$PIPELINE_EVENT_ID" != long ] || for i in 1 2 3 4 5 6 7 8; do echo "$i"; sleep 0.5; done"#;
    let words =
        ["work", "--on", "t:*", "--stage", "s", "--lease", "2s", "--timeout", "20s", "--silence", "3s"];
    let words = [&words[..], &["--", "sh", "-c", script]].concat();
    let log = fs::File::create(stage.path().join("said")).unwrap();
    let start = || {
        let mut worker = clock.command(&stage, &words);
        worker.stdout(Stdio::null()).stderr(log.try_clone().unwrap()).spawn().unwrap()
    };
    // The one that does not hold the event must not take it from the other.
    let workers = [start(), start()];
    until("it runs", || words_of(&ran) == ["long 1"]);
    let began = Instant::now();
    for offset in ["+3600", "+0", "-3600", "+0"] {
        std::thread::sleep(Duration::from_millis(700));
        clock.set(offset);
    }
    let concluded = |event: &str| {
        let runs = stage.documents(&["get-status", "a", "s", "--all", "--json"]);
        runs.iter().any(|run| run["event_id"] == event && run["final"] == true)
    };
    until("it is concluded", || concluded("long"));
    assert!(began.elapsed() > Duration::from_secs(3), "nothing was cut");
    // Delayed by the wall clock: due when that says so, and sooner where it jumps there.
    publish(&["--id", "delayed", "--delay", "30m"]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(words_of(&ran), ["long 1"], "it is not due");
    clock.set("+3600");
    until("it is due", || words_of(&ran).last().unwrap() == "delayed 1");
    // What was published in the hour that is to come, once that is over.
    publish(&["--id", "ahead"]);
    until("it ran", || words_of(&ran).last().unwrap() == "ahead 1");
    clock.set("+0");
    publish(&["--id", "back"]);
    until("it ran", || words_of(&ran).last().unwrap() == "back 1");
    until("it is concluded", || concluded("back"));
    for mut worker in workers {
        Command::new("kill").arg(worker.id().to_string()).status().unwrap();
        assert!(worker.wait().unwrap().code().is_some());
    }
    nobody_is_left(&stage.place);
    assert_eq!(words_of(&ran), ["long 1", "delayed 1", "ahead 1", "back 1"], "each once");
    let runs = stage.documents(&["get-status", "a", "s", "--all", "--json"]);
    assert!(runs.iter().all(|run| run["outcome"] == "succeeded" && run["attempt"] == 1), "{runs:#?}");
    for run in &runs {
        stage.ok(&["verify", "a", "s", "--run", run["run_id"].as_str().unwrap()]);
    }
    // A retention of days is none of an hour: all ids are still known.
    for id in ["long", "delayed", "ahead", "back"] {
        assert_eq!(stage.documents(&["publish", "a", "t", "--id", id, "--json"])[0]["duplicate"], true);
    }
}
