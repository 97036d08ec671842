//! Fuzz targets, each for its time, two at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Instant;

use crate::fuzz_seeds;
use crate::run::{Done, Form, answers, root, target_folder, tool};

const TARGETS: [&str; 9] =
    ["capture", "config", "event", "frame", "ids", "index", "pattern", "record", "spool"];

/// How many targets run at once.
const AT_ONCE: usize = 2;

/// Most memory of a target, and most that it asks for at once, in MiB; inputs are a few KiB.
const MAX_MEMORY_MB: u32 = 512;
const MAX_ALLOCATION_MB: u32 = 16;

/// Longest input, in bytes.
const MAX_INPUT_BYTES: u32 = 4096;

/// After so many seconds one input is taken for one that hangs.
const MAX_SECONDS_OF_ONE: u32 = 10;

/// What a call asks for.
#[derive(Debug)]
pub(crate) struct Fuzz {
    targets: Vec<&'static str>,
    form: Form,
}

impl Fuzz {
    pub(crate) fn new(form: Form) -> Self {
        Self { targets: TARGETS.to_vec(), form }
    }

    /// From the words of the command line; `None` for what is none of them.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let form = if words.contains(&"--long") { Form::Long } else { Form::Quick };
        let named = words.iter().filter(|word| **word != "--long");
        let targets: Vec<_> =
            named.map(|word| TARGETS.into_iter().find(|target| target == word)).collect::<Option<_>>()?;
        Some(if targets.is_empty() { Self::new(form) } else { Self { targets, form } })
    }
}

/// What came of one target.
struct Ran {
    target: &'static str,
    executions: u64,
    seconds: u64,
    failed: Option<String>,
}

pub(crate) fn run(fuzz: Fuzz) -> Done {
    is_there()?;
    let seconds = match fuzz.form {
        Form::Quick => 15,
        Form::Long => 600,
    };
    // Beside everything else, so that what was built and found stays.
    let place = target_folder().join("fuzz");
    build(&place)?;
    let waiting = Mutex::new(fuzz.targets.iter().rev().copied().collect::<Vec<_>>());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(target) = next() {
                    let ran = one(target, seconds, &place);
                    println!("{target}: {}", ran.failed.as_deref().unwrap_or("no crash"));
                    if let Ok(mut done) = done.lock() {
                        done.push(ran);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().map_err(|e| e.to_string())?;
    done.sort_by_key(|ran| ran.target);
    table(&done)
}

fn table(done: &[Ran]) -> Done {
    println!("{:10} {:>12} {:>8} {:>10}  crashes", "target", "executions", "time", "a second");
    for ran in done {
        let rate = ran.executions / ran.seconds.max(1);
        let crashes = u8::from(ran.failed.is_some());
        println!("{:10} {:>12} {:>6} s {rate:>10}  {crashes}", ran.target, ran.executions, ran.seconds);
    }
    let failed: Vec<String> = done
        .iter()
        .filter_map(|ran| ran.failed.as_ref().map(|why| format!("{}: {why}", ran.target)))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("fuzz targets failed\n{}", failed.join("\n"))) }
}

/// Says how to get what is missing; nothing is downloaded here.
fn is_there() -> Done {
    if !answers(&["rustc", "+nightly", "--version"]) {
        return Err("fuzzing needs a nightly compiler: rustup toolchain install nightly".to_owned());
    }
    if !answers(&["cargo-fuzz", "--version"]) {
        return Err("fuzzing needs cargo-fuzz: cargo install cargo-fuzz, or as .ci/run does it".to_owned());
    }
    Ok(())
}

fn build(place: &Path) -> Done {
    // cargo-fuzz passes no `--locked` on, and would bring the lock up to date without a word.
    let manifest = "fuzz/Cargo.toml";
    let locked = tool("cargo")
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest])
        .stdout(Stdio::null())
        .status();
    if !locked.is_ok_and(|status| status.success()) {
        return Err(format!(
            "fuzz/Cargo.lock is behind: cargo update --workspace --manifest-path {manifest}"
        ));
    }
    println!("$ cargo +nightly fuzz build");
    let built = tool("cargo").args(["+nightly", "fuzz", "build", "--target-dir"]).arg(place).status();
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err("cargo fuzz build failed".to_owned()),
        Err(error) => Err(format!("cargo fuzz build: {error}")),
    }
}

/// Runs one target over its seeds and what was found before.
fn one(target: &'static str, seconds: u32, place: &Path) -> Ran {
    let began = Instant::now();
    let mut ran = Ran { target, executions: 0, seconds: 0, failed: None };
    match fuzzed(target, seconds, place) {
        Ok((executions, failed)) => (ran.executions, ran.failed) = (executions, failed),
        Err(error) => ran.failed = Some(error.to_string()),
    }
    ran.seconds = began.elapsed().as_secs();
    ran
}

fn fuzzed(target: &str, seconds: u32, place: &Path) -> std::io::Result<(u64, Option<String>)> {
    let [corpus, artifacts, scratch] =
        ["corpus", "artifacts", "scratch"].map(|name| place.join(name).join(target));
    for folder in [&corpus, &artifacts, &scratch] {
        fs::create_dir_all(folder)?;
    }
    let log_path = place.join(format!("{target}.log"));
    let log = fs::File::create(&log_path)?;
    // In memory where that can be had: the targets with files make many.
    let memory = tempfile_folder();
    // What waits more than it works may run beside it, and is not to wait for it.
    let status = tool("nice")
        .args(["-n", "19", "cargo", "+nightly", "fuzz", "run", "--target-dir"])
        .arg(place)
        .arg(target)
        .arg(&corpus)
        .arg(root().join("fuzz/corpus").join(target))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MAX_MEMORY_MB}"))
        .arg(format!("-malloc_limit_mb={MAX_ALLOCATION_MB}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={MAX_SECONDS_OF_ONE}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .env("TMPDIR", memory.unwrap_or(scratch))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .status()?;
    let told = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
    let number = |line: &str| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok();
    let executions = told.lines().find_map(number).unwrap_or(0);
    if status.success() {
        return Ok((executions, None));
    }
    let input = told.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let input = input.map_or_else(|| "no input was kept".to_owned(), |path| format!("the input is {path}"));
    Ok((executions, Some(format!("{input}; what it said: {}", log_path.display()))))
}

fn tempfile_folder() -> Option<PathBuf> {
    let memory = PathBuf::from("/dev/shm");
    memory.is_dir().then_some(memory)
}

/// Writes the seeds anew.
pub(crate) fn seeds() -> Done {
    for (target, name, bytes) in fuzz_seeds::all()? {
        let folder = root().join("fuzz/corpus").join(target);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(name), bytes))
            .map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    Ok(())
}
