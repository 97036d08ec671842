//! `get-status`, `get-logs`, `stream-logs`, `search`, `list`.

use std::fs;
use std::process::Stdio;

use crate::keeping::holding;
use crash::Place;

fn printed(script: &str) -> Place {
    let place = Place::new();
    let ended = place.run(&["stream", "a", "build", "--meta", "branch=main", "--", "sh", "-c", script]);
    assert!(ended.code < 2, "{ended:?}");
    place
}

#[test]
fn a_status_is_told_to_people_and_to_programs() {
    let place = printed("echo one; exit 3");
    let people = place.expect(0, &["get-status", "a", "build"]).out;
    assert!(people.contains("failed (exit 3); the pipeline stops"), "{people}");
    let status = place.expect(0, &["get-status", "a", "build", "--json"]).documents().remove(0);
    for (field, value) in [
        ("action_id", "a".into()),
        ("stage", "build".into()),
        ("attempt", 1.into()),
        ("status", "completed".into()),
        ("final", true.into()),
        ("outcome", "failed".into()),
        ("cause", "exit".into()),
        ("code", 3.into()),
        ("signal", serde_json::Value::Null),
        ("continues", false.into()),
        ("lines", 1.into()),
        ("bytes", 4.into()),
        ("metadata", serde_json::json!({"branch": "main"})),
        ("notes", serde_json::json!([])),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    for field in ["run_id", "event_id", "digest", "started_at", "finished_at"] {
        assert!(status[field].is_string(), "{field}");
    }
}

#[test]
fn all_runs_of_a_stage_are_told_newest_first_and_one_by_its_id() {
    let place = printed("echo first");
    place.expect(0, &["stream", "a", "build", "--", "echo", "second"]);
    let all = place.expect(0, &["get-status", "a", "build", "--all", "--json"]).documents();
    let runs: Vec<&str> = all.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(runs.len(), 2);
    assert_eq!(place.expect(0, &["get-logs", "a", "build"]).out, "second\n");
    assert_eq!(place.expect(0, &["get-logs", "a", "build", "--run", runs[1]]).out, "first\n");
    // A run of another action is none of this one.
    place.expect(3, &["get-logs", "b", "build", "--run", runs[1]]);
}

#[test]
fn lines_come_back_as_printed_and_as_documents() {
    let place = printed(r"printf 'a\r\nb\303\050\n\nlast'");
    let shown = place.command(&["get-logs", "a", "build"]).output().unwrap().stdout;
    assert_eq!(shown, b"a\r\nb\xc3(\n\nlast");
    let last = place.command(&["get-logs", "a", "build", "2"]).output().unwrap().stdout;
    assert_eq!(last, b"\nlast");
    assert_eq!(place.expect(0, &["get-logs", "a", "build", "0"]).out, "");
    let lines = place.expect(0, &["get-logs", "a", "build", "--json"]).documents();
    let shape: Vec<_> = lines
        .iter()
        .map(|l| {
            let text = |field: &str| l[field].as_str().unwrap().to_owned();
            (l["line"].as_u64().unwrap(), text("text"), text("end"), l["lossy"].as_bool().unwrap())
        })
        .collect();
    let expected = [
        (1, "a", "crlf", false),
        (2, "b\u{fffd}(", "lf", true),
        (3, "", "lf", false),
        (4, "last", "none", false),
    ];
    assert_eq!(shape, expected.map(|(n, text, end, lossy)| (n, text.to_owned(), end.to_owned(), lossy)));
    assert!(lines.iter().all(|l| l["stream"] == "stdout" && l["time"].is_string()));
}

#[test]
fn search_prints_numbers_as_grep_does_and_says_when_there_is_no_hit() {
    let place = printed("seq 1 30; echo 'why? (1)'");
    assert_eq!(place.expect(0, &["search", "a", "build", "^2[01]$"]).out, "20:20\n21:21\n");
    assert_eq!(place.expect(0, &["search", "a", "build", "-F", "why? (1)"]).out, "31:why? (1)\n");
    assert_eq!(place.expect(1, &["search", "a", "build", "nothing"]).out, "");
    let hit = place.expect(0, &["search", "a", "build", "why", "--json"]).documents().remove(0);
    assert_eq!((&hit["line"], &hit["text"]), (&31.into(), &"why? (1)".into()));
    let wrong = place.expect(2, &["search", "a", "build", "("]);
    assert!(wrong.err.contains("pattern"), "{wrong:?}");
}

#[test]
fn a_follower_that_comes_before_the_run_gets_every_line_once_and_ends() {
    let place = Place::new();
    let follower = place.start(&["stream-logs", "a", "build"]);
    let from = place.start(&["stream-logs", "a", "build", "--from", "900", "--json"]);
    place.expect(0, &["stream", "a", "build", "--", "seq", "1", "1000"]);
    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    let ended = follower.ended();
    assert_eq!((ended.code, ended.out), (0, expected));
    let numbers: Vec<_> =
        from.ended().documents().iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (900..=1000).collect::<Vec<_>>());
    assert_eq!(place.expect(0, &["stream-logs", "a", "build", "--last", "2"]).out, "999\n1000\n");
}

#[test]
fn a_follower_sees_a_line_while_the_command_runs_and_a_signal_ends_it() {
    let place = Place::new();
    let mut follower = place.start(&["stream-logs", "a", "build"]);
    let mut running = place.start(&["stream", "a", "build", "--", "sh", "-c", "echo ready; sleep 600"]);
    assert_eq!(running.line(), "ready\n");
    assert_eq!(follower.line(), "ready\n");
    assert_eq!(place.expect(0, &["get-status", "a", "build", "--json"]).documents()[0]["status"], "running");
    follower.signal("TERM");
    assert_eq!(follower.ended().code, 143);
    running.signal("TERM");
    assert_eq!(running.ended().code, 143);
}

#[test]
fn of_a_run_that_goes_on_the_lines_that_are_stored_by_now_are_counted() {
    let place = Place::new();
    let script = "echo one; echo two; echo three; sleep 600";
    let running = place.start(&["stream", "a", "build", "--", "sh", "-c", script]);
    let mut follower = place.start(&["stream-logs", "a", "build"]);
    while follower.line() != "three\n" {}
    let status = place.expect(0, &["get-status", "a", "build", "--json"]).documents().remove(0);
    assert_eq!((&status["status"], &status["lines"]), (&"running".into(), &3.into()));
    let people = place.expect(0, &["get-status", "a", "build"]).out;
    assert!(people.contains("3 lines so far") && !people.contains("bytes"), "{people}");
    let listed = place.expect(0, &["list"]).out;
    assert_eq!(listed.split('\t').nth(6), Some("3"), "{listed}");
    let exported = place.expect(0, &["export", "a", "build"]).documents().remove(0);
    assert_eq!(exported["lines"], exported["output_lines"].as_array().unwrap().len());
    running.signal("TERM");
    assert_eq!(running.ended().code, 143);
    let people = place.expect(0, &["get-status", "a", "build"]).out;
    assert!(people.contains("3 lines, 14 bytes"), "{people}");
}

#[test]
fn of_a_lost_run_the_lines_that_are_stored_are_counted() {
    let place = Place::new();
    let running = place.start(&["stream", "a", "build", "--", "sh", "-c", "echo one; echo two; sleep 600"]);
    let mut follower = place.start(&["stream-logs", "a", "build"]);
    while follower.line() != "two\n" {}
    running.signal("KILL");
    drop(running);
    // As it will be once nobody has heard of it for three intervals.
    let records = holding(&place.path().join(".pipeline"), "\"beat_at\"");
    let [record] = records.as_slice() else { panic!("one file has the record: {records:?}") };
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    document["beat_at"] = "2020-01-01T00:00:00.000000Z".into();
    fs::write(record, serde_json::to_vec(&document).unwrap()).unwrap();
    let status = place.expect(0, &["get-status", "a", "build", "--json"]).documents().remove(0);
    assert_eq!((&status["status"], &status["lines"]), (&"lost".into(), &2.into()));
    assert!(place.expect(0, &["get-status", "a", "build"]).out.contains(" 2 lines\n"));
    let lost = place.expect(1, &["wait", "a", "build"]).out;
    assert!(lost.contains(": lost after ") && lost.contains(", 2 lines; nobody has heard"), "{lost}");
    place.expect(0, &["remove", "a", "build"]);
}

#[test]
fn a_follower_ends_with_the_status_of_the_run() {
    let place = printed("echo one; exit 3");
    let followed = place.expect(0, &["stream-logs", "a", "build", "--json"]);
    let told: serde_json::Value = serde_json::from_str(followed.err.trim_end()).unwrap();
    assert_eq!(told, place.expect(0, &["get-status", "a", "build", "--json"]).documents().remove(0));
    let people = place.expect(0, &["stream-logs", "a", "build"]).err;
    assert!(
        people.contains("failed (exit 3) after ") && people.contains(", 1 line; the pipeline stops\n"),
        "{people}"
    );
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = printed("seq 1 100000");
    for words in [&["get-logs", "a", "build"][..], &["stream-logs", "a", "build"], &["export", "a", "build"]]
    {
        let mut child = place.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{words:?}");
    }
}

#[test]
fn a_list_is_narrowed_down() {
    let place = printed("exit 3");
    place.expect(0, &["stream", "b", "deploy", "--", "true"]);
    let listed = |words: &[&str]| {
        let ended = place.expect(0, &[&["list"], words].concat());
        ended.out.lines().map(|line| line.split('\t').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["b", "a"]);
    assert_eq!(listed(&["--limit", "1"]), ["b"]);
    assert_eq!(listed(&["--outcome", "failed"]), ["a"]);
    assert_eq!(listed(&["--action", "b", "--stage", "deploy", "--since", "1h"]), ["b"]);
    assert!(listed(&["--action", "c"]).is_empty());
    assert_eq!(place.expect(0, &["list", "--json"]).documents()[0]["action_id"], "b");
    place.expect(2, &["list", "--outcome", "good"]);
}
