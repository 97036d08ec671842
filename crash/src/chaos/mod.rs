//! Chaos: everybody works over Redis while links fail, servers die, come back empty or are replaced, and workers are
//! killed.
//!
//! Workers are processes of the program, each behind a proxy of its own; a publisher and followers live in this process.
//! What the commands say for themselves is written beside Redis, as in the rounds of kills.

mod crew;
mod emptied;
mod failovers;
mod followers;
mod one_server;
mod onlooker;
mod outcome;
mod output;
mod tally;
mod trouble;
mod workers;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use tally::Tally;

use crate::{Chance, Place};

/// The lease of the workers: short, so that a run has many of them.
const LEASE: Duration = Duration::from_secs(3);

/// The limit on an answer, and on connecting, of everybody.
const ANSWER: Duration = Duration::from_millis(500);

/// What every key begins with.
const PREFIX: &str = "chaos";

/// How many workers there are.
const WORKERS: usize = 4;

/// What of a phase's time is left for what has to become quiet, and for the checks.
const QUIET: Duration = Duration::from_secs(6);

/// How long everything may take to become quiet. Far more than it takes.
const LIMIT: Duration = Duration::from_secs(90);

/// How a chaos run is made.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// What works.
    pub program: PathBuf,
    /// What all chance is drawn from.
    pub seed: u64,
    /// How long it takes, about.
    pub span: Duration,
    /// This phase alone: the first is 1.
    pub phase: Option<usize>,
}

/// A phase while it is played.
struct Stage<'a> {
    place: &'a Place,
    /// How long there is trouble.
    trouble: Duration,
    chance: Chance,
    tally: &'a mut Tally,
}

/// A phase: what it is called, its part of the time in percent, what is checked, and what is done.
struct Phase {
    name: &'static str,
    part: u32,
    checked: &'static str,
    play: fn(Stage<'_>),
}

const PHASES: [Phase; 3] = [
    Phase {
        name: "one server that keeps each write",
        part: 45,
        checked: "what was told as published is there once and concluded once; no two attempts side by side, but where \
                  a worker was cut off alone; nothing runs again without a reason; each line of each run is there once \
                  and its seal verifies; followers got each line once, in order; each conclusion was told once; nothing \
                  is left in the group; a killed worker's event runs again in time",
        play: one_server::play,
    },
    Phase {
        name: "a server that comes back empty",
        part: 20,
        checked: "what is published afterwards is concluded once, its lines are there once; members go on by \
                  themselves, without a spin, and say little",
        play: emptied::play,
    },
    Phase {
        name: "a master and its replica under sentinels",
        part: 35,
        checked: "what was replicated, or published at the new master, is run to its end; where nothing was replaced \
                  meanwhile, it is concluded once and its lines are there once; everybody goes on by themselves",
        play: failovers::play,
    },
];

/// Plays the phases one after the other; answers what was done.
///
/// # Errors
/// Which phase failed, and a sentence that says what is wrong.
pub fn chaos(plan: &Chaos) -> Result<Tally, (usize, String)> {
    let mut tally = Tally::default();
    let mut chance = Chance::new(plan.seed);
    for (number, Phase { name, part, checked, play }) in (1..).zip(PHASES) {
        // Also where it is left out, so that the others are the same.
        let chance = chance.fork();
        if plan.phase.is_some_and(|phase| phase != number) {
            continue;
        }
        let (place, began) = (Place::of(plan.program.clone()), Instant::now());
        tally.begin(name, checked);
        let trouble = (plan.span * part / 100).saturating_sub(QUIET).max(Duration::from_secs(2));
        let stage = Stage { place: &place, trouble, chance, tally: &mut tally };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(stage))) {
            eprintln!("{} is kept", place.keep().display());
            return Err((number, format!("{name}: {}", sentence(&*panic))));
        }
        tally.took(began.elapsed());
        eprintln!("chaos: {name}: ok, {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(tally)
}

/// What a panic says.
fn sentence(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

/// The wall clock in milliseconds, as the witness has it.
fn now_ms() -> u64 {
    in_ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

/// Waits until it is so; fails with what it was that never came.
fn until(what: &str, limit: Duration, is_so: impl FnMut() -> bool) {
    until_or(what, limit, is_so, || "nothing more is known".to_owned());
}

/// The same, with more about it where it fails.
fn until_or(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool, state: impl FnOnce() -> String) {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() >= limit {
            panic!("within {limit:?} it never came that {what}: {}", state());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The address of a server at this port, with the limits of everybody.
fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}?{}", options())
}

/// The same for who looks at it while nothing is in the way: however busy the machine is, the answer comes.
fn patient_url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}?prefix={PREFIX}")
}

/// The options of every address.
fn options() -> String {
    let limit = ANSWER.as_millis();
    format!("prefix={PREFIX}&answer-limit={limit}ms&connect-limit={limit}ms")
}
