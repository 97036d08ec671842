//! What goes on without a word costs no processor time.
#![expect(clippy::indexing_slicing, reason = "a test that fails where it does not find")]

use std::fs;
use std::thread;
use std::time::Duration;

use crash::{Place, Running};

/// How long nothing happens: the system counts processor time in hundredths of a second.
const SILENCE: Duration = Duration::from_secs(3);

/// Most processor time in it, in hundredths: 2 % of a processor, for what is tested is built without optimisation.
const MOST_TICKS: u64 = 6;

/// Most times that the threads of a process went to sleep in it. Who follows looks once a second even where nothing is
/// told, a few hand-overs each.
const MOST_WAKES: u64 = 90;

/// Processor time in hundredths, and how often a thread of it went to sleep.
#[derive(Clone, Copy, Debug)]
struct Used {
    ticks: u64,
    wakes: u64,
}

impl Used {
    fn by(pid: u32) -> Self {
        let told = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // proc_pid_stat(5): after the name in brackets come fields 3 and on; 14 and 15 are utime and stime.
        let fields: Vec<&str> = told.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = [14, 15].map(|field: usize| fields[field - 3].parse::<u64>().unwrap()).iter().sum();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        // One that ends while it is looked at counts no more.
        let wakes = tasks.filter_map(|task| {
            let told = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            told.lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        });
        Self { ticks, wakes: wakes.sum() }
    }
}

/// A run that prints nothing more, and who looks on; a worker with such a command, and one without work.
#[test]
fn a_quiet_run_costs_no_processor_time() {
    let place = Place::new();
    let script = "echo ready; exec sleep 600";
    let mut stream = place.start(&["stream", "a", "s", "--", "sh", "-c", script]);
    let mut spooling = place.start(&["--spool", "spool", "stream", "b", "s", "--", "sh", "-c", script]);
    let mut follower = place.start(&["stream-logs", "a", "s"]);
    let busy = place.start(&["work", "--on", "busy:*", "--stage", "busy", "--", "sh", "-c", script]);
    let idle = place.start(&["work", "--on", "idle:*", "--stage", "idle", "--", "true"]);
    place.expect(0, &["publish", "c", "idle"]);
    place.expect(0, &["wait", "c", "idle"]);
    place.expect(0, &["publish", "d", "busy"]);
    let mut other = place.start(&["stream-logs", "d", "busy"]);
    for printing in [&mut stream, &mut spooling, &mut follower, &mut other] {
        assert_eq!(printing.line(), "ready\n");
    }
    let waiter = place.start(&["wait", "d", "busy"]);
    let processes: [(&str, &Running); 7] = [
        ("stream", &stream),
        ("stream with a spool", &spooling),
        ("stream-logs", &follower),
        ("stream-logs of a worker's run", &other),
        ("work with a command", &busy),
        ("work without work", &idle),
        ("wait", &waiter),
    ];
    // What follows upon the last line is over: the delay of the sinks, the start of the last process.
    thread::sleep(Duration::from_secs(1));
    let before = processes.map(|(_, process)| Used::by(process.child.id()));
    thread::sleep(SILENCE);
    for ((name, process), before) in processes.iter().zip(before) {
        let after = Used::by(process.child.id());
        let used =
            Used { ticks: after.ticks - before.ticks, wakes: after.wakes.saturating_sub(before.wakes) };
        println!("{name}: {used:?} in {SILENCE:?}");
        assert!(used.ticks <= MOST_TICKS && used.wakes <= MOST_WAKES, "{name}: {used:?} in {SILENCE:?}");
    }
}
