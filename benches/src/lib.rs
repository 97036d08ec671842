//! What the benchmarks of `pubsub-pipeline` share: a row of the table measures a limit and ours in one run, and says
//! what ratio is wanted; a row's curve measures ours at several sizes. `cargo xtask bench` runs them and prints the table,
//! with `--curves` the curves.

mod curve;
pub mod latency;

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use pubsub_pipeline::{ActionId, Event, EventType, Payload};
use services::{ShipTo, Shipper, Shipping};
use tokio::runtime::Runtime;

use curve::Point;
pub use curve::{are_curves, sizes};

/// Published in one pass, where the table has it.
pub const PUBLISHED: u64 = 20_000;

/// Consumed in one pass, where the table has it.
pub const CONSUMED: u64 = 100_000;

/// What is wanted of a row.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least this share of the limit's speed.
    Speed(f64),
    /// At most so many times the time of the limit.
    Cost(f64),
    /// At most so long for one.
    Within(Duration),
    /// At least so many in a second.
    PerSecond(f64),
    /// At least so many times the peer's speed.
    Peer(f64),
    /// At most this share of the limit's bytes: a pass answers a nanosecond for each byte.
    Share(f64),
}

/// What a row's curve is over.
#[derive(Clone, Copy, Debug)]
pub enum Curve {
    /// It has none: its size is a part of what it says.
    No,
    /// Its own size.
    OverSize,
    /// What it is asked among: a question among so many runs, a line with so many followers.
    Among(u64, &'static str),
}

/// One row of the table, or one point of its curve.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Names it.
    pub id: &'static str,
    /// How many of these one pass has.
    pub size: u64,
    /// What is counted.
    pub unit: &'static str,
    /// What is wanted.
    pub target: Target,
    /// What its curve is over.
    pub curve: Curve,
}

/// A row that is being measured. Each of its passes answers how long the work took without what prepares it.
#[expect(missing_debug_implementations, reason = "criterion's group has none")]
pub struct Measured<'a>(How<'a>);

enum How<'a> {
    Row(BenchmarkGroup<'a, WallTime>),
    Point(Point),
    /// Curves are measured, and this row has none.
    Left,
}

impl Row {
    /// Begins to measure it.
    pub fn measure(self, criterion: &mut Criterion) -> Measured<'_> {
        if are_curves() {
            return Measured(Point::of(self).map_or(How::Left, How::Point));
        }
        self.tell();
        Measured(How::Row(group(criterion, self.id, self.size)))
    }

    /// What its curve is over, and how much of that there is.
    fn over(self) -> Option<(u64, &'static str)> {
        match self.curve {
            Curve::No => None,
            Curve::OverSize => Some((self.size, self.unit)),
            Curve::Among(many, what) => Some((many, what)),
        }
    }

    /// Leaves for `cargo xtask bench` what the measured times do not say.
    fn tell(self) {
        let Some(home) = home() else { return };
        let (kind, value) = match self.target {
            Target::Speed(share) => ("speed", share),
            Target::Cost(times) => ("cost", times),
            Target::Within(time) => ("within", time.as_secs_f64()),
            Target::PerSecond(many) => ("per_second", many),
            Target::Peer(times) => ("peer", times),
            Target::Share(share) => ("share", share),
        };
        let (many, what) = self.over().unwrap_or((self.size, self.unit));
        let row = serde_json::json!({
            "id": self.id, "size": self.size, "unit": self.unit, "target": { "kind": kind, "value": value },
            "many": many, "what": what,
        });
        write(&home.join(self.id), "row.json", &row);
    }
}

/// Where what is measured is left.
fn home() -> Option<PathBuf> {
    std::env::var_os("CRITERION_HOME").map(PathBuf::from)
}

fn write(folder: &Path, name: &str, told: &serde_json::Value) {
    let written =
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(name), told.to_string()));
    assert!(written.is_ok(), "{}: {written:?}", folder.display());
}

fn group<'a>(criterion: &'a mut Criterion, id: &str, size: u64) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(id);
    group.throughput(Throughput::Elements(size)).sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group
}

impl Measured<'_> {
    /// The raw limit.
    pub fn limit(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        self.passes("limit", pass)
    }

    /// Ours.
    pub fn ours(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        if let How::Point(point) = &self.0 {
            point.measure(pass);
            return self;
        }
        self.passes("ours", pass)
    }

    /// What users would pick instead.
    pub fn peer(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        self.passes("peer", pass)
    }

    fn passes(&mut self, who: &str, mut pass: impl FnMut() -> Duration) -> &mut Self {
        if let How::Row(group) = &mut self.0 {
            group.bench_function(who, |bencher| {
                bencher.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
            });
        }
        self
    }
}

/// Measures what users would pick instead of ours, for a row of this name and size that another package measures.
pub fn peer(criterion: &mut Criterion, id: &str, size: u64, pass: impl FnMut() -> Duration) {
    Measured(How::Row(group(criterion, id, size))).peer(pass);
}

/// The payload that is published: JSON text of 200 bytes.
#[must_use]
pub fn payload() -> String {
    format!("\"{}\"", "x".repeat(198))
}

/// An event with that payload, of one of a hundred actions.
///
/// # Panics
/// Never: its ids are ids.
#[must_use]
#[expect(clippy::unwrap_used, reason = "a benchmark fails where it cannot measure")]
pub fn event(n: u64) -> Event {
    let payload: Payload = payload().parse().unwrap();
    Event::new(
        EventType::new("build-requested").unwrap(),
        ActionId::new(format!("action-{}", n % 100)).unwrap(),
    )
    .with_payload(payload)
}

/// So many of them.
#[must_use]
pub fn events(many: u64) -> Vec<Event> {
    (0..many).map(event).collect()
}

/// A runtime as users have it.
///
/// # Panics
/// Where the system has no threads left.
#[must_use]
pub fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    #[expect(clippy::expect_used, reason = "a benchmark without a runtime measures nothing")]
    runtime.expect("a runtime")
}

/// Where the work of a pass is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// In the future that the runtime blocks on.
    InMain,
    /// In a spawned task.
    InTask,
}

impl Awaited {
    /// Runs the work there, to its end.
    ///
    /// # Panics
    /// Where the work does.
    pub fn run<T: Send + 'static>(
        self,
        runtime: &Runtime,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        #[expect(clippy::expect_used, reason = "a benchmark fails as its work does")]
        runtime.block_on(async {
            match self {
                Self::InMain => work.await,
                Self::InTask => tokio::spawn(work).await.expect("the work of a pass"),
            }
        })
    }
}

/// Starts a log shipper that users would pick instead; where it cannot be had, says so, and it is not measured.
#[must_use]
#[expect(clippy::print_stderr, reason = "a benchmark tells what it lacks")]
pub fn shipper(program: Shipper, to: &ShipTo) -> Option<Shipping> {
    if are_curves() {
        return None;
    }
    program.start(to).inspect_err(|error| eprintln!("{error}")).ok()
}
