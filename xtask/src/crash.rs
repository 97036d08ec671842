//! Rounds of kills over the program: what it promises has to hold whoever dies, and whenever.

use std::path::PathBuf;
use std::time::Instant;

use crash::{Faults, Rounds, kills, none_is_left_running, rounds, scenes};

use crate::run::{Done, Form, cargo};

/// The program that is killed.
const PROGRAM: &str = "pipeline-with-faults";

/// How many rounds go on at once: they wait for leases more than they work.
const AT_ONCE: usize = 4;

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    rounds: u64,
    seed: u64,
    form: Form,
    scenes: bool,
}

impl Crash {
    pub(crate) const fn new(form: Form) -> Self {
        let rounds = match form {
            Form::Quick => 40,
            Form::Long => 1000,
        };
        Self { rounds, seed: 1, form, scenes: true }
    }

    /// From the words of the command line; `None` for what is none of them.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let form = if words.contains(&"--long") { Form::Long } else { Form::Quick };
        let mut crash = Self::new(form);
        let mut words = words.iter().filter(|word| **word != "--long");
        // A round that is repeated is played alone.
        crash.scenes = !words.clone().any(|word| *word == "--seed");
        while let Some(word) = words.next() {
            let number = words.next()?.parse().ok()?;
            match *word {
                "--rounds" => crash.rounds = number,
                "--seed" => crash.seed = number,
                _ => return None,
            }
        }
        Some(crash)
    }
}

pub(crate) fn run(crash: Crash) -> Done {
    let program = build(crash.form)?;
    if crash.scenes {
        services::installed("faketime", &["faketime"]).map_err(|e| e.to_string())?;
        let failed = scenes(&program);
        if !failed.is_empty() {
            return Err(format!("scenes that failed: {}", failed.join("; ")));
        }
    }
    let faults = Faults::new(points(&program)?);
    let long = if crash.form == Form::Long { "--long " } else { "" };
    let repeat = format!("cargo xtask crash {long}--rounds 1 --seed ");
    let seeds = crash.seed..crash.seed.saturating_add(crash.rounds);
    println!("{} rounds of kills from seed {}, {AT_ONCE} at once", crash.rounds, crash.seed);
    let began = Instant::now();
    let plan = Rounds { seeds, at_once: AT_ONCE, program, repeat };
    let failed =
        rounds(&plan, |place, seed, chance| kills(place, seed, chance, &faults), none_is_left_running);
    for (point, kills) in faults.kills() {
        println!("{kills:6} kills  {point}");
    }
    println!("{} rounds in {:.0} s; checked in each: {CHECKED}", crash.rounds, began.elapsed().as_secs_f64());
    if !failed.is_empty() {
        return Err(format!("rounds that failed, by seed: {failed:?}"));
    }
    let unreached = faults.unreached();
    // One that is repeated has its own points alone.
    if crash.rounds >= Crash::new(Form::Quick).rounds && !unreached.is_empty() {
        return Err(format!("nobody died at: {}", unreached.join(", ")));
    }
    Ok(())
}

const CHECKED: &str = "what was told as published is concluded; nothing concluded runs again; no two attempts side by \
    side; every chain went on, once; every line of a final run is there once or in a gap, in every store, and its seal \
    verifies; followers got each line once, in order; nothing is left in a spool; no process is left; the folder opens, \
    and works";

/// Builds the program that is killed, and says where it is.
pub(crate) fn build(form: Form) -> Result<PathBuf, String> {
    let mut words = vec!["build", "--locked", "-p", "pubsub-pipeline-examples", "--features", "fault-points"];
    words.extend(["--example", PROGRAM]);
    words.extend((form == Form::Long).then_some("--release"));
    cargo(&words, &[])?;
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let target = own.ancestors().nth(2).ok_or("this task lies in no target folder")?;
    Ok(target.join(if form == Form::Long { "release" } else { "debug" }).join("examples").join(PROGRAM))
}

/// The fault points of the program.
fn points(program: &PathBuf) -> Result<Vec<String>, String> {
    let told = std::process::Command::new(program).arg("fault-points").output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&told.stdout).lines().map(str::to_owned).collect())
}
