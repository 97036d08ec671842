//! One log in several stores: the same answers, a run from each to each; and the comparison finds a store that lies.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use pubsub_core::conformance::answers::{self, answers, assert_same, same_answers, written};
use pubsub_core::conformance::fan_out::goes_into_all_and_from_each_to_each;
use pubsub_core::conformance::store::{Share, Spanned};
use pubsub_core::{
    Appended, Hit, Keep, LineBatch, LineEnd, LineNumber, LineRange, Lines, MemoryStore, Output, OutputReader,
    OutputSink, Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Spanning, Store, Stream,
};

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

#[tokio::test]
async fn the_answers_over_200_000_lines_are_those_of_the_log() {
    same_answers(&[("memory", memory())], answers::LINES).await;
}

#[tokio::test]
async fn several_stores_answer_as_one_whatever_each_has() {
    let shared = |share| Arc::new(Spanned::new(memory(), memory(), share)) as Arc<dyn Store>;
    let stores = [Share::Same, Share::Bounded, Share::InTurn].map(shared);
    let [same, bounded, in_turn] = stores;
    let stores = [("same", same), ("bounded", bounded), ("in turn", in_turn)];
    same_answers(&stores, answers::QUICK_LINES).await;
}

#[tokio::test]
async fn halves_of_the_log_answer_as_the_whole() {
    let (whole, odd, even) = (MemoryStore::new(), MemoryStore::new(), MemoryStore::new());
    let run = written(&[&whole], answers::QUICK_LINES).await;
    let mut items = whole.lines(run.id(), Lines::ALL).await.unwrap().items;
    for store in [&odd, &even] {
        store.finish(&run.record).await.unwrap();
    }
    let mut place = 0;
    while let Some(item) = items.try_next().await.unwrap() {
        let pubsub_core::OutputItem::Lines(batch) = item else { panic!("{item:?}") };
        place += 1;
        [&odd, &even][place % 2].append(run.key(), &[batch]).await.unwrap();
    }
    let both = Spanning::new("odd", Arc::new(odd.clone())).with("even", Arc::new(even));
    let expected = answers(&whole, &run.query()).await;
    assert_same("both halves", &answers(&both, &run.query()).await, &expected);
    assert_ne!(answers(&odd, &run.query()).await, expected);
}

type Lie = fn(Vec<Hit>) -> Vec<Hit>;

const LIES: [(&str, Lie); 8] = [
    ("leaves out the last", |mut hits| {
        hits.pop();
        hits
    }),
    ("ends at ten thousand", |hits| hits.into_iter().take(10_000).collect()),
    ("repeats one", |mut hits| {
        hits.extend(hits.last().cloned());
        hits
    }),
    ("gives them in another order", |mut hits| {
        hits.reverse();
        hits
    }),
    ("gives what was printed as text", |mut hits| {
        hits.iter_mut().for_each(|hit| hit.line.bytes = hit.line.text().into_owned().into_bytes().into());
        hits
    }),
    ("knows one stream", |mut hits| {
        hits.iter_mut().for_each(|hit| hit.line.stream = Stream::Stdout);
        hits
    }),
    ("hides parts", |mut hits| {
        hits.iter_mut().for_each(|hit| hit.line.end = LineEnd::Lf);
        hits
    }),
    ("finds no empty line", |mut hits| {
        hits.retain(|hit| !hit.line.bytes.is_empty());
        hits
    }),
];

/// Searches, and does not tell the truth.
#[derive(Clone)]
struct Lying(MemoryStore, Lie);

#[async_trait]
impl OutputReader for Lying {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.0.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        let hits = self.0.search(query, search).await?.try_collect().await?;
        Ok(stream::iter(self.1(hits).into_iter().map(Ok)).boxed())
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.0.changes(query).await
    }
}

#[async_trait]
impl OutputSink for Lying {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        self.0.append(run, batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[async_trait]
impl Retention for Lying {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.expire(keep).await
    }
}

/// What a test that has to fail says.
async fn panic_of(test: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(test).catch_unwind().await.unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_store_that_lies_is_found_and_named_with_the_search() {
    let store = MemoryStore::new();
    let run = written(&[&store], 11_000).await;
    let honest = answers(&store, &run.query()).await;
    for (name, lie) in LIES {
        let told = answers(&Lying(store.clone(), lie), &run.query()).await;
        let told = panic_of(async { assert_same(name, &told, &honest) }).await;
        assert!(told.contains(&format!("{name} answers otherwise")) && told.contains(" hits, "), "{told:?}");
    }
    let liar = Lying(MemoryStore::new(), LIES[0].1);
    let told = panic_of(same_answers(&[("honest", memory()), ("liar", Arc::new(liar))], 500)).await;
    assert!(told.contains("liar answers otherwise"), "{told:?}");
}

#[tokio::test]
async fn one_run_goes_into_all_stores_and_from_each_to_each() {
    let bounded: Arc<dyn Store> = Arc::new(Spanned::new(memory(), memory(), Share::Same));
    let stores = [("one", memory()), ("two", memory()), ("both", bounded)];
    goes_into_all_and_from_each_to_each(&stores, 3_000).await;
}

/// Takes every line but one, and says that it has it.
#[derive(Clone)]
struct Forgets(MemoryStore, LineNumber);

#[async_trait]
impl OutputSink for Forgets {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        self.0.begin(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let before = LineRange::new(LineNumber::FIRST, LineNumber::new(self.1.before()).unwrap());
        let after = LineRange::new(self.1.plus(1), LineNumber::MAX);
        let parts =
            |batch: &LineBatch| [batch.slice(before), batch.slice(after)].into_iter().flatten().collect();
        let kept: Vec<LineBatch> =
            batches.iter().flat_map(|batch| -> Vec<LineBatch> { parts(batch) }).collect();
        self.0.append(run, &kept).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        self.0.finish(record).await
    }
}

#[async_trait]
impl OutputReader for Forgets {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        self.0.runs(query).await
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        self.0.lines(run, lines).await
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        self.0.search(query, search).await
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        self.0.changes(query).await
    }
}

#[async_trait]
impl Retention for Forgets {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        self.0.remove(run).await
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        self.0.expire(keep).await
    }
}

#[tokio::test]
async fn a_store_that_lacks_a_line_is_found_and_named() {
    let forgets: Arc<dyn Store> = Arc::new(Forgets(MemoryStore::new(), LineNumber::new(777).unwrap()));
    let told =
        panic_of(goes_into_all_and_from_each_to_each(&[("one", memory()), ("two", forgets)], 1_000)).await;
    assert!(told.contains("one against two") && told.contains("777"), "{told}");
}
