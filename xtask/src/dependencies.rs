//! Guards over who depends on what, and on how much.

use std::collections::BTreeSet;

use crate::run::{Done, cargo_output};

pub(crate) const CORE: &str = "pubsub-core";
pub(crate) const FACADE: &str = "pubsub-pipeline";
const BACKENDS: [&str; 5] = ["pubsub-file", "pubsub-redis", "store-elastic", "store-mongo", "store-s3"];

/// Most crates in the normal dependencies of all levels, the package itself not counted.
const LIMITS: [(&str, usize); 2] = [(CORE, 55), (FACADE, 90)];

pub(crate) fn check() -> Done {
    for (package, limit) in LIMITS {
        let count = tree(package)?.len();
        println!("{package}: {count} crates below it, at most {limit}");
        if count > limit {
            return Err(format!("{package} has {count} crates below it, more than {limit}"));
        }
    }
    let members = [&[CORE, FACADE][..], &BACKENDS[..]].concat();
    let forbid = |package: &str, allowed: &[&str]| -> Done {
        let below = tree(package)?;
        match members.iter().find(|m| below.contains(**m) && !allowed.contains(*m)) {
            Some(other) => Err(format!("{package} must not depend on {other}")),
            None => Ok(()),
        }
    };
    forbid(CORE, &[])?;
    BACKENDS.iter().try_for_each(|backend| forbid(backend, &[CORE]))
}

/// The names and versions of the crates below a package.
pub(crate) fn tree(package: &str) -> Result<BTreeSet<String>, String> {
    let words =
        ["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--no-dedupe", "-f", "{p}"];
    let crates: BTreeSet<String> = cargo_output(&words)?
        .lines()
        .map(|line| line.trim_end_matches(" (proc-macro)").split(" (").next().unwrap_or(line).to_owned())
        .collect();
    // Members are known by their name alone; of others two versions are two crates.
    Ok(crates
        .into_iter()
        .map(|line| match line.split_once(" v") {
            Some((name, _)) if name == CORE || name == FACADE || BACKENDS.contains(&name) => name.to_owned(),
            _ => line,
        })
        .filter(|name| name != package)
        .collect())
}
