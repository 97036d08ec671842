//! Features: each alone, and all sets of them.

use crate::published::{PUBLISHED, Published, chosen};
use crate::run::{Done, cargo};

/// Each feature alone, and none.
pub(crate) fn each() -> Done {
    for package in &PUBLISHED {
        let alone = package.features.iter().chain(package.inner).map(|feature| vec![*feature]);
        for features in std::iter::once(Vec::new()).chain(alone) {
            let features = features.join(",");
            let words =
                ["check", "--locked", "--no-default-features", "-p", package.name, "--features", &features];
            cargo(&words, &[("RUSTFLAGS", "")])?;
        }
    }
    Ok(())
}

/// Every set of features of each crate. Beside the one that is looked at all others are chosen, with nothing switched
/// on, so that what is below is the same each time and compiled once; that each gets along alone is seen by [`each`].
pub(crate) fn powerset() -> Done {
    for package in &PUBLISHED {
        for features in sets(package) {
            let beside = ["clippy", "--quiet", "--locked", "--no-default-features", "--features", &features];
            cargo(&[&beside[..], &chosen(), &["--", "-D", "warnings"]].concat(), &[])?;
        }
    }
    Ok(())
}

/// All sets, those without what is for tests alone first: that changes what is below.
fn sets(package: &Published) -> Vec<String> {
    let all: Vec<&str> = package.features.iter().chain(package.inner).copied().collect();
    let mut sets = vec![Vec::new()];
    for feature in all {
        let with = sets.iter().map(|set| [&set[..], &[format!("{}/{feature}", package.name)]].concat());
        let with: Vec<_> = with.collect();
        sets.extend(with);
    }
    sets.into_iter().map(|set| set.join(",")).collect()
}

#[cfg(test)]
mod tests {
    use super::sets;
    use crate::published::Published;

    #[test]
    fn the_sets_of_features_are_all_and_those_for_tests_come_last() {
        let package = Published { name: "a", folder: ".", features: &["x", "y"], inner: &["t"] };
        let told = ["", "a/x", "a/y", "a/x,a/y", "a/t", "a/x,a/t", "a/y,a/t", "a/x,a/y,a/t"];
        assert_eq!(sets(&package), told);
    }
}
