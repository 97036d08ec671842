//! Runs cargo, and with it the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use services::{RedisVersion, SearchEngine};

use crate::chaos::{self, Chaos};
use crate::crash::{self, Crash};
use crate::fuzz::{self, Fuzz};
use crate::opensearch::{self, with_opensearch};
use crate::services::{with_mongo, with_redis, with_s3};

/// The result of a task: why it failed.
pub(crate) type Done = Result<(), String>;

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Quick,
    Long,
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder that cargo builds in.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs cargo in the workspace's folder and fails where it fails.
pub(crate) fn cargo(words: &[&str], variables: &[(&str, &str)]) -> Done {
    run(Command::new(env!("CARGO")).args(words).envs(variables.iter().copied()).current_dir(root()))
}

/// What cargo prints.
pub(crate) fn cargo_output(words: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(words)
        .current_dir(root())
        .output()
        .map_err(|e| format!("cargo {}: {e}", words.join(" ")))?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
        return Err(format!("cargo {}: {out}{err}", words.join(" ")));
    }
    String::from_utf8(output.stdout).map_err(|e| e.to_string())
}

/// A program that picks its compiler anew: what cargo told this one about its own is left out.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command.current_dir(root());
    command
}

/// Whether a program is there and says so.
pub(crate) fn answers(words: &[&str]) -> bool {
    let Some((program, words)) = words.split_first() else { return false };
    let told = tool(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    told.is_ok_and(|status| status.success())
}

/// Runs a program and fails where it fails.
pub(crate) fn run(command: &mut Command) -> Done {
    // What cargo calls itself is a path.
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    println!("$ {words}");
    let status = command.status().map_err(|e| format!("{words}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{words} failed")) }
}

/// Every test, with the servers that they need.
pub(crate) fn test(form: Form) -> Done {
    cargo(&["test", "--locked", "--workspace", "--no-fail-fast"], &[])?;
    if form == Form::Long {
        // All of it is run, whatever fails.
        let tests = with_all(SearchEngine::OpenSearch2, long_tests);
        let engines = SearchEngine::ALL.into_iter().skip(1).map(opensearch::test);
        let tests = engines.collect::<Vec<_>>().into_iter().fold(tests, Result::and);
        let others = [RedisVersion::Redis82, RedisVersion::Valkey9].map(redis);
        let kills = beside(|| fuzz::run(Fuzz::new(form)), || crash::run(Crash::new(form)));
        // Alone: some of its limits are of seconds.
        let chaos = chaos::run(Chaos::new(form));
        return others.into_iter().fold(tests, Result::and).and(kills).and(chaos);
    }
    redis(RedisVersion::Installed)?;
    opensearch::of_environment()?;
    mongo()?;
    s3()?;
    all_stores()?;
    if is_root() {
        let words =
            ["test", "--locked", "-p", "pubsub-file", "--test", "store_faults", "--test", "store_watch"];
        return cargo(&[&words[..], &["--", "--ignored"]].concat(), &[]);
    }
    println!("not root: the tests that mount file systems are left out");
    Ok(())
}

/// The tests that are marked `needs Redis`, with servers of this version. Some hold their rules many times, and the path of
/// one that needs TLS has `tls` in it.
pub(crate) fn redis(version: RedisVersion) -> Done {
    let left_out: &[&str] = if version.speaks_tls() { &["many_times"] } else { &["many_times", "tls"] };
    with_redis(version, |servers| of_server("pubsub-redis", "redis", left_out, servers))
}

/// The tests that are marked `needs MongoDB`.
pub(crate) fn mongo() -> Done {
    with_mongo(|servers| of_server("store-mongo", "mongo", &[], servers))
}

/// The tests that are marked `needs S3`.
pub(crate) fn s3() -> Done {
    with_s3(|servers| of_server("store-s3", "s3", &[], servers))
}

/// The tests of all stores together, which are marked `needs Redis, OpenSearch, MongoDB, S3`.
pub(crate) fn all_stores() -> Done {
    let engine = SearchEngine::of_environment().map_err(|e| e.to_string())?;
    let package = ["test", "--locked", "-p", "pubsub-pipeline-examples", "--no-fail-fast"];
    let tests = ["--test", "all_stores", "--test", "complete", "--test", "whole_chaos"];
    let chosen = [&tests[..], &["--", "--ignored", "--skip", "long::"]].concat();
    cargo(&["build", "--locked", "-p", "pubsub-pipeline-examples", "--examples"], &[])?;
    with_all(engine, |servers| cargo(&[&package[..], &chosen[..]].concat(), servers))
}

/// Runs this with the servers of all stores.
fn with_all(engine: SearchEngine, run: impl FnOnce(&[(&str, &str)]) -> Done) -> Done {
    with_redis(RedisVersion::Installed, |redis| {
        with_opensearch(engine, |search| {
            with_mongo(|mongo| with_s3(|s3| run(&[redis, search, mongo, s3].concat())))
        })
    })
}

/// The tests of a backend that need its server, those of its example, and those of the server itself. Long ones among
/// them are in modules `long`.
pub(crate) fn of_server(package: &str, name: &str, left_out: &[&str], servers: &[(&str, &str)]) -> Done {
    let left_out: Vec<&str> = left_out.iter().flat_map(|part| ["--skip", part]).collect();
    let mut chosen = vec!["--no-fail-fast", "--lib", "--tests", "--", "--ignored", "--skip", "long::"];
    chosen.extend(&left_out);
    let of_services = ["test", "--locked", "-p", "services", "--test", name, "--", "--ignored"];
    let of_services = [&of_services[..], &left_out].concat();
    let of_examples = ["--locked", "-p", "pubsub-pipeline-examples"];
    let tests = cargo(&[&["test", "--locked", "-p", package], &chosen[..]].concat(), servers);
    cargo(&[&["build"], &of_examples[..], &["--examples"]].concat(), &[])?;
    // One after the other: some print as fast as they can, others keep a rate.
    let alone = ["--test", name, "--", "--ignored", "--skip", "long::", "--test-threads=1"];
    let example = [&["test"], &of_examples[..], &alone[..]].concat();
    tests.and(cargo(&example, servers)).and(cargo(&of_services, servers))
}

/// The tests that are marked as long, in release, for some of them measure; all are run, whichever fails. Doc tests that
/// are ignored are no long forms.
fn long_tests(servers: &[(&str, &str)]) -> Done {
    cargo(&["build", "--locked", "--release", "-p", "pubsub-pipeline-examples", "--examples"], &[])?;
    let built = ["test", "--locked", "--release", "--workspace", "--lib", "--bins", "--tests"];
    cargo(&[&built[..], &["--no-run"]].concat(), &[])?;
    // They wait more than they work: beside the others.
    let (waits, rest) = ("for_ten_minutes", [&built[..], &["--no-fail-fast"]].concat());
    let waiting = || {
        let words = ["test", "--locked", "--release", "-p", "pubsub-file", "--test", "fanout_stress", waits];
        let words = [&words[..], &["--", "--ignored", "--test-threads=4", "--show-output"]].concat();
        println!("{}", cargo_output(&words)?);
        Ok(())
    };
    beside(waiting, || cargo(&[&rest[..], &["--", "--ignored", "--skip", waits]].concat(), servers))
}

/// Does both at once, to their end.
fn beside(one: impl FnOnce() -> Done + Send, other: impl FnOnce() -> Done) -> Done {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        one.join().unwrap_or_else(|_| Err("a task panicked".to_owned())).and(other)
    })
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|told| told.stdout.trim_ascii() == b"0")
}
