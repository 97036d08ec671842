//! What a chaos run did.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How often what was done, by phase.
#[derive(Debug, Default)]
pub struct Tally(Vec<Phase>);

#[derive(Debug)]
struct Phase {
    name: &'static str,
    took: Duration,
    done: BTreeMap<&'static str, u64>,
    checked: &'static str,
}

impl Tally {
    /// What is counted from now on is this phase's.
    pub(super) fn begin(&mut self, name: &'static str, checked: &'static str) {
        self.0.push(Phase { name, took: Duration::ZERO, done: BTreeMap::new(), checked });
    }

    pub(super) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    pub(super) fn add(&mut self, what: &'static str, many: usize) {
        let phase = self.0.last_mut().unwrap();
        *phase.done.entry(what).or_default() += many as u64;
    }

    pub(super) fn took(&mut self, time: Duration) {
        self.0.last_mut().unwrap().took = time;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Phase { name, took, done, checked } in &self.0 {
            writeln!(f, "{name}, {:.0} s", took.as_secs_f64())?;
            for (what, many) in done {
                writeln!(f, "{many:8}  {what}")?;
            }
            writeln!(f, "          checked: {checked}")?;
        }
        Ok(())
    }
}
