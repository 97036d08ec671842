//! Waiting until the work of an action, or of one of its stages, has ended for good.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};

use crate::current::{current_of, current_run};
use crate::{
    ActionId, BrokerAdmin, Error, ErrorKind, EventId, GroupInfo, GroupName, Judgement, Outcome, OutputReader,
    Result, RunId, RunQuery, RunRecord, RunStatus, Scope, Stage, Timestamp,
};

/// Looks are this far apart at least: a run that prints changes all the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// A broker tells nobody of a settled delivery, and a lost run changes nothing: so it looks by itself this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to wait for.
///
/// ```
/// use std::time::Duration;
/// use pubsub_core::{ActionId, Stage, Wait};
/// let wait = Wait::new(ActionId::new("action-123")?).with_limit(Duration::from_secs(600));
/// assert_eq!(wait.stage, None, "all that the action has to do");
/// let build = wait.with_stage(Stage::new("build")?);
/// assert_eq!(build.stage, Some(Stage::new("build")?));
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// The action.
    pub action: ActionId,
    /// This stage alone; otherwise all that the action has to do.
    pub stage: Option<Stage>,
    /// The work at this event alone; otherwise at the latest.
    pub event: Option<EventId>,
    /// How long; otherwise as long as it takes.
    pub limit: Option<Duration>,
}

impl Wait {
    /// For all that an action has to do.
    #[must_use]
    pub const fn new(action: ActionId) -> Self {
        Self { action, stage: None, event: None, limit: None }
    }

    /// For one stage alone.
    #[must_use]
    pub fn with_stage(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// For the work at one event alone.
    #[must_use]
    pub fn with_event(mut self, event: EventId) -> Self {
        self.event = Some(event);
        self
    }

    /// At most so long.
    #[must_use]
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// How the work that was waited for has ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Waited {
    /// The record of the run that decides: the worst one where several stages were waited for.
    pub record: RunRecord,
    /// Completed, or lost with no delivery left that could try it again.
    pub judgement: Judgement,
    /// Groups that have something to do for the action and no members: they were not waited for.
    pub unattended: Vec<GroupName>,
}

impl Waited {
    /// The outcome; a lost run has failed.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        outcome(&self.record)
    }

    /// Whether the pipeline goes on.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.record.continues.unwrap_or(false)
    }
}

/// Waits until the work has ended for good, and says how.
///
/// With a stage, that is when no delivery of the stage is left for the action, also in groups without members: then the
/// latest attempt at its latest event decides, however it ended, and a lost one has failed. With a stage and an event,
/// a final attempt at that event is enough. Without a stage, it is when nothing of the action is waiting, delayed or leased in a
/// group with members and no run of it goes on; then the worst of the stages' current runs decides. What does not
/// exist yet is waited for, and what is out of reach for a while too, unless it is at the first look.
///
/// # Errors
/// [`TimedOut`](ErrorKind::TimedOut) after the limit, naming the groups that have something to do and no members;
/// otherwise where the store or the broker cannot be asked.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn wait(reader: &dyn OutputReader, admin: &dyn BrokerAdmin, wait: &Wait) -> Result<Waited> {
    let mut query = RunQuery::all().with_action(wait.action.clone());
    query.stage.clone_from(&wait.stage);
    query.event.clone_from(&wait.event);
    let mut waiter = Waiter { reader, admin, wait, query, unattended: Vec::new(), outage: None };
    let Some(limit) = wait.limit else { return waiter.ended().await };
    match tokio::time::timeout(limit, waiter.ended()).await {
        Ok(waited) => waited,
        Err(_) => Err(waiter.too_late(limit)),
    }
}

fn outcome(record: &RunRecord) -> Outcome {
    record.outcome.unwrap_or(Outcome::Failed)
}

struct Waiter<'a> {
    reader: &'a dyn OutputReader,
    admin: &'a dyn BrokerAdmin,
    wait: &'a Wait,
    query: RunQuery,
    /// Groups without members that had something to do when they were last asked.
    unattended: Vec<GroupName>,
    /// Why the last look failed, where it did.
    outage: Option<Error>,
}

/// What the store and the broker said at one look.
struct Look {
    /// The current run of each stage.
    current: Vec<RunRecord>,
    /// Whether a delivery is left that could still change something.
    delivery_left: bool,
}

impl Waiter<'_> {
    async fn ended(&mut self) -> Result<Waited> {
        let mut changes = match self.reader.changes(&self.query).await {
            Ok(changes) => Some(changes),
            Err(error) if error.kind() == ErrorKind::Unsupported => None,
            Err(error) => return Err(error),
        };
        let mut waited = self.decide().await?;
        let mut pause = SHORTEST_PAUSE;
        loop {
            if let Some(waited) = waited {
                return Ok(waited);
            }
            pause = match changed_within(pause, &mut changes).await {
                true => SHORTEST_PAUSE,
                false => LONGEST_PAUSE.min(pause * 2),
            };
            waited = match self.decide().await {
                Ok(waited) => {
                    self.outage = None;
                    waited
                }
                Err(error) if error.is_retryable() => {
                    if self.outage.is_none() {
                        tracing::warn!(error = %error.chain(), "wait: cannot ask just now");
                    }
                    self.outage = Some(error);
                    None
                }
                Err(error) => return Err(error),
            };
        }
    }

    async fn decide(&mut self) -> Result<Option<Waited>> {
        // What the store says for good of a named event needs no broker. Without one, a later event may wait for a
        // worker, which only the broker knows.
        if self.wait.stage.is_some()
            && self.wait.event.is_some()
            && let Some(record) = current_of(self.reader.runs(&self.query).await?)
            && record.is_final
            && record.status == RunStatus::Completed
        {
            return Ok(Some(self.answer(record)));
        }
        let first = self.look().await?;
        if !has_ended(&first) {
            return Ok(None);
        }
        // An event that was on its way from one group to the next while these were asked shows at a second look.
        let second = self.look().await?;
        if !has_ended(&second) || ids(&first) != ids(&second) {
            return Ok(None);
        }
        let worst = second
            .current
            .into_iter()
            .max_by_key(|record| (!record.continues.unwrap_or(false), outcome(record), record.started_at));
        Ok(worst.map(|record| self.answer(record)))
    }

    /// Asks the broker before the store: what it settled, a worker has written before.
    async fn look(&mut self) -> Result<Look> {
        let scope = Scope { action: Some(self.wait.action.clone()), group: None };
        let mut groups = self.admin.groups(&scope).await?;
        groups.retain(|group| !group.depth.is_idle());
        if let Some(stage) = &self.wait.stage {
            groups.retain(|group| group.stage.as_ref() == Some(stage));
        }
        let unattended = groups.iter().filter(|group| group.members == 0);
        self.unattended = unattended.map(|group| group.name.clone()).collect();
        // For a stage, a delivery that waits for a member is left all the same.
        let counts = |group: &GroupInfo| self.wait.stage.is_some() || group.members > 0;
        let delivery_left = groups.iter().any(counts);
        Ok(Look { current: self.current().await?, delivery_left })
    }

    /// The current run of each stage that is waited for.
    async fn current(&self) -> Result<Vec<RunRecord>> {
        if let (Some(stage), None) = (&self.wait.stage, &self.wait.event) {
            return Ok(current_run(self.reader, &self.wait.action, stage).await?.into_iter().collect());
        }
        let mut stages: BTreeMap<Stage, Vec<RunRecord>> = BTreeMap::new();
        for record in self.reader.runs(&self.query).await? {
            stages.entry(record.key.stage.clone()).or_default().push(record);
        }
        Ok(stages.into_values().filter_map(current_of).collect())
    }

    fn answer(&self, record: RunRecord) -> Waited {
        let judgement = record.judge(Timestamp::now());
        Waited { record, judgement, unattended: self.unattended.clone() }
    }

    fn too_late(&mut self, limit: Duration) -> Error {
        let mut error = Error::new(ErrorKind::TimedOut, "wait").with("limit", format!("{limit:?}"));
        if !self.unattended.is_empty() {
            let names: Vec<&str> = self.unattended.iter().map(GroupName::as_str).collect();
            error = error.with("groups without members", names.join(", "));
        }
        match self.outage.take() {
            Some(outage) => error.with_source(outage),
            None => error,
        }
    }
}

/// Nothing goes on and nothing is left to do; what does not exist yet has not ended.
fn has_ended(look: &Look) -> bool {
    let now = Timestamp::now();
    let goes_on = look.current.iter().any(|record| record.judge(now) == Judgement::Running);
    !look.delivery_left && !look.current.is_empty() && !goes_on
}

fn ids(look: &Look) -> Vec<(&RunId, u64)> {
    look.current.iter().map(|record| (&record.key.run_id, record.revision)).collect()
}

/// Waits for a change, or so long; says which it was.
async fn changed_within(pause: Duration, changes: &mut Option<BoxStream<'static, Result<()>>>) -> bool {
    tokio::time::sleep(SHORTEST_PAUSE).await;
    let Some(stream) = changes else {
        tokio::time::sleep(pause).await;
        return false;
    };
    match tokio::time::timeout(pause, stream.next()).await {
        Ok(Some(Ok(()))) => true,
        Ok(Some(Err(_))) => {
            // The look that follows says what is wrong.
            tokio::time::sleep(pause).await;
            false
        }
        Ok(None) => {
            *changes = None;
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::{Wait, Waited, wait};
    use crate::conformance::store::SampleRun;
    use crate::{
        ActionId, BrokerAdmin, Depth, Error, ErrorKind, Exit, ExitClassification, ExitTable, GroupInfo,
        GroupName, Judgement, MemoryStore, Outcome, OutputSink, Position, Result, RunKey, Scope, SealBuilder,
        Stage, Timestamp,
    };

    /// A broker that knows these groups, or is out of reach.
    #[derive(Default)]
    struct Groups(Mutex<Option<Vec<GroupInfo>>>);

    #[async_trait::async_trait]
    impl BrokerAdmin for Groups {
        async fn groups(&self, _: &Scope) -> Result<Vec<GroupInfo>> {
            let groups = self.0.lock().unwrap().clone();
            groups.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the broker restarts"))
        }

        async fn cancel(&self, _: &ActionId) -> Result<Position> {
            Err(Error::unsupported("cancel"))
        }

        async fn remove_group(&self, _: &GroupName) -> Result<bool> {
            Err(Error::unsupported("remove a group"))
        }
    }

    impl Groups {
        fn of(groups: impl IntoIterator<Item = GroupInfo>) -> Self {
            let this = Self::default();
            this.set(groups);
            this
        }

        fn set(&self, groups: impl IntoIterator<Item = GroupInfo>) {
            *self.0.lock().unwrap() = Some(groups.into_iter().collect());
        }
    }

    fn group(stage: &str, members: u64, waiting: u64) -> GroupInfo {
        GroupInfo {
            name: GroupName::new(format!("{stage}-group")).unwrap(),
            stage: Some(Stage::new(stage).unwrap()),
            patterns: Vec::new(),
            lease: Duration::from_secs(30),
            members,
            depth: Depth { waiting, delayed: 0, leased: 0 },
        }
    }

    fn run(stage: &str) -> SampleRun {
        SampleRun::of("action-123", stage)
    }

    async fn end(store: &MemoryStore, run: &mut SampleRun, code: i32) {
        let exit = Exit::code(code);
        run.record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        store.finish(&run.record).await.unwrap();
    }

    async fn conclude(store: &MemoryStore, run: &mut SampleRun, code: i32) {
        end(store, run, code).await;
        run.record.conclude();
        store.finish(&run.record).await.unwrap();
    }

    fn for_all() -> Wait {
        Wait::new(ActionId::new("action-123").unwrap())
    }

    fn for_stage(stage: &str) -> Wait {
        for_all().with_stage(Stage::new(stage).unwrap())
    }

    /// Whether it still waits after ten minutes.
    async fn still_waits(store: &MemoryStore, groups: &Groups, what: &Wait) -> bool {
        let limited = what.clone().with_limit(Duration::from_secs(600));
        wait(store, groups, &limited).await.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    }

    fn outcome(waited: &Waited) -> (Outcome, bool, Judgement) {
        (waited.outcome(), waited.continues(), waited.judgement)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_has_ended_when_its_latest_attempt_is_final_and_nothing_waits() {
        let (store, groups) = (MemoryStore::new(), Groups::of([group("build", 1, 1)]));
        let what = for_stage("build");
        assert!(still_waits(&store, &groups, &what).await, "nothing began yet");
        let mut first = run("build");
        first.begin(&store).await;
        assert!(still_waits(&store, &groups, &what).await, "it runs");
        end(&store, &mut first, 1).await;
        assert!(still_waits(&store, &groups, &what).await, "it is tried again");
        let mut second = run("build");
        let key = first.key().clone();
        second.record.key = RunKey::new(key.action_id, key.stage, key.event_id, 2);
        second.begin(&store).await;
        let concluding = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            conclude(&store, &mut second, 42).await;
            assert!(still_waits(&store, &groups, &what).await, "a later event waits for a worker");
            groups.set([group("build", 1, 0)]);
        };
        let (waited, ()) = futures::join!(wait(&store, &groups, &what), concluding);
        let waited = waited.unwrap();
        assert_eq!(outcome(&waited), (Outcome::Escaped, true, Judgement::Completed));
        assert_eq!(waited.record.key.attempt, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_run_with_no_delivery_left_has_failed() {
        let (store, groups) = (MemoryStore::new(), Groups::of([group("build", 0, 1), group("test", 1, 5)]));
        let mut lost = run("build");
        lost.record.beat_at = Timestamp::now().minus(Duration::from_secs(3600));
        lost.begin(&store).await;
        let limited = for_stage("build").with_limit(Duration::from_secs(5));
        let error = wait(&store, &groups, &limited).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("groups without members=build-group"), "{error}");
        groups.set([group("build", 1, 0), group("test", 1, 5)]);
        let waited = wait(&store, &groups, &for_stage("build")).await.unwrap();
        assert_eq!(outcome(&waited), (Outcome::Failed, false, Judgement::Lost));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_run_with_no_delivery_left_decides_though_nobody_made_it_final() {
        let (store, groups) = (MemoryStore::new(), Groups::of([]));
        let mut ended = run("build");
        end(&store, &mut ended, 124).await;
        let waited = wait(&store, &groups, &for_stage("build")).await.unwrap();
        assert_eq!(outcome(&waited), (Outcome::TimedOut, true, Judgement::Completed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_run_of_a_named_event_is_told_although_the_broker_is_out_of_reach() {
        let (store, groups) = (MemoryStore::new(), Groups::default());
        let mut done = run("build");
        conclude(&store, &mut done, 0).await;
        let at_event = for_stage("build").with_event(done.key().event_id.clone());
        assert_eq!(wait(&store, &groups, &at_event).await.unwrap().record, done.record);
        for what in [for_stage("build"), for_all()] {
            assert_eq!(wait(&store, &groups, &what).await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_event_can_be_waited_for() {
        let (store, groups) = (MemoryStore::new(), Groups::of([]));
        let (mut old, mut new) = (run("build"), run("build"));
        new.record.started_at = old.record.started_at.plus(Duration::from_secs(1));
        conclude(&store, &mut old, 0).await;
        conclude(&store, &mut new, 1).await;
        let waited = wait(&store, &groups, &for_stage("build")).await.unwrap();
        assert_eq!(waited.record, new.record);
        let what = for_stage("build").with_event(old.key().event_id.clone());
        assert_eq!(wait(&store, &groups, &what).await.unwrap().record, old.record);
    }

    #[tokio::test(start_paused = true)]
    async fn an_action_has_ended_when_nothing_is_left_and_its_worst_stage_decides() {
        let (store, groups) = (MemoryStore::new(), Groups::of([group("build", 1, 0)]));
        assert!(still_waits(&store, &groups, &for_all()).await, "what does not exist yet is waited for");
        let (mut build, mut test, mut lint) = (run("build"), run("test"), run("lint"));
        conclude(&store, &mut build, 0).await;
        test.begin(&store).await;
        assert!(still_waits(&store, &groups, &for_all()).await, "a run goes on, whoever runs it");
        conclude(&store, &mut test, 1).await;
        // Interrupted by itself: worse than succeeded, and yet the pipeline goes on.
        conclude(&store, &mut lint, 130).await;
        groups.set([group("build", 1, 0), group("test", 2, 1)]);
        assert!(still_waits(&store, &groups, &for_all()).await, "something waits");
        groups.set([group("build", 1, 0), group("test", 2, 0), group("old", 0, 7), group("idle", 0, 0)]);
        let waited = wait(&store, &groups, &for_all()).await.unwrap();
        assert_eq!(
            (outcome(&waited), &waited.record),
            ((Outcome::Failed, false, Judgement::Completed), &test.record)
        );
        assert_eq!(waited.unattended, [GroupName::new("old-group").unwrap()]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_unless_it_is_there_from_the_start() {
        let (store, groups) = (MemoryStore::new(), Groups::default());
        let mut build = run("build");
        build.begin(&store).await;
        let error = wait(&store, &groups, &for_stage("build")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        groups.set([]);
        let outage = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            *groups.0.lock().unwrap() = None;
            tokio::time::sleep(Duration::from_secs(50)).await;
            groups.set([]);
            conclude(&store, &mut build, 0).await;
        };
        let what = for_stage("build");
        let (waited, ()) = futures::join!(wait(&store, &groups, &what), outage);
        assert_eq!(waited.unwrap().outcome(), Outcome::Succeeded);
    }
}
