//! Followers, killed and started again.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checks::is_exhausted;
use crate::faults::Faults;
use crate::kills::Seen;
use crate::planned::Planned;
use crate::{Chance, LIMIT, Place, killed, runs};

/// What followers were given of each run, over all their restarts.
pub(crate) type Followed = BTreeMap<String, Vec<(u64, String)>>;

/// Follows the current build of an action, again and again from the line after the last one given, until all is over.
pub(crate) fn follow(
    place: &Place,
    action: &str,
    over: &AtomicBool,
    faults: &Faults,
    mut chance: Chance,
) -> Followed {
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
                chance.instant(Duration::from_secs(1));
                faults.count("(a follower)");
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

/// Followers got each line once, in order, over all their restarts.
pub(crate) fn check_followers(place: &Place, events: &[Planned], seen: Seen) {
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
