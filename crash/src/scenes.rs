//! Faults of the machine, each on the real thing: a disk that is full, a folder that can only be read, descriptors that
//! are used up, a clock that jumps.

mod clock;
mod descriptors;
mod disk;
mod folder;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Place;

/// How long one call of the program may take in a scene.
const CALL: &str = "60";

/// The scenes, by name. They mount, and act as another user: they need root.
type Scene = (&'static str, fn(&Path));

const SCENES: [Scene; 7] = [
    ("a full disk, with a spool", disk::with_a_spool),
    ("a full disk, without one", disk::without_a_spool),
    ("a full disk under what is stopped", disk::under_what_is_stopped),
    ("a full disk under the end of an output that is held back", disk::under_a_limit),
    ("a folder that can only be read", folder::read_only),
    ("descriptors that are used up", descriptors::used_up),
    ("a clock that jumps an hour, and back", clock::jumps),
];

/// Plays every scene with this program, all at once, for they wait more than they work; answers the names of those that
/// failed.
#[must_use]
pub fn scenes(program: &Path) -> Vec<&'static str> {
    thread::scope(|scope| {
        let playing = SCENES.map(|(name, scene)| (name, scope.spawn(move || play(name, scene, program))));
        let failed =
            playing.into_iter().filter_map(|(name, played)| (!played.join().unwrap()).then_some(name));
        failed.collect()
    })
}

fn play(name: &str, scene: fn(&Path), program: &Path) -> bool {
    let began = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| scene(program)));
    let how = if played.is_ok() { "ok" } else { "FAILED" };
    eprintln!("scene: {name}: {how}, {:.1} s", began.elapsed().as_secs_f64());
    played.is_ok()
}

/// A place with its own copy of the program, which everybody may run.
struct Stage {
    place: Place,
    program: PathBuf,
}

impl Stage {
    fn new(program: &Path) -> Self {
        let place = Place::of(program.to_owned());
        let own = place.path().join("program");
        // By another process: a child that is forked here meanwhile would have the file open for writing, and the system
        // starts no such program.
        let copied = Command::new("cp").arg(program).arg(&own).status().unwrap();
        assert!(copied.success(), "cp {} {}", program.display(), own.display());
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { program: own, place }
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    /// The program below these words, as `prlimit` and its like start it. It is ended after a while.
    fn command(&self, below: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", CALL]).args(below).arg(&self.program).args(words);
        command
            .current_dir(self.path())
            .env_remove("PIPELINE_DIR")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    fn below(&self, below: &[&str], words: &[&str]) -> Output {
        self.command(below, words).output().unwrap()
    }

    fn run(&self, words: &[&str]) -> Output {
        self.below(&[], words)
    }

    /// What it prints, where it ends well.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn documents(&self, words: &[&str]) -> Vec<Value> {
        self.ok(words).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Fails where it does not become so.
fn until(what: &str, fits: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !fits() {
        assert!(Instant::now() < limit, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
