//! The crates that are published: what each package says of itself and what lies in it.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::run::{Done, cargo, cargo_output};

/// A crate that is published.
pub(crate) struct Published {
    pub(crate) name: &'static str,
    /// The folder of its package in the workspace's.
    pub(crate) folder: &'static str,
    /// Its features that are for users.
    pub(crate) features: &'static [&'static str],
    /// Those that are for tests and benchmarks alone.
    pub(crate) inner: &'static [&'static str],
}

/// The facade comes first, core second.
pub(crate) const PUBLISHED: [Published; 7] = [
    Published {
        name: "pubsub-pipeline",
        folder: ".",
        features: &["file", "redis", "elastic", "mongo", "s3"],
        inner: &["fault-points"],
    },
    Published {
        name: "pubsub-core",
        folder: "pubsub-core",
        features: &["conformance"],
        inner: &["fault-points"],
    },
    Published { name: "pubsub-file", folder: "pubsub-file", features: &[], inner: &["fault-points"] },
    Published { name: "pubsub-redis", folder: "pubsub-redis", features: &[], inner: &[] },
    Published { name: "store-elastic", folder: "store-elastic", features: &[], inner: &["measuring"] },
    Published { name: "store-mongo", folder: "store-mongo", features: &["srv"], inner: &[] },
    Published { name: "store-s3", folder: "store-s3", features: &[], inner: &[] },
];

/// What a registry takes at most.
const MAX_KEYWORDS: usize = 5;

/// What lies in each package beside its sources.
const FILES: [&str; 3] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// The words that choose all of them.
pub(crate) fn chosen() -> Vec<&'static str> {
    PUBLISHED.iter().flat_map(|package| ["-p", package.name]).collect()
}

/// Their features for users, as one word for cargo.
pub(crate) fn user_features() -> String {
    let named = PUBLISHED.iter().flat_map(|package| {
        package.features.iter().map(move |feature| format!("{}/{feature}", package.name))
    });
    named.collect::<Vec<_>>().join(",")
}

/// That they can be packed; that what is packed compiles is for [`package`].
pub(crate) fn check() -> Done {
    let said = said()?;
    let listed: BTreeSet<&str> = PUBLISHED.iter().map(|package| package.name).collect();
    let published: BTreeSet<&str> =
        said.iter().filter(|said| said.is_published()).map(|said| said.name.as_str()).collect();
    if let Some(name) = published.symmetric_difference(&listed).next() {
        return Err(format!(
            "{name}: either `publish = false`, or one of PUBLISHED in xtask/src/published.rs"
        ));
    }
    let mut wrong: Vec<String> =
        said.iter().filter(|said| said.is_published()).flat_map(Said::wrong).collect();
    for package in &PUBLISHED {
        wrong.extend(wrong_files(package.name)?);
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    pack(&["--no-verify"])
}

/// Packs them and compiles what was packed.
pub(crate) fn package() -> Done {
    pack(&[])
}

/// Sources that are not committed yet are packed too: a change is checked before it is committed.
fn pack(words: &[&str]) -> Done {
    let package = ["package", "--quiet", "--locked", "--allow-dirty"];
    cargo(&[&package[..], words, &chosen()].concat(), &[])
}

/// What cargo knows of the workspace.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Said>,
}

/// What a package says of itself.
#[derive(Deserialize)]
struct Said {
    name: String,
    description: Option<String>,
    readme: Option<String>,
    repository: Option<String>,
    license: Option<String>,
    rust_version: Option<String>,
    keywords: Vec<String>,
    categories: Vec<String>,
    features: std::collections::BTreeMap<String, Vec<String>>,
    /// Where it may be published to; everywhere if not said.
    publish: Option<Vec<String>>,
}

impl Said {
    fn is_published(&self) -> bool {
        self.publish.as_ref().is_none_or(|registries| !registries.is_empty())
    }

    fn wrong(&self) -> Vec<String> {
        let texts = [&self.description, &self.readme, &self.repository, &self.license, &self.rust_version];
        let mut wrong = Vec::new();
        if texts.iter().any(|text| text.is_none()) || self.categories.is_empty() {
            wrong.push(
                "its Cargo.toml lacks a description, README, repository, licence, rust-version or category",
            );
        }
        if self.keywords.is_empty() || self.keywords.len() > MAX_KEYWORDS {
            wrong.push("it has no keywords, or too many");
        }
        let known = PUBLISHED.iter().find(|package| package.name == self.name);
        let known: BTreeSet<&str> = known
            .into_iter()
            .flat_map(|package| package.features.iter().chain(package.inner))
            .copied()
            .collect();
        let has = self.features.keys().map(String::as_str).filter(|feature| *feature != "default");
        if has.collect::<BTreeSet<_>>() != known {
            wrong.push("its features are others than in xtask/src/published.rs");
        }
        wrong.iter().map(|what| format!("{}: {what}", self.name)).collect()
    }
}

fn said() -> Result<Vec<Said>, String> {
    let told = cargo_output(&["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    let told: Metadata = serde_json::from_str(&told).map_err(|e| format!("cargo metadata: {e}"))?;
    Ok(told.packages)
}

/// The Rust version that all of them name.
pub(crate) fn rust_version() -> Result<String, String> {
    let named: BTreeSet<_> = said()?.into_iter().filter_map(|said| said.rust_version).collect();
    let mut named = named.into_iter();
    match (named.next(), named.next()) {
        (Some(version), None) => Ok(version),
        _ => Err("the packages name no rust-version, or several".to_owned()),
    }
}

/// What a package lacks, and what does not belong in it.
fn wrong_files(name: &str) -> Result<Vec<String>, String> {
    let list = cargo_output(&["package", "--quiet", "--locked", "--allow-dirty", "--list", "-p", name])?;
    let files: BTreeSet<&str> = list.lines().collect();
    let missing = FILES.iter().filter(|file| !files.contains(**file));
    let missing = missing.map(|file| format!("{name}: its package has no {file}"));
    // They need packages that are not published.
    let tests = files.iter().filter(|file| file.starts_with("tests/"));
    Ok(missing.chain(tests.map(|file| format!("{name}: its package has {file}"))).collect())
}
