//! Fewer descriptors than are needed.

use std::collections::BTreeSet;
use std::path::Path;

use super::Stage;
use crate::nobody_is_left;

/// Tells each of its runs.
const COMMAND: &str = r#"echo "$PIPELINE_EVENT_ID" | tee -a ran"#;

/// With whatever few descriptors: what is told as published is worked at, what cannot be done is said, and once there
/// are enough all is concluded, each once.
pub(super) fn used_up(program: &Path) {
    let stage = Stage::new(program);
    let work = [
        "work",
        "--on",
        "t:*",
        "--stage",
        "s",
        "--lease",
        "1s",
        "--drain",
        "1s",
        "--until-idle",
        "--",
        "sh",
        "-c",
        COMMAND,
    ];
    let mut published = BTreeSet::new();
    for limit in [8, 14, 18, 22, 26, 40] {
        let few = format!("--nofile={limit}");
        let few = ["prlimit", few.as_str()];
        let id = format!("event-{limit}");
        let told = stage.below(&few, &["publish", &format!("action-{limit}"), "t", "--id", &id]);
        match told.status.code() {
            Some(0) => {
                published.insert(id);
            }
            // A panic, an abort or a hang are none of these.
            Some(1..=4) => assert!(!told.stderr.is_empty(), "{limit} descriptors: it says why"),
            _ => panic!("{limit} descriptors: {told:?}"),
        }
        // A worker says what it lacks, ends or waits; here it waits no longer than that.
        let mut waits = few.to_vec();
        waits.extend(["timeout", "-s", "TERM", "-k", "20", "1"]);
        let worked = stage.below(&waits, &work);
        assert!(
            !String::from_utf8_lossy(&worked.stderr).contains("panicked"),
            "{limit} descriptors: {worked:?}"
        );
        nobody_is_left(&stage.place);
    }
    stage.ok(&work);
    assert!(published.len() >= 3, "{published:?}");
    for id in &published {
        let action = id.replace("event", "action");
        let runs = stage.documents(&["get-status", &action, "s", "--all", "--json"]);
        let finals: Vec<_> = runs.iter().filter(|run| run["final"] == true).collect();
        let [last] = finals.as_slice() else { panic!("one final run of {id}: {runs:#?}") };
        // Where nothing could be started it failed, as any command that cannot be; all others ended well.
        if last["outcome"] == "succeeded" {
            assert_eq!(stage.ok(&["get-logs", &action, "s"]), format!("{id}\n"));
            stage.ok(&["verify", &action, "s"]);
        }
    }
    nobody_is_left(&stage.place);
}
