//! The oldest versions that the published crates get along with: of what they depend on, and of Rust.

use std::fs;

use crate::published::{chosen, rust_version, user_features};
use crate::run::{Done, answers, root, run, target_folder, tool};

/// Checks them with the oldest versions that their requirements allow. What is below those stays at its newest: whether
/// the requirements of others are right is not ours to mend.
pub(crate) fn minimal() -> Done {
    if !answers(&["rustc", "+nightly", "--version"]) {
        return Err("minimal versions need a nightly compiler: rustup toolchain install nightly".to_owned());
    }
    let place = target_folder().join("nightly");
    // The lock of the workspace stays as it is: this is another one.
    let lock = place.join("Cargo.lock");
    let config = format!("resolver.lockfile-path={:?}", lock.display().to_string());
    fs::create_dir_all(&place)
        .and_then(|()| fs::copy(root().join("Cargo.lock"), &lock))
        .map_err(|e| format!("{}: {e}", lock.display()))?;
    let cargo = || {
        let mut cargo = tool("cargo");
        cargo.arg("+nightly").env("CARGO_TARGET_DIR", &place);
        cargo
    };
    let mut update = cargo();
    update.args(["update", "--quiet", "-Z", "direct-minimal-versions", "--config", &config]);
    let mut check = cargo();
    check.args(["check", "--locked", "--config", &config, "--features", &user_features()]).args(chosen());
    let done = run(&mut update).and_then(|()| run(&mut check));
    // Its place is in the target folder, which is kept.
    fs::remove_file(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    done.map_err(|why| format!("{why}: a requirement in Cargo.toml allows a version that is too old"))
}

/// Checks them with exactly the Rust that they name.
pub(crate) fn rust() -> Done {
    let version = rust_version()?;
    let toolchain = if version.matches('.').count() == 1 { format!("{version}.0") } else { version };
    // `cargo +1.95.0` would install it without a word.
    if !answers(&["rustup", "run", &toolchain, "rustc", "--version"]) {
        return Err(format!(
            "needs Rust {toolchain}: rustup toolchain install {toolchain} --profile minimal"
        ));
    }
    let mut check = tool("cargo");
    check.arg(format!("+{toolchain}")).args(["check", "--locked", "--features", &user_features()]);
    run(check.args(chosen()).env("CARGO_TARGET_DIR", target_folder()))
}
