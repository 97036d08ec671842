//! Playing a scene under many schedules.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use shuttle::rand::Rng as _;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// A task or thread to be waited for.
pub use shuttle::future::JoinHandle as Joined;

/// A thread to be waited for.
pub type Thread = shuttle::thread::JoinHandle<()>;

/// What no scene comes near; one that does runs in circles.
const MAX_STEPS: usize = 200_000;

/// For SQLite as well.
const STACK_BYTES: usize = 1 << 20;

/// Schedules are drawn from this, so that each run of the tests plays the same.
const SEED: u64 = 20_261;

/// How many switches that matter a schedule with priorities has.
const DEPTH: usize = 3;

/// A well-known mistake in what wakes others, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A [`Notify`](crate::Notify) wakes who waits, and keeps nothing for who comes a moment later.
    ForgetfulNotify,
    /// A [`Condvar`](crate::Condvar) lets go of the lock a moment before it listens.
    LateCondvar,
    /// An [`AtomicUsize`](crate::AtomicUsize) reads, and writes a moment later.
    TornCounter,
    /// An [`AsyncMutex`](crate::AsyncMutex) lets a second one in who only tries.
    OpenLock,
}

thread_local! {
    static CHECKING: Cell<bool> = const { Cell::new(false) };
    static FLAW: Cell<Option<Flaw>> = const { Cell::new(None) };
}

pub(crate) fn is_checking() -> bool {
    CHECKING.get()
}

pub(crate) fn has(flaw: Flaw) -> bool {
    is_checking() && FLAW.get() == Some(flaw)
}

/// Plays a scene under so many schedules: half of them drawn step by step, half with priorities that change now and then.
///
/// # Panics
/// Where the scene does under one of them, or where nobody in it can go on.
pub fn check<F: Future<Output = ()> + 'static>(
    schedules: usize,
    scene: impl Fn() -> F + Clone + Send + Sync + 'static,
) {
    let (random, priorities) = (schedules.div_ceil(2), schedules / 2);
    play(RandomScheduler::new_from_seed(SEED, random), scene.clone());
    if priorities > 0 {
        play(PctScheduler::new_from_seed(SEED, DEPTH, priorities), scene);
    }
}

/// Fails where no schedule shows what is wrong with a scene.
///
/// # Panics
/// Where the scene holds under each of so many schedules.
pub fn catches<F: Future<Output = ()> + 'static>(
    schedules: usize,
    scene: impl Fn() -> F + Clone + Send + Sync + 'static,
) {
    let played = catch_unwind(AssertUnwindSafe(|| check(schedules, scene)));
    assert!(played.is_err(), "what is broken was not caught in {schedules} schedules");
}

/// As [`catches`], for a scene that holds but for this flaw.
///
/// # Panics
/// Where the scene holds with the flaw under each of so many schedules.
pub fn catches_flaw<F: Future<Output = ()> + 'static>(
    flaw: Flaw,
    schedules: usize,
    scene: impl Fn() -> F + Clone + Send + Sync + 'static,
) {
    let _flaw = Set::flaw(Some(flaw));
    catches(schedules, scene);
}

/// What is set for the length of a check.
enum Set {
    Checking(bool),
    Flaw(Option<Flaw>),
}

impl Set {
    fn checking() -> Self {
        Self::Checking(CHECKING.replace(true))
    }

    fn flaw(flaw: Option<Flaw>) -> Self {
        Self::Flaw(FLAW.replace(flaw))
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        match *self {
            Self::Checking(before) => CHECKING.set(before),
            Self::Flaw(before) => FLAW.set(before),
        }
    }
}

fn play<F: Future<Output = ()> + 'static>(
    scheduler: impl shuttle::scheduler::Scheduler + 'static,
    scene: impl Fn() -> F + Send + Sync + 'static,
) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS);
    config.failure_persistence = FailurePersistence::Print;
    // Nobody drives it, so its clock stands still.
    let still = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let still = still.unwrap_or_else(|error| unreachable!("a runtime without a driver of its own: {error}"));
    // Kept for ever: a scene that fails leaves sleepers behind, and nobody is there to be woken by its end.
    let still = std::mem::ManuallyDrop::new(still);
    let _entered = still.enter();
    let _checking = Set::checking();
    // All threads of a schedule are on this one, so what is set for it holds for all.
    Runner::new(scheduler, config).run(move || shuttle::future::block_on(scene()));
}

/// Another thread may go on here.
pub fn point() {
    if is_checking() && !std::thread::panicking() {
        shuttle::thread::yield_now();
    }
}

/// A point at which a future may be dropped as well.
pub async fn pause() {
    let mut is_first = true;
    poll_fn(|context| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Starts a task on a thread of its own.
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Joined<T> {
    shuttle::future::spawn(task)
}

/// Starts a thread.
pub fn thread(work: impl FnOnce() + Send + 'static) -> Thread {
    shuttle::thread::spawn(work)
}

/// A number below this one, another in each schedule.
#[must_use]
pub fn drawn(below: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..below)
}

/// Polls a future so often at most, and drops it where it is then; `None` where it was dropped.
pub async fn dropped_somewhere<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut left = drawn(polls + 1);
    let mut future = pin!(future);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = future.as_mut().poll(context).map(Some);
        if polled.is_pending() && left == 0 {
            // Not dropped in the very poll: others go on before.
            context.waker().wake_by_ref();
        }
        polled
    })
    .await
}

/// Waits until it is so, looking again whenever another thread had its turn: for what nobody tells.
pub async fn ever(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        pause().await;
    }
}
