//! How soon an event and a line are seen in another process.

use std::time::Duration;

use criterion::Criterion;
use pubsub_pipeline::{Publisher as _, RedisConfig, RedisStore, RedisStoreConfig};
use pubsub_pipeline_benches::latency::{self, Beside, now, percentile};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};
use services::Redis;
use tokio::runtime::Runtime;

use crate::{empty, open_at, raw, server};

/// Between two events: a thousand in a second.
const EVENTS_APART: Duration = Duration::from_millis(1);

/// Between two lines.
const LINES_APART: Duration = Duration::from_millis(2);

/// Of each pass.
const MANY: usize = 500;

async fn store_at(url: &str) -> RedisStore {
    RedisStore::connect(RedisStoreConfig::new(RedisConfig::new(url))).await.unwrap()
}

/// What this benchmark does as a process of its own; `false` where it is not asked for that.
pub(crate) fn is_beside(words: &[&str]) -> bool {
    match words {
        ["publish", url] => runtime().block_on(async {
            let broker = open_at(url).await;
            latency::publish(&broker, EVENTS_APART).await;
            broker.close().await.unwrap();
        }),
        ["add", url] => runtime().block_on(async {
            let mut connection = raw::connect(url).await;
            let mut next = tokio::time::interval(EVENTS_APART);
            for _ in 0..MANY {
                next.tick().await;
                let fields = vec![("data".to_owned(), now().as_nanos().to_string())];
                raw::add_one_by_one(&mut connection, &[fields]).await;
            }
        }),
        ["print-times"] => latency::print_times(LINES_APART),
        ["capture", url] => runtime().block_on(async {
            latency::capture(store_at(url).await, &["print-times"]).await;
        }),
        _ => return false,
    }
    true
}

/// Redis itself: `XADD` here, `XREADGROUP` that waits there.
fn raw_handled(runtime: &Runtime, redis: &Redis) -> Vec<Duration> {
    let url = redis.url();
    runtime.block_on(async {
        let mut connection = raw::connect(&url).await;
        raw::fill(&mut connection, &[vec![("data".to_owned(), "0".to_owned())]]).await;
        raw::wait_for(&mut connection, 1, |_| ()).await;
        let _adding = Beside::start(&["add", &url]);
        let mut times = Vec::with_capacity(MANY);
        raw::wait_for(&mut connection, MANY, |payload| {
            times.push(now().saturating_sub(Duration::from_nanos(payload.parse().unwrap())));
        })
        .await;
        times
    })
}

fn handled(runtime: &Runtime, redis: &Redis) -> Vec<Duration> {
    let url = redis.url();
    runtime.block_on(async {
        empty(redis).await;
        let broker = open_at(&url).await;
        let times = latency::handled(&broker, || Beside::start(&["publish", &url])).await;
        broker.close().await.unwrap();
        times
    })
}

fn followed(runtime: &Runtime, redis: &Redis, followers: u64) -> Duration {
    let url = redis.url();
    let mut times = runtime.block_on(async {
        empty(redis).await;
        latency::followed(store_at(&url).await, followers, || Beside::start(&["capture", &url])).await
    });
    percentile(&mut times, 99)
}

pub(crate) fn waiting(criterion: &mut Criterion) {
    let (runtime, redis) = (runtime(), server());
    for (id, share, times) in
        [("redis-publish-to-handler-p50", 50, 1.5), ("redis-publish-to-handler-p99", 99, 2.0)]
    {
        Row { id, size: 1, unit: "event", target: Target::Cost(times), curve: Curve::No }
            .measure(criterion)
            .limit(|| percentile(&mut raw_handled(&runtime, &redis), share))
            .ours(|| percentile(&mut handled(&runtime, &redis), share));
    }
    for followers in sizes(1, [10, 100]) {
        let (target, curve) =
            (Target::Within(Duration::from_millis(5)), Curve::Among(followers, "followers"));
        Row { id: "redis-printed-to-seen-p99", size: 1, unit: "line", target, curve }
            .measure(criterion)
            .ours(|| followed(&runtime, &redis, followers));
    }
}
