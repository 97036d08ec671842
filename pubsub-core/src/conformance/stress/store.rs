//! The rules of stores, many at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::delayed::{Delayed, Pauses};
use super::{Failures, Stress, run_rules};
use crate::conformance::store::StoreFixture;
use crate::{Store, StoreCapabilities};

/// A rule of the suite.
pub type StoreRule = for<'a> fn(&'a dyn StoreFixture, StoreCapabilities) -> BoxFuture<'a, ()>;

/// The rules that need a store for themselves, each for what it does to all runs.
pub const STORE_RULES_ALONE: [&str; 4] = [
    // They expire whatever is older than their own.
    "only_old_runs_that_have_ended_expire",
    "the_oldest_expire_until_so_many_are_left",
    "the_oldest_expire_until_their_bytes_fit",
    "limits_that_are_named_together_all_hold",
];

/// A store that rules share, or one of a rule's own.
struct Paused {
    fixture: Arc<dyn StoreFixture>,
    pauses: Arc<Pauses>,
}

#[async_trait]
impl StoreFixture for Paused {
    async fn new() -> Self {
        unreachable!("it is made around another")
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(Delayed::new(self.fixture.store(), Arc::clone(&self.pauses)))
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(Delayed::new(self.fixture.reopen().await, Arc::clone(&self.pauses)))
    }
}

/// Runs the rules whose name is wanted, each so many times, on one store, and answers which failed.
pub async fn stress_store<F: StoreFixture + 'static>(
    fixture: F,
    can: StoreCapabilities,
    stress: Stress,
    wanted: fn(&str) -> bool,
) -> Failures {
    let shared: Arc<dyn StoreFixture> = Arc::new(fixture);
    let rules: [(&'static str, StoreRule); _] = crate::store_rules! { [named_rules] store };
    let run = |name, rule: StoreRule, _, pauses| -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            let alone = STORE_RULES_ALONE.contains(&name);
            let fixture = if alone { Arc::new(F::new().await) } else { shared };
            rule(&Paused { fixture, pauses }, can).await;
        })
    };
    run_rules(stress, &rules, wanted, run).await
}
