//! The suites as stress runs: every rule many times, in parallel, against one backend, with pauses between its steps.
//!
//! Each rule has names of its own, so that it may share the backend with all the others; where it cannot, it has a
//! backend for itself and runs beside them. The pauses are drawn from a seed, which is told where a rule fails and is
//! taken from `PIPELINE_STRESS_SEED` where that is set.

/// The rules of a suite, with their names.
macro_rules! named_rules {
    (($suite:ident) $($module:ident :: $rule:ident),+ $(,)?) => {
        [$((stringify!($rule), |fixture, can| {
            Box::pin(crate::conformance::$suite::$module::$rule(fixture, can))
        })),+]
    };
}

mod broker;
mod delayed;
mod room;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use broker::{BROKER_RULES_ALONE, BrokerRule, stress_broker};
pub use delayed::{Delayed, Pauses};
pub use store::{STORE_RULES_ALONE, StoreRule, stress_store};

/// With this variable, the pauses are those of its seed.
const SEED: &str = "PIPELINE_STRESS_SEED";

/// How many rules run at once, and how many times as long each takes its time: what one expects within a lease has to
/// be so also while all others run.
const AT_ONCE: usize = 24;
const PACE: u32 = 3;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Stress {
    /// How often each rule runs.
    pub rounds: u64,
    /// What the pauses are drawn from.
    pub seed: u64,
}

impl Stress {
    /// So many rounds, with the seed of the environment, or one of chance.
    ///
    /// # Panics
    /// Where the environment names a seed that is no number.
    #[must_use]
    pub fn rounds(rounds: u64) -> Self {
        let seed = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
        Self { rounds, seed: seed.unwrap_or_else(|| fastrand::u64(..)) }
    }
}

/// The rules that failed, each with how often.
pub type Failures = BTreeMap<&'static str, u64>;

/// Fails where any rule did, with what repeats the pauses.
///
/// # Panics
/// Where any rule failed.
pub fn assert_none_failed(stress: Stress, failures: &Failures) {
    assert!(failures.is_empty(), "{failures:?} of {} rounds; {SEED}={}", stress.rounds, stress.seed);
}

/// One run of a rule.
type Run = (&'static str, BoxFuture<'static, ()>);

/// Runs each of the rules whose name is wanted so many times, each time with a number and pauses of its own.
async fn run_rules<R: Copy>(
    stress: Stress,
    rules: &[(&'static str, R)],
    wanted: fn(&str) -> bool,
    run: impl Fn(&'static str, R, u64, Arc<Pauses>) -> BoxFuture<'static, ()>,
) -> Failures {
    let mut runs = Vec::new();
    for round in 0..stress.rounds {
        for (index, (name, rule)) in (0..).zip(rules).filter(|(_, (name, _))| wanted(name)) {
            let number = round.wrapping_mul(1_000).wrapping_add(index);
            let pauses = Pauses::new(stress.seed.wrapping_add(number));
            runs.push((*name, run(name, *rule, number, pauses)));
        }
    }
    run_all(stress, runs).await
}

/// Runs all of them in an order of chance, many at once.
async fn run_all(stress: Stress, mut runs: Vec<Run>) -> Failures {
    fastrand::Rng::with_seed(stress.seed).shuffle(&mut runs);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let mut names = BTreeMap::new();
    for (rule, run) in runs {
        let places = Arc::clone(&places);
        let task = running.spawn(async move {
            let _place = places.acquire().await;
            let paced = super::broker::PACE.scope(PACE, run);
            super::within_limit(rule, paced).await;
        });
        names.insert(task.id(), rule);
    }
    let mut failures = Failures::new();
    while let Some(ended) = running.join_next_with_id().await {
        let Err(error) = ended else { continue };
        assert!(error.is_panic(), "a rule neither passed nor failed: {error}");
        if let Some(rule) = names.get(&error.id()) {
            *failures.entry(rule).or_default() += 1;
        }
    }
    failures
}

/// Makes two tests, of a few rounds and of many, that run every rule in parallel on one store:
/// `store_stress!(Fixture, CAPABILITIES, 2, 50)`, with the arguments of
/// [`store_conformance!`](crate::store_conformance) and the rounds of both.
///
/// The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! store_stress {
    ($fixture:ty, $capabilities:expr, $few:expr, $many:expr) => {
        $crate::__stress_tests! { [] stress_store, store::StoreFixture, $fixture, $capabilities, $few, $many }
    };
    (#[$attribute:meta] $fixture:ty, $capabilities:expr, $few:expr, $many:expr) => {
        $crate::__stress_tests! {
            [$attribute] stress_store, store::StoreFixture, $fixture, $capabilities, $few, $many
        }
    };
}

/// As [`store_stress!`](crate::store_stress), on one broker.
#[macro_export]
macro_rules! broker_stress {
    ($fixture:ty, $capabilities:expr, $few:expr, $many:expr) => {
        $crate::__stress_tests! { [] stress_broker, broker::BrokerFixture, $fixture, $capabilities, $few, $many }
    };
    (#[$attribute:meta] $fixture:ty, $capabilities:expr, $few:expr, $many:expr) => {
        $crate::__stress_tests! {
            [$attribute] stress_broker, broker::BrokerFixture, $fixture, $capabilities, $few, $many
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stress_tests {
    ([$($attribute:meta)?] $run:ident, $of:ident :: $trait:ident, $fixture:ty, $capabilities:expr, $few:expr, $many:expr) => {
        async fn every_rule_at_once(rounds: u64) {
            let fixture = <$fixture as $crate::conformance::$of::$trait>::new().await;
            let stress = $crate::conformance::stress::Stress::rounds(rounds);
            let failures = $crate::conformance::stress::$run(fixture, $capabilities, stress, |_| true).await;
            $crate::conformance::stress::assert_none_failed(stress, &failures);
        }

        $(#[$attribute])?
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn every_rule_holds_beside_all_others_with_pauses_between_its_steps() {
            every_rule_at_once($few).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "long: each rule many times"]
        async fn every_rule_holds_many_times_beside_all_others_with_pauses_between_its_steps() {
            every_rule_at_once($many).await;
        }
    };
}
