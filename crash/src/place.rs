//! A folder, and the program in it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// An example, as cargo builds it beside the program that asks: a test, or a task of the workspace. With
/// `--test program` alone cargo builds none, and the last one counts.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let asks = std::env::current_exe().unwrap();
    let folder = asks.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    let program = folder.join("examples").join(name);
    assert!(program.exists(), "cargo build --example {name} makes {}", program.display());
    program
}

/// A folder with a broker and a store of its own.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    program: PathBuf,
}

/// How the program ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// What it said beside.
    pub err: String,
}

impl Ended {
    /// The documents on standard output.
    #[must_use]
    pub fn documents(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// For the example `pipeline`.
    #[must_use]
    pub fn new() -> Self {
        Self::of(example("pipeline"))
    }

    /// For this program.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), program }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the folder where it is.
    #[must_use]
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }

    /// The program with these words, not started.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(self.path()).env_remove("PIPELINE_DIR").env_remove("RUST_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Ended {
        let output = self.command(words).output().unwrap();
        Ended {
            code: output.status.code().expect("the program is ended by no signal"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the program, which must end with this code.
    pub fn expect(&self, code: i32, words: &[&str]) -> Ended {
        let ended = self.run(words);
        assert_eq!(ended.code, code, "{words:?}: {ended:?}");
        ended
    }

    /// Starts the program.
    #[must_use]
    pub fn start(&self, words: &[&str]) -> Running {
        let mut child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { out, err: BufReader::new(child.stderr.take().unwrap()), child }
    }
}

/// A program that runs; it is ended with the test.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    /// Its standard output.
    pub out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
}

impl Running {
    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The next line that it says beside its results.
    pub fn aside(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).unwrap();
        line
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
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
