//! A store that refuses lines for good: what readers see of it, where the lines are, and how they get there after all.

use std::process::Command;

use serde_json::{Value, json};

use crate::{Place, example};

const STORES: [&str; 4] = ["--store", "file:.pipeline", "--store", "file:b?required=true"];

/// Prints 1 to 900 into two stores, the second of which refuses 601 to 700: its output is a link then.
const SCRIPT: &str = r#"
log=b/runs/a/s/$PIPELINE_RUN_ID/output.log
has() { until [ "$(wc -l < $log)" = $1 ]; do sleep 0.01; done; }
seq 1 600
has 600
mv $log kept; ln -s "$PWD/kept" $log
seq 601 700
until grep -q '"last":700' .pipeline/refused/*.jsonl 2>/dev/null; do sleep 0.01; done
rm $log; mv kept $log
seq 701 900
"#;

fn refused() -> (Place, String) {
    let place = Place::new();
    let ended = place.expect(0, &[&STORES[..], &["stream", "a", "s", "--", "sh", "-c", SCRIPT]].concat());
    (place, ended.err)
}

/// What the program prints to both, as a terminal shows it.
fn shown(place: &Place, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(example("pipeline")).args(words);
    let output = command.current_dir(place.path()).env_remove("PIPELINE_DIR").output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn readers_see_in_its_place_what_a_store_refused_and_one_warning_says_so() {
    let (place, said) = refused();
    assert_eq!(said.matches("a sink refuses lines for good").count(), 1, "{said}");
    assert!(said.contains("a required store lacks lines") && said.contains("dead-letters"), "{said}");
    let b = |words: &[&'static str]| [&["--store", "file:b"], words].concat();
    for words in [&["get-logs", "a", "s"][..], &["stream-logs", "a", "s"]] {
        let seen = shown(&place, &b(words));
        assert_eq!((seen[599].as_str(), seen[601].as_str()), ("600", "701"), "{words:?}");
        assert!(seen[600].starts_with("pipeline: lines 601-700 missing: "), "{words:?}: {}", seen[600]);
        assert!(seen[800] == "900" && seen.len() <= 802, "{words:?}: {:?}", seen.last());
    }
    let seen = shown(&place, &b(&["search", "a", "s", "[69]00|701"]));
    assert_eq!((seen[0].as_str(), seen[2].as_str(), seen[3].as_str()), ("600:600", "701:701", "900:900"));
    assert!(seen[1].starts_with("pipeline: lines 601-700 missing: ") && seen.len() == 4, "{seen:?}");
    let seen = shown(&place, &b(&["search", "a", "s", "^650$"]));
    assert!(seen.len() == 1 && seen[0].contains("lines 601-700 missing"), "no hit, and why: {seen:?}");
    let exported = place.expect(0, &b(&["export", "a", "s"])).documents().remove(0);
    let lines = exported["output_lines"].as_array().unwrap();
    assert_eq!(lines.len(), 801);
    assert_eq!((&lines[599]["number"], &lines[601]["number"]), (&json!(600), &json!(701)));
    assert_eq!(
        (&lines[600]["gap"], &lines[600]["lines"]),
        (&json!({"first": 601, "last": 700}), &json!(100))
    );
    for (store, gaps) in [("file:b", 1), ("file:.pipeline", 0)] {
        let words = ["--store", store, "--json", "get-status", "a", "s"];
        let status = place.expect(0, &words).documents().remove(0);
        assert_eq!(status["output_incomplete"], true, "{store}");
        assert_eq!(status["gaps"].as_array().unwrap().len(), gaps, "{store}");
    }
    let status = place.expect(0, &b(&["get-status", "a", "s"])).out;
    assert!(status.contains("missing   lines 601-700: "), "{status}");
    assert!(status.contains("warning   a required store lacks lines"), "{status}");
    let verified = place.expect(1, &b(&["verify", "a", "s"])).out;
    assert!(verified.contains("lines 601 to 700 are missing"), "{verified}");
}

#[test]
fn refused_lines_are_listed_sent_again_by_a_copy_and_removed_with_their_run() {
    let (place, _) = refused();
    let run = place.expect(0, &["--json", "get-status", "a", "s"]).documents().remove(0)["run_id"].clone();
    let run = run.as_str().unwrap();
    let letters = place.expect(0, &["--json", "dead-letters", "list"]).documents();
    let [lines] = letters.as_slice() else { panic!("one entry: {letters:?}") };
    let of = |name: &str| lines[name].clone();
    assert_eq!(
        [of("kind"), of("sink"), of("action_id"), of("stage"), of("run_id")],
        ["lines", "file:b", "a", "s", run]
    );
    assert_eq!([of("first"), of("last"), of("bytes")], [601, 700, 400]);
    assert!(of("reason").as_str().unwrap().contains("conflict"), "{lines}");
    let listed = place.expect(0, &["dead-letters", "list"]).out;
    let cells: Vec<&str> = listed.trim_end().split('\t').collect();
    assert_eq!((cells[0], &cells[2..8]), ("lines", &["file:b", "a", "s", run, "601-700", "400 bytes"][..]));
    assert_eq!(place.expect(0, &["dead-letters", "list", "--limit", "0"]).out, "");
    let help = place.expect(0, &["dead-letters", "--help"]).out;
    assert!(help.contains("`copy` sends the run again"), "{help}");

    // The store takes them now.
    let copied = place.expect(0, &["--json", "copy", "a", "s", "--run", run, "--to", "file:b"]).documents();
    assert_eq!((&copied[0]["lines"], &copied[0]["refused"]), (&json!(900), &json!(0)));
    let whole: String = (1..=900).map(|n| format!("{n}\n")).collect();
    for _ in 0..2 {
        assert_eq!(place.expect(0, &["--store", "file:b", "get-logs", "a", "s"]).out, whole);
        place.expect(0, &["--store", "file:b", "verify", "a", "s"]);
        place.expect(0, &["verify", "a", "s", "--against", "file:b"]);
        place.expect(0, &["copy", "a", "s", "--to", "file:b"]);
    }
    let status = place.expect(0, &["--store", "file:b", "--json", "get-status", "a", "s"]).documents();
    assert_eq!(status[0]["gaps"], Value::Array(Vec::new()));

    place.expect(0, &["remove", "a"]);
    assert_eq!(place.expect(0, &["dead-letters", "list"]).out, "");
    let left = std::fs::read_dir(place.path().join(".pipeline/refused")).unwrap();
    assert!(left.map(|entry| entry.unwrap().file_name()).all(|name| name == "lock"));
}

#[test]
fn refused_lines_expire_with_their_run() {
    let (place, _) = refused();
    let words = [&STORES[..], &["expire", "--max-runs", "1"]].concat();
    place.expect(0, &words);
    assert_ne!(place.expect(0, &["dead-letters", "list"]).out, "", "the run is there");
    place.expect(0, &[&STORES[..], &["stream", "a", "s", "--", "true"]].concat());
    place.expect(0, &words);
    assert_eq!(place.expect(0, &["dead-letters", "list"]).out, "");
}
