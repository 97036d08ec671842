//! The built program, in a folder of each test's own.
#![expect(clippy::unwrap_used, reason = "what helps tests may fail as they do")]

mod asking;
mod away;
mod caps;
mod command_line;
#[cfg(target_os = "linux")]
mod endless;
mod events;
mod keeping;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod quiet;
mod refusing;
mod removals;
#[cfg(target_os = "linux")]
mod shutdowns;
mod signalled;
mod spanning;
mod spooling;
mod streaming;

use crash::{Ended, Place, example};

/// With this variable, one round is run: that of its seed.
#[cfg(target_os = "linux")]
const SEED: &str = "PIPELINE_TEST_SEED";

/// How many rounds go on at once: they wait for leases more than they work.
#[cfg(target_os = "linux")]
const AT_ONCE: usize = 8;

/// Runs a round for each seed, and looks at all their places again.
#[cfg(target_os = "linux")]
fn rounds(
    seeds: std::ops::Range<u64>,
    round: impl Fn(&Place, u64, crash::Chance) + Sync,
    afterwards: impl Fn(&Place) + Sync,
) {
    let one = std::env::var(SEED).ok().map(|seed| seed.parse::<u64>().unwrap());
    let rounds = crash::Rounds {
        seeds: one.map_or(seeds, |seed| seed..seed + 1),
        at_once: AT_ONCE,
        program: example("pipeline"),
        repeat: format!("{SEED}="),
    };
    let failed = crash::rounds(&rounds, round, afterwards);
    assert!(failed.is_empty(), "rounds that failed: {failed:?}");
}
