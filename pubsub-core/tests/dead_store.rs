//! A command that prints without end into a store that takes calls and never answers: timeout, cancel and shutdown act on
//! time, and the other store is not held up by it where it need not be.
#![cfg(any(target_os = "linux", target_os = "macos"))]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pubsub_core::{
    Appended, Cause, Command, ErrorKind, Event, Execution, FanOut, Finality, LineBatch, Lines, MemoryStore,
    OutputReader as _, OutputSink, Result, RunKey, RunRecord, SinkConfig, Stop,
};

/// Takes a run, and answers nothing any more.
struct Deaf;

#[async_trait]
impl OutputSink for Deaf {
    async fn begin(&self, _: &RunRecord) -> Result<()> {
        Ok(())
    }

    async fn append(&self, _: &RunKey, _: &[LineBatch]) -> Result<Appended> {
        std::future::pending().await
    }

    async fn finish(&self, _: &RunRecord) -> Result<()> {
        std::future::pending().await
    }
}

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

async fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process lives: a zombie does not.
fn lives(pid: &str) -> bool {
    let ps = std::process::Command::new("ps").args(["-o", "stat=", "-p", pid.trim()]).output().unwrap();
    let state = String::from_utf8(ps.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

fn prints_without_end() -> Command {
    Command::shell("echo $$ > pid; exec yes 'on and on'").with_grace(Duration::from_secs(1))
}

/// Runs it with a deaf store that is used so, until its process is gone; answers how long that took, and the run's output
/// in the good store.
async fn ended_after(
    command: Command,
    deaf: SinkConfig,
    cancelled_after: Option<Duration>,
) -> (Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let command = command.with_working_dir(dir.path());
    let good = MemoryStore::new();
    let best = SinkConfig::best_effort("good", Arc::new(good.clone())).with_queue_bytes(64 << 20);
    let fan_out = Arc::new(FanOut::new(vec![deaf.with_queue_bytes(64 << 10), best]));
    let event = Event::new("t".parse().unwrap(), "a".parse().unwrap());
    let key = RunKey::new(event.action_id.clone(), "s".parse().unwrap(), event.id.clone(), 1);
    let run_id = key.run_id.clone();
    let (stopper, stop) = Stop::pair();
    let started = Instant::now();
    let run = {
        let (fan_out, execution) = (Arc::clone(&fan_out), Execution::new());
        tokio::spawn(async move {
            execution.run(&fan_out, &command, Arc::new(event), key, stop, Finality::Final).await.map(drop)
        })
    };
    let pid = dir.path().join("pid");
    until("the command begins", || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))).await;
    let pid = std::fs::read_to_string(&pid).unwrap();
    if let Some(after) = cancelled_after {
        tokio::time::sleep(after).await;
        stopper.stop(Cause::Cancelled);
    }
    until("the command ends", || !lives(&pid)).await;
    let took = started.elapsed();
    // The runner stops within its limit, whatever the store does.
    let closing = Instant::now();
    let closed = fan_out.close(Duration::from_secs(1)).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(closing.elapsed() < Duration::from_secs(5), "{:?}", closing.elapsed());
    let ended = tokio::time::timeout(LONG, run).await.unwrap().unwrap();
    assert!(ended.is_ok() || ended.as_ref().unwrap_err().kind() == ErrorKind::Closed, "{ended:?}");
    (took, good.lines(&run_id, Lines::Last(0)).await.unwrap().complete_through)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_and_a_cancel_act_on_time_while_a_required_store_never_answers() {
    let deaf = || SinkConfig::required("deaf", Arc::new(Deaf));
    let by_time = ended_after(prints_without_end().with_timeout(Duration::from_secs(2)), deaf(), None);
    let by_hand = ended_after(prints_without_end(), deaf(), Some(Duration::from_secs(1)));
    let ((by_time, seen), (by_hand, _)) = tokio::join!(by_time, by_hand);
    assert!((2.0..8.0).contains(&by_time.as_secs_f64()), "{by_time:?}");
    assert!((1.0..7.0).contains(&by_hand.as_secs_f64()), "{by_hand:?}");
    // Held up, as it was chosen: the other store has what was printed until then.
    assert!((1_000..2_000_000).contains(&seen), "{seen} lines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_best_effort_store_that_never_answers_holds_up_neither_the_command_nor_the_other_store() {
    let command = prints_without_end().with_timeout(Duration::from_secs(2));
    let deaf = SinkConfig::best_effort("deaf", Arc::new(Deaf));
    let (took, seen) = ended_after(command, deaf, None).await;
    assert!((2.0..8.0).contains(&took.as_secs_f64()), "{took:?}");
    // Far more than the queue of the other one holds.
    assert!(seen > 100_000, "{seen} lines");
}
