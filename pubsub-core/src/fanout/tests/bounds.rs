//! What waits is bounded in memory, not only in bytes printed.

use std::sync::Arc;
use std::time::Duration;

use super::super::cost::cost;
use super::{Fake, LineBatch, config, record};
use crate::{FanOut, LineEnd, LineNumber, MAX_BATCH_BYTES, OutputSink, SinkConfig, Stream, Timestamp};

const QUEUE: usize = 256 * 1024;

fn dropping(sink: &Arc<Fake>) -> SinkConfig {
    SinkConfig::best_effort("hanging", Arc::clone(sink) as Arc<dyn OutputSink>).with_queue_bytes(QUEUE)
}

fn blank(first: u64, buffer: &bytes::Bytes, ends: &Arc<[u32]>) -> LineBatch {
    let first = LineNumber::new(first).unwrap();
    let (time, stream) = (Timestamp::EPOCH, Stream::Stdout);
    LineBatch::new(first, time, stream, buffer.clone(), Arc::clone(ends), LineEnd::Lf).unwrap()
}

/// Feeds blank lines, so many in each batch, to a sink that never answers; answers how many wait.
async fn waiting(lines: u64, in_each: usize) -> u64 {
    let fan_out = FanOut::new(vec![dropping(&Fake::hanging())]);
    let run = fan_out.begin(&record()).await.unwrap();
    let buffer = bytes::Bytes::from(vec![b'\n'; in_each]);
    let ends: Arc<[u32]> = (1..=u32::try_from(in_each).unwrap()).collect();
    let mut most = 0;
    for first in (1..=lines).step_by(in_each) {
        run.append(&[blank(first, &buffer, &ends)]);
        most = most.max(run.accounts()[0].waiting);
        tokio::task::yield_now().await;
    }
    let account = &run.accounts()[0];
    assert!(account.balances() && account.captured >= lines && account.dropped > 0, "{account:?}");
    assert_eq!(account.holes.len(), 1, "{account:?}");
    most
}

#[tokio::test(start_paused = true)]
async fn fifty_million_blank_lines_for_a_sink_that_never_answers_stay_within_the_bound() {
    let most = waiting(50_000_000, MAX_BATCH_BYTES).await;
    // A blank line is its byte and its end. The queue, as much again under way, and for each what one read brought.
    let line = 1 + size_of::<u32>() as u64;
    assert!(most * line <= 2 * (QUEUE + 5 * MAX_BATCH_BYTES) as u64, "{most} lines wait");
}

#[tokio::test(start_paused = true)]
async fn blank_lines_that_come_one_by_one_stay_within_the_bound() {
    let most = waiting(20_000, 1).await;
    let line = 1 + size_of::<u32>() + size_of::<LineBatch>();
    assert!(most * line as u64 <= 2 * (QUEUE + 1000) as u64, "{most} lines wait");
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_is_given_back_whole() {
    let sink = Fake::good();
    let fan_out = FanOut::new(vec![config("good", &sink)]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    let lines = super::batch(1, 1000);
    run.append(std::slice::from_ref(&lines));
    assert_eq!(fan_out.sinks[0].queued(), cost(&lines));
    run.finish(super::ended(record)).await.unwrap();
    assert_eq!(fan_out.sinks[0].queued(), 0);
    drop(run);
    fan_out.close(Duration::from_secs(1)).await.unwrap();
}
