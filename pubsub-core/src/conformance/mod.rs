//! Suites that a backend or a wrapper has to pass: one macro call makes one test of each rule.
//!
//! A rule takes what it needs from a fixture, uses names of its own, and fails by panicking. What a backend declares it
//! cannot do is called nevertheless and has to answer [`Unsupported`](crate::ErrorKind::Unsupported).

#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a rule fails by panicking"
)]
pub mod broker;
#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a rule fails by panicking"
)]
pub mod store;
#[expect(clippy::unwrap_used, clippy::panic, reason = "a rule fails by panicking")]
pub mod stress;

use std::time::Duration;

/// How long a rule may take before it counts as hanging.
pub const RULE_LIMIT: Duration = Duration::from_secs(120);

/// Runs a rule within [`RULE_LIMIT`].
///
/// # Panics
/// Where the rule takes longer.
pub async fn within_limit(rule: &str, run: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(RULE_LIMIT, run).await.is_ok(), "{rule} hangs: not done in {RULE_LIMIT:?}");
}
