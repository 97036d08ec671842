//! A store that is out of reach when the program starts.

use crash::Place;

/// A file where a folder on the way to store `far` is to be: also root cannot pass it.
fn block(place: &Place) {
    std::fs::write(place.path().join("mount"), "not mounted").unwrap();
}

fn unblock(place: &Place) {
    std::fs::remove_file(place.path().join("mount")).unwrap();
}

/// Both succeed; each gives what is late a while, so they go on side by side.
fn stream_and_work(place: &Place, stores: &[&str]) {
    place.expect(0, &["publish", "b", "build"]);
    let work = ["work", "--stage", "s", "--on", "build:b", "--until-idle", "--", "echo", "two"];
    let words = [&["stream", "a", "s", "--", "echo", "one"][..], &work];
    let running = words.map(|words| place.start(&[stores, words].concat()));
    for running in running {
        let ended = running.ended();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

const FAR: [&str; 2] = ["--store", "file:mount/far"];

#[test]
fn stream_and_work_go_on_without_a_store_that_is_away_and_not_required() {
    let place = Place::new();
    block(&place);
    let stores = ["--store", "file:near", "--store", "file:mount/far?required=false"];
    stream_and_work(&place, &stores);
    for (action, line) in [("a", "one\n"), ("b", "two\n")] {
        assert_eq!(place.expect(0, &["--store", "file:near", "get-logs", action, "s"]).out, line);
        place.expect(0, &["--store", "file:near", "verify", action, "s"]);
    }
}

#[test]
fn what_a_store_that_is_away_is_to_get_waits_in_the_spool_and_reaches_it_later() {
    let place = Place::new();
    block(&place);
    let stores = ["--store", "file:near", "--store", "file:mount/far?required=true", "--spool", "spool"];
    stream_and_work(&place, &stores);
    assert_eq!(place.expect(0, &["--store", "file:near", "get-logs", "b", "s"]).out, "two\n");
    unblock(&place);
    // This one ships what is left.
    place.expect(0, &[&stores[..], &["stream", "c", "s", "--", "true"]].concat());
    for (action, line) in [("a", "one\n"), ("b", "two\n")] {
        assert_eq!(place.expect(0, &[&FAR[..], &["get-logs", action, "s"]].concat()).out, line);
        place.expect(0, &[&FAR[..], &["verify", action, "s"]].concat());
    }
}

#[test]
fn a_required_store_that_is_away_without_a_spool_is_waited_for() {
    let place = Place::new();
    block(&place);
    let stores = ["--store", "file:near", "--store", "file:mount/far?required=true"];
    let mut running = place.start(&[&stores[..], &["stream", "a", "s", "--", "echo", "one"]].concat());
    while !running.aside().contains("a sink fails") {}
    unblock(&place);
    assert_eq!(running.ended().code, 0);
    assert_eq!(place.expect(0, &[&FAR[..], &["get-logs", "a", "s"]].concat()).out, "one\n");
}

#[test]
fn a_signal_ends_the_wait_for_a_store_with_its_own_code_and_nothing_was_started() {
    let place = Place::new();
    block(&place);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut running = place.start(&[&FAR[..], &["stream", "a", "s", "--", "touch", "began"]].concat());
        while !running.aside().contains("a sink fails") {}
        running.signal(signal);
        running.signal(signal);
        let ended = running.ended();
        assert!(ended.code == code && ended.err.contains("stopped before it was started"), "{ended:?}");
        assert!(!place.path().join("began").exists());
    }
}

#[test]
fn a_limit_ends_the_wait_for_a_store_with_its_name_and_nothing_was_started() {
    let place = Place::new();
    block(&place);
    let stream = ["stream", "a", "s", "--timeout", "300ms"];
    for (options, code) in [(&[][..], 5), (&["--pass-code"], 124)] {
        let ended = place.expect(code, &[&FAR[..], &stream, options, &["--", "touch", "began"]].concat());
        assert!(
            ended.err.contains("nothing was started") && ended.err.contains("store=file:mount/far"),
            "{ended:?}"
        );
        assert!(!place.path().join("began").exists());
    }
    unblock(&place);
    place.expect(0, &[&FAR[..], &["stream", "a", "s", "--timeout", "60s", "--", "true"]].concat());
}

#[test]
fn a_store_whose_version_cannot_be_read_is_told_before_anything_is_run() {
    let place = Place::new();
    place.expect(0, &["stream", "a", "s", "--", "true"]);
    place.expect(0, &["publish", "b", "t"]);
    std::fs::write(place.path().join(".pipeline/format.json"), "").unwrap();
    let work = ["work", "--on", "t:*", "--stage", "s", "--until-idle", "--", "touch", "began"];
    for words in [&work[..], &["stream", "a", "s", "--", "touch", "began"]] {
        let told = place.expect(4, words);
        assert!(told.err.contains("folder=.pipeline"), "{told:?}");
        assert!(!place.path().join("began").exists());
    }
}
