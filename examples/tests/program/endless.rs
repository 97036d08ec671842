//! Outputs far larger than memory.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that fails where it does not find, and tells what it measured"
)]

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::Place;

/// The most memory that a process has had, in kB.
pub(crate) fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Streams what a script prints, and looks at the program's memory before it ends: it waits for a file to go.
fn memory_stays_flat(printing: &str, bytes: u64, lines: u64, last: &str) {
    let place = Place::new();
    let script = format!("{printing}; echo {last}; touch done; while [ -e done ]; do sleep 0.1; done");
    let begun = Instant::now();
    let mut running = place.start(&["stream", "a", "s", "--", "sh", "-c", &script]);
    let pid = running.child.id();
    let done = place.path().join("done");
    let bytes = bytes + last.len() as u64 + 1;
    let (mut seen, mut shown, mut end) = (vec![0; 1 << 20], 0, Vec::new());
    while shown < bytes {
        let read = running.out.read(&mut seen).unwrap();
        assert!(read > 0, "it ended after {shown} of {bytes} bytes");
        shown += read as u64;
        end.extend_from_slice(&seen[..read]);
        end.drain(..end.len().saturating_sub(100));
    }
    let took = begun.elapsed();
    assert!(String::from_utf8_lossy(&end).ends_with(&format!("\n{last}\n")), "{end:?}");
    while !done.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let most = most_memory(pid);
    std::fs::remove_file(&done).unwrap();
    assert_eq!(running.ended().code, 0);
    println!("{bytes} bytes in {lines} lines: {took:?}, {most} kB at most");
    assert!(most < 64 * 1024, "{most} kB");
    assert_eq!(place.expect(0, &["get-logs", "a", "s", "1"]).out, format!("{last}\n"));
    let status = place.expect(0, &["get-status", "a", "s", "--json"]).documents().remove(0);
    assert_eq!(
        (status["lines"].as_u64(), status["bytes"].as_u64()),
        (Some(lines + 1), Some(bytes)),
        "{status}"
    );
    place.expect(0, &["verify", "a", "s"]);
}

const LINE: &str =
    "a line of one hundred bytes, its end included, as the output of a build mostly has them: it goes on";

#[test]
fn a_large_output_takes_no_memory() {
    memory_stays_flat(&format!("yes '{LINE}' | head -n 2000000"), 200_000_000, 2_000_000, "the last line");
}

#[test]
fn many_short_lines_take_no_memory() {
    memory_stays_flat("yes '' | head -n 3000000", 3_000_000, 3_000_000, "the last line");
}

#[test]
#[ignore = "long: 10 GB of output"]
fn ten_gigabytes_of_output_take_no_memory() {
    memory_stays_flat(
        &format!("yes '{LINE}' | head -n 100000000"),
        10_000_000_000,
        100_000_000,
        "the last line",
    );
}

#[test]
#[ignore = "long: 60 million lines"]
fn sixty_million_short_lines_take_no_memory() {
    memory_stays_flat("yes '' | head -n 60000000", 60_000_000, 60_000_000, "the last line");
}
