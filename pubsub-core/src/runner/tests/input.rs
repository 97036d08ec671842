//! What commands are given, and the values they give back.

use std::collections::BTreeMap;

use super::{Run, event, sh};
use crate::{Command, Environment, Exit, Payload, Stdin};

fn payload(bytes: usize) -> Payload {
    format!("\"{}\"", "x".repeat(bytes - 2)).parse().unwrap()
}

#[tokio::test]
async fn a_payload_of_any_size_arrives_byte_for_byte() {
    for size in [2, 64 * 1024, 64 * 1024 + 1, 200 * 1024, 5 * 1024 * 1024] {
        let payload = payload(size);
        let ran = Run::of(event().with_payload(payload.clone())).end(&Command::new("cat")).await;
        assert_eq!(ran.finished.exit, Exit::code(0));
        assert!(ran.stdout == payload.as_str(), "{size}");
    }
    let escaped: Payload = r#"{"a": "x\u0000y",  "b":1.0}"#.parse().unwrap();
    let ran = Run::of(event().with_payload(escaped.clone())).end(&Command::new("cat")).await;
    assert_eq!(ran.stdout, escaped.as_str());
}

#[tokio::test]
async fn a_small_payload_is_a_variable_too_and_a_large_one_is_none() {
    let line = "printf %s \"${PIPELINE_PAYLOAD-unset}\"";
    let limit = crate::MAX_PAYLOAD_VARIABLE_BYTES;
    let small = Run::of(event().with_payload(payload(limit))).end(&sh(line)).await;
    assert_eq!(small.stdout.len(), limit);
    let command = sh(line).with_variable("PIPELINE_PAYLOAD", "that of an outer run");
    let large = Run::of(event().with_payload(payload(limit + 1))).end(&command).await;
    assert_eq!(large.stdout, "unset");
}

#[tokio::test]
async fn a_command_need_not_read_its_input() {
    for line in ["exit 4", "exec <&-; sleep 0.05; exit 4", "head -c 10 >/dev/null; exit 4"] {
        let ran = Run::of(event().with_payload(payload(1024 * 1024))).end(&sh(line)).await;
        assert_eq!(ran.finished.exit, Exit::code(4));
        assert!(ran.notes.is_empty());
    }
}

#[tokio::test]
async fn input_can_be_nothing_and_is_never_ours() {
    let ran = Run::new().end(&Command::new("cat").with_stdin(Stdin::Null)).await;
    assert_eq!((ran.finished.exit, ran.stdout.as_str()), (Exit::code(0), ""));
}

#[tokio::test]
async fn the_run_is_named_in_the_environment() {
    let event = event();
    let id = event.id.clone();
    let run = Run::of(event);
    let run_id = run.key.run_id.clone();
    let ran = run.end(&sh("env | grep ^PIPELINE_ | grep -v OUTPUT | sort")).await;
    let expected = format!(
        "PIPELINE_ACTION_ID=action-123\nPIPELINE_ATTEMPT=2\nPIPELINE_EVENT_ID={id}\n\
         PIPELINE_EVENT_TYPE=build-requested\nPIPELINE_PAYLOAD=null\nPIPELINE_RUN_ID={run_id}\nPIPELINE_STAGE=build\n"
    );
    assert_eq!(ran.stdout, expected);
}

#[tokio::test]
async fn the_environment_is_inherited_listed_or_cleared() {
    // No test may change the environment that all share; what holds for credentials is tested with a worker's own.
    let names =
        |environment| sh("env | cut -d= -f1 | sort").with_environment(environment).with_variable("OWN", "1");
    let inherited = Run::new().end(&names(Environment::Inherit)).await.stdout;
    assert!(inherited.lines().any(|name| name == "PATH") && inherited.lines().any(|name| name == "HOME"));
    let listed = Environment::Listed(vec!["HOME".into(), "NO_SUCH_VARIABLE".into()]);
    let listed = Run::new().end(&names(listed)).await.stdout;
    assert!(listed.lines().any(|name| name == "HOME") && listed.lines().any(|name| name == "OWN"));
    assert!(!listed.lines().any(|name| name.starts_with("CARGO")), "{listed}");
    let cleared = Run::new().end(&names(Environment::Cleared)).await.stdout;
    assert!(!cleared.lines().any(|name| name == "HOME") && cleared.lines().any(|name| name == "OWN"));

    let withheld = names(Environment::Inherit).with_withheld(["HOME"]);
    assert!(!Run::new().end(&withheld).await.stdout.lines().any(|name| name == "HOME"));
    let withheld = names(Environment::Listed(vec!["HOME".into()])).with_withheld(["HOME"]);
    assert!(!Run::new().end(&withheld).await.stdout.lines().any(|name| name == "HOME"));
    let explicit = sh("echo $AWS_SESSION_TOKEN").with_variable("AWS_SESSION_TOKEN", "meant");
    assert_eq!(Run::new().end(&explicit).await.stdout, "meant\n");
}

#[tokio::test]
async fn it_runs_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let ran = Run::new().end(&Command::new("pwd").with_working_dir(&path)).await;
    assert_eq!(ran.stdout.trim(), path.to_str().unwrap());
}

#[tokio::test]
async fn values_come_back_and_the_file_goes() {
    let line = "echo image=app:1 >> $PIPELINE_OUTPUT; echo nonsense >> $PIPELINE_OUTPUT
                echo token=S3cr3t-Value-42 >> $PIPELINE_OUTPUT; echo $PIPELINE_OUTPUT; ls -l $PIPELINE_OUTPUT";
    let ran = Run::new().end(&sh(line)).await;
    assert_eq!(ran.finished.values, BTreeMap::from([("image".to_owned(), "app:1".to_owned())]));
    assert_eq!(ran.told(), ["values_refused", "values_refused"]);
    let (path, listing) = ran.stdout.split_once('\n').unwrap();
    assert!(listing.starts_with("-rw-------"), "{listing}");
    assert!(!std::path::Path::new(path).exists());
}
