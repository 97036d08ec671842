//! The scripts that call the program, with the program on their path and a folder of their own.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crash::{example, nobody_is_left, signal};
use tempfile::TempDir;

/// A folder with `pipeline` on the path and all it keeps.
struct Shell(crash::Place, TempDir);

impl Shell {
    fn new() -> Self {
        let path = tempfile::tempdir().unwrap();
        symlink(example("pipeline"), path.path().join("pipeline")).unwrap();
        Self(crash::Place::new(), path)
    }

    fn command(&self, script: &str, words: &[&str]) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let mut path = self.1.path().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut command = Command::new(scripts.join(script));
        command.args(words).env_clear().env("PATH", path).env("PIPELINE_DIR", self.0.path().join("kept"));
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// What it prints on standard output and beside, where it ends with this code.
    fn run(&self, code: i32, script: &str, words: &[&str]) -> (String, String) {
        let output = self.command(script, words).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|told| String::from_utf8(told).unwrap());
        assert_eq!(output.status.code(), Some(code), "{script} {words:?}: {out}{err}");
        (out, err)
    }

    fn start(&self, script: &str, words: &[&str]) -> Worker {
        Worker::start(&mut self.command(script, words))
    }
}

/// A worker, which is ended with its test.
struct Worker(Child);

impl Worker {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Stops it by a signal, and gives its code: 128 and the signal's number where all went well.
    fn stopped(mut self) -> Option<i32> {
        signal(&self.0, "TERM");
        self.0.wait().unwrap().code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has ended already, or its test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_event_is_published_and_a_subscriber_builds_and_anyone_asks() {
    let shell = Shell::new();
    let build = "cat; echo; echo 'warning: unused' >&2; echo built";
    let builder = shell.start("build-subscriber.sh", &["action-1", "sh", "-c", build]);
    let (id, _) = shell.run(0, "publisher.sh", &["action-1", "build-requested", r#"{"branch":"main"}"#]);
    assert_eq!(id.lines().count(), 1, "the id of the event: {id:?}");

    // Waits for the run, and for its end.
    let query = "output-query-api.sh";
    let (seen, _) = shell.run(0, query, &["stream-logs", "action-1", "build"]);
    let mut lines: Vec<&str> = seen.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["built", "warning: unused", r#"{"branch":"main"}"#]);
    let (status, _) = shell.run(0, query, &["get-status", "action-1", "build"]);
    assert!(status.contains("succeeded"), "{status}");
    let (last, _) = shell.run(0, query, &["get-logs", "action-1", "build", "1"]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let (found, _) = shell.run(0, query, &["search", "action-1", "build", "^warning"]);
    assert!(found.ends_with(":warning: unused\n"), "{found}");
    let (listed, _) = shell.run(0, query, &["list"]);
    assert!(listed.contains("action-1"), "{listed}");

    assert_eq!(builder.stopped(), Some(143));
    nobody_is_left(&shell.0);
}

#[test]
fn a_build_that_goes_on_starts_the_next_stage() {
    let shell = Shell::new();
    let builder = shell.start("build-subscriber.sh", &["*", "true"]);
    shell.run(0, "publisher.sh", &["action-2", "build-requested"]);
    let words = ["work", "--on", "build-done:*", "--stage", "test", "--", "echo", "tested"];
    let tester = Worker::start(shell.0.command(&words).env("PIPELINE_DIR", shell.0.path().join("kept")));
    let (seen, _) = shell.run(0, "output-query-api.sh", &["stream-logs", "action-2", "test"]);
    assert_eq!(seen, "tested\n");
    for worker in [builder, tester] {
        assert_eq!(worker.stopped(), Some(143));
    }
    nobody_is_left(&shell.0);
}

#[test]
fn a_command_that_is_streamed_gives_its_output_and_its_code() {
    let shell = Shell::new();
    let words = ["action-3", "lint", "sh", "-c", "echo 'one  word'; exit 7"];
    let (shown, _) = shell.run(7, "output-streamer.sh", &words);
    assert_eq!(shown, "one  word\n");
    let (kept, _) = shell.run(0, "output-query-api.sh", &["get-logs", "action-3", "lint"]);
    assert_eq!(kept, shown);
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_right() {
    let shell = Shell::new();
    let table: [(&str, &[&str]); 10] = [
        ("publisher.sh", &[]),
        ("publisher.sh", &["action-1"]),
        ("publisher.sh", &["action-1", "build-requested", "{}", "more"]),
        ("output-streamer.sh", &[]),
        ("output-streamer.sh", &["action-1", "build"]),
        ("build-subscriber.sh", &[]),
        ("build-subscriber.sh", &["action-1"]),
        ("output-query-api.sh", &[]),
        ("output-query-api.sh", &["drop", "action-1"]),
        ("output-query-api.sh", &["publish", "action-1", "build-requested"]),
    ];
    for (script, words) in table {
        let (out, err) = shell.run(2, script, words);
        assert_eq!(out, "", "{script} {words:?}");
        assert!(err.starts_with(&format!("usage: {script} ")), "{script} {words:?}: {err}");
    }
    assert!(!shell.0.path().join("kept").exists(), "nothing was begun");
    // What the program itself refuses, it names.
    let (_, err) = shell.run(2, "publisher.sh", &["action-1", "build-requested", "{no json"]);
    assert!(err.contains("JSON"), "{err}");
}
