//! Following the output of a run from a line to its end.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::Instant;

use crate::{
    ActionId, Error, ErrorKind, Judgement, LineNumber, LineRange, Lines, Output, OutputItem, OutputReader,
    Result, RunId, RunQuery, RunRecord, RunStatus, Stage, Timestamp, current_run,
};

/// How long a follower waits for a change before it looks by itself: a run that was left in silence changes nothing.
const POLL: Duration = Duration::from_secs(1);

/// What to follow, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// What.
    pub target: Target,
    /// From where in the first run; each further attempt is given from its first line.
    pub from: FollowFrom,
}

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One run to its end.
    Run(RunId),
    /// The current run of an action's stage, and the attempts after it, until one is final.
    Stage(ActionId, Stage),
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowFrom {
    /// At this line.
    Line(LineNumber),
    /// At the last so many lines that are there now.
    Last(u64),
}

/// What a follower is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// A run began, or was found: what comes now is its output.
    Began(RunRecord),
    /// Lines, or the place where some are missing.
    Item(OutputItem),
    /// All lines of the run were given. It has completed, or it is lost: then its record still says running.
    Ended(RunRecord),
}

/// Gives each line once, in order, from a start to the end, across history and live output, then ends.
///
/// What does not exist yet is waited for. A run that was left in silence ends as lost; a stage goes on with the next
/// attempt where the one that ended is not final. An `Err` item whose kind is retryable comes once per outage, and
/// the stream goes on with the very next line as soon as the store is back; after any other `Err` it ends.
///
/// Bounded memory: one batch at a time, read when the follower asks for it.
///
/// ```
/// use futures::StreamExt;
/// use pubsub_core::{
///     ActionId, EventId, Follow, FollowFrom, Followed, LineNumber, MemoryStore, OutputSink, RunKey, RunRecord, Stage,
///     Target, follow,
/// };
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// store.begin(&RunRecord::begun(key.clone(), "worker-1")).await?;
/// let from = FollowFrom::Line(LineNumber::FIRST);
/// let target = Target::Run(key.run_id);
/// let mut followed = follow(std::sync::Arc::new(store), Follow { target, from });
/// assert!(matches!(followed.next().await, Some(Ok(Followed::Began(_)))));
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
///
/// # Cancel safety
/// A dropped `next()` loses nothing.
pub fn follow(reader: Arc<dyn OutputReader>, follow: Follow) -> BoxStream<'static, Result<Followed>> {
    let query = match &follow.target {
        Target::Run(run) => RunQuery::of_run(run.clone()),
        Target::Stage(action, stage) => RunQuery::of(action.clone(), stage.clone()),
    };
    let run = match &follow.target {
        Target::Run(run) => Some(run.clone()),
        Target::Stage(..) => None,
    };
    let (next, last) = match follow.from {
        FollowFrom::Line(number) => (number, None),
        FollowFrom::Last(count) => (LineNumber::FIRST, Some(count)),
    };
    let follower = Follower {
        reader,
        target: follow.target,
        query,
        changes: None,
        run,
        began: false,
        ended: None,
        next,
        last,
        still: Instant::now(),
        failing: false,
        step: Step::Look,
    };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.advance().await?;
        Some((item, follower))
    })
    .boxed()
}

struct Follower {
    reader: Arc<dyn OutputReader>,
    target: Target,
    query: RunQuery,
    /// Asked for before the first look, so that nothing falls between the two.
    changes: Option<BoxStream<'static, Result<()>>>,
    /// Which run; of a stage known once there is one.
    run: Option<RunId>,
    began: bool,
    /// The run's status when its end was told.
    ended: Option<RunStatus>,
    /// The number that comes next.
    next: LineNumber,
    /// Begin at the last so many lines; taken once they were asked for.
    last: Option<u64>,
    /// Since when no line of the run came.
    still: Instant,
    /// An outage was told already.
    failing: bool,
    step: Step,
}

enum Step {
    Look,
    Give(Box<Pass>),
    Wait,
    Over,
}

/// One reading of the store.
struct Pass {
    items: BoxStream<'static, Result<OutputItem>>,
    record: RunRecord,
    /// Lines after this number may still get others before them.
    through: Option<LineNumber>,
    /// Nothing comes after these lines.
    is_last: bool,
}

impl Follower {
    async fn advance(&mut self) -> Option<Result<Followed>> {
        loop {
            let done = match std::mem::replace(&mut self.step, Step::Over) {
                Step::Look => self.look().await,
                Step::Give(pass) => self.give(pass).await,
                Step::Wait => self.wait().await,
                Step::Over => return None,
            };
            match done {
                Ok(None) => {}
                Ok(Some(followed)) => return Some(Ok(followed)),
                Err(error) if !error.is_retryable() => {
                    self.step = Step::Over;
                    return Some(Err(error));
                }
                Err(error) => {
                    self.step = Step::Wait;
                    if !std::mem::replace(&mut self.failing, true) {
                        return Some(Err(error));
                    }
                    // Whoever is out of reach is not asked in a spin, also where its changes keep failing.
                    tokio::time::sleep(POLL).await;
                    self.step = Step::Look;
                }
            }
        }
    }

    /// Looks at the store. Sets the next step; answers what is to be told first.
    async fn look(&mut self) -> Result<Option<Followed>> {
        if self.changes.is_none() {
            self.changes = Some(self.reader.changes(&self.query).await?);
        }
        self.step = Step::Wait;
        if !self.choose_run().await? {
            return Ok(None);
        }
        let Some(run) = &self.run else { return Ok(None) };
        let asked = self.last.map_or(Lines::From(self.next), Lines::Last);
        let output = match self.reader.lines(run, asked).await {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.began => return Ok(None),
            output => output?,
        };
        self.failing = false;
        let pass = self.pass(output).await?;
        let record = (!self.began).then(|| pass.record.clone());
        self.began = true;
        self.step = Step::Give(Box::new(pass));
        Ok(record.map(Followed::Began))
    }

    /// Says whether there is a run to look at, and which.
    async fn choose_run(&mut self) -> Result<bool> {
        let Target::Stage(action, stage) = &self.target else { return Ok(true) };
        if self.run.is_some() && self.ended.is_none() {
            return Ok(true);
        }
        let Some(current) = current_run(&*self.reader, action, stage).await? else { return Ok(false) };
        self.failing = false;
        if self.run.as_ref() != Some(&current.key.run_id) {
            if self.run.replace(current.key.run_id).is_some() {
                (self.next, self.last) = (LineNumber::FIRST, None);
            }
            (self.began, self.ended, self.still) = (false, None, Instant::now());
            return Ok(true);
        }
        if self.ended == Some(RunStatus::Completed) {
            if current.is_final {
                self.step = Step::Over;
            }
            return Ok(false);
        }
        // It was lost, and any later record overrules that.
        let back = current.judge(Timestamp::now()) != Judgement::Lost;
        if back {
            self.ended = None;
        }
        Ok(back)
    }

    async fn pass(&mut self, output: Output) -> Result<Pass> {
        let record = output.record;
        let is_last = match record.judge(Timestamp::now()) {
            Judgement::Completed | Judgement::Lost => true,
            // The other attempt's changes wake this follower as well.
            Judgement::Running => self.still.elapsed() >= POLL && self.has_successor(&record).await?,
        };
        let through = if is_last { Some(LineNumber::MAX) } else { LineNumber::new(output.complete_through) };
        Ok(Pass { items: output.items, record, through, is_last })
    }

    /// Whether a later attempt at the same event began: then this one is over, whatever its record says.
    async fn has_successor(&mut self, record: &RunRecord) -> Result<bool> {
        if matches!(self.target, Target::Run(_)) {
            return Ok(false);
        }
        let query = self.query.clone().with_event(record.key.event_id.clone());
        Ok(self.reader.runs(&query).await?.iter().any(|run| run.key.attempt > record.key.attempt))
    }

    async fn give(&mut self, mut pass: Box<Pass>) -> Result<Option<Followed>> {
        while let Some(item) = pass.items.next().await {
            let item = item?;
            if self.last.take().is_some() {
                self.next = item.range().first;
            }
            let wanted = pass.through.map(|through| LineRange::new(self.next, through));
            if let Some(item) = wanted.and_then(|wanted| item.slice(wanted)) {
                (self.next, self.still) = (item.range().last.plus(1), Instant::now());
                self.step = Step::Give(pass);
                return Ok(Some(Followed::Item(item)));
            }
        }
        if self.last.take().is_some()
            && let Some(through) = pass.through.filter(|_| !pass.is_last)
        {
            // None of the lines so far is wanted.
            self.next = through.plus(1);
        }
        if !pass.is_last {
            self.step = Step::Wait;
            return Ok(None);
        }
        self.ended = Some(pass.record.status);
        let goes_on = matches!(self.target, Target::Stage(..)) && !pass.record.is_final;
        self.step = if goes_on { Step::Look } else { Step::Over };
        Ok(Some(Followed::Ended(pass.record)))
    }

    async fn wait(&mut self) -> Result<Option<Followed>> {
        if let Some(changes) = &mut self.changes
            && let Ok(change) = tokio::time::timeout(POLL, changes.next()).await
        {
            change.unwrap_or_else(|| Err(Error::new(ErrorKind::Closed, "follow: the store was closed")))?;
        }
        self.step = Step::Look;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures::StreamExt as _;
    use futures::stream::BoxStream;
    use tokio::time::Instant;

    use super::{Follow, FollowFrom, Followed, Target, follow};
    use crate::conformance::store::{SampleRun, at, lines, shape};
    use crate::{
        ErrorKind, Hit, Lines, MemoryStore, Output, OutputReader, OutputSink, Result, Retention, RunId,
        RunKey, RunQuery, RunRecord, Search, Timestamp,
    };

    const FIRST: FollowFrom = FollowFrom::Line(crate::LineNumber::FIRST);

    fn of_run(
        store: &MemoryStore,
        run: &SampleRun,
        from: FollowFrom,
    ) -> BoxStream<'static, Result<Followed>> {
        follow(Arc::new(store.clone()), Follow { target: Target::Run(run.id().clone()), from })
    }

    fn of_stage(store: &MemoryStore, key: &RunKey) -> BoxStream<'static, Result<Followed>> {
        let target = Target::Stage(key.action_id.clone(), key.stage.clone());
        follow(Arc::new(store.clone()), Follow { target, from: FIRST })
    }

    /// What the follower is given next, in short: `began 1`, `1-3`, `ended 1`, an error's kind, or `over`.
    async fn next(followed: &mut BoxStream<'static, Result<Followed>>) -> String {
        let next = tokio::time::timeout(Duration::from_secs(60), followed.next()).await;
        match next.expect("the follower hangs") {
            None => "over".to_owned(),
            Some(Err(error)) => error.kind().as_str().to_owned(),
            Some(Ok(Followed::Began(record))) => format!("began {}", record.key.attempt),
            Some(Ok(Followed::Ended(record))) => format!("ended {}", record.key.attempt),
            Some(Ok(Followed::Item(item))) => shape(&[item]),
        }
    }

    async fn all(mut followed: BoxStream<'static, Result<Followed>>) -> String {
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != "over") {
            told.push(next(&mut followed).await);
        }
        told.join(", ")
    }

    fn attempt_after(run: &SampleRun) -> SampleRun {
        let mut next = SampleRun::new();
        let key = run.key().clone();
        next.record.key = RunKey::new(key.action_id, key.stage, key.event_id, key.attempt + 1);
        next
    }

    #[tokio::test]
    async fn a_start_is_a_number_or_the_last_lines_that_are_there() {
        let store = MemoryStore::new();
        let run = SampleRun::written(&store, &[lines(1, ["a", "b", "c"]), lines(4, ["d", "e"])]).await;
        for (from, expected) in [
            (FIRST, "1-3, 4-5, "),
            (FollowFrom::Line(at(3)), "3-3, 4-5, "),
            (FollowFrom::Line(at(6)), ""),
            (FollowFrom::Last(1), "5-5, "),
            (FollowFrom::Last(4), "2-3, 4-5, "),
            (FollowFrom::Last(0), ""),
            (FollowFrom::Last(99), "1-3, 4-5, "),
        ] {
            let expected = format!("began 1, {expected}ended 1, over");
            assert_eq!(all(of_run(&store, &run, from)).await, expected, "{from:?}");
        }
    }

    #[tokio::test]
    async fn the_last_lines_of_a_running_run_go_on_with_the_new_ones() {
        let store = MemoryStore::new();
        let mut run = SampleRun::new();
        run.begin(&store).await;
        run.append(&store, &[lines(1, ["a", "b", "c"])]).await;
        let (mut none, mut one) =
            (of_run(&store, &run, FollowFrom::Last(0)), of_run(&store, &run, FollowFrom::Last(1)));
        assert_eq!(next(&mut none).await, "began 1");
        assert_eq!(next(&mut one).await, "began 1");
        assert_eq!(next(&mut one).await, "3-3");
        run.append(&store, &[lines(4, ["d"])]).await;
        assert_eq!(next(&mut one).await, "4-4");
        run.finish(&store).await;
        assert_eq!(all(one).await, "ended 1, over");
        assert_eq!(all(none).await, "4-4, ended 1, over");
    }

    #[tokio::test]
    async fn lines_wait_for_those_before_them_unless_these_never_come() {
        let store = MemoryStore::new();
        let mut run = SampleRun::new();
        run.begin(&store).await;
        run.append(&store, &[lines(1, ["a"]), lines(3, ["c"])]).await;
        let mut followed = of_run(&store, &run, FIRST);
        assert_eq!(next(&mut followed).await, "began 1");
        assert_eq!(next(&mut followed).await, "1-1");
        run.append(&store, &[lines(2, ["b"]), lines(5, ["e"])]).await;
        assert_eq!(next(&mut followed).await, "2-2");
        assert_eq!(next(&mut followed).await, "3-3");
        run.finish(&store).await;
        assert_eq!(next(&mut followed).await, "gap 4-4 not stored here");
        assert_eq!(all(followed).await, "5-5, ended 1, over");
    }

    #[tokio::test]
    async fn a_run_that_is_not_there_yet_is_waited_for_and_a_removed_one_is_not() {
        let store = MemoryStore::new();
        let run = SampleRun::new();
        let (mut by_run, mut by_stage) = (of_run(&store, &run, FIRST), of_stage(&store, run.key()));
        assert!(futures::poll!(by_run.next()).is_pending() && futures::poll!(by_stage.next()).is_pending());
        run.begin(&store).await;
        for followed in [&mut by_run, &mut by_stage] {
            assert_eq!(next(followed).await, "began 1");
        }
        store.remove(run.id()).await.unwrap();
        assert_eq!(all(by_run).await, "not_found, over");
        assert_eq!(all(by_stage).await, "not_found, over");
    }

    #[tokio::test]
    async fn a_stage_goes_on_with_the_next_attempt_until_one_is_final() {
        let store = MemoryStore::new();
        let mut first = SampleRun::new();
        let mut second = attempt_after(&first);
        let mut followed = of_stage(&store, first.key());
        first.begin(&store).await;
        first.append(&store, &[lines(1, ["a", "b"])]).await;
        assert_eq!(next(&mut followed).await, "began 1");
        first.finish(&store).await;
        assert_eq!(next(&mut followed).await, "1-2");
        assert_eq!(next(&mut followed).await, "ended 1");
        assert!(futures::poll!(followed.next()).is_pending());
        second.begin(&store).await;
        second.append(&store, &[lines(1, ["c"])]).await;
        assert_eq!(next(&mut followed).await, "began 2");
        assert_eq!(next(&mut followed).await, "1-1");
        second.finish(&store).await;
        assert_eq!(next(&mut followed).await, "ended 2");
        second.record.conclude();
        store.finish(&second.record).await.unwrap();
        assert_eq!(next(&mut followed).await, "over");
    }

    fn silent_for(run: &mut SampleRun, silence: Duration) {
        run.record.revision += 1;
        run.record.beat_at = Timestamp::now().minus(silence);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_left_in_silence_ends_as_lost_and_a_later_record_overrules_that() {
        let store = MemoryStore::new();
        let mut run = SampleRun::new();
        run.begin(&store).await;
        run.append(&store, &[lines(1, ["a"]), lines(3, ["c"])]).await;
        let (mut by_run, mut by_stage) = (of_run(&store, &run, FIRST), of_stage(&store, run.key()));
        for followed in [&mut by_run, &mut by_stage] {
            assert_eq!(next(followed).await, "began 1");
            assert_eq!(next(followed).await, "1-1");
        }
        silent_for(&mut run, Duration::from_secs(3600));
        run.begin(&store).await;
        let rest = "gap 2-2 not stored yet";
        assert_eq!(all(by_run).await, format!("{rest}, 3-3, ended 1, over"));
        for expected in [rest, "3-3", "ended 1"] {
            assert_eq!(next(&mut by_stage).await, expected);
        }
        run.append(&store, &[lines(4, ["d"])]).await;
        run.finish(&store).await;
        for expected in ["4-4", "ended 1"] {
            assert_eq!(next(&mut by_stage).await, expected);
        }
        run.record.conclude();
        store.finish(&run.record).await.unwrap();
        assert_eq!(next(&mut by_stage).await, "over");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_with_a_successor_is_over_before_it_counts_as_lost() {
        let store = MemoryStore::new();
        let mut first = SampleRun::new();
        first.begin(&store).await;
        first.append(&store, &[lines(1, ["a"])]).await;
        let mut followed = of_stage(&store, first.key());
        assert_eq!(next(&mut followed).await, "began 1");
        let mut second = attempt_after(&first);
        second.begin(&store).await;
        let begun = Instant::now();
        // Which prints all the time.
        let printing = async {
            for n in 1..200 {
                second.append(&store, &[lines(n, ["b"])]).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let following = async {
            for expected in ["1-1", "ended 1", "began 2"] {
                assert_eq!(next(&mut followed).await, expected);
            }
        };
        tokio::select! {
            () = printing => panic!("the second attempt is not followed while it prints"),
            () = following => {}
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }

    /// Out of reach while told so.
    struct Flaky(MemoryStore, Arc<AtomicBool>);

    impl Flaky {
        fn check(&self) -> Result<()> {
            if self.1.load(Ordering::SeqCst) {
                return Err(crate::Error::new(ErrorKind::Unavailable, "the store restarts"));
            }
            Ok(())
        }
    }

    #[async_trait::async_trait]
    impl OutputReader for Flaky {
        async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
            self.check()?;
            self.0.runs(query).await
        }

        async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
            self.check()?;
            self.0.lines(run, lines).await
        }

        async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
            self.check()?;
            self.0.search(query, search).await
        }

        async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
            self.check()?;
            self.0.changes(query).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_and_no_line_is_lost_or_doubled() {
        let (store, down) = (MemoryStore::new(), Arc::new(AtomicBool::new(true)));
        let mut run = SampleRun::new();
        run.begin(&store).await;
        let target = Target::Run(run.id().clone());
        let mut followed =
            follow(Arc::new(Flaky(store.clone(), Arc::clone(&down))), Follow { target, from: FIRST });
        assert_eq!(next(&mut followed).await, "unavailable");
        let silent = tokio::time::timeout(Duration::from_secs(600), followed.next()).await;
        assert!(silent.is_err(), "told once: {silent:?}");
        down.store(false, Ordering::SeqCst);
        run.append(&store, &[lines(1, ["a"])]).await;
        assert_eq!(next(&mut followed).await, "began 1");
        assert_eq!(next(&mut followed).await, "1-1");
        down.store(true, Ordering::SeqCst);
        run.append(&store, &[lines(2, ["b"])]).await;
        assert_eq!(next(&mut followed).await, "unavailable");
        run.append(&store, &[lines(3, ["c"])]).await;
        run.finish(&store).await;
        down.store(false, Ordering::SeqCst);
        assert_eq!(all(followed).await, "2-2, 3-3, ended 1, over");
    }
}
