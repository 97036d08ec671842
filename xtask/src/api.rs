//! The public names of the published crates, as `api/<crate>.txt` has them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::dependencies::CORE;
use crate::published::{PUBLISHED, Published};
use crate::run::{Done, answers, root, target_folder, tool};

/// Left out are impls that are there for every type, and the automatic ones, of which each compiler has others.
const OMITTED: &str = "blanket-impls,auto-trait-impls";

/// Writes what is public now.
pub(crate) fn write() -> Done {
    is_there()?;
    for package in &PUBLISHED {
        let path = path(package);
        let text = listed(package)?;
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        folder.and_then(|()| fs::write(&path, text)).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Compares what is public now with what is committed.
pub(crate) fn check() -> Done {
    is_there()?;
    let mut wrong = Vec::new();
    for package in &PUBLISHED {
        let path = path(package);
        let committed = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let differences = differences(&committed, &listed(package)?);
        if !differences.is_empty() {
            wrong.push(format!("{}:\n{}", package.name, differences.join("\n")));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "what is public is not what api/ says. `cargo xtask api` writes it anew; the change belongs in CHANGELOG.md, \
         and docs/semver.md says which version it takes\n{}",
        wrong.join("\n")
    ))
}

fn path(package: &Published) -> PathBuf {
    root().join("api").join(format!("{}.txt", package.name))
}

/// Says how to get what is missing; nothing is downloaded here.
fn is_there() -> Done {
    if !answers(&["rustc", "+nightly", "--version"]) {
        return Err("the listing needs a nightly compiler: rustup toolchain install nightly".to_owned());
    }
    if !answers(&["cargo-public-api", "--version"]) {
        return Err("the listing needs cargo-public-api: cargo install, as .ci/run does it".to_owned());
    }
    Ok(())
}

fn listed(package: &Published) -> Result<String, String> {
    println!("$ cargo +nightly public-api -p {}", package.name);
    let mut command = tool("cargo");
    command.args(["+nightly", "public-api", "--color", "never", "--no-default-features", "--omit", OMITTED]);
    command.args(["-p", package.name, "--features", &package.features.join(",")]);
    // Beside everything else, so that what was built stays, also for `minimal`.
    let told = command.env("CARGO_TARGET_DIR", target_folder().join("nightly")).output();
    let told = told.map_err(|e| format!("cargo public-api: {e}"))?;
    if !told.status.success() {
        return Err(format!("cargo public-api: {}", String::from_utf8_lossy(&told.stderr)));
    }
    let text = String::from_utf8(told.stdout).map_err(|e| e.to_string())?;
    Ok(if package.name == CORE { text } else { without_private_modules(&text) })
}

/// Names of core as its users write them: where core keeps a type is nobody's business.
fn without_private_modules(text: &str) -> String {
    let mut parts = text.split("pubsub_core::");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |done, mut rest| {
        while let Some((module, inner)) = rest.split_once("::")
            && module.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            rest = inner;
        }
        done + "pubsub_core::" + rest
    })
}

/// The lines that one of both has more often, each with `-` for the committed ones and `+` for those of now.
fn differences(committed: &str, now: &str) -> Vec<String> {
    let mut lines: BTreeMap<&str, isize> = BTreeMap::new();
    for (text, weight) in [(committed, -1), (now, 1)] {
        for line in text.lines() {
            *lines.entry(line).or_default() += weight;
        }
    }
    lines.retain(|_, weight| *weight != 0);
    lines.iter().map(|(line, weight)| format!("{} {line}", if *weight < 0 { '-' } else { '+' })).collect()
}

#[cfg(test)]
mod tests {
    use super::{differences, without_private_modules};

    #[test]
    fn names_of_core_are_told_without_its_private_modules() {
        let told = "fn f(pubsub_core::a::b_c::D) -> pubsub_core::error::Result<pubsub_core::E::x, x::y::Z>";
        let wanted = "fn f(pubsub_core::D) -> pubsub_core::Result<pubsub_core::E::x, x::y::Z>";
        assert_eq!(without_private_modules(told), wanted);
    }

    #[test]
    fn a_line_that_is_gone_and_one_that_is_new_are_told_and_order_is_nothing() {
        assert!(differences("pub a\npub b\n", "pub b\npub a\n").is_empty());
        assert_eq!(differences("pub a\npub b\n", "pub c\npub b\n"), ["- pub a", "+ pub c"]);
        assert_eq!(differences("pub a\n", "pub a\npub a\n"), ["+ pub a"]);
    }
}
