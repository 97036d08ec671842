//! TERM to workers at random instants: what is in flight is neither lost nor repeated.
#![expect(clippy::panic, reason = "what helps tests may fail as they do")]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crash::{
    BEGIN, Chance, Place, Witness, concluded, end_of, logged, logs, nobody_is_left, runs, signal, to_the_end,
};

use crate::rounds;

const ROUNDS: u64 = 25;
const LONG_ROUNDS: u64 = 100;

const EVENTS: u64 = 32;

/// Much shorter than the lease: what a worker that is shut down held has to be given back at once.
const AT_ONCE: Duration = Duration::from_secs(15);

/// Takes as long as the event's id says, and tells a signal that it gets.
const JOB: &str = r#"
trap 'echo "stopped $run" >>witness; exit 1' TERM
sleep 0.${PIPELINE_EVENT_ID#*.}
echo "done by $PIPELINE_ATTEMPT"
echo "end $run" >>witness
"#;

/// How a worker is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All that runs may end.
    Drain,
    /// The same; a supervisor signals everything in the worker's process group.
    DrainGroup,
    /// The drain limit is shorter than most jobs.
    Limit,
    /// A second signal comes.
    Twice,
}

impl Way {
    const ALL: [Self; 4] = [Self::Drain, Self::DrainGroup, Self::Limit, Self::Twice];

    const fn drain(self) -> &'static str {
        match self {
            Self::Limit => "40ms",
            _ => "60s",
        }
    }

    const fn cuts(self) -> bool {
        matches!(self, Self::Limit | Self::Twice)
    }
}

/// An event of a round: an action of its own, so that four run at once.
fn event(n: u64, chance: &mut Chance) -> (String, String) {
    (format!("action-{n}"), format!("{n}.{:03}", chance.below(300)))
}

fn worker<'a>(drain: &'a str, script: &'a str) -> Vec<&'a str> {
    let words = ["work", "--on", "t:*", "--stage", "s", "--concurrency", "4", "--lease", "60s"];
    [&words[..], &["--drain", drain, "--grace", "10s", "--", "sh", "-c", script]].concat()
}

fn round(place: &Place, _: u64, mut chance: Chance) {
    let events: Vec<_> = (0..EVENTS).map(|n| event(n, &mut chance)).collect();
    for (action, id) in &events {
        place.expect(0, &["publish", action, "t", "--id", id]);
    }
    let script = format!("{BEGIN}{JOB}");
    let mut ways = Way::ALL.to_vec();
    while !ways.is_empty() {
        let way = ways.swap_remove(usize::try_from(chance.below(ways.len() as u64)).unwrap());
        let before = all_runs(place, &events);
        let words = worker(way.drain(), &script);
        let code = shut_down(place, way, &words, &mut chance);
        nobody_is_left(place);
        check_way(place, way, code, &before, &all_runs(place, &events));
    }
    let mut words = worker("60s", &script);
    words.insert(1, "--until-idle");
    let started = Instant::now();
    to_the_end(place, &words);
    assert!(started.elapsed() < AT_ONCE, "what was not done was given back: {:?}", started.elapsed());
    check_end(place, &events);
}

/// Starts a worker, shuts it down at a random instant, and gives its exit code.
fn shut_down(place: &Place, way: Way, words: &[&str], chance: &mut Chance) -> Option<i32> {
    let mut command = place.command(words);
    let worker = command.process_group(0).stdout(Stdio::null()).stderr(logged(place)).spawn().unwrap();
    chance.instant(Duration::from_millis(500));
    match way {
        Way::DrainGroup => signal_group(&worker),
        _ => signal(&worker, "TERM"),
    }
    if way == Way::Twice {
        chance.instant(Duration::from_millis(100));
        signal(&worker, "TERM");
    }
    end_of(worker, words)
}

fn signal_group(leader: &Child) {
    let group = format!("-{}", leader.id());
    std::process::Command::new("kill").args(["-s", "TERM", "--", &group]).status().unwrap();
}

/// Every run so far.
fn all_runs(place: &Place, events: &[(String, String)]) -> Vec<Value> {
    let told = place.run(&["list", "--limit", "1000", "--json"]);
    let mut documents = told.documents();
    assert!(documents.len() < 1000 && events.len() < 1000);
    documents.sort_by_key(|run| run["run_id"].to_string());
    documents
}

/// What one shutdown may have done.
fn check_way(place: &Place, way: Way, code: Option<i32>, before: &[Value], after: &[Value]) {
    let known: BTreeSet<_> = before.iter().map(|run| run["run_id"].to_string()).collect();
    let fresh: Vec<_> = after.iter().filter(|run| !known.contains(&run["run_id"].to_string())).collect();
    match code {
        Some(143) => {}
        // Before it listened to signals it had not begun anything.
        None => assert!(fresh.is_empty(), "{way:?}: ended by the signal after it began {fresh:#?}"),
        Some(_) => panic!("{way:?}: {code:?}"),
    }
    for run in before {
        assert!(after.contains(run), "{way:?}: changed: {run}");
    }
    let stopped = Witness::read(place);
    for run in fresh {
        assert_eq!(run["status"], "completed", "{way:?}: {run}");
        let cut = run["cause"] == "shutdown";
        assert!(way.cuts() || !cut, "{way:?}: {run}");
        let (outcome, last) = if cut { ("interrupted", false) } else { ("succeeded", true) };
        assert_eq!((&run["outcome"], &run["final"]), (&outcome.into(), &last.into()), "{way:?}: {run}");
        let signalled = stopped.attempts("stopped", "s", run["event_id"].as_str().unwrap());
        assert!(
            cut || !signalled.contains(&run["attempt"].as_u64().unwrap()),
            "{way:?}: a stray signal: {run}"
        );
    }
}

/// Every event ran to its end once, and again only where it was cut.
fn check_end(place: &Place, events: &[(String, String)]) {
    nobody_is_left(place);
    let witness = Witness::read(place);
    witness.is_orderly();
    for (action, id) in events {
        let events = runs(place, action, "s");
        let runs = events.get(id).unwrap_or_else(|| panic!("{id} is lost"));
        let last = concluded(&witness, "s", id, runs);
        assert_eq!(last["outcome"], "succeeded", "{last}");
        let (_, cut) = runs.split_last().unwrap();
        assert!(cut.iter().all(|run| run["cause"] == "shutdown"), "{runs:#?}");
        let attempt = last["attempt"].as_u64().unwrap();
        assert_eq!(attempt, cut.len() as u64 + 1, "each attempt has its record: {runs:#?}");
        assert_eq!(witness.attempts("end", "s", id).last(), Some(&attempt));
        assert_eq!(logs(place, action, "s", last).out, format!("done by {attempt}\n"));
    }
    assert_eq!(place.expect(0, &["dead-letters", "list"]).out, "");
}

#[test]
fn shutdowns_at_random_instants_lose_nothing_and_repeat_only_what_they_cut() {
    rounds(1..ROUNDS + 1, round, |_| {});
}

#[test]
#[ignore = "long: 100 rounds of shutdowns"]
fn shutdowns_at_random_instants_lose_nothing_in_many_rounds() {
    rounds(1001..1001 + LONG_ROUNDS, round, |_| {});
}
