//! The command line: where options stand, what is wrong with it, and what the help teaches.

use crash::Place;

const SUBCOMMANDS: [&str; 17] = [
    "publish",
    "work",
    "stream",
    "get-status",
    "get-logs",
    "stream-logs",
    "search",
    "verify",
    "export",
    "copy",
    "remove",
    "expire",
    "wait",
    "list",
    "cancel",
    "dead-letters",
    "groups",
];

#[test]
fn help_teaches_examples_and_exit_codes() {
    let place = Place::new();
    let all = place.expect(0, &["--help"]).out;
    assert!(all.contains("Exit codes:") && all.contains("130 143"), "{all}");
    for name in SUBCOMMANDS {
        assert!(all.contains(&format!("  {name}")), "{name} in {all}");
        let help = place.expect(0, &[name, "--help"]).out;
        assert!(help.contains("Examples:") && help.contains(&format!("  pipeline {name}")), "{help}");
        assert!(help.contains("Exit codes:") && help.contains("--store <URL>"), "{help}");
    }
    for words in
        [["dead-letters", "list"], ["dead-letters", "replay"], ["groups", "list"], ["groups", "drop"]]
    {
        let help = place.expect(0, &[&words[..], &["--help"]].concat()).out;
        assert!(help.contains("Examples:\n  pipeline ") && help.contains(&words.join(" ")), "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
    }
}

#[test]
fn an_option_of_stores_is_refused_for_a_broker_with_those_that_it_takes() {
    let place = Place::new();
    for (url, takes) in [("file:a?required=true", ": none"), ("redis://h?required=false", "replica-limit")] {
        let told = place.expect(2, &["list", "--broker", url]);
        assert!(
            told.err.contains("required is an option of a store") && told.err.contains(takes),
            "{told:?}"
        );
    }
}

#[test]
fn help_teaches_what_no_option_shows() {
    let place = Place::new();
    let table: [(&str, &[&str]); 4] = [
        ("work", &["PIPELINE_OUTPUT", "[ and { too", "{\"payload\": ", "--retry none", "0, 42, 124 or 130"]),
        ("wait", &["--event \"$(pipeline publish "]),
        ("remove", &["--force", "With --spool"]),
        ("expire", &["cron", "What the broker keeps (events, claims, dead letters) goes by itself"]),
    ];
    for (name, parts) in table {
        // Wherever its lines break.
        let help = place.expect(0, &[name, "--help"]).out.split_whitespace().collect::<Vec<_>>().join(" ");
        parts.iter().for_each(|part| assert!(help.contains(part), "{part} in {help}"));
    }
}

#[test]
fn what_is_kept_in_memory_alone_is_refused_with_what_is_accepted() {
    let place = Place::new();
    let told = place.expect(2, &["publish", "a", "t", "--broker", "memory:"]);
    assert!(told.err.contains("file:///absolute/path"), "{told:?}");
}

#[test]
fn what_is_refused_names_the_option_and_what_it_takes_and_repeats_no_password() {
    let place = Place::new();
    let told = place.expect(2, &["stream", "a", "s", "--max-output", "-1", "--", "true"]).err;
    assert!(told.starts_with("pipeline: invalid value '-1' for '--max-output <SIZE>': "), "{told}");
    assert!(told.contains("KiB, MiB, GiB, TiB") && told.lines().count() == 1, "{told}");
    let told = place.expect(2, &["work", "--on", "a:b", "--stage", "s", "--lease", "1ms", "--", "true"]).err;
    assert!(told.contains("--lease") && told.contains("100 ms to 24 h"), "{told}");
    for option in ["--broker", "--store"] {
        for url in ["mysql://user:secret@host", "redis:user:secret@host", "redis://user:secret@host?secret=1"]
        {
            let told = place.expect(2, &["list", option, url]).err;
            assert!(told.contains(option) && !told.contains("secret"), "{told}");
        }
    }
}

#[test]
fn wrong_usage_is_2_and_told_in_the_form_that_was_asked_for() {
    let place = Place::new();
    let table: [&[&str]; 24] = [
        &[],
        &["lst"],
        &["get-logs", "a"],
        &["get-logs", "a", "s", "many"],
        &["get-logs", "", "s"],
        &["stream", "a", "s", "echo"],
        &["stream", "a", "s", "--timeout", "10", "--", "true"],
        &["stream", "a", "s", "--meta", "x", "--", "true"],
        &["work", "--on", "no-colon", "--stage", "s", "--", "true"],
        &["work", "--on", "a:b", "--stage", "s", "--retry", "often", "--", "true"],
        &["list", "--store", "mysql://host"],
        &["stream-logs", "a", "s", "--from", "0"],
        &["stream", "a", "s", "--timeout", "0s", "--", "true"],
        &["stream", "a", "s", "--silence", "0s", "--", "true"],
        &["work", "--on", "a:b", "--stage", "s", "--timeout", "0ms", "--", "true"],
        &["publish", "a", "t", "--broker", "memory:"],
        &["stream", "a", "s", "--store", "memory:", "--", "echo"],
        &["copy", "a", "s", "--to", "memory:"],
        &["verify", "a", "s", "--against", "memory:"],
        &["expire"],
        &["expire", "--older-than", "0s"],
        &["expire", "--max-bytes", "0"],
        &["expire", "--max-runs", "0"],
        &["expire", "--max-runs", "many"],
    ];
    for words in table {
        let told = place.expect(2, words);
        assert!(told.out.is_empty() && !told.err.is_empty(), "{words:?}: {told:?}");
        let told = place.expect(2, &[&["--json"], words].concat());
        let document: serde_json::Value = serde_json::from_str(told.err.trim_end()).unwrap();
        assert_eq!(document["kind"], "invalid");
        assert!(!document["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn global_options_stand_anywhere_and_those_of_the_command_are_its_own() {
    let place = Place::new();
    place.expect(0, &["--dir", "one", "stream", "a", "s", "--", "echo", "--dir", "--json"]);
    for words in [
        &["--dir", "one", "get-logs", "a", "s"][..],
        &["get-logs", "--dir=one", "a", "s"],
        &["get-logs", "a", "s", "--dir", "one"],
        &["--store", "file:one", "get-logs", "a", "s"],
    ] {
        assert_eq!(place.expect(0, words).out, "--dir --json\n", "{words:?}");
    }
    let by_environment = place.command(&["get-logs", "a", "s"]).env("PIPELINE_DIR", "one").output().unwrap();
    assert_eq!(by_environment.stdout, b"--dir --json\n");
    place.expect(3, &["get-logs", "a", "s"]);
}

#[test]
fn what_is_not_there_is_3_and_says_what_is() {
    let place = Place::new();
    for words in [
        &["get-status", "a", "s"][..],
        &["get-status", "a", "s", "--all"],
        &["get-logs", "a", "s"],
        &["search", "a", "s", "x"],
        &["verify", "a", "s"],
        &["export", "a", "s"],
        &["copy", "a", "s", "--to", "file:x"],
        &["remove", "a"],
        &["expire", "--max-runs", "1"],
        &["list"],
        &["cancel", "a"],
        &["dead-letters", "list"],
    ] {
        let told = place.expect(3, words);
        assert!(told.err.contains("there is no folder .pipeline"), "{words:?}: {told:?}");
    }
    assert!(!place.path().join(".pipeline").exists(), "asking makes nothing");
    place.expect(0, &["stream", "a", "build", "--", "true"]);
    let told = place.expect(3, &["get-logs", "b", "build"]);
    assert!(told.err.contains("`pipeline list` shows what has"), "{told:?}");
    let told = place.expect(3, &["get-logs", "a", "biuld", "--json"]);
    let document: serde_json::Value = serde_json::from_str(told.err.trim_end()).unwrap();
    assert_eq!(document["kind"], "not_found");
    assert!(document["message"].as_str().unwrap().contains("it has runs of: build"), "{document}");
}

#[test]
fn who_asks_a_store_that_is_out_of_reach_gets_4_and_its_name() {
    let place = Place::new();
    std::fs::write(place.path().join("file"), "no folder").unwrap();
    for words in [&["get-logs", "a", "s"][..], &["get-status", "a", "s"], &["list"], &["verify", "a", "s"]] {
        let told = place.expect(4, &[&["--store", "file:file"], words].concat());
        assert!(told.err.starts_with("pipeline: ") && told.err.lines().count() == 1, "{told:?}");
        assert!(told.err.contains("folder=file"), "it names the path: {told:?}");
    }
}

#[test]
fn hostile_ids_stay_inside_the_folder() {
    let place = Place::new();
    for id in ["../../outside", "/abs", "..", "a/../../b", "CON", "x.", "Ünï", "A", "a"] {
        place.expect(0, &["--dir", "inside/store", "stream", id, "s/../..", "--", "echo", id]);
    }
    for id in ["../../outside", "/abs", "..", "a/../../b", "CON", "x.", "Ünï", "A", "a"] {
        let words = ["--dir", "inside/store", "get-logs", id, "s/../.."];
        assert_eq!(place.expect(0, &words).out, format!("{id}\n"));
    }
    let entries: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries, ["inside"]);
    let entries: Vec<_> =
        std::fs::read_dir(place.path().join("inside")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries, ["store"]);
}
