//! The built program, in a folder of each test's own.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what helps tests may fail as they do")]

mod asking;
mod caps;
mod command_line;
mod events;
mod keeping;
#[cfg(target_os = "linux")]
mod kills;
mod removals;
#[cfg(target_os = "linux")]
mod rounds;
#[cfg(target_os = "linux")]
mod shutdowns;
mod spooling;
mod streaming;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// An example, as cargo builds it beside these tests. With `--test program` alone it builds none, and the last one counts.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(program.exists(), "cargo build --example {name} makes {}", program.display());
    program
}

/// A folder with a broker and a store of its own.
struct Place(TempDir);

/// How the program ended, and what it printed.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    /// The documents on standard output.
    fn documents(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(example("pipeline"));
        command.args(words).current_dir(self.0.path()).env_remove("PIPELINE_DIR").env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    fn run(&self, words: &[&str]) -> Ended {
        let output = self.command(words).output().unwrap();
        Ended {
            code: output.status.code().expect("the program is ended by no signal"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the program, which must end with this code.
    fn expect(&self, code: i32, words: &[&str]) -> Ended {
        let ended = self.run(words);
        assert_eq!(ended.code, code, "{words:?}: {ended:?}");
        ended
    }

    /// Starts the program.
    fn start(&self, words: &[&str]) -> Running {
        let mut child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { out, err: BufReader::new(child.stderr.take().unwrap()), child }
    }
}

/// A program that runs; it is ended with the test.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Running {
    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The next line that it says beside its results.
    fn aside(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    fn ended(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.err.read_to_string(&mut err).unwrap();
        let code = self.child.wait().unwrap().code().expect("the program is ended by no signal");
        Ended { code, out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or its test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
