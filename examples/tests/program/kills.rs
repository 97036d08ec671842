//! `kill -9` of publishers, workers and followers at random instants; `cargo xtask crash` does more of it.

use crash::{Faults, kills, none_is_left_running};

use crate::rounds;

/// The program as it is built for everybody. Many more are played with the one that has fault points.
const ROUNDS: u64 = 8;

#[test]
fn kills_at_random_instants_lose_nothing_repeat_nothing_and_leave_nothing_behind() {
    let faults = Faults::default();
    rounds(1..ROUNDS + 1, |place, seed, chance| kills(place, seed, chance, &faults), none_is_left_running);
}
