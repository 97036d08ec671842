//! `kill -9` of publishers, workers and followers at random instants, and at fault points where there are some.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::checks::{check_builds, check_folders, check_opens, check_tests, check_told};
use crate::faults::{Fault, Faults};
use crate::following::{Followed, check_followers, follow};
use crate::planned::{EVENTS, Planned, Stores, TELL, worker};
use crate::{Chance, Place, SAID, WITNESS, Witness, killed, nobody_is_left, start_aside, to_the_end};

/// The stages of the workers that are killed, each one after the other, and at which of them a point is used, where
/// there are some: the others are killed at random.
const KILLED: [(&str, &[bool]); 3] = [
    ("build", &[true, false, true, false]),
    ("build", &[true, false, false]),
    ("test", &[false, true, true]),
];

/// What a round saw while it went on.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The ids that were told as published.
    pub(crate) published: BTreeSet<String>,
    /// By action.
    pub(crate) followed: Vec<(&'static str, Followed)>,
    /// What a follower of the first action's builds, killed by nobody, printed.
    pub(crate) whole: String,
}

/// How one worker dies.
type Plan = Vec<Option<Fault>>;

/// A round: everybody at once, and at the end workers that nobody kills. Then what has to hold is checked.
pub fn kills(place: &Place, seed: u64, mut chance: Chance, faults: &Faults) {
    let mut drawn = faults.of_round(seed, 5, &mut chance).into_iter();
    let mut plans = KILLED.map(|(_, kills)| -> Plan {
        kills.iter().map(|at_point| if *at_point { drawn.next().flatten() } else { None }).collect()
    });
    let has = |start: &str| plans.iter().flatten().flatten().any(|fault| fault.point.starts_with(start));
    // The one event with so much output is among the first, and any build worker may get it.
    if let Some(point) = ["cap.ring", "spool.segment"].into_iter().find(|point| has(point)) {
        for plan in plans.iter_mut().take(2) {
            plan[0] = Some(Fault::new(point, 1));
        }
    }
    let has = |start: &str| plans.iter().flatten().flatten().any(|fault| fault.point.starts_with(start));
    let floods = has("cap.") || has("spool.segment") || chance.one_in(6);
    let stores = match chance.below(3) {
        _ if has("spool.") => Stores::Spooled,
        0 => Stores::One,
        1 => Stores::Two,
        _ => Stores::Spooled,
    };
    let events: Vec<_> = (0..EVENTS).map(|n| Planned::draw(n, floods, &mut chance)).collect();
    let seen = go_through(place, &events, stores, plans, faults, chance);
    nobody_is_left(place);
    let witness = Witness::read(place);
    witness.is_orderly();
    check_builds(place, &events, stores, &seen, &witness);
    check_followers(place, &events, seen);
    check_tests(place, stores, &witness);
    check_told(place);
    check_folders(place, stores);
    check_opens(place);
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn go_through(
    place: &Place,
    events: &[Planned],
    stores: Stores,
    plans: [Plan; 3],
    faults: &Faults,
    mut chance: Chance,
) -> Seen {
    // The first action has one event, so that a follower of its stage sees every attempt at it.
    let whole = place.start(&["stream-logs", "action-0", "build"]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also where a part fails: nobody follows for ever.
        let is_over = Over(&over);
        let mut stages = KILLED.iter();
        let working = plans.map(|plan| {
            let (stage, chance) = (stages.next().unwrap().0, chance.fork());
            scope.spawn(move || workers(place, stage, stores, plan, faults, chance))
        });
        let following = ["action-0", "action-1"].map(|action| {
            let (over, chance) = (&over, chance.fork());
            (action, scope.spawn(move || follow(place, action, over, faults, chance)))
        });
        let published = publish(place, events, faults, chance.fork());
        for working in working {
            working.join().unwrap();
        }
        for stage in ["build", "test"] {
            let worker = worker(stage, stores);
            let mut words = words(&worker);
            words.insert(1, "--until-idle");
            to_the_end(place, &words);
        }
        let mut tell = TELL.to_vec();
        tell.insert(1, "--until-idle");
        to_the_end(place, &tell);
        drop(is_over);
        let followed = following.map(|(action, following)| (action, following.join().unwrap()));
        let whole = whole.ended();
        assert_eq!(whole.code, 0, "{whole:?}");
        Seen { published, followed: followed.into(), whole: whole.out }
    })
}

/// Says that all is over once it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Publishes all events, kills some publishers, and gives the ids that were told as published.
fn publish(place: &Place, events: &[Planned], faults: &Faults, mut chance: Chance) -> BTreeSet<String> {
    let mut published = BTreeSet::new();
    for (n, event) in events.iter().enumerate() {
        let (is_killed, again) = (n > 1 && chance.one_in(3), chance.one_in(2));
        let fault = chance.below(6);
        let told = if is_killed {
            let mut command = place.command(&event.words());
            let point = ["changed", "torn", "committed"].get(usize::try_from(fault).unwrap());
            let child = match point.filter(|_| faults.has_any()) {
                Some(when) => {
                    let fault = Fault::new(format!("broker.publish.{when}"), 1);
                    fault.arm(&mut command);
                    let status = fault.wait(faults, command.stdout(Stdio::null()).spawn().unwrap());
                    assert_eq!(status.code(), None, "a publisher does not pass its point");
                    None
                }
                None => Some(command.stdout(Stdio::piped()).spawn().unwrap()),
            };
            child.is_some_and(|child| {
                chance.instant(Duration::from_millis(8));
                let (code, out) = killed(child);
                faults.count("(a publisher)");
                if code == Some(0) {
                    assert_eq!(String::from_utf8(out).unwrap(), format!("{}\n", event.id));
                }
                code == Some(0)
            })
        } else {
            assert_eq!(place.expect(0, &event.words()).out, format!("{}\n", event.id));
            true
        };
        if !told && again {
            // Whoever does not know whether it was published publishes it again.
            place.expect(0, &event.words());
        }
        if told || again {
            published.insert(event.id.clone());
        }
        chance.instant(Duration::from_millis(40));
    }
    published
}

/// Workers of a stage, one after the other, each of them killed.
fn workers(place: &Place, stage: &str, stores: Stores, plan: Plan, faults: &Faults, mut chance: Chance) {
    for fault in plan {
        let in_spool = fault.as_ref().is_some_and(|fault| fault.point.starts_with("spool."));
        let stores = match stores {
            // What is in a spool is shipped by others, and some have none.
            Stores::Spooled if !in_spool && chance.one_in(3) => Stores::Two,
            stores => stores,
        };
        let worker = worker(stage, stores);
        let words = words(&worker);
        if let Some(fault) = fault {
            let mut command = place.command(&words);
            fault.arm(&mut command);
            let log = crate::logged(place);
            let status = fault.wait(faults, command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
            assert_eq!(status.code(), None, "a worker does not end by itself: {words:?}");
            continue;
        }
        let worker = start_aside(place, &words);
        chance.instant(Duration::from_millis(700));
        match chance.below(3) {
            // Soon after a command begins or ends, and soon after a run was told as concluded.
            0 => grown(place, WITNESS),
            1 => grown(place, SAID),
            _ => {}
        }
        chance.instant(Duration::from_millis(4));
        faults.count("(at random)");
        assert_eq!(killed(worker).0, None, "a worker does not end by itself: {words:?}");
    }
}

/// Waits for a while until this file grows.
fn grown(place: &Place, name: &str) {
    let bytes = || fs::metadata(place.path().join(name)).map_or(0, |file| file.len());
    let (before, limit) = (bytes(), Instant::now() + Duration::from_millis(300));
    while bytes() == before && Instant::now() < limit {
        thread::sleep(Duration::from_micros(300));
    }
}
