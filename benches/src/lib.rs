//! What the benchmarks of `pubsub-pipeline` share: a row of the table measures a limit and ours in one run, and says
//! what ratio is wanted. `cargo xtask bench` runs them and prints the table.

use std::path::PathBuf;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};

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
}

/// One row of the table.
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
}

/// A row that is being measured. Each of its passes answers how long the work took without what prepares it.
#[expect(missing_debug_implementations, reason = "criterion's group has none")]
pub struct Measured<'a>(BenchmarkGroup<'a, WallTime>);

impl Row {
    /// Begins to measure it.
    pub fn measure(self, criterion: &mut Criterion) -> Measured<'_> {
        self.tell();
        let mut group = criterion.benchmark_group(self.id);
        group.throughput(Throughput::Elements(self.size)).sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        Measured(group)
    }

    /// Leaves for `cargo xtask bench` what the measured times do not say.
    fn tell(self) {
        let Some(home) = std::env::var_os("CRITERION_HOME") else { return };
        let (kind, value) = match self.target {
            Target::Speed(share) => ("speed", share),
            Target::Cost(times) => ("cost", times),
            Target::Within(time) => ("within", time.as_secs_f64()),
            Target::PerSecond(many) => ("per_second", many),
        };
        let row = serde_json::json!({
            "id": self.id, "size": self.size, "unit": self.unit, "target": { "kind": kind, "value": value },
        });
        let folder = PathBuf::from(home).join(self.id);
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("row.json"), row.to_string()));
        assert!(written.is_ok(), "{}: {written:?}", folder.display());
    }
}

impl Measured<'_> {
    /// The raw limit.
    pub fn limit(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        self.passes("limit", pass)
    }

    /// Ours.
    pub fn ours(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        self.passes("ours", pass)
    }

    /// What users would pick instead.
    pub fn peer(&mut self, pass: impl FnMut() -> Duration) -> &mut Self {
        self.passes("peer", pass)
    }

    fn passes(&mut self, who: &str, mut pass: impl FnMut() -> Duration) -> &mut Self {
        self.0.bench_function(who, |bencher| {
            bencher.iter_custom(|passes| (0..passes).map(|_| pass()).sum());
        });
        self
    }
}

/// A runtime as users have it.
///
/// # Panics
/// Where the system has no threads left.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    #[expect(clippy::expect_used, reason = "a benchmark without a runtime measures nothing")]
    runtime.expect("a runtime")
}
