//! `publish`, `work`, `wait`, `cancel`, `dead-letters`, and the quickstart.

use std::fs;
use std::process::Command;

use crash::{Place, example};

/// Runs a worker until its group has nothing to do.
fn work(place: &Place, words: &[&str], script: &str) -> crate::Ended {
    place.expect(0, &[&["work", "--until-idle"], words, &["--", "sh", "-c", script]].concat())
}

#[test]
fn an_event_reaches_a_worker_that_came_later_with_its_payload() {
    let place = Place::new();
    let payload = r#"{"n": 1.0, "n": 2}"#;
    let id = place.expect(0, &["publish", "a", "build-requested", payload, "--meta", "by=me"]).out;
    let ended =
        work(&place, &["--on", "build-requested:*", "--stage", "build"], "cat; echo $PIPELINE_EVENT_ID >&2");
    assert!(ended.out.is_empty() && ended.err.contains("a build attempt 1: succeeded"), "{ended:?}");
    let logs = place.expect(0, &["get-logs", "a", "build"]).out;
    assert!(logs.contains(payload) && logs.contains(id.trim_end()), "{logs}");
    assert_eq!(
        place.expect(0, &["get-status", "a", "build", "--json"]).documents()[0]["event_id"],
        id.trim_end()
    );
}

#[test]
fn a_payload_comes_from_a_file_or_standard_input_and_has_to_be_json() {
    let place = Place::new();
    fs::write(place.path().join("p.json"), "[1]\n").unwrap();
    place.expect(0, &["publish", "a", "t", "@p.json"]);
    let mut publish = place.command(&["publish", "a", "t", "-"]);
    let input = fs::File::open(place.path().join("p.json")).unwrap();
    assert!(publish.stdin(input).output().unwrap().status.success());
    place.expect(0, &["publish", "a", "t", "-1.5"]);
    place.expect(0, &["publish", "a", "t"]);
    for wrong in ["{n:1}", "@missing.json", ""] {
        place.expect(2, &["publish", "a", "t", wrong]);
    }
    work(&place, &["--on", "t:a", "--stage", "s"], "cat >> got; echo >> got");
    assert_eq!(fs::read_to_string(place.path().join("got")).unwrap(), "[1]\n[1]\n-1.5\nnull\n");
}

#[test]
fn an_id_published_twice_is_one_event() {
    let place = Place::new();
    let first = place.expect(0, &["publish", "a", "t", "--id", "e1", "--json"]).documents().remove(0);
    let again = place.expect(0, &["publish", "a", "t", "--id", "e1", "--json"]).documents().remove(0);
    assert_eq!((&first["event_id"], &first["duplicate"]), (&"e1".into(), &false.into()));
    assert_eq!((&again["event_id"], &again["duplicate"]), (&"e1".into(), &true.into()));
    let people = place.expect(0, &["publish", "a", "t", "--id", "e1"]);
    assert_eq!(people.out, "e1\n");
    assert!(people.err.contains("id e1 was there already"), "{people:?}");
    assert_eq!(place.expect(0, &["publish", "a", "t", "--id", "e2", "--delay", "1h"]).err, "");
    let words = ["work", "--on", "t:*", "--stage", "s", "--", "sh", "-c", "echo x >> runs"];
    let worker = place.start(&words);
    place.expect(0, &["wait", "a", "s", "--event", "e1"]);
    worker.signal("TERM");
    assert_eq!(worker.ended().code, 143);
    assert_eq!(fs::read_to_string(place.path().join("runs")).unwrap(), "x\n");
}

#[test]
fn the_chain_goes_on_to_the_next_stage_and_stops_where_one_fails() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "build-requested", r#"{"branch":"main"}"#]);
    let build = ["--on", "build-requested:*", "--stage", "build", "--then", "build-done"];
    work(&place, &build, "echo image=app:7 >> $PIPELINE_OUTPUT; exit 42");
    let test = ["--on", "build-done:*", "--stage", "test", "--then", "test-done", "--retry", "none"];
    work(&place, &test, "cat; exit 3");
    let given = place.expect(0, &["get-logs", "a", "test"]).out;
    assert!(given.contains(r#""branch":"main""#) && given.contains("app:7"), "{given}");
    work(&place, &["--on", "test-done:*", "--stage", "deploy"], "true");
    place.expect(3, &["get-status", "a", "deploy"]);
    // The outcome of each stage is an event as well.
    work(&place, &["--on", "*-completed:a", "--stage", "tell"], "echo $PIPELINE_EVENT_TYPE >> told");
    let told = fs::read_to_string(place.path().join("told")).unwrap();
    assert!(told.contains("build-completed") && told.contains("test-completed"), "{told}");
    place.expect(0, &["wait", "a", "build"]);
    place.expect(42, &["wait", "a", "build", "--pass-code"]);
    place.expect(1, &["wait", "a", "test"]);
    place.expect(3, &["wait", "a", "test", "--pass-code"]);
    let worst = place.expect(1, &["wait", "a", "--json"]).documents().remove(0);
    assert_eq!((&worst["stage"], &worst["code"], &worst["final"]), (&"test".into(), &3.into(), &true.into()));
}

#[test]
fn a_failed_command_is_tried_again_as_often_as_it_is_told() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    let words = ["--on", "t:*", "--stage", "s", "--retry", "fixed", "--attempts", "2"];
    let ended = work(&place, &words, "echo try $PIPELINE_ATTEMPT; exit 3");
    let told: Vec<&str> = ended.err.lines().collect();
    let [first, last] = told.as_slice() else { panic!("a line for each attempt: {ended:?}") };
    assert!(first.contains(" attempt 1: failed (exit 3) after "), "{first}");
    assert!(first.ends_with("; not final: it is to be tried again"), "{first}");
    assert!(last.contains(" attempt 2: failed") && last.ends_with("; the pipeline stops"), "{last}");
    let all = place.expect(0, &["get-status", "a", "s", "--all", "--json"]).documents();
    let finals: Vec<_> = all.iter().map(|run| (run["attempt"].as_u64(), run["final"].as_bool())).collect();
    assert_eq!(finals, [(Some(2), Some(true)), (Some(1), Some(false))]);
    let followed = place.expect(0, &["stream-logs", "a", "s"]);
    assert_eq!(followed.out, "try 2\n");
}

#[test]
fn waiting_too_long_is_5_and_waiting_begins_before_anything_is_there() {
    let place = Place::new();
    let late = place.expect(5, &["wait", "a", "s", "--timeout", "200ms", "--json"]);
    let told: Vec<serde_json::Value> =
        late.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [notice, error] = told.as_slice() else { panic!("{late:?}") };
    assert_eq!(notice["notice"], "stage s of a has no run yet; waiting for one");
    assert_eq!(error["kind"], "timed_out");
    let waiting = place.start(&["wait", "a", "s"]);
    place.expect(0, &["publish", "a", "t"]);
    work(&place, &["--on", "t:*", "--stage", "s"], "true");
    let ended = waiting.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn an_event_that_waits_for_a_worker_of_the_stage_is_waited_for() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    work(&place, &["--on", "t:*", "--stage", "s", "--group", "builders"], "true");
    place.expect(0, &["wait", "a", "s", "--timeout", "1m"]);
    let id = place.expect(0, &["publish", "a", "t"]).out;
    let late = place.expect(5, &["wait", "a", "s", "--timeout", "1s"]);
    for part in ["builders", "start a worker", "--event ID"] {
        assert!(late.err.contains(part), "{part} in {late:?}");
    }
    // The action as a whole has ended, but for what nobody is there to do.
    let plain = place.expect(0, &["wait", "a", "--timeout", "1m"]);
    assert!(plain.err.contains("group builders") && plain.err.contains("start a worker"), "{plain:?}");
    let told = place.expect(0, &["wait", "a", "--timeout", "1m", "--json"]).documents().remove(0);
    assert_eq!((&told["unattended"], &told["stage"]), (&serde_json::json!(["builders"]), &"s".into()));
    work(&place, &["--on", "t:*", "--stage", "s", "--group", "builders"], "true");
    let told = place.expect(0, &["wait", "a", "s", "--event", id.trim_end(), "--json"]).documents().remove(0);
    assert_eq!((&told["unattended"], &told["event_id"]), (&serde_json::json!([]), &id.trim_end().into()));
}

#[test]
fn a_cancel_of_what_nobody_knows_says_so() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    work(&place, &["--on", "t:*", "--stage", "s"], "true");
    let unknown = place.expect(0, &["cancel", "b"]);
    assert!(unknown.err.contains("no run of b is stored here"), "{unknown:?}");
    assert_eq!(place.expect(0, &["cancel", "a"]).err, "");
    place.expect(0, &["publish", "c", "t"]);
    assert_eq!(place.expect(0, &["cancel", "c"]).err, "", "it waits for a worker");
}

#[test]
fn a_cancelled_action_is_interrupted_where_it_runs_and_where_it_waits() {
    let place = Place::new();
    for id in ["one", "two"] {
        place.expect(0, &["publish", "a", "t", "--id", id]);
    }
    let words =
        ["work", "--until-idle", "--on", "t:*", "--stage", "s", "--", "sh", "-c", "echo ready; sleep 600"];
    let worker = place.start(&words);
    let mut follower = place.start(&["stream-logs", "a", "s"]);
    assert_eq!(follower.line(), "ready\n");
    place.expect(0, &["cancel", "a"]);
    let ended = worker.ended();
    assert_eq!(ended.code, 0, "{ended:?}");
    let all = place.expect(0, &["get-status", "a", "s", "--all", "--json"]).documents();
    assert_eq!(all.len(), 2);
    for run in all {
        assert_eq!(
            (&run["outcome"], &run["cause"], &run["final"]),
            (&"interrupted".into(), &"cancelled".into(), &true.into())
        );
    }
    place.expect(130, &["wait", "a", "s", "--pass-code"]);
}

#[test]
fn the_first_signal_drains_and_the_second_cuts_and_nothing_is_lost() {
    let place = Place::new();
    let words = |script| ["work", "--on", "t:*", "--stage", "s", "--grace", "10m", "--", "sh", "-c", script];
    place.expect(0, &["publish", "a", "t"]);
    let worker = place.start(&words("echo ready; until [ -e go ]; do sleep 0.02; done; echo done"));
    let mut follower = place.start(&["stream-logs", "a", "s"]);
    assert_eq!(follower.line(), "ready\n");
    worker.signal("TERM");
    fs::write(place.path().join("go"), "").unwrap();
    assert_eq!(worker.ended().code, 143);
    assert_eq!(follower.line(), "done\n");
    place.expect(0, &["wait", "a", "s"]);

    place.expect(0, &["publish", "b", "t"]);
    let mut worker = place.start(&words("trap '' TERM; echo ready; while :; do sleep 0.02; done"));
    let mut follower = place.start(&["stream-logs", "b", "s"]);
    assert_eq!(follower.line(), "ready\n");
    worker.signal("INT");
    assert!(worker.aside().contains("A second signal cuts it"));
    worker.signal("INT");
    let ended = worker.ended();
    assert_eq!(ended.code, 130);
    assert!(
        ended.err.contains("b s attempt 1: interrupted (stopped with the program that ran it) after ")
            && ended.err.ends_with("; not final: its event was given back\n"),
        "{ended:?}"
    );
    let cut = place.expect(0, &["get-status", "b", "s", "--json"]).documents().remove(0);
    assert_eq!((&cut["cause"], &cut["final"]), (&"shutdown".into(), &false.into()));
    // It was released, not concluded: the next worker runs it as the next attempt.
    work(&place, &["--on", "t:*", "--stage", "s"], "true");
    let next = place.expect(0, &["get-status", "b", "s", "--json"]).documents().remove(0);
    assert_eq!(
        (&next["attempt"], &next["outcome"], &next["final"]),
        (&2.into(), &"succeeded".into(), &true.into())
    );
}

#[test]
fn a_worker_that_was_killed_leaves_no_command_and_its_event_runs_again() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    let words = ["work", "--on", "t:*", "--stage", "s", "--lease", "1s", "--", "sh", "-c"];
    let script = "echo $$ > pid; echo ready; while :; do sleep 0.02; done";
    let worker = place.start(&[&words[..], &[script]].concat());
    let mut follower = place.start(&["stream-logs", "a", "s"]);
    assert_eq!(follower.line(), "ready\n");
    worker.signal("KILL");
    let ended = work(&place, &["--on", "t:*", "--stage", "s", "--lease", "1s"], "true");
    assert!(ended.err.contains("attempt 2: succeeded"), "{ended:?}");
    // Though its last sign of life is not old.
    let listed = place.expect(0, &["list", "--json"]).documents();
    let listed: Vec<_> = listed.iter().map(|run| (&run["attempt"], &run["status"])).collect();
    assert_eq!(listed, [(&2.into(), &"completed".into()), (&1.into(), &"lost".into())]);
    let pid = fs::read_to_string(place.path().join("pid")).unwrap();
    // What nobody has waited for yet is a zombie: it works no more.
    let state = Command::new("ps").args(["-o", "stat=", "-p", pid.trim()]).output().unwrap().stdout;
    let state = String::from_utf8_lossy(&state).trim().to_owned();
    assert!(state.is_empty() || state.starts_with('Z'), "the command of the killed worker is gone: {state}");
}

#[test]
fn there_are_no_dead_letters_at_first_and_an_unknown_one_is_3() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    assert_eq!(place.expect(0, &["dead-letters", "list"]).out, "");
    place.expect(3, &["dead-letters", "replay", "nothing"]);
}

#[test]
fn an_event_that_kills_its_worker_is_dead_after_three_and_can_be_replayed() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t", "--id", "poison"]);
    let words = ["work", "--until-idle", "--on", "t:*", "--stage", "s", "--lease", "500ms", "--", "sh", "-c"];
    for _ in 0..3 {
        let killed = place.command(&[&words[..], &["kill -9 $PPID; sleep 600"]].concat()).output().unwrap();
        assert_eq!(killed.status.code(), None, "killed by its own command");
    }
    place.expect(0, &[&words[..], &["echo never"]].concat());
    let letter = place.expect(0, &["dead-letters", "list", "--json"]).documents().remove(0);
    assert_eq!((&letter["id"], &letter["crashes"]), (&"poison".into(), &3.into()));
    place.expect(1, &["wait", "a", "s"]);
    let id = place.expect(0, &["dead-letters", "replay", "poison"]).out;
    place.expect(0, &[&words[..], &["true"]].concat());
    let replayed = place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0);
    assert_eq!((&replayed["event_id"], &replayed["outcome"]), (&id.trim_end().into(), &"succeeded".into()));
    assert_eq!(place.expect(0, &["dead-letters", "list"]).out, "");
}

#[test]
fn groups_are_listed_with_what_they_have_to_do_and_dropped_by_name() {
    let place = Place::new();
    place.expect(3, &["groups", "list"]);
    place.expect(0, &["publish", "first", "t"]);
    assert_eq!(place.expect(0, &["groups", "list"]).out, "");
    work(&place, &["--on", "t:*", "--stage", "s", "--group", "g"], "true");
    place.expect(0, &["publish", "a", "t"]);
    place.expect(0, &["publish", "b", "t"]);
    let listed = place.expect(0, &["groups", "list"]).out;
    assert_eq!(listed, "g\ts\tt:*\t0 members\t2 waiting\t0 delayed\t0 leased\n");
    let of_a = place.expect(0, &["groups", "list", "--action", "a", "--json"]).documents().remove(0);
    assert_eq!((&of_a["group"], &of_a["waiting"]), (&"g".into(), &1.into()));
    let script = "echo ready; while :; do sleep 0.02; done";
    let words = ["work", "--on", "t:*", "--stage", "s", "--group", "g", "--", "sh", "-c", script];
    let worker = place.start(&words);
    assert_eq!(place.start(&["stream-logs", "a", "s"]).line(), "ready\n");
    assert!(place.expect(4, &["groups", "drop", "g"]).err.contains("conflict"));
    worker.signal("TERM");
    worker.signal("TERM");
    worker.ended();
    assert!(place.expect(0, &["groups", "drop", "g"]).out.starts_with("g dropped, with 2 waiting, "));
    place.expect(3, &["groups", "drop", "g"]);
    assert_eq!(place.expect(0, &["groups", "list"]).out, "");
}

#[test]
fn a_member_that_names_other_patterns_is_refused_with_both() {
    let place = Place::new();
    work(&place, &["--on", "t:a", "--stage", "s", "--group", "g"], "true");
    let words = ["work", "--until-idle", "--on", "t:b", "--stage", "s", "--group", "g", "--", "true"];
    let refused = place.expect(4, &words);
    assert!(refused.err.contains("t:a") && refused.err.contains("t:b"), "{refused:?}");
}

#[test]
fn the_quickstart_does_what_it_says() {
    let output = Command::new(example("quickstart")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for part in
        ["build: succeeded (exit 0)", "test: failed (exit 101)", "this_one_fails_on_purpose ... FAILED"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}
