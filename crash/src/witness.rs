//! What the commands of a round said, and what the program says of their runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::{Ended, LIMIT, Place};

/// The file to which commands say what they begin and end.
pub const WITNESS: &str = "witness";

/// The file to which workers say how runs ended.
pub const SAID: &str = "said";

/// What every command of a round begins with. It keeps a lock of its stage and event for as long as anything of it
/// lives, so that two attempts side by side are seen, and says that it begins, for which worker, and when. That nobody
/// reads it any more does not end it: only whoever guards it does.
pub const BEGIN: &str = r#"
trap '' PIPE
run="$PIPELINE_STAGE $PIPELINE_EVENT_ID $PIPELINE_ATTEMPT"
say() { echo "$1 $run $PPID $(date +%s%3N)" >>witness; }
exec 9>>"lock-$PIPELINE_STAGE-$PIPELINE_EVENT_ID"
flock -n 9 || say beside
say begin
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

/// One thing that a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `begin`, `end`, `beside` (another attempt at its event lives), or a word of the round's own.
    pub word: String,
    /// Of its run.
    pub stage: String,
    /// Of its run.
    pub event: String,
    /// Of its run.
    pub attempt: u64,
    /// The process of its worker, where it says so.
    pub worker: Option<u32>,
    /// When, in milliseconds since 1970, where it says so.
    pub at: Option<u64>,
}

impl Said {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut text = || words.next().map(str::to_owned);
        let (word, stage, event) = (text()?, text()?, text()?);
        let attempt = words.next()?.parse().ok()?;
        let worker = words.next().and_then(|word| word.parse().ok());
        let at = words.next().and_then(|word| word.parse().ok());
        Some(Self { word, stage, event, attempt, worker, at })
    }
}

/// What the commands of a round said.
#[derive(Debug)]
pub struct Witness(Vec<Said>);

impl Witness {
    /// Reads it.
    #[must_use]
    pub fn read(place: &Place) -> Self {
        Self::of(place.path())
    }

    /// Reads what was said in this folder.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(WITNESS)).unwrap_or_default();
        let read = |line: &str| Said::read(line).unwrap_or_else(|| panic!("a witness says {line:?}"));
        Self(text.lines().map(read).collect())
    }

    /// No two attempts ran side by side, and none began twice.
    pub fn is_orderly(&self) {
        let beside: Vec<_> = self.all("beside").collect();
        assert!(beside.is_empty(), "side by side: {beside:?} in {:#?}", self.0);
        self.begins_each_once();
    }

    /// No attempt began twice.
    pub fn begins_each_once(&self) {
        let mut begun = BTreeSet::new();
        for said in self.all("begin") {
            let is_new = begun.insert((&said.stage, &said.event, said.attempt));
            assert!(is_new, "an attempt began twice: {said:?} in {:#?}", self.0);
        }
    }

    /// All that said this word, in this order.
    pub fn all(&self, word: &str) -> impl Iterator<Item = &Said> {
        self.0.iter().filter(move |said| said.word == word)
    }

    /// All that was said of the stage's work at the same event, in this order.
    pub fn of_event(&self, of: &Said) -> impl Iterator<Item = &Said> {
        self.0.iter().filter(move |said| said.stage == of.stage && said.event == of.event)
    }

    /// The attempts at this event that began (`begin`) or ended (`end`), in this order.
    #[must_use]
    pub fn attempts(&self, word: &str, stage: &str, event: &str) -> Vec<u64> {
        let of_event = |said: &&Said| said.stage == stage && said.event == event;
        self.all(word).filter(of_event).map(|said| said.attempt).collect()
    }
}

/// Checks what has to hold at each event of a stage that is over, and gives the final run.
#[must_use]
pub fn concluded<'a>(witness: &Witness, stage: &str, event: &str, runs: &'a [Value]) -> &'a Value {
    let begun = witness.attempts("begin", stage, event);
    assert!(begun.is_sorted(), "{begun:?} {runs:#?}");
    concluded_in_any_order(witness, stage, event, runs)
}

/// The same where a worker that was cut off may begin an attempt after a later one: it does not know yet.
#[must_use]
pub(crate) fn concluded_in_any_order<'a>(
    witness: &Witness,
    stage: &str,
    event: &str,
    runs: &'a [Value],
) -> &'a Value {
    let finals: Vec<_> = runs.iter().filter(|run| run["final"] == true).collect();
    let [last] = finals.as_slice() else { panic!("one final run of {stage} at {event}: {runs:#?}") };
    assert_eq!(last["status"], "completed", "{last}");
    let attempts: Vec<_> = runs.iter().map(|run| run["attempt"].as_u64().unwrap()).collect();
    let highest = *attempts.last().unwrap();
    assert_eq!(last["attempt"].as_u64(), Some(highest), "nothing follows what is final: {runs:#?}");
    let begun = witness.attempts("begin", stage, event);
    assert!(begun.iter().all(|attempt| attempts.contains(attempt)), "{begun:?} {runs:#?}");
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
