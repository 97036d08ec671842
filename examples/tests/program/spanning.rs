//! Questions to several stores, which answer as one.

use crash::{Ended, Place};

const BOTH: [&str; 4] = ["--store", "file:near", "--store", "file:archive"];

/// Asks these stores.
fn ask(place: &Place, code: i32, stores: &[&str], words: &[&str]) -> Ended {
    place.expect(code, &[stores, words].concat())
}

/// Stage `old` of action `a` is in the archive alone, stage `new` in the near store alone.
fn two_runs() -> Place {
    let place = Place::new();
    for (store, stage) in [("file:archive", "old"), ("file:near", "new")] {
        let script = format!("echo one {stage}; echo two {stage}");
        place.expect(0, &["--store", store, "stream", "a", stage, "--", "sh", "-c", &script]);
    }
    place
}

#[test]
fn a_question_is_answered_by_whichever_store_has_the_run() {
    let place = two_runs();
    for stage in ["old", "new"] {
        let logs = ask(&place, 0, &BOTH, &["get-logs", "a", stage]);
        assert_eq!((logs.out, logs.err), (format!("one {stage}\ntwo {stage}\n"), String::new()));
        let last = ask(&place, 0, &BOTH, &["get-logs", "a", stage, "1"]).out;
        assert_eq!(last, format!("two {stage}\n"));
        assert_eq!(ask(&place, 0, &BOTH, &["search", "a", stage, "^two"]).out, format!("2:two {stage}\n"));
        assert_eq!(
            ask(&place, 0, &BOTH, &["stream-logs", "a", stage]).out,
            format!("one {stage}\ntwo {stage}\n")
        );
        let exported = ask(&place, 0, &BOTH, &["export", "a", stage]).documents().remove(0);
        assert_eq!(exported["output_lines"][1]["line"], format!("two {stage}"));
        assert_eq!(ask(&place, 0, &BOTH, &["get-status", "a", stage, "--json"]).documents()[0]["lines"], 2);
        ask(&place, 0, &BOTH, &["wait", "a", stage]);
    }
    let listed = ask(&place, 0, &BOTH, &["list", "--json"]).documents();
    let stages: Vec<_> = listed.iter().map(|run| run["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["new", "old"], "the newest first");
    // What is about one store goes to the first.
    ask(&place, 0, &BOTH, &["verify", "a", "new"]);
    ask(&place, 3, &BOTH, &["verify", "a", "old"]);
}

#[test]
fn a_store_that_is_not_there_is_one_line_and_changes_no_answer() {
    let place = two_runs();
    let stores = ["--store", "file:misspelt", "--store", "file:archive"];
    for words in [
        &["get-logs", "a", "old"][..],
        &["search", "a", "old", "one"],
        &["get-status", "a", "old"],
        &["list"],
        &["export", "a", "old"],
    ] {
        let asked = ask(&place, 0, &stores, words);
        assert_eq!(asked.out, ask(&place, 0, &stores[2..], words).out, "{words:?}");
        assert_eq!(asked.err.lines().count(), 1, "{asked:?}");
        assert!(asked.err.contains("a store does not answer") && asked.err.contains("misspelt"), "{asked:?}");
    }
    // What it does not answer is no hit, and nothing is there.
    ask(&place, 1, &stores, &["search", "a", "old", "three"]);
    ask(&place, 3, &stores, &["get-logs", "a", "new"]);
    let followed = ask(&place, 0, &stores, &["stream-logs", "a", "old"]);
    assert_eq!(followed.out, "one old\ntwo old\n");
    assert!(!place.path().join("misspelt").exists(), "asking makes no folder");
    // Where none is there, that is what is told.
    let told = ask(&place, 3, &["--store", "file:misspelt", "--store", "file:too"], &["list"]);
    assert!(told.err.contains("there is no folder misspelt"), "{told:?}");
}

#[test]
fn a_damaged_store_is_named_and_the_others_answer() {
    let place = two_runs();
    std::fs::write(place.path().join("near/format.json"), "").unwrap();
    let asked = ask(&place, 0, &BOTH, &["get-logs", "a", "old"]);
    assert_eq!(asked.out, "one old\ntwo old\n");
    assert!(asked.err.lines().count() == 1 && asked.err.contains("file:near"), "{asked:?}");
}
