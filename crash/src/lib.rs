//! Rounds of chance over the built program: processes that are killed, servers and links that fail, and what has to hold
//! afterwards.
//!
//! The tests of the program, `cargo xtask crash` and `cargo xtask chaos` use it. What is wrong panics, as in a test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what helps tests may fail as they do, and say why"
)]

mod accounts;
mod chance;
mod chaos;
mod checks;
mod faults;
mod following;
mod kills;
mod place;
mod planned;
mod processes;
mod rounds;
mod scenes;
mod witness;

pub use chance::Chance;
pub use chaos::{Chaos, Tally, chaos};
pub use checks::none_is_left_running;
pub use faults::Faults;
pub use kills::kills;
pub use place::{Ended, Place, Running, example};
pub use processes::{LIMIT, end_of, killed, logged, nobody_is_left, signal, start_aside, to_the_end};
pub use rounds::{Rounds, rounds};
pub use scenes::scenes;
pub use witness::{BEGIN, SAID, Said, WITNESS, Witness, concluded, logs, none_is_running, runs};
