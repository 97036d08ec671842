//! The example and the program with MongoDB, at the server of the tests.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[cfg(target_os = "linux")]
#[path = "memory/mod.rs"]
mod memory;

use std::process::{Command, Output};

use crash::example;

/// A database of this test's own.
fn store(name: &str) -> String {
    let url = std::env::var("PIPELINE_TEST_MONGO").expect("PIPELINE_TEST_MONGO names a server");
    url.replace("/?", &format!("/example-{name}-{}?", std::process::id()))
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
#[ignore = "needs MongoDB"]
fn the_example_finds_the_run_that_it_wrote() {
    let output = Command::new(example("mongo-search")).env("MONGODB_URL", store("search")).output().unwrap();
    let out = said(&output);
    let [run, hit] = out.lines().collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{out}"));
    assert!(run.ends_with(": Some(Succeeded), 2 lines"), "{run}");
    assert!(hit.ends_with(": warning: unused variable"), "{hit}");
}

#[test]
#[ignore = "needs MongoDB"]
fn the_program_keeps_output_in_mongodb_and_answers_from_there() {
    let (store, dir) = (store("program"), tempfile::tempdir().unwrap());
    let run = |words: &[&str]| {
        let mut program = Command::new(example("pipeline"));
        program.args(["--store", &store]).args(words).current_dir(dir.path());
        said(&program.output().unwrap())
    };
    run(&["stream", "a", "build", "--", "sh", "-c", "seq 1 50; echo warning: x >&2"]);
    assert_eq!(run(&["get-logs", "a", "build"]).lines().count(), 51);
    assert!(run(&["search", "a", "build", "^warning"]).contains("warning: x"));
    run(&["verify", "a", "build"]);
    run(&["remove", "a", "build"]);
}

#[cfg(target_os = "linux")]
mod with_the_program {
    /// The server of the tests.
    fn port() -> u16 {
        let url = super::store("");
        let address = url.split("//").nth(1).and_then(|rest| rest.split('/').next());
        address.and_then(|address| address.rsplit(':').next()).unwrap().parse().unwrap()
    }

    /// A store of its own at this port.
    fn at(name: &str, at: u16) -> String {
        let from = format!(":{}/", port());
        super::store(&format!("memory-{name}")).replace(&from, &format!(":{at}/"))
    }

    crate::memory::memory_of!("needs MongoDB", 150_000, port(), at);
}
