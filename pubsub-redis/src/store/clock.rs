//! Whose clock says when an owner gave its last sign of life: the server's.
//!
//! A record's `beat_at` is by the clock of whoever wrote it. Beside it lies how far the server's clock was ahead of that one,
//! so that a reader, who asks for the server's time along with the record, can say the same instant by its own clock, by
//! which it judges. What lay on the way for long, or is copied later, is as old as it says. Differences below a second are
//! none, so that all who read a record where clocks agree have the same one.

use pubsub_core::{RunRecord, RunStatus, Timestamp};
use redis::Value;

use super::server::CLOCK;
use crate::reply::{fixed, number};
use crate::script::{Answer, Request};

/// The field of a run's hash: microseconds.
pub(super) const FIELD: &str = "clock_ahead";

const SECOND: i64 = 1_000_000;

/// How many microseconds the server's clock is ahead of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead(i64);

impl Ahead {
    /// As the hash of a run has it; none of what an older version wrote.
    pub(super) fn read(field: Option<Value>) -> Self {
        Self(field.and_then(|micros| number(micros).ok()?).unwrap_or(0))
    }

    pub(super) const fn micros(self) -> i64 {
        self.0
    }

    /// The least difference that a time of the server leaves possible, which it looked at between two instants of ours.
    fn between(before: Timestamp, server: Timestamp, after: Timestamp) -> Self {
        let ahead_of = |ours: Timestamp| server.as_micros().saturating_sub(ours.as_micros());
        // Also where our clock jumped back in between.
        Self(0.max(ahead_of(after)).min(ahead_of(before)))
    }

    /// Says a record's last sign of life, written by a clock that the server was `writers` ahead of, by ours.
    pub(super) fn translate(self, writers: Self, record: &mut RunRecord) {
        let by = writers.0.saturating_sub(self.0) / SECOND * SECOND;
        if record.status == RunStatus::Running && by != 0 {
            record.beat_at = Timestamp::from_micros(record.beat_at.as_micros().saturating_add(by));
        }
    }
}

/// Asks for the server's time.
pub(super) fn asked(record_key: &str) -> Request {
    CLOCK.call([record_key])
}

/// How far it is ahead of ours, by an answer that came between these instants; who may not ask takes both for one.
pub(super) fn ahead(before: Timestamp, answer: Option<Answer>, after: Timestamp) -> Ahead {
    let time = answer.and_then(|answer| read(answer.get("ask for the server's time").ok()?));
    time.map_or_else(Ahead::default, |server| Ahead::between(before, server, after))
}

fn read(answer: Value) -> Option<Timestamp> {
    let [seconds, micros] = fixed::<2>(answer).ok()?;
    let (seconds, micros) = (number(seconds).ok()??, number(micros).ok()??);
    Some(Timestamp::from_micros(seconds.saturating_mul(SECOND).saturating_add(micros)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pubsub_core::conformance::store::SampleRun;
    use pubsub_core::{
        Judgement, Keep, OutputReader as _, OutputSink as _, Retention as _, RunRecord, Timestamp,
    };
    use services::{Redis, RedisOptions};

    use super::{Ahead, SECOND};
    use crate::RedisConfig;
    use crate::store::{Inner, RedisStore, RedisStoreConfig};

    const WRONG: Duration = Duration::from_secs(40);

    fn slow() -> Timestamp {
        Timestamp::now().minus(WRONG)
    }

    fn fast() -> Timestamp {
        Timestamp::now().plus(WRONG)
    }

    fn by(redis: &Redis, now: fn() -> Timestamp) -> RedisStore {
        let config = RedisStoreConfig::new(RedisConfig::new(redis.url()));
        RedisStore(Arc::new(Inner::new(config, now).unwrap()))
    }

    async fn begun(store: &RedisStore, beat_at: Timestamp) -> SampleRun {
        let mut run = SampleRun::new();
        (run.record.started_at, run.record.beat_at) = (beat_at, beat_at);
        store.begin(&run.record).await.unwrap();
        run
    }

    async fn read(store: &RedisStore, run: &SampleRun) -> RunRecord {
        let listed = store.runs(&run.query()).await.unwrap().remove(0);
        let asked = store.lines(run.id(), pubsub_core::Lines::ALL).await.unwrap().record;
        assert!(asked.beat_at.as_micros().abs_diff(listed.beat_at.as_micros()) <= SECOND.unsigned_abs());
        listed
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn whoever_has_a_wrong_clock_is_lost_when_it_is_silent_and_not_before() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let clocks: [fn() -> Timestamp; 3] = [slow, Timestamp::now, fast];
        for writers in clocks {
            let writer = by(&redis, writers);
            let alive = begun(&writer, writers()).await;
            let mut silent = begun(&writer, writers().minus(Duration::from_secs(33))).await;
            for readers in clocks {
                let reader = by(&redis, readers);
                assert_eq!(read(&reader, &alive).await.judge(readers()), Judgement::Running);
                assert_eq!(read(&reader, &silent).await.judge(readers()), Judgement::Lost);
            }
            // A later sign of life overrules it; what another adds is none.
            silent.record.revision += 1;
            silent.record.beat_at = writers();
            writer.begin(&silent.record).await.unwrap();
            silent.record.revision += 1;
            by(&redis, clocks[0]).begin(&silent.record).await.unwrap();
            assert_eq!(read(&by(&redis, clocks[2]), &silent).await.judge(fast()), Judgement::Running);
        }
        let everything = Keep::new().with_runs(0);
        for readers in clocks {
            assert_eq!(by(&redis, readers).expire(&everything).await.unwrap(), 0, "all go on");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn where_clocks_agree_a_record_is_given_as_it_was_written() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let store = by(&redis, Timestamp::now);
        for beat_at in [Timestamp::EPOCH, slow(), Timestamp::now(), fast()] {
            let run = begun(&store, beat_at).await;
            assert_eq!(store.runs(&run.query()).await.unwrap(), [run.record]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn who_may_not_ask_for_the_time_judges_by_its_own() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        redis.ask(&["ACL", "SETUSER", "default", "-time"]).unwrap();
        let store = by(&redis, Timestamp::now);
        let run = begun(&store, Timestamp::now()).await;
        assert_eq!(store.runs(&run.query()).await.unwrap(), [run.record]);
    }

    #[test]
    fn a_difference_that_the_way_of_the_question_explains_is_none() {
        let at = |secs: i64| Timestamp::from_micros(secs * SECOND);
        for (before, server, after, expected) in
            [(10, 12, 15, 0), (10, 10, 10, 0), (10, 30, 15, 15), (10, 4, 15, -6), (15, 12, 10, -3)]
        {
            let ahead = Ahead::between(at(before), at(server), at(after));
            assert_eq!(ahead.micros(), expected * SECOND, "{before} {server} {after}");
        }
    }
}
