//! `kill -9` of publishers, workers and followers at random instants.
#![expect(clippy::panic, clippy::indexing_slicing, reason = "what helps tests may fail as they do")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::Place;
use crate::rounds::{
    BEGIN, Chance, LIMIT, SAID, WITNESS, Witness, concluded, killed, logs, nobody_is_left, none_is_running,
    rounds, runs, start_aside, to_the_end,
};

const ROUNDS: u64 = 25;
const LONG_ROUNDS: u64 = 200;

const ACTIONS: u64 = 4;
const EVENTS: u64 = 16;

/// The first stage: prints numbered lines, with pauses in which it may be killed. The event's id says how many, how
/// long, and how it ends; what it writes for the next stage names the attempt.
const BUILD: &str = r#"
IFS=. read -r n lines pause code <<END
$PIPELINE_EVENT_ID
END
i=0
while [ $i -lt $lines ]; do
  i=$((i+1))
  echo "$i of $lines by $PIPELINE_RUN_ID"
  [ $((i % 25)) -ne 0 ] || [ $pause = 00 ] || sleep 0.$pause
done
echo "from=$PIPELINE_ATTEMPT" >>"$PIPELINE_OUTPUT"
echo "end $run" >>witness
exit $code
"#;

/// The second stage: prints what it was given.
const TEST: &str = r#"
echo "$PIPELINE_PAYLOAD"
sleep 0.03
echo "end $run" >>witness
"#;

/// A third stage, which nobody kills, writes down what is told of the others.
const TELL: [&str; 11] = [
    "work",
    "--stage",
    "tell",
    "--on",
    "build-completed:*",
    "--on",
    "test-completed:*",
    "--",
    "sh",
    "-c",
    r#"echo "$PIPELINE_PAYLOAD" >>told"#,
];

/// What a worker of a stage is started with.
fn worker<'a>(stage: &'a str, script: &'a str) -> Vec<&'a str> {
    let mut words = vec!["work", "--stage", stage, "--lease", "1s", "--concurrency", "2"];
    words.extend(match stage {
        "build" => ["--on", "build-requested:*", "--then", "tested", "--retry", "fixed", "--attempts", "2"]
            .as_slice(),
        _ => &["--on", "tested:*", "--retry", "none"],
    });
    words.extend(["--", "sh", "-c", script]);
    words
}

/// An event of a round.
struct Planned {
    action: String,
    id: String,
    lines: u64,
    code: u64,
}

impl Planned {
    /// Of actions each of which has several events but the first, which has one that succeeds.
    fn draw(n: u64, chance: &mut Chance) -> Self {
        let action = if n == 0 { 0 } else { 1 + chance.below(ACTIONS - 1) };
        // Many are short, so that a worker is often between two of its steps; some last longer than a lease, so that a
        // command which outlives its worker is seen.
        let (pause, lines) = match chance.below(8) {
            0..4 => (0, chance.below(20)),
            4..7 => (1 + chance.below(8), chance.below(200)),
            _ => (30, 150),
        };
        let code = if n > 0 && chance.one_in(8) { [3, 42][usize::from(chance.one_in(2))] } else { 0 };
        Self { action: format!("action-{action}"), id: format!("{n}.{lines}.{pause:02}.{code}"), lines, code }
    }

    fn words(&self) -> [&str; 6] {
        ["publish", &self.action, "build-requested", "[1]", "--id", &self.id]
    }

    /// What its command prints in this run.
    fn prints(&self, run: &Value) -> Vec<String> {
        let (run, lines) = (run["run_id"].as_str().unwrap(), self.lines);
        (1..=lines).map(|i| format!("{i} of {lines} by {run}")).collect()
    }
}

/// Publishes all events, kills some publishers, and gives the ids that were told as published.
fn publish(place: &Place, events: &[Planned], mut chance: Chance) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for event in events {
        if !event.id.starts_with("0.") && chance.one_in(3) {
            let child = place.command(&event.words()).stdout(Stdio::piped()).spawn().unwrap();
            chance.instant(Duration::from_millis(8));
            let (code, out) = killed(child);
            if code == Some(0) {
                assert_eq!(String::from_utf8(out).unwrap(), format!("{}\n", event.id));
                published.insert(event.id.clone());
            } else if chance.one_in(2) {
                // Whoever does not know whether it was published publishes it again.
                place.expect(0, &event.words());
                published.insert(event.id.clone());
            }
        } else {
            assert_eq!(place.expect(0, &event.words()).out, format!("{}\n", event.id));
            published.insert(event.id.clone());
        }
        chance.instant(Duration::from_millis(40));
    }
    published
}

/// Workers of a stage, one after the other, each of them killed.
fn workers(place: &Place, words: &[&str], kills: u64, mut chance: Chance) {
    for _ in 0..kills {
        let worker = start_aside(place, words);
        chance.instant(Duration::from_millis(700));
        match chance.below(3) {
            // Soon after a command begins or ends, and soon after a run was told as concluded.
            0 => grown(place, WITNESS),
            1 => grown(place, SAID),
            _ => {}
        }
        chance.instant(Duration::from_millis(4));
        killed(worker);
    }
}

/// Waits for a while until this file grows.
fn grown(place: &Place, name: &str) {
    let bytes = || fs::metadata(place.0.path().join(name)).map_or(0, |file| file.len());
    let (before, limit) = (bytes(), Instant::now() + Duration::from_millis(300));
    while bytes() == before && Instant::now() < limit {
        thread::sleep(Duration::from_micros(300));
    }
}

/// What followers were given of each run, over all their restarts.
type Followed = BTreeMap<String, Vec<(u64, String)>>;

/// Follows the current build of an action, again and again from the line after the last one given, until all is over.
fn follow(place: &Place, action: &str, over: &AtomicBool, mut chance: Chance) -> Followed {
    let mut followed = Followed::new();
    let limit = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < limit, "{action} is not over");
        let last_look = over.load(Ordering::Acquire);
        let status = place.run(&["get-status", action, "build", "--json"]);
        if status.code == 0 {
            let run = status.documents().remove(0);
            let id = run["run_id"].as_str().unwrap();
            follow_once(place, action, id, followed.entry(id.to_owned()).or_default(), |follower| {
                chance.instant(Duration::from_millis(300));
                killed(follower).1
            });
        } else {
            assert_eq!(status.code, 3, "{status:?}");
            chance.instant(Duration::from_millis(50));
        }
        if last_look {
            return followed;
        }
    }
}

/// Follows a run from the line after the last one given until `end` has ended the follower.
fn follow_once(
    place: &Place,
    action: &str,
    run: &str,
    lines: &mut Vec<(u64, String)>,
    end: impl FnOnce(Child) -> Vec<u8>,
) {
    let from = (lines.last().map_or(0, |(number, _)| *number) + 1).to_string();
    let words = ["stream-logs", action, "build", "--run", run, "--from", &from, "--json"];
    let child = place.command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let printed = end(child);
    // What it was killed in the middle of is given again.
    for line in printed.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let line: Value = serde_json::from_slice(line).unwrap();
        lines.push((line["line"].as_u64().unwrap(), line["text"].as_str().unwrap().to_owned()));
    }
}

/// What a round saw while it went on.
struct Seen {
    /// The ids that were told as published.
    published: BTreeSet<String>,
    /// By action.
    followed: Vec<(&'static str, Followed)>,
    /// What a follower of the first action's builds, killed by nobody, printed.
    whole: String,
}

fn round(place: &Place, mut chance: Chance) {
    let events: Vec<_> = (0..EVENTS).map(|n| Planned::draw(n, &mut chance)).collect();
    let seen = go_through(place, &events, chance);
    nobody_is_left(place);
    let witness = Witness::read(place);
    witness.is_orderly();
    check_builds(place, &events, &seen, &witness);
    check_followers(place, &events, seen);
    check_tests(place, &witness);
    check_told(place);
}

/// Everybody at once, and at the end workers that nobody kills.
fn go_through(place: &Place, events: &[Planned], mut chance: Chance) -> Seen {
    let (build, test) = (format!("{BEGIN}{BUILD}"), format!("{BEGIN}{TEST}"));
    let (build, test) = (worker("build", &build), worker("test", &test));
    // The first action has one event, so that a follower of its stage sees every attempt at it.
    let whole = place.start(&["stream-logs", "action-0", "build"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let working = [(&build, 4), (&build, 3), (&test, 4)].map(|(words, kills)| {
            let chance = chance.fork();
            scope.spawn(move || workers(place, words, kills, chance))
        });
        let following = ["action-0", "action-1"].map(|action| {
            let (over, chance) = (&over, chance.fork());
            (action, scope.spawn(move || follow(place, action, over, chance)))
        });
        let published = publish(place, events, chance.fork());
        for working in working {
            working.join().unwrap();
        }
        for words in [&build, &test, &TELL.to_vec()] {
            let mut words = words.clone();
            words.insert(1, "--until-idle");
            to_the_end(place, &words);
        }
        over.store(true, Ordering::Release);
        let followed = following.map(|(action, following)| (action, following.join().unwrap()));
        let whole = whole.ended();
        assert_eq!(whole.code, 0, "{whole:?}");
        Seen { published, followed: followed.into(), whole: whole.out }
    })
}

/// Whether its worker died so often that it was given up.
fn is_exhausted(run: &Value) -> bool {
    run["cause"] == "lease_lost"
}

/// No event is lost or run again, and each final output is whole.
fn check_builds(place: &Place, events: &[Planned], seen: &Seen, witness: &Witness) {
    let mut concluded_events = BTreeSet::new();
    for action in actions() {
        for (event, runs) in &runs(place, &action, "build") {
            let planned = events.iter().find(|planned| planned.id == *event).unwrap();
            assert_eq!(planned.action, action);
            let last = concluded(witness, "build", event, runs);
            concluded_events.insert(event.clone());
            let attempt = last["attempt"].as_u64().unwrap();
            if is_exhausted(last) {
                assert_eq!((&last["outcome"], &last["lines"]), (&"failed".into(), &0.into()), "{last}");
                continue;
            }
            assert_eq!(last["code"].as_u64(), Some(planned.code), "{last}");
            let ends = witness.attempts("end", "build", event);
            assert_eq!(ends.last(), Some(&attempt), "{runs:#?}");
            let expected: String = planned.prints(last).iter().map(|line| format!("{line}\n")).collect();
            assert_eq!(logs(place, &action, "build", last).out, expected, "{last}");
            place.expect(0, &["verify", &action, "build", "--run", last["run_id"].as_str().unwrap()]);
        }
    }
    let lost: Vec<_> = seen.published.difference(&concluded_events).collect();
    assert!(lost.is_empty(), "published and never concluded: {lost:?}");
}

/// Followers got each line once, in order, over all their restarts.
fn check_followers(place: &Place, events: &[Planned], seen: Seen) {
    for (action, followed) in seen.followed {
        let runs: Vec<_> = runs(place, action, "build").into_values().flatten().collect();
        for (id, mut lines) in followed {
            let run = runs.iter().find(|run| run["run_id"] == *id).unwrap();
            if run["final"] == true {
                follow_once(place, action, &id, &mut lines, |follower| {
                    let output = follower.wait_with_output().unwrap();
                    assert_eq!(output.status.code(), Some(0), "{run}");
                    output.stdout
                });
                assert_eq!(Some(lines.len()), run["lines"].as_u64().map(|n| n.try_into().unwrap()), "{run}");
            }
            let planned = events.iter().find(|planned| run["event_id"] == *planned.id).unwrap();
            let prints = planned.prints(run);
            assert!(lines.len() <= prints.len(), "{run}: {lines:?}");
            let expected: Vec<_> = (1_u64..).zip(prints).take(lines.len()).collect();
            assert_eq!(lines, expected, "{run}");
        }
    }
    let runs: Vec<_> = runs(place, "action-0", "build").into_values().flatten().collect();
    let mut rest = seen.whole.as_str();
    for run in runs {
        let count = rest.lines().take_while(|line| line.ends_with(run["run_id"].as_str().unwrap())).count();
        let prints = events[0].prints(&run);
        for line in prints.iter().take(count) {
            rest =
                rest.strip_prefix(&format!("{line}\n")).unwrap_or_else(|| panic!("{line} in {}", seen.whole));
        }
        let all = run["final"] == true && !is_exhausted(&run);
        assert!(!all || count == prints.len(), "{count} lines of {run}");
    }
    assert_eq!(rest, "", "in order, each once: {}", seen.whole);
}

/// Each conclusion was told once.
fn check_told(place: &Place) {
    let text = fs::read_to_string(place.0.path().join("told")).unwrap();
    let run_of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["run_id"].clone();
    let mut told: Vec<_> = text.lines().map(|line| run_of(line).to_string()).collect();
    told.sort_unstable();
    let stages = || ["build", "test"].into_iter();
    let all = actions().flat_map(|action| stages().map(move |stage| runs(place, &action, stage)));
    let all: Vec<_> = all.flat_map(BTreeMap::into_values).flatten().collect();
    let finals = all.iter().filter(|run| run["final"] == true);
    let mut finals: Vec<_> = finals.map(|run| run["run_id"].to_string()).collect();
    finals.sort_unstable();
    assert_eq!(told, finals);
}

/// The chain went on once where the first stage said so, with what its final attempt wrote, and nowhere else.
fn check_tests(place: &Place, witness: &Witness) {
    for action in actions() {
        let builds = runs(place, &action, "build");
        let going_on =
            builds.values().flatten().filter(|run| run["final"] == true && run["continues"] == true);
        let mut given: Vec<_> = going_on.map(|run| run["attempt"].as_u64().unwrap()).collect();
        let tests = runs(place, &action, "test");
        assert_eq!(tests.len(), given.len(), "{action}: {builds:#?} {tests:#?}");
        for (event, runs) in &tests {
            let last = concluded(witness, "test", event, runs);
            if is_exhausted(last) {
                continue;
            }
            assert_eq!(last["outcome"], "succeeded", "{last}");
            let payload: Value = serde_json::from_str(&logs(place, &action, "test", last).out).unwrap();
            assert_eq!(payload["payload"], serde_json::json!([1]));
            let from: u64 = payload["values"]["from"].as_str().unwrap().parse().unwrap();
            let at = given.iter().position(|attempt| *attempt == from);
            given.swap_remove(at.unwrap_or_else(|| panic!("{payload} of {builds:#?}")));
        }
    }
}

fn actions() -> impl Iterator<Item = String> {
    (0..ACTIONS).map(|n| format!("action-{n}"))
}

/// What was left in silence is told as lost in the end.
fn nothing_runs(place: &Place) {
    for action in actions() {
        none_is_running(place, &action, "build");
        none_is_running(place, &action, "test");
    }
}

#[test]
fn kills_at_random_instants_lose_nothing_repeat_nothing_and_leave_nothing_behind() {
    rounds(1..ROUNDS + 1, round, nothing_runs);
}

#[test]
#[ignore = "long: 200 rounds of kills"]
fn kills_at_random_instants_lose_nothing_in_many_rounds() {
    rounds(1001..1001 + LONG_ROUNDS, round, nothing_runs);
}
