//! Refused lines in a folder.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use pubsub_core::conformance::store::{SampleRun, at, lines};
use pubsub_core::{
    Appended, ErrorKind, FanOut, Gap, LineBatch, LineEnd, LineRange, MAX_HOLES, MemoryStore,
    OutputReader as _, OutputSink, Refused, RefusedLines as _, Result, RunKey, RunRecord, SinkConfig, Stream,
    Timestamp, WhenFull,
};
use pubsub_file::{FileRefusedLines, SpoolConfig, Spooled};

fn odd(run: &SampleRun, first: u64) -> Refused {
    Refused::new("elastic 1", run.key().clone(), lines(first, ["odd", "lines"]), "mapping")
}

async fn numbers(kept: &FileRefusedLines) -> Vec<u64> {
    kept.list(None, 1000).await.unwrap().iter().map(|refused| refused.lines.first().get()).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect()
}

#[tokio::test]
async fn what_is_refused_is_there_for_another_process_and_for_people_until_its_run_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("refused");
    let kept = FileRefusedLines::new(&dir);
    let (one, two) = (SampleRun::new(), SampleRun::new());
    assert!(numbers(&kept).await.is_empty() && !kept.remove(one.id()).await.unwrap());
    assert!(!dir.exists(), "nothing was refused");
    let first = odd(&one, 7);
    kept.keep(&[first.clone(), odd(&one, 9), odd(&two, 3)]).await.unwrap();
    FileRefusedLines::new(&dir).keep(&[odd(&one, 7)]).await.unwrap();
    let other = FileRefusedLines::new(&dir);
    assert_eq!(other.list(Some(one.id()), 1).await.unwrap(), [first]);
    assert_eq!(numbers(&other).await, [7, 9, 3], "lines that were kept twice are listed once");
    let of_one = files(&dir).into_iter().map(|path| fs::read_to_string(path).unwrap());
    assert!(of_one.clone().any(|text| text.contains("odd\\nlines\\n") && text.contains("\"mapping\"")));
    assert_eq!(of_one.count(), 2, "a file for each run");
    assert!(other.remove(one.id()).await.unwrap() && !kept.remove(one.id()).await.unwrap());
    assert_eq!(numbers(&kept).await, [3]);
}

#[tokio::test]
async fn the_folder_never_grows_over_its_bound_and_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let kept = FileRefusedLines::new(dir.path()).with_max_bytes(2000);
    let (one, two) = (SampleRun::new(), SampleRun::new());
    let mut fits = 0;
    let full = loop {
        match kept.keep(&[odd(if fits % 2 == 0 { &one } else { &two }, fits * 2 + 1)]).await {
            Ok(()) => fits += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::Full);
    let bytes: u64 = files(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(fits >= 2 && bytes <= 2000, "{fits} entries of {bytes} bytes");
    // Another process knows it as well.
    let other = FileRefusedLines::new(dir.path()).with_max_bytes(2000);
    assert_eq!(other.keep(&[odd(&two, 99)]).await.unwrap_err().kind(), ErrorKind::Full);
    kept.remove(one.id()).await.unwrap();
    other.keep(&[odd(&two, 99)]).await.unwrap();
}

#[tokio::test]
async fn a_torn_end_is_cut_damage_is_passed_by_and_a_newer_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let kept = FileRefusedLines::new(dir.path());
    let run = SampleRun::new();
    kept.keep(&[odd(&run, 1)]).await.unwrap();
    let path = files(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&whole[..cut]).unwrap();
        assert_eq!(numbers(&kept).await, [1]);
        kept.keep(&[odd(&run, 1)]).await.unwrap();
    }
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"version\":1}\n\xff\n").unwrap();
    kept.keep(&[odd(&run, 3)]).await.unwrap();
    assert_eq!(numbers(&kept).await, [1, 3]);
    let newer = String::from_utf8(whole).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(&path, newer).unwrap();
    let error = kept.list(None, 9).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("version=2"), "{error}");
}

#[tokio::test]
async fn a_link_in_place_of_a_file_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let kept = FileRefusedLines::new(dir.path().join("refused"));
    let run = SampleRun::new();
    kept.keep(&[odd(&run, 1)]).await.unwrap();
    let path = files(&dir.path().join("refused")).remove(0);
    let outside = dir.path().join("outside");
    fs::rename(&path, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    let before = fs::read(&outside).unwrap();
    assert_eq!(kept.keep(&[odd(&run, 3)]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(fs::read(&outside).unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_lines_read_back_exactly(
        bytes in proptest::collection::vec(any::<u8>(), 1..300),
        first in 1_u64..u64::MAX / 2,
        part in any::<bool>(),
        recovered in any::<bool>(),
        reason in ".{0,40}",
    ) {
        let tail = if part { LineEnd::Part } else { LineEnd::None };
        let batch = LineBatch::split(at(first), Timestamp::from_micros(7), Stream::Stderr, bytes.into(), tail);
        let lines = batch.unwrap().with_recovered(recovered);
        let refused = Refused::new("a\"b", SampleRun::new().key().clone(), lines, reason);
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let back = runtime.block_on(async {
            let kept = FileRefusedLines::new(dir.path());
            kept.keep(std::slice::from_ref(&refused)).await.unwrap();
            kept.list(None, 9).await.unwrap()
        });
        prop_assert_eq!(back, [refused]);
    }
}

/// Refuses lines 3 and 4 for good.
struct Picky(MemoryStore);

#[async_trait]
impl OutputSink for Picky {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut answer = Appended::all();
        for batch in batches {
            for (first, last) in [(1, 2), (5, 1000)] {
                let part = batch.slice(LineRange::new(at(first), at(last)));
                self.0.append(run, &part.into_iter().collect::<Vec<_>>()).await?;
            }
            let odd = batch.slice(LineRange::new(at(3), at(4)));
            answer = odd.iter().fold(answer, |answer, odd| answer.with_refused(odd.gap("mapping")));
        }
        Ok(answer)
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[tokio::test]
async fn what_a_sink_behind_a_spool_refuses_is_kept_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let kept = FileRefusedLines::new(dir.path().join("refused"));
    let memory = MemoryStore::new();
    let config =
        SpoolConfig::new(dir.path().join("spool")).with_refused_lines("elastic 1", Arc::new(kept.clone()));
    let spooled = Arc::new(Spooled::open(Picky(memory.clone()), config).await.unwrap());
    let mut run = SampleRun::new();
    let texts = ["a", "b", "c", "d", "e"];
    run.begin(&*spooled).await;
    run.append(&*spooled, &[lines(1, texts)]).await;
    run.finish(&*spooled).await;
    spooled.shipped().await;
    let refused = kept.list(None, 9).await.unwrap();
    assert_eq!((refused.len(), refused[0].sink.as_str()), (1, "elastic 1"));
    assert_eq!(refused[0].lines, lines(1, texts).slice(LineRange::new(at(3), at(4))).unwrap());
    let record = memory.runs(&run.query()).await.unwrap().remove(0);
    assert_eq!(record.holes[0].reason, "mapping");
}

#[tokio::test]
async fn a_spool_whose_sink_refuses_line_after_line_names_so_many_holes_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let spooled = Spooled::open(Odd(memory.clone()), SpoolConfig::new(dir.path())).await.unwrap();
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    for first in (1..=4_000).step_by(1_000) {
        run.append(&spooled, &[lines(first, (0..1_000).map(|_| "x"))]).await;
    }
    run.finish(&spooled).await;
    spooled.shipped().await;
    let record = memory.runs(&run.query()).await.unwrap().remove(0);
    assert_eq!(record.holes.len(), MAX_HOLES);
    assert_eq!(record.holes[1].range, LineRange::new(at(3), at(3)));
}

/// Refuses each odd line for good.
struct Odd(MemoryStore);

#[async_trait]
impl OutputSink for Odd {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, _: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let numbers = batches.iter().flat_map(LineBatch::lines).map(|line| line.number);
        let odd = numbers.filter(|number| number.get() % 2 == 1);
        Ok(odd.fold(Appended::all(), |all, number| {
            let range = LineRange::new(number, number);
            all.with_refused(Gap { range, bytes: None, reason: "odd".into() })
        }))
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[tokio::test]
async fn what_a_full_spool_drops_is_counted_as_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new();
    let config = SpoolConfig::new(dir.path()).with_max_bytes(1).with_when_full(WhenFull::Drop);
    let spooled = Arc::new(Spooled::open(memory.clone(), config).await.unwrap());
    let fan_out =
        FanOut::new(vec![SinkConfig::required("memory", Arc::clone(&spooled) as Arc<dyn OutputSink>)]);
    let mut sample = SampleRun::new();
    let run = fan_out.begin(&sample.record).await.unwrap();
    sample.print(&[lines(1, ["a", "b"])]);
    run.append(&[lines(1, ["a", "b"])]);
    sample.complete();
    let report = run.finish(sample.record.clone()).await.unwrap();
    let account = &report.sinks[0];
    assert!(account.balances() && report.record.output_incomplete, "{account:?}");
    assert_eq!((account.dropped, account.dead_lettered), (2, 0));
    drop(run);
    fan_out.close(Duration::from_secs(5)).await.unwrap();
    spooled.shipped().await;
    let record = memory.runs(&sample.query()).await.unwrap().remove(0);
    assert_eq!(record.holes[0].reason, "dropped: the spool is full");
}
