//! Many at once: workers, publishers and followers in processes of their own, groups and runs by the thousand. The test
//! binary runs itself again for each process. Each test has a small form, and one at full size that is asked for.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what helps tests may fail as it does")]
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "measured numbers are printed")]

mod followers;
mod groups;
mod runs;
mod sharing;
mod workers;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pubsub_core::{Broker, Scope};
use pubsub_file::{FileBroker, FileBrokerConfig, FileStore, FileStoreConfig};
use tokio::sync::mpsc;

const ROLE: &str = "SCALE_TEST_ROLE";
const FOLDER: &str = "SCALE_TEST_FOLDER";

/// Longest wait for anything.
const LONG: Duration = Duration::from_secs(600);

/// What a process says is marked, since the test harness prints as well.
const MARK: &str = "@@";

async fn broker(folder: &Path) -> FileBroker {
    FileBroker::connect(FileBrokerConfig::new(folder)).await.unwrap()
}

async fn store(folder: &Path) -> FileStore {
    FileStore::connect(FileStoreConfig::new(folder.join("store"))).await.unwrap()
}

/// This test binary as another process in a role. It is killed where it is dropped.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    said: Receiver<String>,
}

impl Process {
    fn start(role: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_process_in_a_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = channel();
        // Read at once, so that no process waits for room in its pipe. It ends with the process.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some((_, what)) = line.split_once(MARK) else { continue };
                if say.send(what.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { input: child.stdin.take(), child, said }
    }

    fn many(many: usize, role: impl Fn(usize) -> String, folder: &Path) -> Vec<Self> {
        (0..many).map(|n| Self::start(&role(n), folder)).collect()
    }

    /// Waits for the next thing it says.
    fn next(&self) -> String {
        self.said.recv_timeout(LONG).unwrap()
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input.as_mut().unwrap(), "{what}").unwrap();
    }

    /// All that it says up to its own end.
    fn wait_for_end(mut self) -> Vec<String> {
        let all = self.said.iter().collect();
        assert!(self.child.wait().unwrap().success());
        all
    }

    /// Ends it and answers all that it said.
    fn end(mut self) -> Vec<String> {
        drop(self.input.take());
        self.wait_for_end()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or is not needed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{what}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: what the other processes run.
#[test]
fn one_process_in_a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let folder = std::path::PathBuf::from(std::env::var(FOLDER).unwrap());
    let (tell, mut told) = mpsc::channel(16);
    // Whoever started this process tells it things, and ends it by saying no more.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = tell.blocking_send(line);
        }
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let words: Vec<&str> = role.split(' ').collect();
        match words.as_slice() {
            ["work"] => workers::work(&folder).await,
            ["publish", name, many] => workers::publish(&folder, name, many.parse().unwrap()).await,
            ["follow", run, many] => followers::follow_all(&folder, run, many.parse().unwrap()).await,
            ["publish-large"] => sharing::publish_large(&folder).await,
            ["hold"] => sharing::hold(&folder, &mut told).await,
            _ => unreachable!("{role}"),
        }
    });
}

/// Waits until no group has anything to do.
async fn until_idle(broker: &dyn Broker, groups: usize) {
    let idle = async {
        loop {
            let all = broker.groups(&Scope::default()).await.unwrap();
            if all.len() == groups && all.iter().all(|group| group.depth.is_idle()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, idle).await.unwrap();
}
