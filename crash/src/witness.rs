//! What the commands of a round said, and what the program says of their runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::{Ended, LIMIT, Place};

/// The file to which commands say what they begin and end.
pub const WITNESS: &str = "witness";

/// The file to which workers say how runs ended.
pub const SAID: &str = "said";

/// What every command of a round begins with. It keeps a lock of its stage and event for as long as anything of it
/// lives, so that two attempts side by side are seen, and says that it begins. That nobody reads it any more does not
/// end it: only whoever guards it does.
pub const BEGIN: &str = r#"
trap '' PIPE
run="$PIPELINE_STAGE $PIPELINE_EVENT_ID $PIPELINE_ATTEMPT"
exec 9>>"lock-$PIPELINE_STAGE-$PIPELINE_EVENT_ID"
flock -n 9 || echo "beside $run" >>witness
echo "begin $run" >>witness
"#;

/// The runs of an action's stage, by event, in the order of their attempts.
#[must_use]
pub fn runs(place: &Place, action: &str, stage: &str) -> BTreeMap<String, Vec<Value>> {
    let told = place.run(&["get-status", action, stage, "--all", "--json"]);
    let documents = match told.code {
        0 => told.documents(),
        3 => Vec::new(),
        _ => panic!("{told:?}"),
    };
    let mut events = BTreeMap::<String, Vec<Value>>::new();
    for document in documents.into_iter().rev() {
        events.entry(document["event_id"].as_str().unwrap().to_owned()).or_default().push(document);
    }
    for runs in events.values_mut() {
        runs.sort_by_key(|run| run["attempt"].as_u64());
    }
    events
}

/// What the commands of a round said.
#[derive(Debug)]
pub struct Witness(Vec<String>);

impl Witness {
    /// Reads it.
    #[must_use]
    pub fn read(place: &Place) -> Self {
        let text = fs::read_to_string(place.path().join(WITNESS)).unwrap_or_default();
        Self(text.lines().map(str::to_owned).collect())
    }

    /// No two attempts ran side by side, and none began twice.
    pub fn is_orderly(&self) {
        let beside: Vec<_> = self.0.iter().filter(|line| line.starts_with("beside")).collect();
        assert!(beside.is_empty(), "side by side: {beside:?} in {:#?}", self.0);
        let mut begun: Vec<_> = self.0.iter().filter(|line| line.starts_with("begin")).collect();
        begun.sort_unstable();
        let before = begun.len();
        begun.dedup();
        assert_eq!(before, begun.len(), "an attempt began twice: {:#?}", self.0);
    }

    /// The attempts at this event that began (`begin`) or ended (`end`), in this order.
    #[must_use]
    pub fn attempts(&self, what: &str, stage: &str, event: &str) -> Vec<u64> {
        let start = format!("{what} {stage} {event} ");
        self.0.iter().filter_map(|line| line.strip_prefix(&start)?.parse().ok()).collect()
    }
}

/// Checks what has to hold at each event of a stage that is over, and gives the final run.
#[must_use]
pub fn concluded<'a>(witness: &Witness, stage: &str, event: &str, runs: &'a [Value]) -> &'a Value {
    let finals: Vec<_> = runs.iter().filter(|run| run["final"] == true).collect();
    let [last] = finals.as_slice() else { panic!("one final run of {stage} at {event}: {runs:#?}") };
    assert_eq!(last["status"], "completed", "{last}");
    let attempts: Vec<_> = runs.iter().map(|run| run["attempt"].as_u64().unwrap()).collect();
    let highest = *attempts.last().unwrap();
    assert_eq!(last["attempt"].as_u64(), Some(highest), "nothing follows what is final: {runs:#?}");
    let begun = witness.attempts("begin", stage, event);
    assert!(
        begun.is_sorted() && begun.iter().all(|attempt| attempts.contains(attempt)),
        "{begun:?} {runs:#?}"
    );
    assert!(begun.last().is_none_or(|attempt| *attempt <= highest), "{begun:?} after {last}");
    last
}

/// Waits until no run of the stage is told as running: what was left in silence is told as lost in the end.
pub fn none_is_running(place: &Place, action: &str, stage: &str) {
    let limit = Instant::now() + LIMIT;
    loop {
        let all = runs(place, action, stage);
        let running: Vec<_> = all.values().flatten().filter(|run| run["status"] == "running").collect();
        if running.is_empty() {
            let told = |run: &Value| run["status"] == "completed" || run["status"] == "lost";
            assert!(all.values().flatten().all(told), "{all:#?}");
            return;
        }
        assert!(Instant::now() < limit, "neither completed nor lost: {running:#?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// What `get-logs` prints of a run.
#[must_use]
pub fn logs(place: &Place, action: &str, stage: &str, run: &Value) -> Ended {
    place.expect(0, &["get-logs", action, stage, "--run", run["run_id"].as_str().unwrap()])
}
