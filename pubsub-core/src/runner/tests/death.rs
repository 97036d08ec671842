//! What a worker's death leaves behind, and what many runs leave in a worker. Each test has a process for itself.

use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::guardian::{Guarded, guardian_id};
use super::super::start::Start;
use super::{LONG, Run, event, gone, lives, sh};
use crate::{Command, Exit, StartFailure};

const PART: &str = "RUNNER_TEST_PART";
const FOLDER: &str = "RUNNER_TEST_FOLDER";

/// A worker in a process of its own, killed at the latest when the test ends.
struct Worker {
    child: Child,
    folder: tempfile::TempDir,
}

impl Worker {
    fn start(part: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runner::tests::death::a_worker", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(FOLDER, folder.path())
            .env("TMPDIR", folder.path())
            .env("REDIS_URL", "redis://:secret@host")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("HARMLESS", "1")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Waits for a file that the worker or its command writes whole.
    async fn says(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        timeout(LONG, async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
                    _ => sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no {name}"))
    }

    fn signal(&self, signal: &str, of_group: &str) {
        let target = format!("{of_group}{}", self.child.id());
        let status = std::process::Command::new("kill").args(["-s", signal, "--", &target]).status().unwrap();
        assert!(status.success());
    }

    fn succeeds(mut self) -> tempfile::TempDir {
        assert!(self.child.wait().unwrap().success());
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }

    fn private_folders(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("pipeline-"))
            .count()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_killed_worker_takes_its_commands_along() {
    let mut worker = Worker::start("works");
    let pids = [worker.says("shell").await, worker.says("stubborn").await];
    assert!(pids.iter().all(|pid| lives(pid)));
    assert_eq!(worker.private_folders(), 1);
    worker.child.kill().unwrap();
    for pid in &pids {
        gone(pid).await;
    }
    gone(&worker.says("guardian").await).await;
    assert_eq!(worker.private_folders(), 0);
}

#[tokio::test]
async fn a_signal_to_the_whole_group_reaches_neither_command_nor_guardian() {
    let mut worker = Worker::start("works deaf");
    let pids = [worker.says("shell").await, worker.says("stubborn").await, worker.says("guardian").await];
    worker.signal("TERM", "-");
    worker.signal("HUP", "-");
    // Neither ends the guardian where it is sent to it alone.
    let status = std::process::Command::new("kill").args(["-s", "TERM", &pids[2]]).status().unwrap();
    assert!(status.success());
    sleep(Duration::from_millis(100)).await;
    assert!(pids.iter().all(|pid| lives(pid)));
    worker.child.kill().unwrap();
    for pid in &pids {
        gone(pid).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_signal_to_the_whole_group_ends_no_command_that_just_starts() {
    Worker::start("starts in a storm").succeeds();
}

#[tokio::test]
async fn a_worker_killed_while_it_starts_a_command_takes_that_along() {
    let worker = Worker::start("dies while starting");
    let pid = worker.says("shell").await;
    gone(&pid).await;
}

#[cfg(target_os = "linux")]
async fn rounds_of_death(rounds: u64) {
    for round in 0..rounds {
        let mut worker = Worker::start("starts without end");
        worker.says("shell").await;
        let guardian = worker.says("guardian").await;
        sleep(Duration::from_micros(1_700 * (round % 37))).await;
        worker.child.kill().unwrap();
        worker.child.wait().unwrap();
        gone(&guardian).await;
        // Whatever it started has its environment.
        let mark = format!("{FOLDER}={}", worker.folder.path().display());
        let left = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            memchr::memmem::find(&environment, mark.as_bytes()).is_some()
        });
        // What is killed takes a moment to be gone.
        for entry in left.collect::<Vec<_>>() {
            gone(entry.file_name().to_str().unwrap()).await;
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn workers_killed_while_they_start_many_commands_leave_none() {
    rounds_of_death(8).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "long: 500 workers are killed"]
async fn workers_killed_while_they_start_many_commands_leave_none_in_the_long_form() {
    rounds_of_death(500).await;
}

#[tokio::test]
async fn a_guardian_that_died_is_replaced_and_the_new_one_knows_all() {
    let mut worker = Worker::start("loses its guardian");
    let pids = [worker.says("first").await, worker.says("second").await];
    assert!(pids.iter().all(|pid| lives(pid)));
    worker.child.kill().unwrap();
    for pid in &pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn credentials_of_the_worker_are_not_inherited() {
    let worker = Worker::start("environment");
    let folder = worker.succeeds();
    let names = std::fs::read_to_string(folder.path().join("environment")).unwrap();
    assert!(names.contains("HARMLESS=1"));
    assert!(!names.contains("secret"), "{names}");
}

#[tokio::test]
async fn runs_leave_no_descriptor_no_zombie_and_no_file() {
    Worker::start("leaks").succeeds();
}

#[tokio::test]
async fn a_worker_without_a_free_descriptor_begins_nothing_says_so_and_goes_on_once_it_has_some() {
    Worker::start("lacks descriptors").succeeds();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that the other tests here start; by itself it runs one command"]
async fn a_worker() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap_or_else(|_| "/nowhere".to_owned()));
    let part = std::env::var(PART).unwrap_or_default();
    let file = |name: &str| folder.join(name).display().to_string();
    match part.as_str() {
        "works" | "works deaf" => {
            if part == "works deaf" {
                deaf();
            }
            let inner = format!("trap : TERM; echo $$ > {}; while :; do sleep 0.02; done", file("stubborn"));
            let line = format!("sh -c '{inner}' & echo $$ > {}; wait", file("shell"));
            let (_, ()) = Run::new()
                .with(&sh(&line), async |_, _| {
                    while !folder.join("shell").exists() {
                        sleep(Duration::from_millis(5)).await;
                    }
                    std::fs::write(file("guardian"), format!("{}\n", guardian_id())).unwrap();
                })
                .await;
        }
        "dies while starting" => {
            let run = Run::new();
            let id = &run.key.run_id;
            let _guarded = Guarded::announce(id).unwrap();
            // Started as a command is, and not yet registered.
            let mut child = std::process::Command::new("sh")
                .args(["-c", &format!("echo $$ > {}; sleep 300", file("shell"))])
                .env("PIPELINE_RUN_ID", id.as_str())
                .process_group(0)
                .spawn()
                .unwrap();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            child.wait().unwrap();
        }
        "starts without end" => {
            let line = format!("echo $$ > {}; sleep 300", file("shell"));
            let command = sh(&line).with_timeout(Duration::from_millis(10)).with_grace(Duration::ZERO);
            Run::new().end(&command).await;
            std::fs::write(file("guardian"), format!("{}\n", guardian_id())).unwrap();
            let starts = (0..4).map(|_| async {
                loop {
                    Run::new().end(&command).await;
                }
            });
            futures::future::join_all(starts).await;
        }
        "starts in a storm" => starts_in_a_storm().await,
        "lacks descriptors" => lacks_descriptors(&folder).await,
        "loses its guardian" => loses_its_guardian(&folder).await,
        "environment" => {
            Run::new().end(&sh(&format!("env > {}", file("environment")))).await;
        }
        "leaks" => leaks().await,
        _ => assert_eq!(Run::new().end(&Command::new("true")).await.finished.exit.code, Some(0)),
    }
}

/// Does not end by TERM and HUP.
fn deaf() {
    for kind in [tokio::signal::unix::SignalKind::terminate(), tokio::signal::unix::SignalKind::hangup()] {
        // From now on the signal is handled, even where nobody listens.
        drop(tokio::signal::unix::signal(kind).unwrap());
    }
}

/// Commands start while a supervisor signals everything in the worker's group again and again.
async fn starts_in_a_storm() {
    deaf();
    // It ends with this process.
    std::thread::spawn(|| {
        loop {
            rustix::process::kill_current_process_group(rustix::process::Signal::TERM).unwrap();
            // A command that starts again after each signal has to get somewhere in between, also on a busy machine.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    for _ in 0..300 {
        let ran = Run::new().end(&Command::new("true")).await;
        assert_eq!(ran.finished.exit, crate::Exit::code(0));
    }
}

async fn loses_its_guardian(folder: &Path) {
    let file = |name: &str| folder.join(name).display().to_string();
    let first = sh(&format!("echo $$ > {}; sleep 300", file("first")));
    let second = sh(&format!("echo $$ > {}; sleep 300", file("second")));
    let next = async |_: &_, _: &_| {
        while !folder.join("first").exists() {
            sleep(Duration::from_millis(5)).await;
        }
        let guardian = guardian_id().to_string();
        std::process::Command::new("kill").args(["-KILL", &guardian]).status().unwrap();
        gone(&guardian).await;
        Run::new().end(&second).await;
    };
    Run::new().with(&first, next).await;
}

async fn leaks() {
    Run::new().end(&Command::new("true")).await;
    let before = left();
    for _ in 0..10 {
        let runs = (0..20).map(|n| async move {
            let command = match n % 5 {
                0 => Command::new("no-such-program-here"),
                1 => sh("sleep 300 & echo ready; exit 1").with_settle(Duration::from_millis(20)),
                2 => sh("sleep 300").with_timeout(Duration::from_millis(20)),
                3 => sh("trap '' TERM; sleep 300 & wait; wait")
                    .with_timeout(Duration::from_millis(50))
                    .with_grace(Duration::from_millis(20)),
                _ => Command::new("true"),
            };
            Run::new().end(&command).await;
        });
        futures::future::join_all(runs).await;
    }
    assert_eq!(left(), before);
}

/// Open descriptors, children (of any state), files in the private folder.
fn left() -> (usize, usize, usize) {
    let count = |path: &Path| std::fs::read_dir(path).unwrap().count();
    let own = std::process::id().to_string();
    let parents = std::process::Command::new("ps").args(["-A", "-o", "ppid="]).output().unwrap();
    let parents = String::from_utf8(parents.stdout).unwrap();
    let children = parents.lines().filter(|parent| parent.trim() == own).count();
    let private = std::fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().path());
    let private =
        private.filter(|path| path.to_str().unwrap().contains("pipeline-")).map(|path| count(&path)).sum();
    (count(Path::new("/dev/fd")), children, private)
}

/// Without a guardian, and then with one: what is lacking differs.
async fn lacks_descriptors(folder: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let enough = getrlimit(Resource::Nofile);
    let free: u64 = std::fs::File::open("/dev/null").unwrap().as_raw_fd().try_into().unwrap();
    for guarded in [false, true] {
        // One to spare for each try, so that the lack shows itself in another place.
        for few in free..free + 12 {
            setrlimit(Resource::Nofile, Rlimit { current: Some(few), ..enough }).unwrap();
            let command = sh(&format!("echo >> {}/tried-{guarded}", folder.display()));
            let started = Start::new(&command, &event(), &Run::new().key).start();
            setrlimit(Resource::Nofile, enough).unwrap();
            let Err(exit) = started else { break };
            assert!(!folder.join(format!("tried-{guarded}")).exists(), "{guarded} {few}: it was begun");
            assert_eq!(exit.start_failure, Some(StartFailure::OutOfResources), "{guarded} {few}: {exit:?}");
            assert!(exit.detail.unwrap().contains("Too many open files"), "{guarded} {few}");
        }
        let line = format!("echo >> {}/begun", folder.display());
        assert_eq!(Run::new().end(&sh(&line)).await.finished.exit, Exit::code(0), "{guarded}");
    }
    assert_eq!(std::fs::read_to_string(folder.join("begun")).unwrap(), "\n\n");
}
