//! Suites that a backend or a wrapper has to pass: one macro call makes one test of each rule.
//!
//! A rule takes what it needs from a fixture, uses names of its own, and fails by panicking. What a backend declares it
//! cannot do is called nevertheless and has to answer [`Unsupported`](crate::ErrorKind::Unsupported).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a rule fails by panicking"
)]

pub mod answers;
pub mod broker;
pub mod fan_out;
mod generated;
pub mod store;
#[expect(clippy::unwrap_used, clippy::panic, reason = "a rule fails by panicking")]
pub mod stress;

use std::time::Duration;

/// Makes a test of each rule of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! __rule_tests {
    (($suite:ident :: $trait:ident, $fixture:ty, $capabilities:expr) $($rules:tt)+) => {
        $crate::__rule_tests! { ([] $suite::$trait, $fixture, $capabilities) $($rules)+ }
    };
    (
        ($attributes:tt $suite:ident :: $trait:ident, $fixture:ty, $capabilities:expr)
        $($module:ident :: $rule:ident),+ $(,)?
    ) => {
        $(
            $crate::__rule_test! { $attributes $suite::$trait, $fixture, $capabilities, $module::$rule }
        )+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __rule_test {
    (
        [$($attribute:meta)?] $suite:ident :: $trait:ident, $fixture:ty, $capabilities:expr, $module:ident :: $rule:ident
    ) => {
        $(#[$attribute])?
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            let fixture = <$fixture as $crate::conformance::$suite::$trait>::new().await;
            let run = $crate::conformance::$suite::$module::$rule(&fixture, $capabilities);
            $crate::conformance::within_limit(stringify!($rule), run).await;
        }
    };
}

/// Ids that are paths, patterns, queries and forbidden names elsewhere.
pub(crate) const HOSTILE_IDS: [&str; 39] = [
    "../../outside",
    "/abs",
    "a/../../b",
    "..",
    ".",
    "x/../action-1",
    "action-1",
    "build:1",
    "a*b",
    "a?b",
    "ab",
    "CON",
    "con",
    "com1.txt",
    "x.",
    "x",
    "Ünï",
    "U\u{308}ni\u{308}",
    "{\"$gt\":\"\"}",
    "a{b}c",
    "{b}",
    "a b",
    " ",
    "  ",
    "$(reboot)",
    "`id`",
    "'; DROP TABLE runs; --",
    "%2e%2e",
    "%",
    "=2e",
    "\\\\server\\share",
    "C:\\x",
    "<>|\"",
    "-rf",
    "~",
    ".hidden",
    "a.1",
    "a\u{202e}b",
    "\u{1f525}",
];

/// How long a rule may take before it counts as hanging.
pub const RULE_LIMIT: Duration = Duration::from_secs(120);

/// Runs a rule within [`RULE_LIMIT`].
///
/// # Panics
/// Where the rule takes longer.
pub async fn within_limit(rule: &str, run: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(RULE_LIMIT, run).await.is_ok(), "{rule} hangs: not done in {RULE_LIMIT:?}");
}
