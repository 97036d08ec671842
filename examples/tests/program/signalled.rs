//! Signals at instants at which something else holds the program up: its start, its end.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crash::Place;

/// Far longer than anything here takes; what hangs fails instead.
const LONG: Duration = Duration::from_secs(60);

/// Returns once somebody reads this pipe, with our end of it: what reads waits until it is dropped.
fn held(pipe: PathBuf) -> fs::File {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(fs::OpenOptions::new().write(true).open(pipe).unwrap()));
    // Where it fails, nobody reads it.
    told.recv_timeout(LONG).unwrap()
}

#[test]
fn a_signal_ends_the_start_while_the_store_takes_its_time() {
    let work = ["work", "--on", "t:*", "--stage", "s", "--", "touch", "began"];
    let stream = ["stream", "a", "s", "--", "touch", "began"];
    for (words, signal, code) in [(&work[..], "TERM", 143), (&work, "INT", 130), (&stream, "TERM", 143)] {
        let place = Place::new();
        place.expect(0, &["publish", "a", "t"]);
        // The store's first file never comes to its end.
        fs::create_dir(place.path().join("far")).unwrap();
        let file = place.path().join("far/format.json");
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let running = place.start(&[&["--store", "file:far"], words].concat());
        let end = held(file);
        let asked = Instant::now();
        running.signal(signal);
        let ended = running.ended();
        assert_eq!((ended.code, ended.err.as_str()), (code, ""), "{words:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{words:?}: {:?}", asked.elapsed());
        assert!(!place.path().join("began").exists(), "{words:?}");
        drop(end);
    }
}

#[test]
fn a_run_that_is_cut_while_its_store_is_away_gives_its_event_back_at_once() {
    let place = Place::new();
    let words = |script| {
        let words = ["work", "--store", "file:far", "--on", "t:*", "--stage", "s", "--lease", "10m"];
        [&words[..], &["--retry", "none", "--grace", "10m", "--until-idle", "--", "sh", "-c", script]]
            .concat()
    };
    place.expect(0, &["publish", "a", "t"]);
    // The store is gone before anything is printed; a file in its place keeps it away.
    let script =
        "trap '' TERM; mv far away; touch far; echo lost; echo > ready; while :; do sleep 0.02; done";
    let mut worker = place.start(&words(script));
    let began = Instant::now();
    while !place.path().join("ready").exists() {
        assert!(began.elapsed() < LONG);
        thread::sleep(Duration::from_millis(5));
    }
    worker.signal("TERM");
    assert!(worker.aside().contains("A second signal cuts it"));
    worker.signal("TERM");
    let asked = Instant::now();
    assert_eq!(worker.ended().code, 143);
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    fs::remove_file(place.path().join("far")).unwrap();
    fs::rename(place.path().join("away"), place.path().join("far")).unwrap();
    let asked = Instant::now();
    place.expect(0, &words("true"));
    assert!(asked.elapsed() < LONG, "its lease is 10 minutes: {:?}", asked.elapsed());
    let runs =
        place.expect(0, &["get-status", "--store", "file:far", "a", "s", "--all", "--json"]).documents();
    let told: Vec<_> = runs.iter().map(|run| (&run["attempt"], &run["outcome"], &run["final"])).collect();
    let cut = (&1.into(), &serde_json::Value::Null, &false.into());
    assert_eq!(told, [(&2.into(), &"succeeded".into(), &true.into()), cut], "{runs:#?}");
}
