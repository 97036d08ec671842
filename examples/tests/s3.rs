//! The example for a bucket, and the program with one as its store.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[cfg(target_os = "linux")]
#[path = "memory/mod.rs"]
mod memory;

use std::process::Command;

use crash::example;

fn archived(url: Option<String>) -> String {
    let mut command = Command::new(example("s3-archive"));
    command.env_remove("ARCHIVE_URL").envs(url.map(|url| ("ARCHIVE_URL", url)));
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
fn the_archive_has_every_line_and_finds_one() {
    assert_eq!(archived(None), "100001 lines, whole: true\nerror: the needle\n");
}

/// The bucket of the tests, at a prefix of its own.
fn bucket(prefix: &str) -> String {
    let url = std::env::var("PIPELINE_TEST_S3").expect("PIPELINE_TEST_S3 names a bucket");
    let (bucket, options) = url.split_once('?').unwrap();
    format!("{bucket}/{prefix}-{}?{options}", std::process::id())
}

#[test]
#[ignore = "needs S3"]
fn the_archive_on_a_server_has_every_line_and_finds_one() {
    assert_eq!(archived(Some(bucket("archive"))), "100001 lines, whole: true\nerror: the needle\n");
}

#[test]
#[ignore = "needs S3"]
fn the_program_writes_into_a_bucket_and_asks_it() {
    let (folder, url) = (std::env::temp_dir().join(format!("s3-{}", std::process::id())), bucket("program"));
    let run = |words: &[&str]| {
        let mut command = Command::new(example("pipeline"));
        command.arg("--dir").arg(&folder).args(["--store", &url]).args(words);
        let output = command.output().unwrap();
        let [out, err] =
            [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told).into_owned());
        assert!(output.status.success(), "{words:?}: {out}{err}");
        assert!(!err.contains("geheim"), "{err}");
        out
    };
    run(&["stream", "action-1", "build", "--", "sh", "-c", "seq 1 2000; echo last"]);
    assert_eq!(run(&["get-logs", "action-1", "build", "2"]), "2000\nlast\n");
    assert_eq!(run(&["search", "action-1", "build", "^199[89]$"]), "1998:1998\n1999:1999\n");
    run(&["verify", "action-1", "build"]);
    run(&["remove", "action-1", "build"]);
    let _ = std::fs::remove_dir_all(folder);
}

#[cfg(target_os = "linux")]
mod with_the_program {
    const ENDPOINT: &str = "endpoint=http://127.0.0.1:";

    /// The server of the tests.
    fn port() -> u16 {
        let url = super::bucket("");
        let port = url.split(['&', '?']).find_map(|option| option.strip_prefix(ENDPOINT));
        port.unwrap().parse().unwrap()
    }

    /// A store of its own at this port.
    fn at(name: &str, at: u16) -> String {
        let from = format!("{ENDPOINT}{}", port());
        super::bucket(&format!("memory-{name}")).replace(&from, &format!("{ENDPOINT}{at}"))
    }

    crate::memory::memory_of!("needs S3", 1_000_000, port(), at);
}
