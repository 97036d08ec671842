//! How long a clean release build takes, and of how many crates.

use std::fs;
use std::time::Instant;

use crate::dependencies;
use crate::run::{Done, cargo, target_folder};

/// Measures core and the facade as it comes, each in an empty folder; meaningful where nothing else runs.
pub(crate) fn measure() -> Done {
    // What is fetched is not measured.
    cargo(&["fetch", "--quiet", "--locked"], &[])?;
    let mut table = String::from("| crate | crates below it | clean release build |\n|---|---|---|\n");
    for package in [dependencies::CORE, dependencies::FACADE] {
        let place = target_folder().join("build-time");
        let remove = || if place.exists() { fs::remove_dir_all(&place) } else { Ok(()) };
        let failed = |e| format!("{}: {e}", place.display());
        remove().map_err(failed)?;
        let folder = place.to_str().ok_or("the target folder's name is not UTF-8")?;
        let began = Instant::now();
        let built = cargo(
            &["build", "--quiet", "--locked", "--release", "-p", package],
            &[("CARGO_TARGET_DIR", folder), ("CARGO_INCREMENTAL", "0")],
        );
        let seconds = began.elapsed().as_secs_f64();
        remove().map_err(failed)?;
        built?;
        let below = dependencies::tree(package)?.len();
        table += &format!("| `{package}` | {below} | {seconds:.1} s |\n");
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("\n{table}\nOn {cores} cores.");
    Ok(())
}
