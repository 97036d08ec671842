//! The accounts as metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::super::cost::cost;
use super::super::meters::gauged;
use super::{Fake, LineBatch, batch, config, down_until, ended, range, record};
use crate::{Appended, Error, ErrorKind, FanOut, FanOutRun, Gap, OutputSink, SinkConfig};

/// Keeps every counter and gauge by its name and labels.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Seen {
    fn at(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn value(&self, name: &str) -> u64 {
        self.0
            .lock()
            .unwrap()
            .get(name)
            .unwrap_or_else(|| panic!("{name} was never told"))
            .load(Ordering::SeqCst)
    }

    fn lines(&self, sink: &str, result: &str) -> u64 {
        self.value(&format!("pipeline_sink_lines_total sink={sink} result={result}"))
    }

    fn gauge(&self, name: &str, sink: &str) -> f64 {
        f64::from_bits(self.value(&format!("{name} sink={sink}")))
    }

    /// Captured, stored, waiting, dead-lettered, dropped; they balance.
    fn account(&self, sink: &str) -> [u64; 5] {
        let [captured, stored, dead, dropped] =
            ["captured", "stored", "dead_lettered", "dropped"].map(|result| self.lines(sink, result));
        let told = self.gauge("pipeline_sink_waiting_lines", sink);
        let waiting = captured - stored - dead - dropped;
        assert!((told - gauged(waiting)).abs() < 0.5, "{sink}: {told} wait, {waiting} are not accounted for");
        [captured, stored, waiting, dead, dropped]
    }

    /// The metrics say what the accounts of all runs say together.
    fn agrees_with(&self, runs: &[FanOutRun]) {
        let mut sums: BTreeMap<String, [u64; 5]> = BTreeMap::new();
        for account in runs.iter().flat_map(FanOutRun::accounts) {
            assert!(account.balances(), "{account:?}");
            let a =
                [account.captured, account.stored, account.waiting, account.dead_lettered, account.dropped];
            let sum = sums.entry(account.name).or_default();
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += a);
        }
        for (sink, sum) in sums {
            assert_eq!(self.account(&sink), sum, "{sink}");
        }
    }
}

impl Recorder for Seen {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.at(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.at(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Refuses every line whose number ends in 7, and wants the first call's first line again.
fn picky() -> Arc<Fake> {
    Fake::new(|call, batches: &[LineBatch]| {
        let sevens = batches
            .iter()
            .flat_map(LineBatch::lines)
            .map(|line| line.number.get())
            .filter(|number| number % 10 == 7)
            .map(|number| Gap { range: range(number, number), bytes: None, reason: "mapping".into() });
        let answer = sevens.fold(Appended::all(), Appended::with_refused);
        Ok(if call == 0 { answer.with_again(range(1, 1)) } else { answer })
    })
}

#[tokio::test(start_paused = true)]
async fn the_metrics_balance_through_refusals_drops_and_a_store_that_fails_in_between() {
    let seen = Seen::default();
    let _guard = metrics::set_default_local_recorder(&seen);
    let up = Arc::new(AtomicBool::new(true));
    let (picky, flaky, dropping) = (picky(), down_until(&up), down_until(&up));
    let dropping = SinkConfig::best_effort("dropping", dropping as Arc<dyn OutputSink>)
        .with_queue_bytes(2000)
        .with_delay(Duration::ZERO);
    let fan_out = FanOut::new(vec![config("picky", &picky), config("flaky", &flaky), dropping]);
    let (mut runs, mut records) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let record = record();
        runs.push(fan_out.begin(&record).await.unwrap());
        records.push(record);
    }
    for n in 0..60 {
        up.store(!(20..40).contains(&n), Ordering::SeqCst);
        for run in &runs {
            run.append(&[batch(n * 10 + 1, 10)]);
        }
        seen.agrees_with(&runs);
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen.agrees_with(&runs);
    }
    for (run, record) in runs.iter().zip(records) {
        run.finish(ended(record)).await.unwrap();
    }
    while seen.account("dropping")[2] > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    seen.agrees_with(&runs);
    assert_eq!(seen.account("picky"), [1800, 1620, 0, 180, 0]);
    assert_eq!(seen.account("flaky"), [1800, 1800, 0, 0, 0]);
    let [captured, stored, _, dead, dropped] = seen.account("dropping");
    assert!(captured == 1800 && stored >= 600 && dropped >= 100 && dead == 0, "{stored} {dropped}");
    for sink in ["picky", "flaky", "dropping"] {
        assert!(seen.gauge("pipeline_sink_queued_bytes", sink).abs() < 0.5, "{sink}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_lag_is_what_waits_in_the_queue_and_is_gone_when_it_is_given_up() {
    let seen = Seen::default();
    let _guard = metrics::set_default_local_recorder(&seen);
    let fan_out = FanOut::new(vec![config("down", &down_until(&Arc::default()))]);
    let run = fan_out.begin(&record()).await.unwrap();
    let lines = batch(1, 100);
    run.append(std::slice::from_ref(&lines));
    let lag = seen.gauge("pipeline_sink_queued_bytes", "down");
    assert!((lag - gauged(cost(&lines))).abs() < 0.5, "{lag}");
    // Nobody waits for them any more: in the metrics, which go on after the run, they are dropped.
    fan_out.close(Duration::from_secs(5)).await.unwrap_err();
    run.append(&[batch(101, 10)]);
    assert_eq!(seen.account("down"), [110, 0, 0, 0, 110]);
    assert_eq!(run.accounts()[0].waiting, 100, "the run's own account still says what waited");
    assert!(seen.gauge("pipeline_sink_queued_bytes", "down").abs() < 0.5);
}

#[tokio::test(start_paused = true)]
async fn lines_of_a_run_that_a_store_refuses_are_told_as_dead_lettered() {
    let seen = Seen::default();
    let _guard = metrics::set_default_local_recorder(&seen);
    let no = Error::new(ErrorKind::Refused, "read-only");
    let refuses = Arc::new(Fake { begin: Mutex::new(vec![no]), ..Arc::into_inner(Fake::good()).unwrap() });
    let best = SinkConfig::best_effort("refuses", refuses as Arc<dyn OutputSink>);
    let fan_out = FanOut::new(vec![best]);
    let record = record();
    let run = fan_out.begin(&record).await.unwrap();
    run.append(&[batch(1, 10)]);
    run.finish(ended(record)).await.unwrap();
    drop(run);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
    assert_eq!(seen.account("refuses"), [10, 0, 0, 10, 0]);
}
