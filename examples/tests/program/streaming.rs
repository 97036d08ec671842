//! `stream`: what it shows, what it stores, how it ends.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crash::Place;

const PRINTS: &str = r"echo one; echo two >&2; printf 'thr\303\251'";

#[test]
fn output_is_shown_as_printed_and_stored() {
    let place = Place::new();
    let ended = place.expect(0, &["stream", "a", "build", "--", "sh", "-c", PRINTS]);
    let mut lines: Vec<&str> = ended.out.split_inclusive('\n').collect();
    lines.sort_unstable();
    // Which of two pipes is read first is not fixed; each line is whole.
    assert!(
        ended.out.contains("one\n") && ended.out.contains("two\n") && ended.out.contains("thré"),
        "{ended:?}"
    );
    assert_eq!(ended.err, "");
    assert_eq!(place.expect(0, &["get-logs", "a", "build"]).out, ended.out);
}

#[test]
fn codes_say_whether_the_pipeline_goes_on() {
    let place = Place::new();
    let stream = |code, words: &[&str]| place.expect(code, &[&["stream", "a", "s"], words].concat());
    for (own, code) in [("0", 0), ("42", 0), ("124", 0), ("130", 0), ("3", 1)] {
        let script = format!("exit {own}");
        stream(code, &["--", "sh", "-c", &script]);
        stream(own.parse().unwrap(), &["--pass-code", "--", "sh", "-c", &script]);
    }
    stream(137, &["--pass-code", "--", "sh", "-c", "kill -9 $$"]);
    stream(127, &["--pass-code", "--", "no-such-program"]);
    stream(126, &["--pass-code", "--", "/etc/passwd"]);
    stream(1, &["--", "no-such-program"]);
    let late = stream(124, &["--pass-code", "--timeout", "200ms", "--", "sleep", "60"]);
    assert!(late.err.contains("longer than its limit"), "{late:?}");
    let quiet = stream(0, &["--silence", "200ms", "--grace", "1s", "--", "sleep", "60"]);
    assert!(quiet.err.contains("printed nothing for too long"), "{quiet:?}");
}

#[test]
fn the_first_signal_stops_the_command_with_its_grace() {
    let place = Place::new();
    let script =
        "trap 'echo goodbye; exit 7' TERM; echo ready; while :; do sleep 0.05 2>/dev/null; done 2>/dev/null";
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut running = place.start(&["stream", "a", signal, "--", "sh", "-c", script]);
        assert_eq!(running.line(), "ready\n");
        running.signal(signal);
        let ended = running.ended();
        // Some shells say beside it that their `sleep` was terminated.
        assert!(ended.code == code && ended.out.contains("goodbye\n"), "{ended:?}");
        assert!(ended.err.contains("interrupted (stopped with the program that ran it)"), "{ended:?}");
        let status = place.expect(0, &["get-status", "a", signal, "--json"]).documents().remove(0);
        assert_eq!((&status["outcome"], &status["final"]), (&"interrupted".into(), &true.into()));
    }
}

#[test]
fn with_json_the_status_of_the_run_comes_last() {
    let place = Place::new();
    for (script, code) in [("echo one", 0), ("echo one; exit 3", 1)] {
        let ended = place.expect(code, &["--json", "stream", "a", "s", "--", "sh", "-c", script]);
        assert_eq!(ended.documents()[0]["text"], "one");
        let told: serde_json::Value = serde_json::from_str(ended.err.trim_end()).unwrap();
        assert_eq!(told, place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0));
    }
}

#[test]
fn the_second_signal_cuts() {
    let place = Place::new();
    let script = "trap 'echo stopping' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = place.start(&["stream", "a", "s", "--grace", "10m", "--", "sh", "-c", script]);
    assert_eq!(running.line(), "ready\n");
    running.signal("INT");
    // Some shells say beside it that their `sleep` was terminated.
    while running.line() != "stopping\n" {}
    running.signal("INT");
    assert_eq!(running.ended().code, 130);
    let status = place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0);
    assert_eq!(status["outcome"], "interrupted");
}

#[test]
fn a_run_goes_on_where_nobody_reads_it_any_more() {
    let place = Place::new();
    let mut child = place.command(&["stream", "a", "s", "--", "sh", "-c", "seq 1 200000; exit 3"]);
    let mut child =
        child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(place.expect(0, &["get-logs", "a", "s", "1"]).out, "200000\n");
}

#[test]
fn secrets_are_masked_on_the_screen_in_the_store_and_in_the_command() {
    let place = Place::new();
    let words = ["stream", "a", "s", "--mask-env", "TOKEN", "--meta", "key=S3cr3t-42", "--", "sh", "-c"];
    let script = "echo start; printf S3cr; sleep 0.1; echo 3t-42; echo $TOKEN >&2; echo S3cr3t-42";
    let shown = place.command(&[&words[..], &[script]].concat()).env("TOKEN", "S3cr3t-42").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("***") && shown.contains("start"), "{shown}");
    let all = [shown, place.expect(0, &["export", "a", "s"]).out].concat();
    assert!(!all.contains("S3cr3t"), "{all}");
    let unset = place.expect(2, &["stream", "a", "s", "--mask-env", "NO_SUCH_NAME", "--", "true"]);
    assert!(unset.err.contains("NO_SUCH_NAME is not set"), "{unset:?}");
    let mut latin = place.command(&["stream", "a", "s", "--mask-env", "TOKEN", "--", "true"]);
    let told = latin.env("TOKEN", OsStr::from_bytes(b"S3cr3t\xe9")).output().unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("TOKEN is not UTF-8") && !told.contains("S3cr3t"), "{told}");
    let words = ["stream", "a", "s", "--mask-env", "TOKEN", "--mask-env", "PIN", "--", "true"];
    let short = place.command(&words).env("TOKEN", "S3cr3t-42").env("PIN", "123").output().unwrap();
    let short = String::from_utf8(short.stderr).unwrap();
    assert!(short.contains("the value of PIN has fewer than 4 bytes"), "{short}");
}

#[test]
fn a_command_reads_nothing_of_our_input_and_knows_its_run() {
    let place = Place::new();
    let script = "cat; echo $PIPELINE_ACTION_ID $PIPELINE_STAGE $PIPELINE_ATTEMPT $PIPELINE_RUN_ID";
    let ended = place.expect(0, &["stream", "a b", "s", "--", "sh", "-c", script]);
    let status = place.expect(0, &["get-status", "a b", "s", "--json"]).documents().remove(0);
    assert_eq!(ended.out, format!("a b s 1 {}\n", status["run_id"].as_str().unwrap()));
}

#[test]
fn every_store_that_is_named_gets_the_output() {
    let place = Place::new();
    let stores = ["--store", "file:one", "--store", "file:two"];
    place.expect(0, &[&stores[..], &["stream", "a", "s", "--", "echo", "hello"]].concat());
    for store in ["file:one", "file:two"] {
        assert_eq!(place.expect(0, &["get-logs", "a", "s", "--store", store]).out, "hello\n");
        place.expect(0, &["verify", "a", "s", "--store", store]);
    }
    place.expect(0, &["verify", "a", "s", "--store", "file:one", "--against", "file:two"]);
}
