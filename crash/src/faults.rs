//! The points in the program at which processes die, and how many did.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Chance;
use crate::processes::poll;

/// The signals by which a process dies at a point: it aborts, or the system's limit on the size of files ends it.
const BY_POINT: [i32; 2] = [6, 25];

/// How long a process may take to come to its point; what is not needed in a round is not reached.
const REACHED: Duration = Duration::from_millis(2500);

/// The points that there are, none in a program that was built without them; and the kills so far.
#[derive(Debug, Default)]
pub struct Faults {
    points: Vec<String>,
    kills: Mutex<BTreeMap<String, u64>>,
}

/// A point at which a process is to die, and at which time that it comes there.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) point: String,
    nth: u64,
}

impl Faults {
    /// With these points.
    #[must_use]
    pub fn new(points: Vec<String>) -> Self {
        Self { points, kills: Mutex::default() }
    }

    /// How many died at each point, and at random instants.
    #[must_use]
    pub fn kills(&self) -> BTreeMap<String, u64> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The points at which nobody died.
    #[must_use]
    pub fn unreached(&self) -> Vec<String> {
        let kills = self.kills();
        self.points.iter().filter(|point| !kills.contains_key(*point)).cloned().collect()
    }

    pub(crate) const fn has_any(&self) -> bool {
        !self.points.is_empty()
    }

    /// The points of a round, in their turn: a round that comes later has others. `None` where there are no points.
    pub(crate) fn of_round(&self, seed: u64, many: u64, chance: &mut Chance) -> Vec<Option<Fault>> {
        let all = self.points.len() as u64;
        let nth_point = |n: u64| {
            let index = (seed.wrapping_mul(many) + n).checked_rem(all)?;
            let point = self.points[usize::try_from(index).unwrap()].clone();
            Some(Fault { point, nth: 1 + chance.below(3) })
        };
        (0..many).map(nth_point).collect()
    }

    pub(crate) fn count(&self, point: &str) {
        *self.kills.lock().unwrap_or_else(PoisonError::into_inner).entry(point.to_owned()).or_default() += 1;
    }
}

impl Fault {
    pub(crate) fn new(point: impl Into<String>, nth: u64) -> Self {
        Self { point: point.into(), nth }
    }

    /// Has what this command starts die there.
    pub(crate) fn arm(&self, command: &mut Command) {
        command.env("PIPELINE_FAULT", format!("{}:{}", self.point, self.nth));
    }

    /// Whether it was this that ended a process.
    pub(crate) fn ended(status: ExitStatus) -> bool {
        status.signal().is_some_and(|signal| BY_POINT.contains(&signal))
    }

    /// Waits until the process has died, by itself or because it takes too long to come to its point.
    pub(crate) fn wait(&self, faults: &Faults, mut child: Child) -> ExitStatus {
        let limit = Instant::now() + REACHED;
        let status = poll(&mut child, limit).unwrap_or_else(|| {
            // It may have ended just now.
            let _ = child.kill();
            child.wait().unwrap()
        });
        faults.count(if Self::ended(status) { &self.point } else { "(at random)" });
        status
    }
}
