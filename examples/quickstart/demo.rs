//! The small crate that the quickstart builds and tests: nothing to download, one warning, one failing test.

use std::fs;
use std::io;
use std::path::Path;

const MANIFEST: &str = r#"[package]
name = "demo"
version = "0.1.0"
edition = "2024"

# It stands alone, wherever its folder lies.
[workspace]
"#;

const LIBRARY: &str = r"//! A crate that is built and tested.

/// The sum.
pub fn sum(numbers: &[i64]) -> i64 {
    let unused = 0;
    numbers.iter().sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_sums_to_nothing() {
        assert_eq!(super::sum(&[]), 0);
    }

    #[test]
    fn this_one_fails_on_purpose() {
        assert_eq!(super::sum(&[2, 2]), 5);
    }
}
";

pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("Cargo.toml"), MANIFEST)?;
    fs::write(folder.join("src/lib.rs"), LIBRARY)
}
