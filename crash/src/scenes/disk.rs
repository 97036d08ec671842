//! A disk that is full: a file system of two megabytes in memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{Stage, until};

/// Prints 10 MB in lines of 71 bytes, and ends with 0.
const PRINTS: &str =
    "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 10000000";
const LINES: u64 = 140_846;

/// A small file system, gone with the scene.
struct Small(PathBuf);

impl Small {
    fn mount(stage: &Stage) -> Self {
        let folder = stage.path().join("small");
        std::fs::create_dir(&folder).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder.to_str().unwrap()]);
        Self(folder)
    }

    /// Frees space, as whoever looks after the disk does.
    fn grow(&self) {
        run("mount", &["-o", "remount,size=64m", self.0.to_str().unwrap()]);
    }

    fn fill(&self) {
        let ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        // Ends with the error that is wanted.
        let _ = std::io::copy(&mut std::io::repeat(7), &mut &ballast);
    }

    fn is_full(&self) -> bool {
        let told = Command::new("stat").args(["-f", "-c", "%f"]).arg(&self.0).output().unwrap();
        told.stdout.trim_ascii() == b"0"
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(program: &str, words: &[&str]) {
    let status = Command::new(program).args(words).status();
    assert!(status.unwrap().success(), "{program} {words:?}: this needs root");
}

/// Lines and gaps of a record, added up.
fn told(record: &Value) -> u64 {
    let gaps = record["gaps"].as_array().unwrap().iter();
    let missing: u64 =
        gaps.map(|gap| gap["last"].as_u64().unwrap() + 1 - gap["first"].as_u64().unwrap()).sum();
    missing + stored(record)
}

fn stored(record: &Value) -> u64 {
    record["stored"].as_u64().unwrap()
}

/// The record of the run, with how many lines of it are there.
fn status(stage: &Stage) -> Value {
    let mut record = stage.documents(&["--dir", "small/p", "--json", "get-status", "big", "s"]).remove(0);
    let lines = stage.documents(&["--dir", "small/p", "--json", "get-logs", "big", "s"]).len();
    record["stored"] = (lines as u64).into();
    record
}

fn publish(stage: &Stage, id: &str) -> Output {
    stage.run(&["--dir", "small/p", "--json", "publish", "a", "t", "--id", id])
}

/// A publish on the full disk says why, leaves nothing behind, and works once there is room.
fn publish_is_refused(stage: &Stage, id: &str) {
    let refused = publish(stage, id);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(said.contains("\"kind\":\"full\""), "{said}");
}

fn publish_works(stage: &Stage, id: &str) {
    let told = publish(stage, id);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("\"duplicate\":false"), "{told}");
    stage.ok(&["--dir", "small/p", "work", "--on", "t:*", "--stage", "t", "--until-idle", "--", "true"]);
    assert_eq!(stage.documents(&["--dir", "small/p", "--json", "get-status", "a", "t", "--all"]).len(), 2);
}

/// The command goes on and ends as it would; what had no room is named; afterwards everything works.
pub(super) fn with_a_spool(program: &Path) {
    let stage = Stage::new(program);
    let small = Small::mount(&stage);
    assert!(publish(&stage, "first").status.success());
    let spooled = ["--dir", "small/p", "--spool", "small/spool"];
    let ended = stage.run(&[&spooled[..], &["stream", "big", "s", "--", "sh", "-c", PRINTS]].concat());
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    small.fill();
    publish_is_refused(&stage, "second");
    small.grow();
    publish_works(&stage, "second");
    // What the spool has is shipped by the next one that opens it.
    stage.ok(&[&spooled[..], &["stream", "next", "s", "--", "echo", "hi"]].concat());
    let record = status(&stage);
    assert_eq!((&record["outcome"], &record["status"]), (&"succeeded".into(), &"completed".into()));
    assert_eq!(record["output_incomplete"], true, "{record}");
    assert!(stored(&record) > 1000, "what had room is there: {record}");
    assert_eq!(told(&record), LINES, "{record}");
    assert!(record["gaps"][0]["reason"].as_str().unwrap().contains("no space"), "{record}");
    assert_eq!(stage.ok(&["--dir", "small/p", "get-logs", "next", "s"]), "hi\n");
}

/// A required store without a spool holds up the command until there is room; then nothing is missing.
pub(super) fn without_a_spool(program: &Path) {
    let stage = Stage::new(program);
    let small = Small::mount(&stage);
    assert!(publish(&stage, "first").status.success());
    let words = ["--dir", "small/p", "stream", "big", "s", "--", "sh", "-c", PRINTS];
    let running = stage.command(&[], &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // From now on it is full but for moments: what was written by half is given back each time.
    until("the disk is full", || small.is_full());
    small.grow();
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let record = status(&stage);
    assert_eq!((stored(&record), &record["output_incomplete"]), (LINES, &false.into()), "{record}");
    stage.ok(&["--dir", "small/p", "verify", "big", "s"]);
    publish_works(&stage, "second");
}

/// One signal is enough: what the store does not take in time is told, and the run is lost.
pub(super) fn under_what_is_stopped(program: &Path) {
    let stage = Stage::new(program);
    let small = Small::mount(&stage);
    let words = ["--dir", "small/p", "stream", "big", "s", "--grace", "1s", "--", "sh", "-c", PRINTS];
    // Not below `timeout`, which would send KILL soon after.
    let mut running = Command::new(&stage.program);
    running.args(words).current_dir(stage.path()).env_remove("RUST_LOG").stdin(Stdio::null());
    let running = running.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the disk is full", || small.is_full());
    let begun = std::time::Instant::now();
    run("kill", &["-s", "TERM", &running.id().to_string()]);
    let ended = running.wait_with_output().unwrap();
    let (said, took) = (String::from_utf8_lossy(&ended.stderr).into_owned(), begun.elapsed());
    assert!(took < std::time::Duration::from_secs(25), "{took:?}: {said}");
    assert!(said.contains("its end was not stored in time"), "{said}");
    small.grow();
    stage.ok(&["--dir", "small/p", "stream", "next", "s", "--", "echo", "hi"]);
}

/// The end of an output is held back on a disk that gets full: less of it is kept, and the gap counts the rest. However
/// much room there was, what is held back leaves enough of it to the store.
pub(super) fn under_a_limit(program: &Path) {
    // From less than one of the pieces that are held back, each of 1 MiB, to nearly two of them.
    for ballast in [1_600, 1_300, 1_100, 1_024, 1_000, 960, 900, 800, 500, 100] {
        with_less_room(program, ballast << 10);
    }
}

fn with_less_room(program: &Path, ballast: usize) {
    let stage = Stage::new(program);
    let small = Small::mount(&stage);
    std::fs::write(small.0.join("ballast"), vec![7; ballast]).unwrap();
    let words = ["--dir", "small/p", "stream", "big", "s", "--max-output", "200kB", "--", "sh", "-c", PRINTS];
    let ended = stage.run(&words);
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let record = status(&stage);
    assert_eq!(told(&record), LINES, "{record}");
    stage.ok(&["--dir", "small/p", "verify", "big", "s"]);
    let last = stage.ok(&["--dir", "small/p", "--json", "get-logs", "big", "s", "1"]);
    assert!(last.contains(&format!("\"line\":{LINES}")), "the last line is kept: {last}");
}
