//! Commands, as a worker runs them, against an output that the test holds.

mod death;
mod ends;
mod input;
mod probe;
mod stops;

use std::time::Duration;

use tokio::time::timeout;

use crate::{ActionId, Command, Event, EventType, Finished, RunKey, Stage, Stop, Stopper};
use probe::{Probe, Told};

/// Far longer than anything here takes; what hangs fails instead.
const LONG: Duration = Duration::from_secs(60);

/// A run that is under way, or could be.
struct Run {
    output: Probe,
    event: Event,
    key: RunKey,
    stopper: Stopper,
    stop: Stop,
}

/// What became of it.
struct Ran {
    finished: Finished,
    stdout: String,
    stderr: String,
    notes: Vec<Told>,
    took: Duration,
}

fn event() -> Event {
    Event::new(EventType::new("build-requested").unwrap(), ActionId::new("action-123").unwrap())
}

impl Run {
    fn of(event: Event) -> Self {
        let stage = Stage::new("build").unwrap();
        let key = RunKey::new(event.action_id.clone(), stage, event.id.clone(), 2);
        let (stopper, stop) = Stop::pair();
        Self { output: Probe::new(), event, key, stopper, stop }
    }

    fn new() -> Self {
        Self::of(event())
    }

    /// Runs the command, and beside it what the test does meanwhile.
    async fn with<T>(
        self,
        command: &Command,
        meanwhile: impl AsyncFnOnce(&Probe, &Stopper) -> T,
    ) -> (Ran, T) {
        let Self { output, event, key, stopper, stop } = self;
        let started = std::time::Instant::now();
        let run = async {
            let finished = timeout(LONG, super::run_printed(command, &event, &key, &output, stop));
            let finished = finished.await.expect("the run hangs");
            (finished, started.elapsed())
        };
        let other = timeout(LONG, meanwhile(&output, &stopper));
        let ((finished, took), other) = tokio::join!(run, async { other.await.expect("the test hangs") });
        let ran =
            Ran { finished, stdout: output.stdout(), stderr: output.stderr(), notes: output.notes(), took };
        (ran, other)
    }

    async fn end(self, command: &Command) -> Ran {
        self.with(command, async |_, _| ()).await.0
    }
}

impl Ran {
    fn told(&self) -> Vec<&str> {
        self.notes.iter().map(|note| note.kind.as_str()).collect()
    }
}

fn sh(line: &str) -> Command {
    Command::shell(line)
}

/// Whether a process lives: a zombie does not.
fn lives(pid: &str) -> bool {
    let state = std::process::Command::new("ps").args(["-o", "stat=", "-p", pid.trim()]).output().unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Waits until a process is gone.
async fn gone(pid: &str) {
    timeout(LONG, async {
        while lives(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a process lives on");
}
