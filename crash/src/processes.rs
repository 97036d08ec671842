//! Processes of a round: started, killed, waited for.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::{Place, SAID};

/// Far more than anything here takes.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Starts the program with nobody at its output. What it says beside is kept in the folder.
#[must_use]
pub fn start_aside(place: &Place, words: &[&str]) -> Child {
    place.command(words).stdout(Stdio::null()).stderr(logged(place)).spawn().unwrap()
}

/// The file that keeps what workers say.
#[must_use]
pub fn logged(place: &Place) -> fs::File {
    fs::File::options().create(true).append(true).open(place.path().join(SAID)).unwrap()
}

/// Waits for its end; `None` where that has not come by then.
pub(crate) fn poll(child: &mut Child, limit: Instant) -> Option<ExitStatus> {
    loop {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > limit {
            return ended;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for its end, and gives the code; `None` where a signal ended it.
#[must_use]
pub fn end_of(mut child: Child, words: &[&str]) -> Option<i32> {
    let Some(status) = poll(&mut child, Instant::now() + LIMIT) else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{words:?} does not end");
    };
    status.code()
}

/// Runs the program, which has to end by itself, and well.
pub fn to_the_end(place: &Place, words: &[&str]) {
    assert_eq!(end_of(start_aside(place, words), words), Some(0), "{words:?}");
}

/// Fails where anything that was started in this folder, or guards what was, is there still.
pub fn nobody_is_left(place: &Place) {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_of(place.path());
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "left behind: {left:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The command lines of processes that work in this folder, or name it. Of a zombie neither can be read.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let works_here = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if works_here || words.contains(name) {
            found.push(format!("{} {words}", path.display()));
        }
    }
    found
}

/// Kills it, and gives what it printed until then; its code too, where it had ended by itself.
#[must_use]
pub fn killed(mut child: Child) -> (Option<i32>, Vec<u8>) {
    // It may have ended already.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout)
}

/// Sends a signal; whoever has ended is not told.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status().unwrap();
}
