//! The example for Elasticsearch and OpenSearch, at the server of the tests.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[cfg(target_os = "linux")]
#[path = "memory/mod.rs"]
mod memory;

use std::process::Command;

use crash::example;

#[test]
#[ignore = "needs OpenSearch"]
fn the_worker_finds_what_it_wrote_to_opensearch() {
    let url = std::env::var("PIPELINE_TEST_OPENSEARCH").expect("PIPELINE_TEST_OPENSEARCH names a server");
    let mut example = Command::new(example("elastic-search"));
    example.env("ELASTICSEARCH_URL", url);
    example.env("ELASTICSEARCH_PREFIX", format!("example-{}", std::process::id()));
    let output = example.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "action-123 line 2: ERROR: code=42 at /a/b\n");
}

#[cfg(target_os = "linux")]
mod with_the_program {
    /// The server of the tests.
    fn port() -> u16 {
        let url = std::env::var("PIPELINE_TEST_OPENSEARCH");
        let url = url.expect("PIPELINE_TEST_OPENSEARCH names a server");
        url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// A store of its own at this port.
    fn at(name: &str, port: u16) -> String {
        format!("elastic+http://127.0.0.1:{port}?prefix=memory-{name}-{}", std::process::id())
    }

    crate::memory::memory_of!("needs OpenSearch", 150_000, port(), at);
}
