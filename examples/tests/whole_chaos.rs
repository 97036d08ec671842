//! The whole pipeline, on engines that are killed and started again in turn while actions run: each ends as it should, its
//! stages run in their order, and all stores have the same.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pubsub_pipeline::{
    ActionId, Backend, Cause, Command, Event, EventType, Outcome, OutputReader as _, Pipeline,
    PipelineConfig, Place, Retry, RunQuery, RunRecord, Scope, Stage, Stop, Stopper, verify, verify_against,
};
use services::{Data, Mongo, MongoOptions, OpenSearch, Persistence, Redis, RedisOptions, S3, SearchEngine};
use tokio::task::JoinSet;

/// How long an engine is away.
const AWAY: Duration = Duration::from_secs(2);

/// How long all are there between two troubles.
const CALM: Duration = Duration::from_secs(2);

/// How long everything may take once the last engine is back.
const LIMIT: Duration = Duration::from_secs(300);

/// What each stage runs: some lines, slowly enough that engines die in the middle, and an end that its action's number says.
const SCRIPT: &str = r#"
for n in 1 2 3 4 5 6 7 8 9 10; do echo "$PIPELINE_STAGE of $PIPELINE_ACTION_ID: line $n"; sleep 0.03; done
case "$PIPELINE_STAGE-$PIPELINE_ACTION_ID" in
test-*1) exit 42 ;;
test-*2) exit 3 ;;
build-*3) exit 124 ;;
esac
"#;

const STAGES: [(&str, &str, Option<&str>); 3] = [
    ("build-requested", "build", Some("built")),
    ("built", "test", Some("tested")),
    ("tested", "deploy", None),
];

/// How the stages of an action end, by the last digit of its number.
fn expected(action: usize) -> Vec<(&'static str, Outcome)> {
    let of_build = if action % 10 == 3 { Outcome::TimedOut } else { Outcome::Succeeded };
    let of_test = match action % 10 {
        1 => Outcome::Escaped,
        2 => return vec![("build", of_build), ("test", Outcome::Failed)],
        _ => Outcome::Succeeded,
    };
    vec![("build", of_build), ("test", of_test), ("deploy", Outcome::Succeeded)]
}

/// The engines, each of which can be killed and started again with what it had.
struct Engines {
    redis: Redis,
    search: OpenSearch,
    mongo: Mongo,
    s3: S3,
}

impl Engines {
    fn start() -> Self {
        Self {
            redis: Redis::start(&RedisOptions::new().with_persistence(Persistence::EachWrite)).unwrap(),
            search: OpenSearch::start(SearchEngine::of_environment().unwrap()).unwrap(),
            mongo: Mongo::start(&MongoOptions::new()).unwrap(),
            s3: S3::start().unwrap(),
        }
    }

    fn config(&self) -> PipelineConfig {
        let place = |url: String| Backend::At(url.parse::<Place>().unwrap());
        PipelineConfig::default().with_retry(Retry::None).with_broker(place(self.redis.url())).with_stores([
            place(format!("elastic+{}", self.search.url())),
            place(self.mongo.url()),
            place(self.s3.url()),
            place(self.redis.url()),
        ])
    }

    /// Kills each in turn, and starts it again, until it is told to stop; at least once each.
    fn trouble(&mut self, is_over: &AtomicBool) -> usize {
        let mut kills = 0;
        while kills < 4 || !is_over.load(Ordering::Acquire) {
            std::thread::sleep(CALM);
            self.kill(kills);
            std::thread::sleep(AWAY);
            self.restart(kills);
            kills += 1;
        }
        kills
    }

    fn kill(&mut self, turn: usize) {
        match turn % 4 {
            0 => self.search.kill(),
            1 => self.redis.kill(),
            2 => self.mongo.kill(),
            _ => self.s3.kill(),
        }
        .unwrap();
    }

    fn restart(&mut self, turn: usize) {
        match turn % 4 {
            0 => self.search.restart(Data::Kept),
            1 => self.redis.restart(Data::Kept),
            2 => self.mongo.restart(Data::Kept),
            _ => self.s3.restart(Data::Kept),
        }
        .unwrap();
    }
}

fn workers(pipeline: &Pipeline) -> (Stopper, JoinSet<pubsub_pipeline::Result<()>>) {
    let (stopper, stop) = Stop::pair();
    let mut workers = JoinSet::new();
    for (on, stage, then) in STAGES {
        let pattern = format!("{on}:*").parse().unwrap();
        let stage = Stage::new(stage).unwrap();
        let mut worker = pipeline.worker(stage, [pattern], Command::shell(SCRIPT)).unwrap();
        worker = worker.with_lease(Duration::from_secs(5)).unwrap().with_concurrency(8);
        if let Some(then) = then {
            worker = worker.with_then(EventType::new(then).unwrap());
        }
        workers.spawn(worker.run(stop.clone()));
    }
    (stopper, workers)
}

/// Returns once no group has anything to do, looked at twice: an event may be on its way to the next stage.
async fn until_idle(pipeline: &Pipeline) {
    let (limit, mut idle) = (Instant::now() + LIMIT, 0);
    while idle < 2 {
        assert!(Instant::now() < limit, "not idle: {:?}", pipeline.broker().groups(&Scope::default()).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let groups = pipeline.broker().groups(&Scope::default()).await;
        let is_idle = groups.is_ok_and(|groups| groups.iter().all(|group| group.depth.is_idle()));
        idle = if is_idle { idle + 1 } else { 0 };
    }
}

async fn is_whole_in_each_store(pipeline: &Pipeline, run: &RunRecord) {
    let (id, first) = (&run.key.run_id, pipeline.stores().first().unwrap());
    for store in pipeline.stores() {
        let verified = verify(&*store.store, id).await.unwrap();
        assert_eq!(verified.problem(), None, "{}: {run:?}", store.name);
        let differs = verify_against(&*first.store, &*store.store, id).await.unwrap();
        assert_eq!(differs, None, "{}: {run:?}", store.name);
    }
    assert_eq!(run.counts.lines, 10, "{run:?}");
}

async fn plays(actions: usize) {
    let mut engines = Engines::start();
    let pipeline = Pipeline::connect(engines.config()).await.unwrap();
    let (stopper, mut working) = workers(&pipeline);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let trouble = tokio::task::spawn_blocking(move || {
        let kills = engines.trouble(&over);
        (engines, kills)
    });
    for action in 0..actions {
        let id = ActionId::new(format!("action-{action}")).unwrap();
        let event = Event::new(EventType::new("build-requested").unwrap(), id);
        // A server that is away is away for a moment.
        while let Err(error) = pipeline.publish(event.clone()).await {
            assert!(error.is_retryable(), "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    until_idle(&pipeline).await;
    is_over.store(true, Ordering::Release);
    let (_engines, kills) = trouble.await.unwrap();
    // Also what was concluded while the last engine was away.
    until_idle(&pipeline).await;
    stopper.stop(Cause::Shutdown);
    while let Some(ended) = working.join_next().await {
        ended.unwrap().unwrap();
    }

    let mut concluded: BTreeMap<String, Vec<RunRecord>> = BTreeMap::new();
    let reader = pipeline.reader();
    let mut attempts = 0;
    for run in reader.runs(&RunQuery::all()).await.unwrap() {
        attempts += 1;
        if run.is_final {
            concluded.entry(run.key.action_id.to_string()).or_default().push(run);
        }
    }
    assert!(reader.unanswered().is_empty(), "{:?}", reader.unanswered());
    for action in 0..actions {
        let mut runs = concluded.remove(&format!("action-{action}")).unwrap_or_default();
        runs.sort_by_key(|run| run.started_at);
        let ended: Vec<_> = runs.iter().map(|run| (run.key.stage.as_str(), run.outcome.unwrap())).collect();
        assert_eq!(ended, expected(action), "action-{action}: {runs:#?}");
        for run in &runs {
            is_whole_in_each_store(&pipeline, run).await;
        }
    }
    assert!(concluded.is_empty(), "{concluded:?}");
    println!("{actions} actions, {attempts} attempts, {kills} kills of engines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis, OpenSearch, MongoDB, S3"]
async fn every_action_ends_as_it_should_while_the_engines_die_in_turn() {
    plays(30).await;
}

mod long {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "long: two hundred actions; needs Redis, OpenSearch, MongoDB, S3"]
    async fn every_one_of_two_hundred_actions_ends_as_it_should_while_the_engines_die_in_turn() {
        super::plays(200).await;
    }
}
