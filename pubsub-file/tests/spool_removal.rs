//! Removing through a spool: what is removed does not come back by a later shipping, whoever ships it and whatever is
//! killed in the middle; and what nobody can ship does not stay for ever.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::conformance::store::{SampleRun, lines, read, shape, until};
use pubsub_core::{
    Appended, Backoff, Error, ErrorKind, FanOut, Gap, Keep, LineBatch, Lines, MemoryStore, OutputReader as _,
    OutputSink, Result, Retention, RunId, RunKey, RunQuery, RunRecord, SinkConfig, Timestamp,
};
use pubsub_file::{SpoolConfig, Spooled};
use tempfile::TempDir;
use tokio::sync::watch;

const LONG: Duration = Duration::from_secs(30);

/// A store that may be out of reach, hold a call, or refuse.
#[derive(Clone, Default)]
struct Far {
    store: MemoryStore,
    away: Arc<AtomicBool>,
    /// Calls that bring something wait here while it holds them; it counts those that wait.
    holds: Arc<AtomicBool>,
    held: Arc<watch::Sender<u32>>,
    free: Arc<tokio::sync::Notify>,
    refuses_runs: bool,
    refuses_lines: bool,
}

impl Far {
    fn go(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn reached(&self) -> Result<()> {
        let gone = || Err(Error::new(ErrorKind::Unavailable, "not now"));
        if self.away.load(Ordering::SeqCst) { gone() } else { Ok(()) }
    }

    async fn hold(&self) {
        if self.holds.load(Ordering::SeqCst) {
            self.held.send_modify(|held| *held += 1);
            self.free.notified().await;
        }
    }

    async fn ids(&self) -> Vec<RunId> {
        self.store.runs(&RunQuery::all()).await.unwrap().into_iter().map(|run| run.key.run_id).collect()
    }
}

#[async_trait]
impl OutputSink for Far {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.reached()?;
        self.hold().await;
        if self.refuses_runs {
            return Err(Error::new(ErrorKind::Invalid, "no such run"));
        }
        self.store.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.reached()?;
        self.store.append(run, if self.refuses_lines { &[] } else { batches }).await?;
        let refused = |batch: &LineBatch| Gap { reason: "no".to_owned(), ..batch.gap("no") };
        let refused = batches.iter().filter(|_| self.refuses_lines).map(refused);
        Ok(refused.fold(Appended::all(), Appended::with_refused))
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.reached()?;
        self.store.finish(record).await
    }
}

#[async_trait]
impl Retention for Far {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.reached()?;
        self.store.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.store.expire(keep).await
    }
}

fn config(dir: &TempDir) -> SpoolConfig {
    SpoolConfig::new(dir.path()).with_backoff(Backoff::fixed(Duration::from_millis(10)))
}

async fn open(far: &Far, dir: &TempDir) -> Spooled<Far> {
    Spooled::open_store(far.clone(), config(dir)).await.unwrap()
}

async fn shipped(spooled: &Spooled<Far>) {
    tokio::time::timeout(LONG, spooled.shipped()).await.expect("everything is shipped");
}

/// The folders of runs in a spool.
fn folders(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

async fn is_empty(dir: &Path) {
    let dir = dir.to_owned();
    let empty = || folders(&dir).is_empty();
    until("nothing is left in the spool", || Box::pin(std::future::ready(empty()))).await;
}

/// A run of which the store has line 1, and the rest waits in the spool.
async fn half_shipped(far: &Far, spooled: &Spooled<Far>) -> SampleRun {
    let mut run = SampleRun::new();
    run.begin(spooled).await;
    run.append(spooled, &[lines(1, ["one"])]).await;
    shipped(spooled).await;
    far.go(true);
    run.append(spooled, &[lines(2, ["two"])]).await;
    run.finish(spooled).await;
    run
}

#[tokio::test]
async fn what_another_process_ships_is_removed_there_too() {
    for store_is_away in [false, true] {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
        let worker = open(&far, &dir).await;
        let run = half_shipped(&far, &worker).await;
        let remover = open(&far, &dir).await;
        assert_eq!(remover.waiting().await.unwrap(), std::slice::from_ref(&run.record));
        assert_eq!(remover.depth().runs, 0, "the worker has it");
        if store_is_away {
            let error = remover.remove(run.id()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(remover.waiting().await.unwrap(), [], "nobody ships it any more");
            let bytes = || worker.depth().bytes == 0;
            until("its lines are gone at once", || Box::pin(std::future::ready(bytes()))).await;
            far.go(false);
        } else {
            far.go(false);
            assert!(remover.remove(run.id()).await.unwrap());
        }
        is_empty(dir.path()).await;
        assert_eq!(far.ids().await, []);
        let holds_nothing = || (worker.depth().runs, worker.depth().bytes) == (0, 0);
        until("the worker holds nothing", || Box::pin(std::future::ready(holds_nothing()))).await;
        shipped(&worker).await;
        assert!(!remover.remove(run.id()).await.unwrap());
    }
}

#[tokio::test]
async fn a_removal_waits_for_the_call_that_would_bring_the_run_back() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    far.holds.store(true, Ordering::SeqCst);
    let (worker, remover) = (open(&far, &dir).await, open(&far, &dir).await);
    let run = SampleRun::new();
    run.begin(&worker).await;
    let mut held = far.held.subscribe();
    tokio::time::timeout(LONG, held.wait_for(|held| *held > 0)).await.expect("a call is under way").unwrap();
    for spooled in [&worker, &remover] {
        let early = tokio::time::timeout(Duration::from_millis(50), spooled.remove(run.id())).await;
        assert!(early.is_err(), "it waits");
    }
    far.holds.store(false, Ordering::SeqCst);
    let removing = remover.remove(run.id());
    far.free.notify_one();
    tokio::time::timeout(LONG, removing).await.expect("it goes on").unwrap();
    is_empty(dir.path()).await;
    assert_eq!(far.ids().await, []);
}

#[tokio::test]
async fn a_removal_that_was_killed_is_brought_to_its_end() {
    for is_store in [true, false] {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
        let worker = open(&far, &dir).await;
        let run = half_shipped(&far, &worker).await;
        worker.close(Duration::ZERO).await.unwrap_err();
        // It had only said so yet.
        fs::write(folders(dir.path()).remove(0).join("removed"), b"").unwrap();
        far.go(false);
        let next = match is_store {
            true => open(&far, &dir).await,
            false => Spooled::open(far.clone(), config(&dir)).await.unwrap(),
        };
        assert_eq!(next.waiting().await.unwrap(), []);
        is_empty(dir.path()).await;
        // A sink that cannot remove keeps what it has, and gets no more.
        let left = if is_store { vec![] } else { vec![run.id().clone()] };
        assert_eq!(far.ids().await, left);
    }
}

#[tokio::test]
async fn what_a_killed_process_was_deleting_is_not_shipped_and_goes() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    let worker = open(&far, &dir).await;
    half_shipped(&far, &worker).await;
    worker.close(Duration::ZERO).await.unwrap_err();
    let folder = folders(dir.path()).remove(0);
    fs::rename(&folder, folder.with_file_name(".gone-1-0123456789abcdef")).unwrap();
    far.go(false);
    let before = far.ids().await;
    let next = open(&far, &dir).await;
    assert_eq!(folders(dir.path()), Vec::<PathBuf>::new());
    assert_eq!(next.waiting().await.unwrap(), []);
    shipped(&next).await;
    assert_eq!(far.ids().await, before);
}

#[tokio::test]
async fn what_was_removed_at_the_store_is_shipped_no_further() {
    for only_the_end_waits in [true, false] {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
        let spooled = open(&far, &dir).await;
        let mut run = SampleRun::new();
        run.begin(&spooled).await;
        run.append(&spooled, &[lines(1, ["one"])]).await;
        shipped(&spooled).await;
        far.go(true);
        if !only_the_end_waits {
            run.append(&spooled, &[lines(2, ["two"])]).await;
        }
        run.finish(&spooled).await;
        // As by another program, or because it had expired there.
        assert!(far.store.remove(run.id()).await.unwrap());
        far.go(false);
        shipped(&spooled).await;
        is_empty(dir.path()).await;
        assert_eq!(far.ids().await, [], "it does not come back");
        let late = spooled.append(run.key(), &[lines(3, ["three"])]).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(folders(dir.path()), Vec::<PathBuf>::new(), "and leaves nothing");
    }
}

/// Waits until nothing of the run is answered as if it were there.
async fn gone_for_its_writer(run: &mut SampleRun, spooled: &Spooled<Far>) {
    let late = spooled.append(run.key(), &[lines(9, ["late"])]).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
    run.record.beat(pubsub_core::Counts::default());
    assert_eq!(spooled.begin(&run.record).await.unwrap_err().kind(), ErrorKind::NotFound);
    let mut ended = run.record.clone();
    ended.revision += 1;
    ended.status = pubsub_core::RunStatus::Completed;
    assert_eq!(spooled.finish(&ended).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_run_that_is_removed_while_it_is_written_ends_and_is_not_made_anew() {
    for store_is_away in [false, true] {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
        let (worker, remover) = (open(&far, &dir).await, open(&far, &dir).await);
        let mut run = SampleRun::new();
        run.begin(&worker).await;
        run.append(&worker, &[lines(1, ["one"])]).await;
        shipped(&worker).await;
        far.go(store_is_away);
        assert_eq!(remover.remove(run.id()).await.is_err(), store_is_away);
        gone_for_its_writer(&mut run, &worker).await;
        far.go(false);
        is_empty(dir.path()).await;
        gone_for_its_writer(&mut run, &worker).await;
        shipped(&worker).await;
        assert_eq!((folders(dir.path()), far.ids().await), (vec![], vec![]), "nothing made it anew");
        // As when it is copied there again.
        let mut again = SampleRun::new();
        again.record = RunRecord::begun(run.key().clone(), "worker-1");
        again.begin(&worker).await;
        again.finish(&worker).await;
        shipped(&worker).await;
        assert_eq!(far.ids().await, [run.id().clone()]);
    }
}

#[tokio::test]
async fn a_run_that_is_removed_at_the_store_is_not_made_anew_by_who_writes_it() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    let spooled = open(&far, &dir).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    shipped(&spooled).await;
    assert!(far.store.remove(run.id()).await.unwrap());
    run.append(&spooled, &[lines(1, ["one"])]).await;
    is_empty(dir.path()).await;
    gone_for_its_writer(&mut run, &spooled).await;
    shipped(&spooled).await;
    assert_eq!((folders(dir.path()), far.ids().await), (vec![], vec![]));
}

#[tokio::test]
async fn a_fan_out_ends_a_run_that_is_removed_while_the_store_is_away() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    far.go(true);
    let (worker, remover) = (Arc::new(open(&far, &dir).await), open(&far, &dir).await);
    let refused = pubsub_core::MemoryRefusedLines::new(1 << 20);
    let sink = Arc::clone(&worker) as Arc<dyn OutputSink>;
    let sink = SinkConfig::required("far", sink).with_refused_lines(Arc::new(refused.clone()));
    let fan_out = FanOut::new(vec![sink]);
    let mut run = SampleRun::new();
    let sinks = fan_out.begin(&run.record).await.unwrap();
    sinks.append(&[lines(1, ["one"])]);
    sinks.drained().await;
    remover.remove(run.id()).await.unwrap_err();
    sinks.append(&[lines(2, ["two"])]);
    run.record.revision += 1;
    run.record.status = pubsub_core::RunStatus::Completed;
    let ended = tokio::time::timeout(LONG, sinks.finish(run.record.clone())).await.expect("it ends").unwrap();
    assert!(ended.record.output_incomplete);
    assert_eq!(
        pubsub_core::RefusedLines::list(&refused, None, 10).await.unwrap(),
        [],
        "and are kept nowhere"
    );
    assert_eq!((ended.sinks[0].stored, ended.sinks[0].dropped, ended.sinks[0].dead_lettered), (1, 1, 0));
    far.go(false);
    is_empty(dir.path()).await;
    assert_eq!(far.ids().await, []);
}

#[tokio::test]
async fn what_the_store_refuses_for_good_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far { refuses_runs: true, ..Far::default() };
    let spooled = open(&far, &dir).await;
    let mut run = SampleRun::new();
    run.begin(&spooled).await;
    run.append(&spooled, &[lines(1, ["one"])]).await;
    run.finish(&spooled).await;
    shipped(&spooled).await;
    is_empty(dir.path()).await;
}

/// A run whose owner was killed so long ago.
async fn killed(far: &Far, dir: &TempDir, ago: Duration) -> SampleRun {
    let spooled = open(far, dir).await;
    let mut run = SampleRun::new();
    run.record.beat_at = Timestamp::now().minus(ago);
    run.begin(&spooled).await;
    run.append(&spooled, &[lines(1, ["one"])]).await;
    shipped(&spooled).await;
    spooled.close(LONG).await.unwrap();
    assert_eq!(folders(dir.path()).len(), 1, "its owner may go on");
    run
}

#[tokio::test]
async fn what_a_dead_owner_left_goes_once_the_store_has_it() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    let run = killed(&far, &dir, Duration::from_secs(3_600)).await;
    let next = open(&far, &dir).await;
    shipped(&next).await;
    is_empty(dir.path()).await;
    assert_eq!(shape(&read(&far.store, run.id(), Lines::ALL).await), "1-1");
    // Whoever takes its event over ends it all the same.
    let mut ended = run;
    ended.finish(&next).await;
    shipped(&next).await;
    assert_eq!(far.store.runs(&ended.query()).await.unwrap(), [ended.record]);
}

#[tokio::test]
async fn what_a_dead_owner_left_stays_while_it_may_be_alive_or_has_holes_to_tell() {
    let table = [(Duration::ZERO, false, true), (Duration::from_secs(3_600), true, true)];
    for (ago, refuses_lines, stays) in table {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far { refuses_lines, ..Far::default() });
        killed(&far, &dir, ago).await;
        let next = open(&far, &dir).await;
        shipped(&next).await;
        next.close(LONG).await.unwrap();
        assert_eq!(folders(dir.path()).len(), usize::from(stays));
        if refuses_lines {
            let soon = config(&dir).with_keep_damaged(Duration::from_secs(60));
            let next = Spooled::open_store(far.clone(), soon).await.unwrap();
            shipped(&next).await;
            is_empty(dir.path()).await;
        }
    }
}

#[tokio::test]
async fn a_damaged_record_holds_up_no_other_and_goes_after_a_while() {
    for record in [Some(&b"{\"version\":1,"[..]), None] {
        let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
        let worker = open(&far, &dir).await;
        half_shipped(&far, &worker).await;
        let folder = folders(dir.path()).remove(0);
        let mut other = SampleRun::new();
        other.begin(&worker).await;
        other.append(&worker, &[lines(1, ["one", "two"])]).await;
        other.finish(&worker).await;
        worker.close(Duration::ZERO).await.unwrap_err();
        match record {
            Some(bytes) => fs::write(folder.join("record.json"), bytes).unwrap(),
            None => fs::remove_file(folder.join("record.json")).unwrap(),
        }
        far.go(false);
        let next = open(&far, &dir).await;
        shipped(&next).await;
        assert_eq!(shape(&read(&far.store, other.id(), Lines::ALL).await), "1-2");
        assert_eq!(folders(dir.path()), [folder], "people can look at it");
        next.close(LONG).await.unwrap();
        let soon = config(&dir).with_keep_damaged(Duration::ZERO);
        let next = Spooled::open_store(far.clone(), soon).await.unwrap();
        shipped(&next).await;
        assert_eq!(folders(dir.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_record_of_a_later_version_stays_for_that_version() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    let worker = open(&far, &dir).await;
    half_shipped(&far, &worker).await;
    worker.close(Duration::ZERO).await.unwrap_err();
    let folder = folders(dir.path()).remove(0);
    fs::write(folder.join("record.json"), b"{\"version\":99}").unwrap();
    let soon = config(&dir).with_keep_damaged(Duration::ZERO);
    let next = Spooled::open_store(far.clone(), soon).await.unwrap();
    shipped(&next).await;
    assert_eq!(folders(dir.path()), [folder]);
    assert_eq!(next.waiting().await.unwrap(), []);
}

#[tokio::test]
async fn who_was_killed_before_a_run_began_leaves_nothing() {
    let (dir, far) = (tempfile::tempdir().unwrap(), Far::default());
    let folder = dir.path().join(SampleRun::new().id().as_str());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("lock"), b"").unwrap();
    let spooled = open(&far, &dir).await;
    assert_eq!(folders(dir.path()), Vec::<PathBuf>::new());
    let unknown = SampleRun::new();
    let error = spooled.append(unknown.key(), &[lines(1, ["one"])]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(folders(dir.path()), Vec::<PathBuf>::new());
}
