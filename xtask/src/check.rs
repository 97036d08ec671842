//! All that is checked without running a test.

use crate::run::{Done, cargo};
use crate::{bench, dependencies, facade, style, support_table};

pub(crate) fn all() -> Done {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // What only the program that is killed has.
    let faults = ["-p", "pubsub-pipeline-examples", "--features", "fault-points", "--all-targets"];
    cargo(&[&["clippy", "--locked"], &faults[..], &["--", "-D", "warnings"]].concat(), &[])?;
    cargo(&["doc", "--locked", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    // Built by `cargo xtask bench` alone, which is too rare to notice.
    cargo(&["fetch", "--quiet", "--locked", "--manifest-path", bench::PEERS], &[])?;
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
        &["pubsub-pipeline", "--no-default-features", "--features", "fault-points"],
        &["pubsub-core"],
        &["pubsub-core", "--features", "conformance"],
        &["pubsub-core", "--features", "fault-points"],
        &["pubsub-file"],
        &["pubsub-file", "--features", "fault-points"],
        &["pubsub-redis"],
        &["pubsub-pipeline", "--no-default-features", "--features", "elastic"],
        &["store-elastic"],
        &["store-mongo"],
        &["store-mongo", "--features", "srv"],
        &["store-s3"],
    ] {
        let words = [&["check", "--locked", "-p"], package].concat();
        cargo(&words, &deny)?;
    }
    Ok(())
}
