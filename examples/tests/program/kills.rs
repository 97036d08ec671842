//! `kill -9` of publishers, workers and followers at random instants; `cargo xtask crash` does more of it.

use crash::{Faults, kills, none_is_left_running};

use crate::rounds;

const ROUNDS: u64 = 25;
const LONG_ROUNDS: u64 = 200;

#[test]
fn kills_at_random_instants_lose_nothing_repeat_nothing_and_leave_nothing_behind() {
    let faults = Faults::default();
    rounds(1..ROUNDS + 1, |place, seed, chance| kills(place, seed, chance, &faults), none_is_left_running);
}

#[test]
#[ignore = "long: 200 rounds of kills"]
fn kills_at_random_instants_lose_nothing_in_many_rounds() {
    let faults = Faults::default();
    let seeds = 1001..1001 + LONG_ROUNDS;
    rounds(seeds, |place, seed, chance| kills(place, seed, chance, &faults), none_is_left_running);
}
