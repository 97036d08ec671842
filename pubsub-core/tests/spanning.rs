//! What several stores answer as one: who has what, who is down, who is slow.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use pubsub_core::conformance::store::{SampleRun, at, lines, shape};
use pubsub_core::{
    Counts, Error, ErrorKind, Follow, FollowFrom, Followed, Gap, Hit, LineBatch, LineNumber, LineRange,
    Lines, MemoryStore, Outcome, Output, OutputReader, OutputSink, Result, Retention as _, RunId, RunQuery,
    RunRecord, RunStatus, Search, Spanning, Target, copy, follow, verify,
};
use tokio::time::Instant;

/// A store that can be down, silent, or fail after some items of an answer; it counts what it is asked for lines.
#[derive(Clone, Default)]
struct Moody {
    store: MemoryStore,
    down: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    /// After so many items an answer fails; 0 for never.
    fails_after: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

fn out_of_reach() -> Error {
    Error::new(ErrorKind::Unavailable, "connect")
}

impl Moody {
    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    async fn met(&self) -> Result<()> {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.down.load(Ordering::SeqCst) { Err(out_of_reach()) } else { Ok(()) }
    }

    fn failing<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        match self.fails_after.load(Ordering::SeqCst) {
            0 => items,
            after => items.take(after).chain(futures::stream::iter([Err(out_of_reach())])).boxed(),
        }
    }
}

#[async_trait]
impl OutputReader for Moody {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.met().await?;
        self.store.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.met().await?;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let output = self.store.lines(run, lines).await?;
        Ok(Output { items: self.failing(output.items), ..output })
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.met().await?;
        Ok(self.failing(self.store.search(query, search).await?))
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.met().await?;
        self.store.changes(query).await
    }
}

/// A near store, an archive, and both as one.
struct Pair {
    near: Moody,
    archive: Moody,
    both: Spanning,
}

fn pair() -> Pair {
    let (near, archive) = (Moody::default(), Moody::default());
    let both = Spanning::new("near", Arc::new(near.clone())).with("archive", Arc::new(archive.clone()));
    Pair { near, archive, both }
}

impl Pair {
    /// A run that has ended, of which each has these lines.
    async fn written(&self, printed: &[LineBatch], near: &[LineBatch], archive: &[LineBatch]) -> SampleRun {
        let mut run = SampleRun::new();
        run.print(printed);
        for (store, batches) in [(&self.near.store, near), (&self.archive.store, archive)] {
            run.begin(store).await;
            store.append(run.key(), batches).await.unwrap();
        }
        run.complete();
        self.near.store.finish(&run.record).await.unwrap();
        self.archive.store.finish(&run.record).await.unwrap();
        run
    }

    async fn shape(&self, run: &SampleRun, asked: Lines) -> String {
        shape(&items(&self.both, run, asked).await.unwrap())
    }

    /// Who did not answer since this was asked last.
    fn unanswered(&mut self) -> Vec<String> {
        let told = self.both.unanswered().into_iter().map(|unanswered| unanswered.store).collect();
        self.both = self.both.question();
        told
    }
}

async fn items(
    reader: &dyn OutputReader,
    run: &SampleRun,
    asked: Lines,
) -> Result<Vec<pubsub_core::OutputItem>> {
    reader.lines(run.id(), asked).await?.items.try_collect().await
}

async fn found(reader: &dyn OutputReader, query: &RunQuery, search: &Search) -> Result<Vec<u64>> {
    let hits: Vec<Hit> = reader.search(query, search).await?.try_collect().await?;
    Ok(hits.iter().map(|hit| hit.line.number.get()).collect())
}

/// `first` to `last`, each in a batch of its own.
fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<LineBatch> {
    numbers.into_iter().map(|n| lines(n, [format!("line {n}")])).collect()
}

fn gap(first: u64, last: u64, reason: &str) -> Gap {
    Gap { range: LineRange::new(at(first), at(last)), bytes: None, reason: reason.to_owned() }
}

#[tokio::test]
async fn each_line_comes_from_the_first_store_that_has_it_and_one_gap_is_left_where_none_has() {
    let mut pair = pair();
    let every = |of: fn(u64) -> bool| numbered((1..=60).filter(|n| of(*n) && !(31..=39).contains(n)));
    // By turns, with two in common, and a hole that both have.
    let run =
        pair.written(&numbered(1..=60), &every(|n| n % 5 < 3), &every(|n| n % 5 >= 3 || n % 5 == 0)).await;
    assert_eq!(pair.shape(&run, Lines::ALL).await, "1-30 gap 31-39 not stored here; 40-60");
    assert_eq!(
        items(&pair.both, &run, Lines::ALL)
            .await
            .unwrap()
            .iter()
            .filter(|item| { matches!(item, pubsub_core::OutputItem::Gap(_)) })
            .count(),
        1,
        "one gap"
    );
    assert_eq!(
        pair.shape(&run, Lines::Range(LineRange::new(at(29), at(33)))).await,
        "29-30 gap 31-33 not stored here"
    );
    for (count, expected) in [
        (1, "60-60"),
        (21, "40-60"),
        (22, "30-30 gap 31-39 not stored here; 40-60"),
        (51, "1-30 gap 31-39 not stored here; 40-60"),
        (52, "1-30 gap 31-39 not stored here; 40-60"),
    ] {
        assert_eq!(pair.shape(&run, Lines::Last(count)).await, expected, "last {count}");
    }
    let all = found(&pair.both, &run.query(), &Search::regex("^line").unwrap()).await.unwrap();
    assert!(all.iter().copied().eq((1..=30).chain(40..=60)), "{all:?}");
    assert_eq!(pair.unanswered(), [""; 0]);
}

#[tokio::test]
async fn a_store_that_has_everything_is_read_alone_and_holes_cost_no_question_each() {
    let pair = pair();
    let all = numbered(1..=2_000);
    let run = pair.written(&all, &all, &all).await;
    pair.shape(&run, Lines::ALL).await;
    pair.shape(&run, Lines::Last(50)).await;
    assert_eq!(pair.near.asked.load(Ordering::SeqCst), 2, "a question is one to the near store");
    let asked = pair.archive.asked.load(Ordering::SeqCst);
    let odd = numbered((1..=2_000).filter(|n| n % 2 == 1));
    let run = pair.written(&all, &odd, &all).await;
    assert_eq!(pair.shape(&run, Lines::ALL).await, "1-2000");
    let asked = pair.archive.asked.load(Ordering::SeqCst) - asked;
    assert!(asked <= 3, "{asked} questions for 1,000 holes");
}

#[tokio::test]
async fn the_reason_of_a_gap_is_that_of_the_nearest_store_that_knows_one() {
    let pair = pair();
    let mut run = SampleRun::new();
    run.print(&numbered(1..=20));
    for (store, batches) in
        [(&pair.near.store, numbered(16..=20)), (&pair.archive.store, numbered((1..=4).chain(9..=12)))]
    {
        run.begin(store).await;
        store.append(run.key(), &batches).await.unwrap();
    }
    run.complete();
    pair.near.store.finish(&run.record).await.unwrap();
    run.record.holes = vec![gap(5, 8, "refused by the archive"), gap(13, 20, "never sent")];
    pair.archive.store.finish(&run.record).await.unwrap();
    let expected = "1-4 gap 5-8 refused by the archive; 9-12 gap 13-15 never sent; 16-20";
    assert_eq!(pair.shape(&run, Lines::ALL).await, expected);
    // The near store names no holes: what both lack is not known by their records.
    assert_eq!(pair.both.runs(&run.query()).await.unwrap()[0].holes, []);
}

#[tokio::test]
async fn the_later_record_wins_whichever_store_has_it_and_its_outcome_is_found() {
    let pair = pair();
    let mut run = SampleRun::new();
    run.begin(&pair.near.store).await;
    run.begin(&pair.archive.store).await;
    run.append(&pair.near.store, &numbered(1..=5)).await;
    run.record.beat(Counts::default());
    run.begin(&pair.near.store).await;
    let beaten = run.record.clone();
    assert_eq!(pair.both.runs(&run.query()).await.unwrap(), std::slice::from_ref(&beaten));
    assert_eq!(pair.both.lines(run.id(), Lines::Last(0)).await.unwrap().record, beaten);
    run.finish(&pair.archive.store).await;
    let of_outcome = run.query().with_outcome(Outcome::Succeeded);
    assert_eq!(pair.both.runs(&of_outcome).await.unwrap(), std::slice::from_ref(&run.record));
    // Its lines are in the store that does not know how it ended.
    let line = Search::regex("line [24]$").unwrap();
    assert_eq!(found(&pair.both, &of_outcome, &line).await.unwrap(), [2, 4]);
    let output = pair.both.lines(run.id(), Lines::ALL).await.unwrap();
    assert_eq!((output.record.status, output.complete_through), (RunStatus::Completed, 5));
}

#[tokio::test]
async fn a_running_run_is_complete_as_far_as_any_store_vouches_for() {
    let pair = pair();
    let mut run = SampleRun::new();
    run.begin(&pair.near.store).await;
    run.begin(&pair.archive.store).await;
    run.append(&pair.near.store, &numbered((1..=3).chain(9..=12))).await;
    run.append(&pair.archive.store, &numbered(1..=7)).await;
    let output = pair.both.lines(run.id(), Lines::ALL).await.unwrap();
    assert_eq!(output.complete_through, 7);
    assert_eq!(pair.shape(&run, Lines::ALL).await, "1-7 gap 8-8 not stored yet; 9-12");
    assert_eq!(pair.shape(&run, Lines::Last(6)).await, "6-7 gap 8-8 not stored yet; 9-12");
}

#[tokio::test]
async fn while_a_store_is_down_the_others_answer_and_it_is_told() {
    let mut pair = pair();
    let run = pair.written(&numbered(1..=9), &numbered(6..=9), &numbered(1..=7)).await;
    let search = Search::regex("line").unwrap();
    assert_eq!(pair.shape(&run, Lines::ALL).await, "1-9");
    pair.archive.set_down(true);
    assert_eq!(pair.both.runs(&run.query()).await.unwrap(), std::slice::from_ref(&run.record));
    assert_eq!(pair.unanswered(), ["archive"]);
    let short = "gap 1-5 not stored here; archive did not answer, and may have them; 6-9";
    assert_eq!(pair.shape(&run, Lines::ALL).await, short);
    assert_eq!(pair.unanswered(), ["archive"]);
    assert_eq!(found(&pair.both, &run.query(), &search).await.unwrap(), [6, 7, 8, 9]);
    assert_eq!(pair.unanswered(), ["archive"]);
    drop(pair.both.changes(&run.query()).await.unwrap());
    assert_eq!(pair.unanswered(), ["archive"]);

    pair.near.set_down(true);
    let kinds = [
        pair.both.runs(&run.query()).await.unwrap_err(),
        pair.both.lines(run.id(), Lines::ALL).await.unwrap_err(),
        found(&pair.both, &run.query(), &search).await.unwrap_err(),
        pair.both.changes(&run.query()).await.map(drop).unwrap_err(),
    ];
    for error in kinds {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("no store answers (stores=near, archive"), "{error}");
    }
    assert_eq!(pair.unanswered(), ["near", "archive"]);
    pair.near.set_down(false);
    pair.archive.set_down(false);
    assert_eq!(pair.shape(&run, Lines::ALL).await, "1-9");
    assert_eq!(pair.unanswered(), [""; 0]);
}

#[tokio::test]
async fn a_store_without_the_run_is_no_failure_and_one_that_does_not_answer_may_have_it() {
    let mut pair = pair();
    let run = SampleRun::written(&pair.archive.store, &numbered(1..=5)).await;
    for asked in [Lines::ALL, Lines::Last(5), Lines::From(at(1))] {
        assert_eq!(pair.shape(&run, asked).await, "1-5");
    }
    assert_eq!(pair.unanswered(), [""; 0]);
    let nobody = pair.both.lines(SampleRun::new().id(), Lines::ALL).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    pair.archive.set_down(true);
    let maybe = pair.both.lines(run.id(), Lines::ALL).await.unwrap_err();
    assert_eq!(maybe.kind(), ErrorKind::Unavailable);
    assert!(maybe.to_string().contains("unanswered=archive"), "{maybe}");
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_of_an_answer_is_replaced_by_the_others() {
    let mut pair = pair();
    let all = numbered(1..=100);
    let run = pair.written(&all, &all, &all).await;
    for after in [1, 40, 99, 100] {
        pair.near.fails_after.store(after, Ordering::SeqCst);
        for (asked, expected) in
            [(Lines::ALL, "1-100"), (Lines::Last(30), "71-100"), (Lines::From(at(50)), "50-100")]
        {
            assert_eq!(pair.shape(&run, asked).await, expected, "{after} {asked:?}");
        }
        let hits = found(&pair.both, &run.query(), &Search::regex("").unwrap()).await.unwrap();
        assert!(hits.iter().copied().eq(1..=100), "{after}: {hits:?}");
        assert_eq!(pair.unanswered(), ["near"]);
    }
    // What it alone had is a gap that says so.
    let run = pair.written(&all, &all, &numbered(1..=60)).await;
    pair.near.fails_after.store(70, Ordering::SeqCst);
    let told = "1-70 gap 71-100 not stored here; near did not answer, and may have them";
    assert_eq!(pair.shape(&run, Lines::ALL).await, told);
}

#[tokio::test]
async fn what_only_a_failed_store_vouched_for_of_a_running_run_is_no_gap_but_an_error() {
    let pair = pair();
    let mut run = SampleRun::new();
    run.begin(&pair.near.store).await;
    run.begin(&pair.archive.store).await;
    run.append(&pair.near.store, &numbered(1..=9)).await;
    pair.archive.store.append(run.key(), &numbered(1..=4)).await.unwrap();
    pair.near.fails_after.store(6, Ordering::SeqCst);
    let output = pair.both.lines(run.id(), Lines::ALL).await.unwrap();
    assert_eq!(output.complete_through, 9);
    let mut items: Vec<_> = output.items.collect().await;
    let error = items.pop().unwrap().unwrap_err();
    assert_eq!((items.len(), error.kind()), (6, ErrorKind::Unavailable));
    assert!(error.to_string().contains("first=7"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_left_out_after_the_limit_and_sooner_the_next_time() {
    let mut pair = pair();
    pair.both = pair.both.with_answer_limit(Duration::from_secs(5));
    let all = numbered(1..=9);
    let run = pair.written(&all, &all, &all).await;
    pair.archive.silent.store(true, Ordering::SeqCst);
    for (name, most) in [("runs", 5_000), ("lines", 500), ("search", 500 + 3_000 + 100)] {
        let started = Instant::now();
        match name {
            "runs" => assert_eq!(pair.both.runs(&run.query()).await.unwrap().len(), 1),
            "lines" => assert_eq!(pair.shape(&run, Lines::ALL).await, "1-9"),
            _ => {
                assert_eq!(found(&pair.both, &run.query(), &Search::regex("9").unwrap()).await.unwrap(), [9])
            }
        }
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(500) && took <= Duration::from_millis(most),
            "{name}: {took:?}"
        );
        let told = pair.both.unanswered();
        assert_eq!((told[0].store.as_str(), told[0].error.kind()), ("archive", ErrorKind::TimedOut));
        pair.both = pair.both.question();
    }
    pair.archive.silent.store(false, Ordering::SeqCst);
    assert_eq!(pair.both.runs(&run.query()).await.unwrap().len(), 1);
    assert_eq!(pair.unanswered(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_search_that_hangs_in_one_store_is_answered_by_the_others_before_its_own_limit() {
    struct Hanging(MemoryStore);

    #[async_trait]
    impl OutputReader for Hanging {
        async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
            self.0.runs(query).await
        }

        async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
            self.0.lines(run, lines).await
        }

        async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
            let one = self.0.search(query, search).await?.take(1);
            Ok(one.chain(futures::stream::pending()).boxed())
        }

        async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
            self.0.changes(query).await
        }
    }

    let store = MemoryStore::new();
    let run = SampleRun::written(&store, &numbered(1..=9)).await;
    let both = Spanning::new("slow", Arc::new(Hanging(store.clone()))).with("other", Arc::new(store.clone()));
    let search = Search::regex("line").unwrap().with_time_limit(Duration::from_secs(60));
    let started = Instant::now();
    assert_eq!(found(&both, &run.query(), &search).await.unwrap().len(), 9);
    assert_eq!(started.elapsed().as_secs(), 30, "half of the search's time");
    // Where nobody else answers it is the search that takes too long.
    let alone = Spanning::new("slow", Arc::new(Hanging(store)));
    let search = search.with_time_limit(Duration::from_secs(5));
    assert_eq!(found(&alone, &run.query(), &search).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_while_one_store_is_away_and_hears_of_it_again_once_it_is_back() {
    let pair = pair();
    let (near, archive) = (pair.near.clone(), pair.archive.clone());
    let mut run = SampleRun::new();
    run.begin(&near.store).await;
    run.begin(&archive.store).await;
    archive.set_down(true);
    let target = Target::Run(run.id().clone());
    let mut followed =
        follow(Arc::new(pair.both), Follow { target, from: FollowFrom::Line(LineNumber::FIRST) });
    assert!(matches!(followed.next().await.unwrap().unwrap(), Followed::Began(_)));
    let mut next = async || match followed.next().await.unwrap().unwrap() {
        Followed::Item(item) => shape(&[item]),
        other => format!("{other:?}"),
    };
    run.append(&near.store, &numbered(1..=1)).await;
    assert_eq!(next().await, "1-1");
    // Away with what it alone knows: nothing is skipped, nothing is told to be missing.
    archive.set_down(false);
    near.set_down(true);
    run.print(&numbered(2..=2));
    near.store.append(run.key(), &numbered(2..=2)).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(5), next()).await;
    assert!(waited.is_err(), "{waited:?}");
    near.set_down(false);
    assert_eq!(next().await, "2-2");
    near.set_down(true);
    archive.store.append(run.key(), &numbered(1..=4)).await.unwrap();
    assert_eq!((next().await, next().await), ("3-3".to_owned(), "4-4".to_owned()));
}

#[tokio::test]
async fn a_run_is_copied_and_verified_from_two_halves() {
    let pair = pair();
    let all = numbered(1..=200);
    let run = pair.written(&all, &numbered(81..=200), &numbered(1..=120)).await;
    assert!(!verify(&pair.near, run.id()).await.unwrap().agrees());
    assert!(verify(&pair.both, run.id()).await.unwrap().agrees());
    let whole = MemoryStore::new();
    assert_eq!(copy(&pair.both, run.id(), &whole).await.unwrap().lines, 200);
    assert!(verify(&whole, run.id()).await.unwrap().agrees());
    whole.remove(run.id()).await.unwrap();
}
