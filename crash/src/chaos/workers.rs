//! The workers of a phase: processes, killed and started again, stopped and cut off.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use super::{ANSWER, LEASE, in_ms, now_ms};
use crate::planned::BUILD;
use crate::{BEGIN, Place, SAID, end_of, signal, start_aside};

/// How long a worker that was alone may not know that its lease is another's: until its next try to renew, and until what
/// it runs has ended.
const HEARS: Duration = Duration::from_millis(3000);

/// So long the commands of a killed worker may live.
const DIES_MS: u64 = 1000;

/// The exit codes of a worker that could not join its group: the broker was out of reach, or did not answer in time, and
/// it is to be started again.
const OUT_OF_REACH: [Option<i32>; 2] = [Some(4), Some(5)];

/// Within so long after its start a worker has joined its group, or ended.
const JOINS: Duration = Duration::from_secs(10);

/// The stage that all of them work at.
pub(super) const STAGE: &str = "build";

/// What became of a worker while others went on.
#[derive(Clone, Copy, Debug)]
struct Hurt {
    worker: u32,
    /// In milliseconds since 1970.
    from: u64,
    /// Up to when its event may be run by another without its knowing.
    to: u64,
    is_alone: bool,
}

/// Workers, each at an address of its own.
#[derive(Debug)]
pub(super) struct Workers<'a> {
    place: &'a Place,
    urls: Vec<String>,
    script: String,
    /// With the time of the start, as long as it may not have joined its group.
    running: Vec<Option<(Child, Option<Instant>)>>,
    hurt: Vec<Hurt>,
}

impl<'a> Workers<'a> {
    /// Starts one at each of these addresses.
    pub(super) fn start(place: &'a Place, urls: Vec<String>) -> Self {
        // The payload is the plan, as JSON.
        let script = format!("{BEGIN}plan=${{PIPELINE_PAYLOAD#?}}\nplan=${{plan%?}}{BUILD}");
        let running = urls.iter().map(|_| None).collect();
        let mut workers = Self { place, urls, script, running, hurt: Vec::new() };
        workers.complete();
        workers
    }

    /// Starts those that are missing. One that ended by itself is a failure, unless it never joined its group.
    pub(super) fn complete(&mut self) {
        self.none_has_ended();
        for at in 0..self.running.len() {
            if self.running[at].is_none() {
                let words = self.words(at);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.running[at] = Some((start_aside(self.place, &words), Some(Instant::now())));
            }
        }
    }

    fn words(&self, at: usize) -> Vec<String> {
        let (url, lease) = (self.urls[at].as_str(), format!("{}ms", LEASE.as_millis()));
        let words = ["work", "--broker", url, "--store", url, "--stage", STAGE, "--on", "build-requested:*"];
        let more = ["--lease", lease.as_str(), "--concurrency", "2", "--retry", "fixed", "--attempts", "2"];
        let command = ["--", "sh", "-c", self.script.as_str()];
        words.into_iter().chain(more).chain(command).map(str::to_owned).collect()
    }

    /// From now on none of those that run may end.
    pub(super) fn have_joined(&mut self) {
        self.running.iter_mut().flatten().for_each(|(_, started)| *started = None);
    }

    pub(super) fn none_has_ended(&mut self) {
        for worker in &mut self.running {
            let Some((child, started)) = worker else { continue };
            let Some(ended) = child.try_wait().unwrap() else { continue };
            let is_young = started.is_some_and(|started| started.elapsed() < JOINS);
            let could_not_join = OUT_OF_REACH.contains(&ended.code()) && is_young;
            assert!(could_not_join, "a worker ended by itself ({ended:?}): {}", last_words(self.place));
            *worker = None;
        }
    }

    /// The place of the worker whose process this is.
    pub(super) fn place_of(&self, worker: u32) -> Option<usize> {
        self.running
            .iter()
            .position(|running| running.as_ref().is_some_and(|(child, _)| child.id() == worker))
    }

    /// Kills one.
    pub(super) fn kill(&mut self, at: usize) {
        if let Some((mut child, _)) = self.running[at].take() {
            child.kill().unwrap();
            child.wait().unwrap();
            let now = now_ms();
            // Its command, which its guardian kills, may say yet that it begins.
            self.hurt.push(Hurt { worker: child.id(), from: now, to: now + DIES_MS, is_alone: false });
        }
    }

    /// Does something to one, in which it alone is cut off from everybody.
    pub(super) fn alone(&mut self, at: usize, cut_off: impl FnOnce(&Child)) {
        let Some((child, _)) = &self.running[at] else { return };
        let from = now_ms();
        cut_off(child);
        let to = now_ms() + in_ms(HEARS + ANSWER * 2 + LEASE / 3);
        self.hurt.push(Hurt { worker: child.id(), from, to, is_alone: true });
    }

    /// Whether what this worker had begun by then may be run by another, for it was killed or cut off.
    pub(super) fn was_hurt(&self, worker: u32, begun: u64) -> bool {
        self.hurt.iter().any(|hurt| hurt.worker == worker && begun <= hurt.to)
    }

    /// Whether this worker was cut off alone then.
    pub(super) fn was_alone(&self, worker: u32, at: u64) -> bool {
        let covers = |hurt: &&Hurt| hurt.is_alone && (hurt.from..=hurt.to).contains(&at);
        self.hurt.iter().filter(covers).any(|hurt| hurt.worker == worker)
    }

    /// How many lines of warnings and errors there are.
    pub(super) fn complaints(&self) -> usize {
        let said = fs::read_to_string(self.place.path().join(SAID)).unwrap_or_default();
        let complains =
            |line: &&str| ["WARN ", "ERROR "].iter().any(|level| line.trim_start().starts_with(level));
        said.lines().filter(complains).count()
    }

    /// Asks all to end, and waits until they have.
    pub(super) fn end(&mut self) {
        self.none_has_ended();
        for (child, _) in self.running.iter().flatten() {
            signal(child, "TERM");
        }
        for (child, _) in self.running.iter_mut().filter_map(Option::take) {
            // By the signal, after all was settled.
            assert_eq!(end_of(child, &["work"]), Some(143), "a worker does not end in order");
        }
    }
}

impl Drop for Workers<'_> {
    fn drop(&mut self) {
        for (child, _) in self.running.iter_mut().flatten() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The end of what workers said.
fn last_words(place: &Place) -> String {
    let said = fs::read_to_string(place.path().join(SAID)).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    last.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
