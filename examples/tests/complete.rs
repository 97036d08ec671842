//! The complete example: in a folder, and on all the real engines that its `action_config` names.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use crash::example;

/// What it tells, whatever the stores.
const TOLD: [&str; 14] = [
    "good build: succeeded at attempt 1, 1 lines",
    "good test: succeeded at attempt 1, 5 lines",
    "good deploy: succeeded at attempt 1, 2 lines",
    "early build: succeeded at attempt 1, 1 lines",
    "early test: escaped at attempt 1, 6 lines",
    "early deploy: succeeded at attempt 1, 2 lines",
    "slow build: timed_out at attempt 1, 2 lines",
    "slow test: succeeded at attempt 1, 5 lines",
    "slow deploy: succeeded at attempt 1, 2 lines",
    "broken build: succeeded at attempt 1, 1 lines",
    "broken test: failed at attempt 3, 6 lines",
    "early test line 6: nothing of it has changed: left out",
    "broken test line 6: ERROR: test 6 failed",
    "11 runs are whole and equal in each of ",
];

fn told(mut command: Command) -> String {
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told).into_owned());
    assert!(output.status.success(), "{out}{err}");
    for line in TOLD {
        assert!(out.lines().any(|told| told.starts_with(line)), "{line}: {out}{err}");
    }
    assert!(!out.contains("broken deploy"), "a chain that failed does not go on: {out}");
    out
}

#[test]
fn in_a_folder_every_action_ends_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let mut complete = Command::new(example("complete"));
    complete.arg(serde_json::json!({"dir": folder.path()}).to_string());
    assert!(told(complete).ends_with("in each of 1 stores\n"));
}

#[test]
#[ignore = "needs Redis, OpenSearch, MongoDB, S3"]
fn on_all_engines_every_action_ends_as_it_should() {
    let variable =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} names a server of the tests"));
    let own = format!("complete-{}", std::process::id());
    let bucket = variable("PIPELINE_TEST_S3");
    let (bucket, options) = bucket.split_once('?').expect("it has options");
    let mut complete = Command::new(example("complete"));
    complete.env("REDIS_URL", format!("{}?prefix={own}", variable("PIPELINE_TEST_REDIS")));
    complete.env("ELASTICSEARCH_URL", format!("{}?prefix={own}", variable("PIPELINE_TEST_OPENSEARCH")));
    complete.env("MONGODB_URL", variable("PIPELINE_TEST_MONGO").replace("/?", &format!("/{own}?")));
    complete.env("S3_BUCKET", format!("{bucket}/{own}?{options}"));
    assert!(told(complete).ends_with("in each of 3 stores\n"));
}
