//! Lines into the store.

use std::time::{Duration, Instant};

use criterion::Criterion;
use pubsub_pipeline::{
    ActionId, Event, EventType, LineBatch, LineEnd, LineNumber, OutputSink as _, RedisConfig, RedisStore,
    RedisStoreConfig, RunKey, RunRecord, Stage, Stream, Timestamp,
};
use pubsub_pipeline_benches::{Curve, Row, Target, runtime, sizes};

use crate::{empty, raw, server};

/// With its line feed.
const LINE_BYTES: usize = 100;

/// Of one pass, where the table has it.
const LINES: u64 = 50_000;

/// As capture hands lines on.
const BATCH: u64 = 512;

fn text() -> String {
    "x".repeat(LINE_BYTES - 1)
}

fn batches(lines: u64) -> Vec<LineBatch> {
    let batch = |first: u64| {
        let many = BATCH.min(lines - first);
        let bytes = format!("{}\n", text()).repeat(usize::try_from(many).unwrap());
        let ends: Vec<u32> = (1..=u32::try_from(many).unwrap()).map(|n| n * 100).collect();
        let number = LineNumber::new(first + 1).unwrap();
        LineBatch::new(number, Timestamp::now(), Stream::Stdout, bytes.into(), ends.into(), LineEnd::Lf)
            .unwrap()
    };
    (0..lines).step_by(512).map(batch).collect()
}

pub(crate) fn writing(criterion: &mut Criterion) {
    let (runtime, redis) = (runtime(), server());
    let limit = |lines: u64| -> Duration {
        runtime.block_on(async {
            empty(&redis).await;
            let mut connection = raw::connect(&redis.url()).await;
            let time = Timestamp::now().to_string();
            let fields = |n: u64| -> raw::Fields {
                let number = n.to_string();
                let text = text();
                [
                    ("type", "output"),
                    ("line_number", &number),
                    ("content", &text),
                    ("timestamp", &time),
                    ("stream", "stdout"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
            };
            let all: Vec<raw::Fields> = (1..=lines).map(fields).collect();
            let begun = Instant::now();
            raw::add_batches(&mut connection, &all, 128).await;
            begun.elapsed()
        })
    };
    let ours = |lines: u64| -> Duration {
        runtime.block_on(async {
            empty(&redis).await;
            let store =
                RedisStore::connect(RedisStoreConfig::new(RedisConfig::new(redis.url()))).await.unwrap();
            let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
            let key = RunKey::new(event.action_id, Stage::new("s").unwrap(), event.id, 1);
            store.begin(&RunRecord::begun(key.clone(), "bench")).await.unwrap();
            let batches = batches(lines);
            let begun = Instant::now();
            for batch in &batches {
                let appended = store.append(&key, std::slice::from_ref(batch)).await.unwrap();
                assert_eq!(appended, pubsub_pipeline::Appended::all());
            }
            begun.elapsed()
        })
    };
    for lines in sizes(LINES, [LINES / 10, LINES * 10]) {
        let (id, target) = ("redis-output-lines", Target::Speed(0.85));
        Row { id, size: lines, unit: "lines", target, curve: Curve::OverSize }
            .measure(criterion)
            .limit(|| limit(lines))
            .ours(|| ours(lines));
    }
}
