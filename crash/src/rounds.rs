//! Rounds of chance: each in a folder of its own, each drawn from a seed that is told where it fails.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Chance, Place};

/// How long a round's folder rests before it is looked at again: until then what was left in silence may be told as
/// running.
const REST: Duration = Duration::from_secs(32);

/// How rounds are run.
#[derive(Debug)]
pub struct Rounds {
    /// One round for each seed.
    pub seeds: Range<u64>,
    /// How many rounds go on at once.
    pub at_once: usize,
    /// What is killed.
    pub program: PathBuf,
    /// What a round is repeated by, in front of its seed.
    pub repeat: String,
}

/// Folders that rest, the oldest first.
type Resting = Mutex<VecDeque<(Instant, u64, Place)>>;

/// Runs the rounds, and looks at each folder again a while later; answers the seeds that failed. Their folders stay.
pub fn rounds(
    rounds: &Rounds,
    round: impl Fn(&Place, u64, Chance) + Sync,
    afterwards: impl Fn(&Place) + Sync,
) -> Vec<u64> {
    let (left, failed) = (Mutex::new(rounds.seeds.clone()), Mutex::new(Vec::new()));
    let resting = Resting::default();
    let part = |seed: u64, place: Place, part: &dyn Fn(&Place)| match catch_unwind(AssertUnwindSafe(|| {
        part(&place);
    })) {
        Ok(()) => Some(place),
        Err(_) => {
            lock(&failed).push(seed);
            let folder = place.keep();
            eprintln!("{}{seed} repeats the round that failed; {} is kept", rounds.repeat, folder.display());
            None
        }
    };
    thread::scope(|scope| {
        for _ in 0..rounds.at_once {
            scope.spawn(|| {
                while let Some(seed) = { lock(&left).next() } {
                    while let Some((seed, place)) = rested(&resting) {
                        part(seed, place, &afterwards);
                    }
                    let place = Place::of(rounds.program.clone());
                    let play = |place: &Place| round(place, seed, Chance::new(seed));
                    if let Some(place) = part(seed, place, &play) {
                        lock(&resting).push_back((Instant::now(), seed, place));
                    }
                }
            });
        }
    });
    for (_, seed, place) in resting.into_inner().unwrap_or_else(PoisonError::into_inner) {
        part(seed, place, &afterwards);
    }
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn rested(resting: &Resting) -> Option<(u64, Place)> {
    let mut resting = lock(resting);
    resting.front().filter(|(since, ..)| since.elapsed() >= REST)?;
    resting.pop_front().map(|(_, seed, place)| (seed, place))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
