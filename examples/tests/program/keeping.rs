//! `verify`, `export`, `copy`, `remove`, `expire`.

use std::fs;
use std::path::{Path, PathBuf};

use crash::Place;

fn printed() -> Place {
    let place = Place::new();
    place.expect(0, &["stream", "a", "build", "--meta", "k=v", "--", "seq", "1", "100"]);
    place
}

/// The files below a folder whose content holds the text.
pub(crate) fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_copy_agrees_with_the_original_until_a_byte_differs() {
    let place = printed();
    place.expect(0, &["verify", "a", "build"]);
    place.expect(0, &["copy", "a", "build", "--to", "file:archive"]);
    place.expect(0, &["verify", "a", "build", "--against", "file:archive"]);
    let outputs = holding(&place.path().join("archive"), "\n41\n42\n43\n");
    let [output] = outputs.as_slice() else { panic!("one file has the output: {outputs:?}") };
    let text = fs::read_to_string(output).unwrap().replace("\n42\n", "\n47\n");
    fs::write(output, text).unwrap();
    let differs = place.expect(1, &["verify", "a", "build", "--against", "file:archive", "--json"]);
    let document = differs.documents().remove(0);
    assert_eq!(document["agrees"], false);
    assert!(document["difference"].as_str().unwrap().starts_with("line 42"), "{document}");
    place.expect(1, &["verify", "a", "build", "--store", "file:archive"]);
    place.expect(3, &["verify", "a", "build", "--against", "file:nothing"]);
    // A copy onto it mends it, and says so.
    let copied = place.expect(0, &["copy", "a", "build", "--to", "file:archive"]).out;
    assert!(copied.contains(" copied, in place of a damaged copy: 100 lines"), "{copied}");
    place.expect(0, &["verify", "a", "build", "--against", "file:archive"]);
    // Not from a store that is damaged itself.
    let ours = holding(&place.path().join(".pipeline"), "\n41\n42\n43\n").remove(0);
    fs::write(&ours, fs::read_to_string(&ours).unwrap().replace("\n42\n", "\n47\n")).unwrap();
    let refused = place.run(&["copy", "a", "build", "--to", "file:archive"]);
    assert!(
        refused.code != 0 && refused.out.is_empty() && refused.err.contains("the copy is whole"),
        "{refused:?}"
    );
    place.expect(0, &["verify", "a", "build", "--store", "file:archive"]);
}

#[test]
fn an_export_is_one_document_with_every_line() {
    let place = printed();
    let documents = place.expect(0, &["export", "a", "build"]).documents();
    let [run] = documents.as_slice() else { panic!("one document") };
    assert_eq!(
        (&run["action_id"], &run["stage"], &run["status"]),
        (&"a".into(), &"build".into(), &"completed".into())
    );
    assert_eq!(run["metadata"], serde_json::json!({"k": "v"}));
    let lines = run["output_lines"].as_array().unwrap();
    assert_eq!((lines.len(), &lines[99]["line"]), (100, &"100".into()));
    assert!(lines.iter().all(|line| line["timestamp"].is_string()));
    // A run without output has an empty list.
    place.expect(0, &["stream", "a", "quiet", "--", "true"]);
    let quiet = place.expect(0, &["export", "a", "quiet"]).documents().remove(0);
    assert_eq!(quiet["output_lines"], serde_json::json!([]));
}

#[test]
fn a_run_that_is_running_is_removed_by_force_alone() {
    let place = printed();
    let mut running = place.start(&["stream", "a", "test", "--", "sh", "-c", "echo ready; sleep 600"]);
    assert_eq!(running.line(), "ready\n");
    let refused = place.expect(4, &["remove", "a", "--json"]);
    let document: serde_json::Value = serde_json::from_str(refused.err.trim_end()).unwrap();
    assert_eq!(document["kind"], "conflict");
    let message = document["message"].as_str().unwrap();
    assert!(message.contains("pipeline cancel a") && message.contains("--force"), "{message}");
    // All or nothing.
    place.expect(0, &["get-logs", "a", "build"]);
    place.expect(0, &["remove", "a", "build"]);
    assert!(place.expect(0, &["remove", "a", "--force"]).out.contains(" removed\n"));
    place.expect(3, &["get-status", "a", "test"]);
    // What is left of it is nobody's concern but its own.
    running.signal("INT");
    running.signal("INT");
    running.ended();
    // And its end does not bring it back.
    place.expect(3, &["get-status", "a", "test"]);
}

#[test]
fn what_is_removed_is_gone_from_every_store_and_nothing_else_is() {
    let place = printed();
    place.expect(0, &["stream", "a", "test", "--", "true"]);
    place.expect(0, &["stream", "b", "build", "--", "true"]);
    place.expect(0, &["copy", "a", "build", "--to", "file:archive"]);
    let both = ["--store", "file:.pipeline", "--store", "file:archive"];
    let removed = place.expect(0, &[&both[..], &["remove", "a", "build", "--json"]].concat()).documents();
    assert_eq!(removed.len(), 1);
    place.expect(3, &["get-logs", "a", "build"]);
    place.expect(3, &["get-logs", "a", "build", "--store", "file:archive"]);
    place.expect(0, &["get-logs", "a", "test"]);
    place.expect(0, &["remove", "a"]);
    place.expect(3, &["remove", "a"]);
    place.expect(0, &["get-logs", "b", "build"]);
}

/// Runs of stage `s` of these actions, the oldest first, each with 1,000 bytes of output.
fn one_after_the_other(actions: &[&str]) -> Place {
    let place = Place::new();
    for action in actions {
        place.expect(0, &["stream", action, "s", "--", "printf", "%0999d\\n", "0"]);
    }
    place
}

fn listed(place: &Place) -> Vec<String> {
    let runs = place.expect(0, &["list", "--json"]).documents();
    runs.iter().map(|run| run["action_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_past_a_limit_expires_the_oldest_first() {
    let place = one_after_the_other(&["a", "b", "c", "d"]);
    let told = place.expect(0, &["expire", "--older-than", "1h", "--max-runs", "9", "--max-bytes", "1GiB"]);
    assert_eq!(told.out, "0 runs expired in file:.pipeline\n");
    let told = place.expect(0, &["expire", "--max-runs", "3", "--json"]).documents();
    assert_eq!(told, [serde_json::json!({"store": "file:.pipeline", "expired": 1})]);
    assert_eq!(listed(&place), ["d", "c", "b"]);
    place.expect(0, &["expire", "--max-bytes", "2500"]);
    assert_eq!(listed(&place), ["d", "c"]);
    place.expect(3, &["get-logs", "b", "s"]);
    place.expect(0, &["verify", "c", "s"]);
    place.expect(0, &["expire", "--older-than", "1us"]);
    assert_eq!(listed(&place), [""; 0]);
    let told = place.expect(2, &["expire"]);
    for option in ["--older-than", "--max-bytes", "--max-runs"] {
        assert!(told.err.contains(option), "{told:?}");
    }
}

#[test]
fn a_store_that_is_away_keeps_no_other_from_expiring() {
    let place = Place::new();
    place.expect(0, &["stream", "a", "s", "--", "true"]);
    let words = ["--store", "file:gone", "--store", "file:.pipeline", "expire", "--older-than", "1us"];
    let told = place.expect(3, &words);
    assert_eq!(told.out, "1 runs expired in file:.pipeline\n");
    assert!(told.err.contains("in file:gone nothing expired: there is no folder gone"), "{told:?}");
}

#[test]
fn every_store_that_is_named_expires_and_a_running_run_stays() {
    let place = one_after_the_other(&["a", "b"]);
    place.expect(0, &["copy", "a", "s", "--to", "file:archive"]);
    let mut running = place.start(&["stream", "c", "s", "--", "sh", "-c", "echo ready; sleep 600"]);
    assert_eq!(running.line(), "ready\n");
    let words = ["--store", "file:.pipeline", "--store", "file:archive", "expire", "--older-than", "1us"];
    let told = place.expect(0, &words);
    assert_eq!(told.out, "2 runs expired in file:.pipeline\n1 runs expired in file:archive\n");
    assert_eq!(listed(&place), ["c"]);
    place.expect(3, &["get-logs", "a", "s", "--store", "file:archive"]);
    running.signal("INT");
    assert_eq!(running.ended().code, 130);
    place.expect(0, &["verify", "c", "s"]);
}
