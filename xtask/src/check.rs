//! All that is checked without running a test.

use crate::run::{Done, cargo};
use crate::{dependencies, facade, style, support_table};

pub(crate) fn all() -> Done {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--locked", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    features()?;
    dependencies::check()?;
    style::check()?;
    facade::check()?;
    support_table::check()
}

/// Each feature alone, none, and all.
fn features() -> Done {
    let deny = [("RUSTFLAGS", "")];
    for package in [
        &["pubsub-pipeline", "--no-default-features"][..],
        &["pubsub-pipeline", "--no-default-features", "--features", "file"],
        &["pubsub-core"],
        &["pubsub-core", "--features", "conformance"],
        &["pubsub-file"],
    ] {
        let words = [&["check", "--locked", "-p"], package].concat();
        cargo(&words, &deny)?;
    }
    Ok(())
}
