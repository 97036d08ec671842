//! Runs one attempt: from the record's first word to the seal in every store.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use crate::cap::off_thread;
use crate::stopping::{asked_before, store_limit, stores_may, within};
use crate::{
    Cap, Cause, DEFAULT_BEAT, Event, Exit, ExitClassification, ExitTable, FanOut, FanOutRun, FinishReport,
    Finished, Handler, Masker, Result, RunContext, RunKey, RunOutput, RunRecord, Stop, StopState, Timestamp,
    Verdict,
};

/// How long a Rust handler that was asked to stop may go on before it is dropped; a command has its own grace first.
pub const DEFAULT_STOP_LIMIT: Duration = Duration::from_secs(60);

/// How long a handler that is to be cut may take to clean up before it is dropped.
const CUT_LIMIT: Duration = Duration::from_secs(10);

/// How long a store may take to begin a run that is to stop, whose handler has not been called: what it began is to be
/// ended there as well.
const BEGIN_LIMIT: Duration = Duration::from_secs(3);

/// How attempts are run: the same for all runs of a worker.
#[derive(Clone)]
#[non_exhaustive]
pub struct Execution {
    /// Who runs: unique among the living.
    pub owner: String,
    /// What is masked.
    pub masker: Arc<Masker>,
    /// What an exit means.
    pub classification: Arc<dyn ExitClassification>,
    /// How often a sign of life is given.
    pub beat: Duration,
    /// How long after a stop the handler is dropped.
    pub stop_limit: Duration,
    /// Free texts for every record.
    pub metadata: BTreeMap<String, String>,
    /// How much of a run's output is kept; all of it where there is none.
    pub max_output: Option<Cap>,
    /// Longest time that the work of an attempt may take; any where there is none.
    pub timeout: Option<Duration>,
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// An attempt that has ended; its record is in every required store.
#[derive(Debug)]
#[non_exhaustive]
pub struct Executed {
    /// The record and what became of the lines in each sink.
    pub report: FinishReport,
    /// How it ended.
    pub exit: Exit,
    /// What that means.
    pub verdict: Verdict,
    /// Values for the next stage.
    pub values: BTreeMap<String, String>,
    /// The run's way to the sinks, for a last word once its outcome is final.
    pub sinks: FanOutRun,
}

/// An attempt whose work has ended, and whose output is on its way into the stores.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// What that means.
    pub verdict: Verdict,
    /// Values for the next stage.
    pub values: BTreeMap<String, String>,
    at: Timestamp,
    beat: Duration,
    /// When the next sign of life is due.
    beat_at: Instant,
    record: RunRecord,
    output: RunOutput,
    sinks: FanOutRun,
}

impl Ended {
    /// Returns once every required sink has the output and the record; until then it gives signs of life.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) where the sinks were given up: a required store lacks the end.
    ///
    /// # Cancel safety
    /// Dropped, the run is left without an end: readers will judge it lost.
    pub async fn sealed(mut self, finality: Finality) -> Result<Executed> {
        let (output, sinks) = (self.output.clone(), self.sinks.clone());
        let mut held = None;
        if let Some(mut tail) = self.alive(output.tail()).await {
            held = tail.file();
            if let Some(gap) = tail.gap() {
                // Before the lines behind it: whoever follows is told of it in its place.
                self.record.gaps.push(gap.clone());
                self.beat();
            }
            while let Some((rest, lost)) = self.alive(output.give_next(tail)).await {
                tail = rest;
                self.record.gaps.extend(lost);
            }
        }
        self.alive(sinks.drained()).await;
        self.record.complete(&self.exit, self.verdict, &output.seal());
        self.record.finished_at = Some(self.at.max(self.record.started_at));
        if finality == Finality::Final {
            self.record.conclude();
        }
        #[cfg(feature = "fault-points")]
        crate::fault::point("run.seal");
        let report = self.sinks.finish(self.record).await?;
        if let Some(held) = held {
            // Only now: before this, another process would bring it where this one dies.
            off_thread(move || held.remove()).await;
        }
        Ok(Executed {
            report,
            exit: self.exit,
            verdict: self.verdict,
            values: self.values,
            sinks: self.sinks,
        })
    }

    /// Waits for a part of the end, with signs of life.
    async fn alive<T>(&mut self, part: impl Future<Output = T>) -> T {
        let mut part = pin!(part);
        loop {
            tokio::select! {
                biased;
                done = &mut part => return done,
                () = tokio::time::sleep_until(self.beat_at) => self.beat(),
            }
        }
    }

    fn beat(&mut self) {
        self.beat_at = Instant::now() + self.beat;
        self.record.beat(self.output.counts());
        self.sinks.update(&self.record);
    }
}

/// Whether the attempt's outcome is known to be the conclusion when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// No other attempt will follow, whatever the outcome.
    Final,
    /// The broker decides about it after the seal.
    Undecided,
}

impl Execution {
    /// With the default rules, nothing to mask, and an owner name of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            owner: crate::EventId::generate().to_string(),
            masker: Arc::default(),
            classification: Arc::new(ExitTable::default()),
            beat: DEFAULT_BEAT,
            stop_limit: DEFAULT_STOP_LIMIT,
            metadata: BTreeMap::new(),
            max_output: None,
            timeout: None,
        }
    }

    /// With secrets to mask.
    #[must_use]
    pub fn with_masker(mut self, masker: Masker) -> Self {
        self.masker = Arc::new(masker);
        self
    }

    /// With another meaning of exits.
    #[must_use]
    pub fn with_classification(mut self, classification: Arc<dyn ExitClassification>) -> Self {
        self.classification = classification;
        self
    }

    /// With free texts for every record.
    #[must_use]
    pub fn with_metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// With a limit on each run's output.
    #[must_use]
    pub fn with_max_output(mut self, cap: Cap) -> Self {
        self.max_output = Some(cap);
        self
    }

    /// With a longest time for the work of each attempt, from when its handler is called: then that is asked to stop, with the
    /// cause [`WallTimeout`](Cause::WallTimeout). A command may have one of its own beside.
    #[must_use]
    pub const fn with_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// With another interval between signs of life, at least 10 ms.
    #[must_use]
    pub fn with_beat(mut self, beat: Duration) -> Self {
        self.beat = beat.max(Duration::from_millis(10));
        self
    }

    /// With another time after which a handler that was asked to stop is dropped.
    #[must_use]
    pub const fn with_stop_limit(mut self, limit: Duration) -> Self {
        self.stop_limit = limit;
        self
    }

    /// Runs one attempt. Returns once every required sink has its output and its record.
    ///
    /// # Errors
    /// As [`work`](Self::work) and [`Ended::sealed`].
    ///
    /// # Cancel safety
    /// Dropped, the work is cut and the run is left without an end: readers will judge it lost.
    pub async fn run(
        &self,
        fan_out: &FanOut,
        handler: &dyn Handler,
        event: Arc<Event>,
        key: RunKey,
        stop: Stop,
        finality: Finality,
    ) -> Result<Executed> {
        self.work(fan_out, handler, event, key, stop, finality).await?.sealed(finality).await
    }

    /// Runs one attempt to the end of its work. Of what it printed, required stores may still lack some.
    ///
    /// # Errors
    /// Then nothing was run: where a required sink refuses for good a run that is [`Final`](Finality::Final), while an
    /// event is worked at without it and its record says that output is missing;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) where it was to stop while one was out of reach;
    /// [`Closed`](crate::ErrorKind::Closed) where the sinks were given up.
    ///
    /// # Cancel safety
    /// Dropped, the work is cut and the run is left without an end: readers will judge it lost.
    pub async fn work(
        &self,
        fan_out: &FanOut,
        handler: &dyn Handler,
        event: Arc<Event>,
        key: RunKey,
        stop: Stop,
        finality: Finality,
    ) -> Result<Ended> {
        let mut record = self.record(key.clone(), handler);
        record.is_final = finality == Finality::Final;
        let mut stopped = stop.clone();
        let begin = async {
            match finality {
                Finality::Final => fan_out.begin(&record).await,
                // The event must not be held by a store that will never take it.
                Finality::Undecided => fan_out.begin_where_taken(&record).await,
            }
        };
        let too_late = store_limit(stopped.requested(), BEGIN_LIMIT);
        let why = "stopped before it was started: a required store did not take the run";
        let sinks = stores_may(pin!(begin), too_late, why).await?;
        #[cfg(feature = "fault-points")]
        crate::fault::point("run.recorded");
        let output = {
            let cap = self.max_output.as_ref().map(|cap| (cap, &key));
            RunOutput::with_cap(Arc::clone(&self.masker), sinks.clone(), cap)
        };
        let (stop, within) = within(self.timeout, stop);
        let context = RunContext::new(event, key, output.clone(), stop.clone());
        let finished = {
            let work = AssertUnwindSafe(handler.run(context)).catch_unwind();
            tokio::select! {
                biased;
                // Asked to stop while a store was away: nothing has to be started for that.
                cause = asked_before(stopped) => Exit::stopped(cause).into(),
                finished = work => finished.unwrap_or_else(|panic| panicked(&*panic)),
                finished = self.stopped(stop, &sinks) => finished,
                () = beats(self.beat, &mut record, &output, &sinks) => Exit::stopped(Cause::Shutdown).into(),
                () = output.drive() => Exit::stopped(Cause::Shutdown).into(),
                () = within => Exit::stopped(Cause::Shutdown).into(),
            }
        };
        #[cfg(feature = "fault-points")]
        crate::fault::point("run.ended");
        let Finished { mut exit, values } = finished;
        exit.detail = exit.detail.map(|detail| output.mask(&detail));
        output.close();
        let verdict = self.classification.classify(&exit);
        output.take_notes().into_iter().for_each(|note| record.add_note(note));
        let (at, beat, beat_at) = (Timestamp::now(), self.beat, Instant::now() + self.beat);
        Ok(Ended { exit, verdict, values, at, beat, beat_at, record, output, sinks })
    }

    fn record(&self, key: RunKey, handler: &dyn Handler) -> RunRecord {
        let mut record = RunRecord::begun(key, self.owner.clone());
        record.command = handler.command().iter().map(|word| self.masker.mask_text(word)).collect();
        record.beat_every_ms = u64::try_from(self.beat.as_millis()).unwrap_or(u64::MAX);
        let masked = |text: &String| self.masker.mask_text(text);
        record.metadata = self.metadata.iter().map(|(name, value)| (masked(name), masked(value))).collect();
        record
    }

    /// Returns when a handler that was asked to stop has had its time.
    async fn stopped(&self, mut stop: Stop, sinks: &FanOutRun) -> Finished {
        let cause = stop.requested().await;
        // A store that is behind must not keep a stopped command from ending.
        sinks.unblock();
        let mut cut = stop.clone();
        let mut limit = pin!(tokio::time::sleep(self.stop_limit));
        if !matches!(stop.state(), StopState::Cut(_)) {
            tokio::select! {
                () = &mut limit => return not_ended(cause),
                _ = cut.cut() => {}
            }
        }
        tokio::time::sleep(CUT_LIMIT).await;
        not_ended(cause)
    }
}

/// Signs of life, until it is dropped; one at once where lines begin to be held back, for that is to be seen.
async fn beats(every: Duration, record: &mut RunRecord, output: &RunOutput, sinks: &FanOutRun) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = output.held_back() => {}
        }
        output.take_notes().into_iter().for_each(|note| record.add_note(note));
        record.beat(output.counts());
        sinks.update(record);
    }
}

impl Default for Execution {
    fn default() -> Self {
        Self::new()
    }
}

fn not_ended(cause: Cause) -> Finished {
    Exit::stopped(cause).with_detail("it did not end when it was asked to and was dropped").into()
}

fn panicked(panic: &(dyn Any + Send)) -> Finished {
    // What `panic!` gives, without and with arguments.
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let detail = text
        .map_or_else(|| "the handler panicked".to_owned(), |text| format!("the handler panicked: {text}"));
    // The code with which a Rust program ends after a panic.
    Exit::code(101).with_detail(detail).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Execution, Finality};
    use crate::{
        ActionId, Cause, Event, EventType, Exit, FanOut, Finished, Handler, Lines, Masker, MemoryStore,
        Outcome, OutputReader, RunContext, RunKey, SinkConfig, Stage, Stop, handler_fn, verify,
    };

    async fn run(
        execution: &Execution,
        store: &MemoryStore,
        handler: &dyn Handler,
        stop: Stop,
    ) -> super::Executed {
        let fan_out = FanOut::new(vec![SinkConfig::required("memory", Arc::new(store.clone()))]);
        let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
        let key = RunKey::new(event.action_id.clone(), Stage::new("s").unwrap(), event.id.clone(), 1);
        execution.run(&fan_out, handler, Arc::new(event), key, stop, Finality::Final).await.unwrap()
    }

    async fn prints(context: RunContext) -> Finished {
        context.output.line("token S3cr3t").await.unwrap();
        context.output.note("seen", "S3cr3t");
        Exit::code(42).with_detail("left because of S3cr3t").into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_sealed_final_and_without_secrets() {
        let store = MemoryStore::new();
        let execution = Execution::new().with_masker(Masker::new(["S3cr3t".to_owned()]));
        let (_stopper, stop) = Stop::pair();
        let done = run(&execution, &store, &handler_fn(prints), stop).await;
        let record = store.lines(&done.report.record.key.run_id, Lines::ALL).await.unwrap().record;
        assert_eq!(record, done.report.record);
        assert_eq!(
            (record.outcome, record.is_final, record.continues),
            (Some(Outcome::Escaped), true, Some(true))
        );
        let json = String::from_utf8(record.to_json().unwrap()).unwrap();
        assert!(!json.contains("S3cr3t") && json.contains("left because of ***"), "{json}");
        assert!(verify(&store, &record.key.run_id).await.unwrap().agrees());
    }

    #[tokio::test]
    async fn a_note_keeps_the_time_at_which_it_was_made() {
        let store = MemoryStore::new();
        let (_stopper, stop) = Stop::pair();
        let notes_first = handler_fn(|context: RunContext| async move {
            context.output.note("early", "before the line");
            let noted = crate::Timestamp::now();
            while crate::Timestamp::now() <= noted {
                tokio::task::yield_now().await;
            }
            context.output.line("printed later").await.unwrap();
            Exit::code(0).into()
        });
        let done = run(&Execution::new(), &store, &notes_first, stop).await;
        let id = &done.report.record.key.run_id;
        let output = store.lines(id, Lines::ALL).await.unwrap();
        let items: Vec<_> = futures::StreamExt::collect(output.items).await;
        let Some(Ok(crate::OutputItem::Lines(printed))) = items.first() else { panic!("{items:?}") };
        assert!(output.record.notes[0].time < printed.time(), "{:?}", output.record.notes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_ignores_its_stop_is_dropped_and_a_panic_is_a_failure() {
        let store = MemoryStore::new();
        let (stopper, stop) = Stop::pair();
        let never = handler_fn(move |_| {
            stopper.stop(Cause::Cancelled);
            std::future::pending::<Finished>()
        });
        let done = run(&Execution::new(), &store, &never, stop).await;
        assert_eq!((done.exit.cause, done.verdict.outcome), (Cause::Cancelled, Outcome::Interrupted));
        let panics = handler_fn(|_| async { panic!("no") });
        let (_stopper, stop) = Stop::pair();
        let done = run(&Execution::new(), &store, &panics, stop).await;
        assert_eq!((done.exit.code, done.verdict.outcome), (Some(101), Outcome::Failed));
    }

    #[tokio::test(start_paused = true)]
    async fn any_handler_has_its_time_and_what_stops_the_run_is_passed_on() {
        let obeys = handler_fn(|mut context: RunContext| async move {
            Exit::stopped(context.stop.requested().await).into()
        });
        let limited = Execution::new().with_timeout(Duration::from_secs(600));
        let store = MemoryStore::new();
        let (_stopper, stop) = Stop::pair();
        let began = tokio::time::Instant::now();
        let done = run(&limited, &store, &obeys, stop).await;
        assert_eq!((done.exit.cause, done.verdict.outcome), (Cause::WallTimeout, Outcome::TimedOut));
        assert_eq!(began.elapsed().as_secs(), 600);

        let (stopper, stop) = Stop::pair();
        let stops = handler_fn(move |mut context: RunContext| {
            stopper.stop(Cause::Cancelled);
            async move { Exit::stopped(context.stop.requested().await).into() }
        });
        assert_eq!(run(&limited, &store, &stops, stop).await.exit.cause, Cause::Cancelled);

        // Neither its own time nor a stop ends it; a cut does, and the first cause stands.
        let (stopper, stop) = Stop::pair();
        let began = tokio::time::Instant::now();
        let cuts = async {
            tokio::time::sleep(Duration::from_secs(610)).await;
            stopper.cut(Cause::Shutdown);
        };
        let ignores =
            handler_fn(
                |mut context: RunContext| async move { Exit::stopped(context.stop.cut().await).into() },
            );
        let (done, ()) = tokio::join!(run(&limited, &store, &ignores, stop), cuts);
        assert_eq!((done.exit.cause, began.elapsed().as_secs()), (Cause::WallTimeout, 610));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_run_gives_signs_of_life() {
        let store = MemoryStore::new();
        let (_stopper, stop) = Stop::pair();
        let seen = store.clone();
        let long = handler_fn(move |context: RunContext| {
            let store = seen.clone();
            async move {
                context.output.line("one").await.unwrap();
                tokio::time::sleep(Duration::from_secs(25)).await;
                let record = store.lines(&context.key.run_id, Lines::ALL).await.unwrap().record;
                assert_eq!((record.revision, record.counts.lines), (3, 1));
                Exit::code(0).into()
            }
        });
        run(&Execution::new(), &store, &long, stop).await;
    }
}
