//! All that is checked without running a test.

use crate::run::{Done, Form, cargo};
use crate::{bench, dependencies, facade, features, published, style, support_table, versions};

pub(crate) fn all(form: Form) -> Done {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // What only the program that is killed has.
    let faults = ["-p", "pubsub-pipeline-examples", "--features", "fault-points", "--all-targets"];
    cargo(&[&["clippy", "--locked"], &faults[..], &["--", "-D", "warnings"]].concat(), &[])?;
    cargo(&["doc", "--locked", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    // Built by `cargo xtask bench` alone, which is too rare to notice.
    cargo(&["fetch", "--quiet", "--locked", "--manifest-path", bench::PEERS], &[])?;
    features::each()?;
    dependencies::check()?;
    style::check()?;
    facade::check()?;
    support_table::check()?;
    published::check()?;
    if form == Form::Long {
        published::package()?;
        versions::rust()?;
        versions::minimal()?;
        features::powerset()?;
    }
    Ok(())
}
