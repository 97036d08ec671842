//! The example for Redis, at the server of the tests.

use std::process::Command;

use crash::example;

#[test]
#[ignore = "needs Redis"]
fn the_worker_on_redis_runs_what_it_published_and_shows_the_run() {
    let url = std::env::var("PIPELINE_TEST_REDIS").expect("PIPELINE_TEST_REDIS names a server");
    let url = format!("{url}?prefix=example-{}", std::process::id());
    let output = Command::new(example("redis-worker")).env("REDIS_URL", url).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "action-123: Some(Succeeded), 1 lines\n");
}
