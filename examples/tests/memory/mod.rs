//! How much memory the program takes, and whether it holds up its command, while a store is slow or away.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which tells what it measured")]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crash::Place;
use services::{Proxy, Weather};

/// The most that the program may take, in kB.
const MOST: u64 = 64 * 1024;

/// How long all lines may take to reach a store that is there again, for each thousand of them.
const ARRIVE: Duration = Duration::from_millis(700);

const LINE: &str =
    "a line of a build, and a hundred bytes as they mostly are, that is written as fast as it can be";

/// What is printed each second while a store is away.
const RATE: u64 = 20_000;

/// The most memory that a process has had, in kB.
fn most_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program, which runs a script that waits at its end, until it is told to end.
struct Streaming<'a> {
    place: &'a Place,
    child: Child,
}

impl<'a> Streaming<'a> {
    fn start(place: &'a Place, words: &[&str], script: &str) -> Self {
        let script = format!("{script}; touch done; while [ -e done ]; do sleep 0.1; done");
        let words = [words, &["stream", "a", "s", "--", "sh", "-c", &script]].concat();
        let mut command = place.command(&words);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { place, child }
    }

    /// Waits until everything was printed.
    fn printed(&self, limit: Duration) {
        let done = self.place.path().join("done");
        until("the command prints", limit, || done.exists());
    }

    /// The most memory it had, checked.
    fn memory(&self) -> u64 {
        let most = most_memory(self.child.id());
        assert!(most < MOST, "{most} kB");
        most
    }

    fn end(&mut self) {
        std::fs::remove_file(self.place.path().join("done")).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        // It has ended already, or its test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The store has all of the run, whole.
fn is_whole(place: &Place, store: &str, lines: u64) {
    let words = ["--store", store];
    let status = place.expect(0, &[&words[..], &["get-status", "a", "s", "--json"]].concat());
    let status = status.documents().remove(0);
    assert_eq!(status.get("lines").and_then(serde_json::Value::as_u64), Some(lines), "{status}");
    place.expect(0, &[&words[..], &["verify", "a", "s"]].concat());
}

/// A store that is slower than its command, without a spool: the command waits for it.
pub(crate) fn of_a_command_that_prints_as_fast_as_it_can(store: &str, lines: u64) {
    let place = Place::new();
    let script = format!("yes '{LINE}' | head -n {lines}");
    let begun = Instant::now();
    let mut running = Streaming::start(&place, &["--store", store], &script);
    running.printed(Duration::from_secs(600));
    let (took, most) = (begun.elapsed(), running.memory());
    println!("{lines} lines in {took:?}, {most} kB at most");
    running.end();
    is_whole(&place, store, lines);
}

/// Bytes in the segments of a spool.
fn spooled(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.filter_map(Result::ok).map(|entry| {
        let path = entry.path();
        match path.extension() {
            // It may be gone by now.
            Some(end) if end == "segment" => std::fs::metadata(path).map_or(0, |meta| meta.len()),
            _ => spooled(&path),
        }
    });
    bytes.sum()
}

/// A store that is away for so long behind a spool: the command goes on at its rate, and all lines arrive. `behind` names
/// the store at another port, that of the server being `port`.
pub(crate) fn while_a_store_is_away(
    weather: Weather,
    time: Duration,
    port: u16,
    behind: impl FnOnce(u16) -> String,
    store: &str,
) {
    let place = Place::new();
    let mut proxy = Proxy::start(port).unwrap();
    let far = behind(proxy.port());
    proxy.set(weather).unwrap();
    let (tenths, lines) = (time.as_secs() * 10, RATE * time.as_secs());
    // It makes up for what it was late, and says at its end how late it was.
    let script = format!(
        "begun=$(date +%s%N); i=0; while [ $i -lt {tenths} ]; do i=$((i+1)); yes '{LINE}' | head -n {}; \
         left=$((begun + i*100000000 - $(date +%s%N))); \
         [ $left -gt 0 ] && sleep $(printf '0.%09d' $left); done; \
         echo $((($(date +%s%N) - begun) / 1000000)) > took",
        RATE / 10
    );
    let mut running = Streaming::start(&place, &["--store", &far, "--spool", "spool"], &script);
    running.printed(time + Duration::from_secs(120));
    let took = std::fs::read_to_string(place.path().join("took")).unwrap();
    let took = Duration::from_millis(took.trim().parse().unwrap());
    let away = running.memory();
    let waits = spooled(&place.path().join("spool"));
    assert!(waits >= lines * LINE.len() as u64, "{waits} bytes wait");
    proxy.set(Weather::Clear).unwrap();
    let begun = Instant::now();
    let limit = Duration::from_secs(60) + ARRIVE * u32::try_from(lines / 1_000).unwrap();
    until("all lines arrive", limit, || spooled(&place.path().join("spool")) < 64 << 10);
    let most = running.memory();
    println!(
        "{lines} lines in {took:?}, {away} kB at most; arrived within {:?}, {most} kB at most",
        begun.elapsed()
    );
    running.end();
    is_whole(&place, store, lines);
    // What a busy machine may take.
    assert!(took < time + time / 10 + Duration::from_secs(1), "it was held up: {took:?}");
}

/// The same for a store of each kind.
macro_rules! memory_of {
    ($needs:literal, $lines:expr, $port:expr, $at:expr) => {
        #[test]
        #[ignore = $needs]
        fn a_command_that_prints_as_fast_as_it_can_takes_little_memory() {
            crate::memory::of_a_command_that_prints_as_fast_as_it_can(&$at("fast", $port), $lines);
        }

        fn while_it_is_away(name: &str, weather: services::Weather, seconds: u64) {
            let (port, time) = ($port, std::time::Duration::from_secs(seconds));
            let behind = |port| $at(name, port);
            crate::memory::while_a_store_is_away(weather, time, port, behind, &$at(name, port));
        }

        #[test]
        #[ignore = $needs]
        fn a_store_that_refuses_connections_costs_little_memory_and_no_time() {
            while_it_is_away("refused", services::Weather::Refused, 20);
        }

        #[test]
        #[ignore = $needs]
        fn a_store_that_never_answers_costs_little_memory_and_no_time() {
            while_it_is_away("stalled", services::Weather::Stalled, 20);
        }

        mod long {
            #[test]
            #[ignore = concat!($needs, ", long: ten minutes without it")]
            fn a_store_that_is_away_for_ten_minutes_costs_little_memory_and_no_time() {
                super::while_it_is_away("long", services::Weather::Refused, 600);
            }
        }
    };
}
pub(crate) use memory_of;
