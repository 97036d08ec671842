//! `--max-output`: the beginning and the end of an output.

use crash::Place;

#[test]
fn a_million_lines_become_their_first_and_their_last_ones() {
    let place = Place::new();
    // 6.9 MB, printed by a program that takes no memory for it.
    let script = "seq 1 1000000; echo last >&2";
    let words = ["stream", "a", "s", "--max-output", "1MB", "--", "sh", "-c", script];
    let ended = place.expect(0, &words);
    let shown: Vec<&str> = ended.out.lines().collect();
    assert_eq!(shown.first(), Some(&"1"));
    assert!(shown.contains(&"last") && shown.contains(&"1000000") && !shown.contains(&"500000"));
    assert!(ended.out.len() <= 1_000_000 && ended.out.len() > 999_980, "{}", ended.out.len());
    assert!(ended.err.contains("missing: over the limit of the output (1 MB)"), "{}", ended.err);
    let logs = place.expect(0, &["get-logs", "a", "s"]);
    assert_eq!(logs.out, ended.out);
    assert!(logs.err.contains("missing: over the limit"), "{}", logs.err);
    assert!(place.expect(0, &["get-logs", "a", "s", "1"]).out.len() <= "1000000\n".len());
    place.expect(0, &["verify", "a", "s"]);
    place.expect(0, &["copy", "a", "s", "--to", "file:archive"]);
    place.expect(0, &["verify", "a", "s", "--against", "file:archive"]);
    let status = place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0);
    let (kept, gap) = (status["lines"].as_u64().unwrap(), &status["gaps"][0]);
    let dropped = gap["last"].as_u64().unwrap() - gap["first"].as_u64().unwrap() + 1;
    assert_eq!(kept, shown.len() as u64);
    assert_eq!(kept + dropped, 1_000_001, "{status}");
    let printed = ended.out.len() as u64 + gap["bytes"].as_u64().unwrap();
    assert_eq!(printed, 6_888_896 + "last\n".len() as u64);
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the folder and the archive: {left:?}");
    let held_back = std::fs::read_dir(place.path().join(".pipeline/held-back")).unwrap();
    assert_eq!(held_back.count(), 0, "nothing is held back any more");
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_held_back_takes_disk_and_not_memory() {
    use std::io::Read as _;

    use crate::endless::most_memory;

    let place = Place::new();
    // 400 MB, all of which would be held back. The command waits, so that its memory can be looked at.
    let script = "yes 'a line of some thirty bytes or so' | head -c 400000000; touch done; while [ -e done ]; do sleep 0.02; done";
    let words = ["stream", "a", "s", "--max-output", "300MB", "--", "sh", "-c", script];
    let mut running = place.start(&words);
    let done = place.path().join("done");
    let pid = running.child.id();
    let mut seen = [0; 64 * 1024];
    let mut shown = 0;
    while shown < 149_000_000 {
        shown += running.out.read(&mut seen).unwrap();
    }
    while !done.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let held = most_memory(pid);
    std::fs::remove_file(&done).unwrap();
    while shown < 299_000_000 {
        shown += running.out.read(&mut seen).unwrap();
    }
    let most = most_memory(pid);
    assert_eq!(running.ended().code, 0);
    assert!(held < 64 * 1024 && most < 64 * 1024, "{held} kB held back, {most} kB in all");
    place.expect(0, &["verify", "a", "s"]);
}

/// A program that is killed while it holds back the third line of a run.
fn killed(place: &Place) {
    let script = "echo one; echo two; echo three; sleep 60";
    let running = place.start(&["stream", "a", "s", "--max-output", "16", "--", "sh", "-c", script]);
    let started = std::time::Instant::now();
    loop {
        let told = place.run(&["get-status", "a", "s", "--json"]);
        let documents = if told.code == 0 { told.documents() } else { Vec::new() };
        let kind = documents.first().and_then(|run| run.pointer("/notes/0/kind"));
        let is_told = kind.is_some_and(|kind| kind == "output_held_back");
        if is_told && place.run(&["get-logs", "a", "s"]).out == "one\ntwo\n" {
            break;
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{told:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(running);
}

#[test]
fn what_a_killed_program_held_back_goes_with_its_run() {
    let place = Place::new();
    killed(&place);
    let held_back = || std::fs::read_dir(place.path().join(".pipeline/held-back")).unwrap().count();
    assert_eq!(held_back(), 1);
    place.expect(0, &["remove", "a", "--force"]);
    assert_eq!(held_back(), 0);
}

#[test]
fn a_killed_program_leaves_the_head_and_a_note_and_the_next_one_brings_the_tail() {
    let place = Place::new();
    killed(&place);
    // What it held back is there, once another has brought it.
    assert_eq!(place.expect(0, &["get-logs", "a", "s"]).out, "one\ntwo\n");
    place.expect(0, &["stream", "b", "s", "--", "true"]);
    assert_eq!(place.expect(0, &["get-logs", "a", "s"]).out, "one\ntwo\nthree\n");
    let told = place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0);
    assert_eq!(told["notes"][1]["kind"], "output_brought", "{told}");
}

#[test]
fn a_size_that_is_none_is_refused() {
    let place = Place::new();
    for size in ["0", "much", "1.5GiB"] {
        for words in [&["stream", "a", "s"][..], &["work", "--on", "t:*", "--stage", "s"]] {
            let told = place.expect(2, &[words, &["--max-output", size, "--", "true"]].concat());
            assert!(told.err.contains("--max-output") && told.err.contains("1GiB"), "{told:?}");
        }
    }
}

#[test]
fn a_worker_caps_each_run() {
    let place = Place::new();
    place.expect(0, &["publish", "a", "t"]);
    let words = ["work", "--on", "t:*", "--stage", "s", "--until-idle", "--max-output", "1kB", "--"];
    place.expect(0, &[&words[..], &["seq", "1", "1000"]].concat());
    let logs = place.expect(0, &["get-logs", "a", "s"]);
    assert!(logs.out.starts_with("1\n2\n") && logs.out.ends_with("999\n1000\n") && logs.out.len() <= 1000);
    place.expect(0, &["verify", "a", "s"]);
}
