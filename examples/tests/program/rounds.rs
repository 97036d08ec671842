//! Rounds of chance: each in a folder of its own, each drawn from a seed that is told where it fails.
#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "what helps tests may fail as they do, and say why"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::{Ended, Place};

/// With this variable, one round is run: that of its seed.
const SEED: &str = "PIPELINE_TEST_SEED";

/// How many rounds go on at once: they wait for leases more than they work.
const AT_ONCE: usize = 8;

/// Far more than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The file to which commands say what they begin and end.
pub(crate) const WITNESS: &str = "witness";

/// The file to which workers say how runs ended.
pub(crate) const SAID: &str = "said";

/// What every command of a round begins with. It keeps a lock of its stage and event for as long as anything of it
/// lives, so that two attempts side by side are seen, and says that it begins. That nobody reads it any more does not
/// end it: only whoever guards it does.
pub(crate) const BEGIN: &str = r#"
trap '' PIPE
run="$PIPELINE_STAGE $PIPELINE_EVENT_ID $PIPELINE_ATTEMPT"
exec 9>>"lock-$PIPELINE_STAGE-$PIPELINE_EVENT_ID"
flock -n 9 || echo "beside $run" >>witness
echo "begin $run" >>witness
"#;

/// Random numbers that a seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// A random instant, at most so far from now.
    pub(crate) fn instant(&mut self, most: Duration) {
        let micros = u64::try_from(most.as_micros()).unwrap();
        thread::sleep(Duration::from_micros(self.below(micros)));
    }

    /// Others, for another thread.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }
}

/// A round under way. Where it fails, its folder stays.
struct Round {
    seed: u64,
    place: Option<Place>,
}

impl Round {
    /// Does a part of the round, and gives its place back.
    fn part(seed: u64, place: Place, part: impl FnOnce(&Place)) -> Place {
        let mut round = Self { seed, place: Some(place) };
        part(round.place.as_ref().unwrap());
        round.place.take().unwrap()
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        // It is taken out where all went well.
        if let Some(place) = self.place.take() {
            let folder = place.0.keep();
            eprintln!("{SEED}={} repeats the round that failed; {} is kept", self.seed, folder.display());
        }
    }
}

/// Runs a round for each seed, several at once, then looks at all their places again.
pub(crate) fn rounds(
    seeds: Range<u64>,
    round: impl Fn(&Place, Chance) + Sync,
    afterwards: impl Fn(&Place) + Sync,
) {
    let one = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let left = Mutex::new(one.map_or(seeds, |seed: u64| seed..seed + 1));
    let places = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = { left.lock().unwrap().next() } {
                    let place = Round::part(seed, Place::new(), |place| round(place, Chance(seed)));
                    places.lock().unwrap().push((seed, place));
                }
            });
        }
    });
    for (seed, place) in places.into_inner().unwrap() {
        Round::part(seed, place, &afterwards);
    }
}

/// Starts the program with nobody at its output. What it says beside is kept in the folder.
pub(crate) fn start_aside(place: &Place, words: &[&str]) -> Child {
    place.command(words).stdout(Stdio::null()).stderr(logged(place)).spawn().unwrap()
}

/// The file that keeps what workers say.
pub(crate) fn logged(place: &Place) -> fs::File {
    fs::File::options().create(true).append(true).open(place.0.path().join(SAID)).unwrap()
}

/// Waits for its end, and gives the code; `None` where a signal ended it.
pub(crate) fn end_of(mut child: Child, words: &[&str]) -> Option<i32> {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{words:?} does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the program, which has to end by itself, and well.
pub(crate) fn to_the_end(place: &Place, words: &[&str]) {
    assert_eq!(end_of(start_aside(place, words), words), Some(0), "{words:?}");
}

/// The runs of an action's stage, by event, in the order of their attempts.
pub(crate) fn runs(place: &Place, action: &str, stage: &str) -> BTreeMap<String, Vec<Value>> {
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
pub(crate) struct Witness(Vec<String>);

impl Witness {
    pub(crate) fn read(place: &Place) -> Self {
        let text = fs::read_to_string(place.0.path().join(WITNESS)).unwrap_or_default();
        Self(text.lines().map(str::to_owned).collect())
    }

    /// No two attempts ran side by side, and none began twice.
    pub(crate) fn is_orderly(&self) {
        let beside: Vec<_> = self.0.iter().filter(|line| line.starts_with("beside")).collect();
        assert!(beside.is_empty(), "side by side: {beside:?} in {:#?}", self.0);
        let mut begun: Vec<_> = self.0.iter().filter(|line| line.starts_with("begin")).collect();
        begun.sort_unstable();
        let before = begun.len();
        begun.dedup();
        assert_eq!(before, begun.len(), "an attempt began twice: {:#?}", self.0);
    }

    /// The attempts at this event that began (`begin`) or ended (`end`), in this order.
    pub(crate) fn attempts(&self, what: &str, stage: &str, event: &str) -> Vec<u64> {
        let start = format!("{what} {stage} {event} ");
        self.0.iter().filter_map(|line| line.strip_prefix(&start)?.parse().ok()).collect()
    }
}

/// Checks what has to hold at each event of a stage that is over, and gives the final run.
pub(crate) fn concluded<'a>(witness: &Witness, stage: &str, event: &str, runs: &'a [Value]) -> &'a Value {
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

/// Fails where anything that was started in this folder, or guards what was, is there still.
pub(crate) fn nobody_is_left(place: &Place) {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_of(place.0.path());
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "left behind: {left:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The command lines of processes that work in this folder, or name it. Of a zombie neither can be read.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let works_here = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if works_here || words.contains(name) {
            found.push(format!("{} {words}", path.display()));
        }
    }
    found
}

/// Waits until no run of the stage is told as running: what was left in silence is told as lost in the end.
pub(crate) fn none_is_running(place: &Place, action: &str, stage: &str) {
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

/// Kills it, and gives what it printed until then; its code too, where it had ended by itself.
pub(crate) fn killed(mut child: Child) -> (Option<i32>, Vec<u8>) {
    // It may have ended already.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), output.stdout)
}

/// Sends a signal; whoever has ended is not told.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status().unwrap();
}

/// What `get-logs` prints of a run.
pub(crate) fn logs(place: &Place, action: &str, stage: &str, run: &Value) -> Ended {
    place.expect(0, &["get-logs", action, stage, "--run", run["run_id"].as_str().unwrap()])
}
