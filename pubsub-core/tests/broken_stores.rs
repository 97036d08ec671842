//! The store suite catches stores that break a promise: each of these breaks one, around a store that keeps it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod rules;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use pubsub_core::conformance::store::{StoreFixture, batch};
use pubsub_core::conformance::stress::{STORE_RULES_ALONE, Stress, stress_store};
use pubsub_core::{
    Appended, Hit, Judgement, Keep, LineBatch, LineEnd, LineNumber, LineRange, Lines, MEMORY_STORE,
    MemoryStore, Output, OutputItem, OutputReader, OutputSink, Result, Retention, RunId, RunKey, RunQuery,
    RunRecord, Search, Store, StoreCapabilities, Stream, Timestamp,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaks {
    Nothing,
    DropsTheLastLine,
    CountsARefusedLineAsStored,
    ForgetsTheSeal,
    StoresARepeatedLineTwice,
    AnswersLastFromTheFront,
    Reorders,
    IgnoresTheRevision,
    ForgetsHolesAtTheConclusion,
    HidesGaps,
    EndsAtTenThousand,
    GuessesTheEndOfLines,
    ReplacesInvalidBytes,
    RoundsTimes,
    AnswersNothingForUnknownRuns,
    NeedsABegin,
    SearchesAnyCase,
    FindsNoLineWithInvalidBytes,
    ShortensALateSearch,
    SearchesNewestFirst,
    ListsOldestFirst,
    IgnoresTheOutcomeAskedFor,
    IgnoresCaseInIds,
    TellsNoChange,
    SaysCompleteTooSoon,
    RemovesLookAlikes,
    RemovesOnlyTheRecord,
    ExpiresWhatRuns,
    ExpiresTheNewest,
    CountsOnlyWhatHasEnded,
    CountsNoBytes,
    HeedsOneLimit,
    TakesLinesOfNoRun,
    TakesNewerRecords,
    ClaimsNoSearchAndSearches,
    TakesNothingAfterTheSeal,
    TakesOneRecordUntilTheEnd,
    FindsNoRunWithoutOutput,
    TellsNothingAtFirst,
}

/// Each with the rule that says what it breaks.
const CAUGHT_BY: [(Breaks, &str); 40] = [
    (Breaks::DropsTheLastLine, "what_is_appended_is_read_back_exactly"),
    (Breaks::CountsARefusedLineAsStored, "a_line_of_64_kib_is_kept_whole"),
    (Breaks::ForgetsTheSeal, "the_seal_over_what_is_read_is_the_one_of_the_record"),
    (Breaks::StoresARepeatedLineTwice, "a_repeated_append_changes_nothing"),
    (Breaks::AnswersLastFromTheFront, "lines_are_found_from_a_number_in_a_range_and_from_the_end"),
    (Breaks::Reorders, "lines_are_found_from_a_number_in_a_range_and_from_the_end"),
    (Breaks::IgnoresTheRevision, "an_earlier_record_changes_nothing"),
    (Breaks::ForgetsHolesAtTheConclusion, "holes_survive_a_later_finish_that_knows_none"),
    (Breaks::HidesGaps, "missing_lines_leave_a_gap_in_their_place"),
    (Breaks::EndsAtTenThousand, "nothing_ends_at_ten_thousand_lines"),
    (Breaks::GuessesTheEndOfLines, "content_and_ends_rebuild_what_was_printed"),
    (Breaks::ReplacesInvalidBytes, "what_is_appended_is_read_back_exactly"),
    (Breaks::RoundsTimes, "what_is_appended_is_read_back_exactly"),
    (Breaks::AnswersNothingForUnknownRuns, "an_unknown_run_is_not_found"),
    (Breaks::NeedsABegin, "finish_creates_a_run_that_never_began"),
    (Breaks::SearchesAnyCase, "patterns_are_those_of_the_regex_crate"),
    (Breaks::FindsNoLineWithInvalidBytes, "invalid_bytes_are_searched_as_they_are_shown"),
    (Breaks::ShortensALateSearch, "a_search_past_its_time_limit_is_an_error"),
    (Breaks::SearchesNewestFirst, "hits_come_by_begin_time_run_and_number"),
    (Breaks::ListsOldestFirst, "runs_come_newest_first"),
    (Breaks::IgnoresTheOutcomeAskedFor, "each_filter_holds"),
    (Breaks::IgnoresCaseInIds, "ids_that_differ_in_case_or_at_the_very_end_are_kept_apart"),
    (Breaks::TellsNoChange, "an_item_comes_after_each_kind_of_write"),
    (Breaks::SaysCompleteTooSoon, "a_running_run_says_how_far_it_is_complete"),
    (Breaks::RemovesLookAlikes, "removing_one_action_leaves_its_look_alikes"),
    (Breaks::RemovesOnlyTheRecord, "a_removed_run_is_gone"),
    (Breaks::ExpiresWhatRuns, "only_old_runs_that_have_ended_expire"),
    (Breaks::ExpiresWhatRuns, "the_oldest_expire_until_so_many_are_left"),
    (Breaks::ExpiresTheNewest, "the_oldest_expire_until_so_many_are_left"),
    (Breaks::ExpiresTheNewest, "the_oldest_expire_until_their_bytes_fit"),
    (Breaks::CountsOnlyWhatHasEnded, "the_oldest_expire_until_so_many_are_left"),
    (Breaks::CountsNoBytes, "the_oldest_expire_until_their_bytes_fit"),
    (Breaks::HeedsOneLimit, "limits_that_are_named_together_all_hold"),
    (Breaks::TakesLinesOfNoRun, "an_append_to_an_unknown_run_is_not_found"),
    (Breaks::TakesNewerRecords, "a_newer_record_is_refused_by_name"),
    (Breaks::ClaimsNoSearchAndSearches, "patterns_are_those_of_the_regex_crate"),
    (Breaks::TakesNothingAfterTheSeal, "a_copy_fills_the_holes_of_a_sealed_run"),
    (Breaks::TakesOneRecordUntilTheEnd, "a_later_record_is_taken_while_it_runs"),
    (Breaks::FindsNoRunWithoutOutput, "a_run_without_output_gives_an_empty_list"),
    (Breaks::TellsNothingAtFirst, "an_item_comes_at_once"),
];

#[derive(Clone)]
struct Broken(MemoryStore, Breaks);

#[async_trait]
impl StoreFixture for Broken {
    async fn new() -> Self {
        Self(MemoryStore::new(), Breaks::Nothing)
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

impl Broken {
    async fn everything(&self, run: &RunId) -> Result<Vec<OutputItem>> {
        self.0.lines(run, Lines::ALL).await?.items.try_collect().await
    }

    /// Makes the run anew with these lines.
    async fn rewrite(&self, record: RunRecord, items: Vec<OutputItem>) -> Result<()> {
        self.0.remove(&record.key.run_id).await?;
        self.0.begin(&record).await?;
        for item in items {
            if let OutputItem::Lines(batch) = item {
                self.0.append(&record.key, &[batch]).await?;
            }
        }
        Ok(())
    }

    async fn put(&self, record: &RunRecord) -> Result<()> {
        let mut record = record.clone();
        if self.1 == Breaks::TakesNewerRecords {
            record.version = 1;
        }
        if self.1 == Breaks::IgnoresTheRevision
            && let Ok(items) = self.everything(&record.key.run_id).await
        {
            return self.rewrite(record, items).await;
        }
        self.0.begin(&record).await
    }
}

fn edited(batch: &LineBatch, breaks: Breaks) -> LineBatch {
    let of = |time, bytes: Vec<u8>| {
        LineBatch::split(batch.first(), time, batch.stream(), bytes.into(), batch.tail()).unwrap()
    };
    match breaks {
        Breaks::GuessesTheEndOfLines => {
            let text = batch.bytes().to_vec();
            of(
                batch.time(),
                String::from_utf8(text.clone()).map_or(text, |t| t.replace("\r\n", "\n").into_bytes()),
            )
        }
        Breaks::ReplacesInvalidBytes => {
            of(batch.time(), String::from_utf8_lossy(batch.bytes()).into_owned().into_bytes())
        }
        Breaks::RoundsTimes => {
            let millis = Timestamp::from_micros(batch.time().as_micros() / 1000 * 1000);
            of(millis, batch.bytes().to_vec())
        }
        _ => batch.clone(),
    }
}

#[async_trait]
impl OutputSink for Broken {
    async fn begin(&self, record: &RunRecord) -> Result<()> {
        if self.1 == Breaks::TakesOneRecordUntilTheEnd
            && !self.0.runs(&RunQuery::of_run(record.key.run_id.clone())).await?.is_empty()
        {
            return Ok(());
        }
        self.put(record).await
    }

    async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        if batches.is_empty() && self.1 == Breaks::TakesLinesOfNoRun {
            return Ok(Appended::all());
        }
        let mut batches: Vec<LineBatch> = batches.iter().map(|batch| edited(batch, self.1)).collect();
        match self.1 {
            Breaks::DropsTheLastLine => {
                let last = batches.pop();
                let kept = last.and_then(|batch| {
                    let before = LineNumber::new(batch.last().before())?;
                    batch.slice(LineRange::new(batch.first(), before))
                });
                batches.extend(kept);
            }
            // As a store with a limit of its own that nobody is told of.
            Breaks::CountsARefusedLineAsStored => batches.retain(|batch| batch.bytes().len() < 65_000),
            Breaks::StoresARepeatedLineTwice => {
                let there = self.everything(&run.run_id).await?;
                let last = there.last().map_or(0, |item| item.range().last.get());
                if let Some(first) = batches.first().map(LineBatch::first)
                    && first.get() <= last
                {
                    let texts: Vec<_> = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect();
                    let again = batch(last + 1, Stream::Stdout, texts, LineEnd::None);
                    return self.0.append(run, &[again]).await;
                }
            }
            Breaks::TakesNothingAfterTheSeal => {
                let there = self.0.runs(&RunQuery::of_run(run.run_id.clone())).await?;
                if there.iter().any(|record| record.digest.is_some()) {
                    return Ok(Appended::all());
                }
            }
            _ => {}
        }
        self.0.append(run, &batches).await
    }

    async fn finish(&self, record: &RunRecord) -> Result<()> {
        let mut record = record.clone();
        let there = self.0.runs(&RunQuery::of_run(record.key.run_id.clone())).await?;
        match self.1 {
            Breaks::ForgetsTheSeal => record.digest = None,
            Breaks::NeedsABegin if there.is_empty() => {
                return Err(pubsub_core::Error::new(pubsub_core::ErrorKind::NotFound, "finish"));
            }
            Breaks::ForgetsHolesAtTheConclusion if record.is_final => {
                let items = self.everything(&record.key.run_id).await?;
                return self.rewrite(record, items).await;
            }
            _ => {}
        }
        self.put(&record).await
    }
}

#[async_trait]
impl OutputReader for Broken {
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        let mut query = query.clone();
        match self.1 {
            Breaks::IgnoresTheOutcomeAskedFor => query.outcome = None,
            Breaks::IgnoresCaseInIds => {
                let Some(action) = query.action.take() else { return self.0.runs(&query).await };
                let mut runs = self.0.runs(&query).await?;
                let same = |run: &RunRecord| run.key.action_id.as_str().eq_ignore_ascii_case(action.as_str());
                runs.retain(same);
                return Ok(runs);
            }
            _ => {}
        }
        let mut runs = self.0.runs(&query).await?;
        if self.1 == Breaks::ListsOldestFirst {
            runs.reverse();
        }
        Ok(runs)
    }

    async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
        let lines = match (self.1, lines) {
            (Breaks::AnswersLastFromTheFront, Lines::Last(count @ 1..)) => {
                Lines::Range(LineRange::new(LineNumber::FIRST, LineNumber::new(count).unwrap()))
            }
            (_, lines) => lines,
        };
        let mut output = match self.0.lines(run, lines).await {
            Err(_) if self.1 == Breaks::AnswersNothingForUnknownRuns => {
                let key = pubsub_core::conformance::store::SampleRun::new().record.key;
                let record = RunRecord::begun(key, "nobody");
                return Ok(Output { record, complete_through: 0, items: stream::empty().boxed() });
            }
            output => output?,
        };
        let mut items: Vec<OutputItem> = output.items.try_collect().await?;
        if self.1 == Breaks::FindsNoRunWithoutOutput && items.is_empty() {
            return Err(pubsub_core::Error::new(pubsub_core::ErrorKind::NotFound, "no output"));
        }
        match self.1 {
            Breaks::Reorders => items.reverse(),
            Breaks::HidesGaps => items.retain(|item| matches!(item, OutputItem::Lines(_))),
            Breaks::EndsAtTenThousand => {
                let mut lines = 0;
                items.retain(|item| {
                    lines += item.range().lines();
                    lines <= 10_000
                });
            }
            Breaks::SaysCompleteTooSoon => {
                output.complete_through =
                    items.last().map_or(output.complete_through, |item| item.range().last.get());
            }
            _ => {}
        }
        output.items = stream::iter(items.into_iter().map(Ok)).boxed();
        Ok(output)
    }

    async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        match self.1 {
            Breaks::SearchesAnyCase => {
                let search = Search::regex(&format!("(?i){}", search.as_regex())).unwrap();
                self.0.search(query, &search).await
            }
            Breaks::FindsNoLineWithInvalidBytes => {
                let hits = self.0.search(query, search).await?;
                let is_text = |hit: &Result<Hit>| !hit.as_ref().is_ok_and(|hit| hit.line.is_lossy());
                Ok(hits.filter(move |hit| std::future::ready(is_text(hit))).boxed())
            }
            Breaks::ShortensALateSearch => {
                let hits = self.0.search(query, search).await?;
                Ok(hits.take_while(|hit| std::future::ready(hit.is_ok())).boxed())
            }
            Breaks::SearchesNewestFirst => {
                let mut hits: Vec<Result<Hit>> = self.0.search(query, search).await?.collect().await;
                hits.reverse();
                Ok(stream::iter(hits).boxed())
            }
            _ => self.0.search(query, search).await,
        }
    }

    async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        let changes = self.0.changes(query).await?;
        match self.1 {
            Breaks::TellsNothingAtFirst => Ok(changes.skip(1).boxed()),
            Breaks::TellsNoChange => Ok(changes.take(1).chain(stream::pending()).boxed()),
            _ => Ok(changes),
        }
    }
}

#[async_trait]
impl Retention for Broken {
    async fn remove(&self, run: &RunId) -> Result<bool> {
        let records = self.0.runs(&RunQuery::of_run(run.clone())).await?;
        match (self.1, records.first()) {
            (Breaks::RemovesLookAlikes, Some(record)) => {
                let like =
                    |id: &str| id.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect::<String>();
                let mut removed = false;
                for other in self.0.runs(&RunQuery::all()).await? {
                    if like(other.key.action_id.as_str()) == like(record.key.action_id.as_str()) {
                        removed |= self.0.remove(&other.key.run_id).await?;
                    }
                }
                Ok(removed)
            }
            (Breaks::RemovesOnlyTheRecord, Some(_)) => Ok(true),
            _ => self.0.remove(run).await,
        }
    }

    async fn expire(&self, keep: &Keep) -> Result<u64> {
        let breaks = |what: &[Breaks]| what.contains(&self.1);
        if !breaks(&[
            Breaks::ExpiresWhatRuns,
            Breaks::ExpiresTheNewest,
            Breaks::CountsOnlyWhatHasEnded,
            Breaks::CountsNoBytes,
            Breaks::HeedsOneLimit,
        ]) {
            return self.0.expire(keep).await;
        }
        let mut keep = *keep;
        match self.1 {
            Breaks::CountsNoBytes => keep.bytes = None,
            Breaks::HeedsOneLimit if keep.since.is_some() => (keep.bytes, keep.runs) = (None, None),
            _ => {}
        }
        let mut runs = self.0.runs(&RunQuery::all()).await?;
        if self.1 != Breaks::ExpiresTheNewest {
            runs.reverse();
        }
        let running = |run: &RunRecord| run.judge(Timestamp::now()) == Judgement::Running;
        if self.1 == Breaks::CountsOnlyWhatHasEnded {
            runs.retain(|run| !running(run));
        }
        let mut left = runs.len() as u64;
        let mut bytes: u64 = runs.iter().map(|run| run.counts.bytes).sum();
        let mut gone = 0;
        for run in &runs {
            let stays = running(run) && self.1 != Breaks::ExpiresWhatRuns;
            if keep.is_exceeded(run.started_at, left, bytes) && !stays {
                self.0.remove(&run.key.run_id).await?;
                (left, bytes, gone) = (left - 1, bytes - run.counts.bytes, gone + 1);
            }
        }
        Ok(gone)
    }
}

fn capabilities(breaks: Breaks) -> StoreCapabilities {
    let mut can = MEMORY_STORE;
    if breaks == Breaks::ClaimsNoSearchAndSearches {
        can.search = pubsub_core::Support::No;
    }
    can
}

/// Runs the rules of this name, or all, and answers the names of those that fail.
macro_rules! failing_rules {
    (($breaks:expr, $wanted:expr) $($module:ident :: $rule:ident),+ $(,)?) => {{
        let mut failing = BTreeSet::new();
        $(
            if $wanted.is_none_or(|wanted| wanted == stringify!($rule)) {
                let store = Broken(MemoryStore::new(), $breaks);
                let rule = tokio::spawn(async move {
                    pubsub_core::conformance::store::$module::$rule(&store, capabilities($breaks)).await;
                });
                match rule.await {
                    Ok(()) => {}
                    Err(error) if error.is_panic() => {
                        failing.insert(stringify!($rule));
                    }
                    Err(error) => panic!("{} neither passed nor failed: {error:?}", stringify!($rule)),
                }
            }
        )+
        failing
    }};
}

async fn failing(breaks: Breaks, wanted: Option<&str>) -> BTreeSet<&'static str> {
    pubsub_core::store_rules! { [failing_rules] breaks, wanted }
}

#[tokio::test(start_paused = true)]
async fn a_wrapper_that_breaks_nothing_passes() {
    assert_eq!(failing(Breaks::Nothing, None).await, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn each_broken_store_is_caught_by_the_rule_that_it_breaks() {
    for (breaks, rule) in CAUGHT_BY {
        assert_eq!(failing(breaks, Some(rule)).await, BTreeSet::from([rule]), "{breaks:?} is let through");
    }
}

/// The rules that stand in the files are the rules that the macro lists.
#[test]
fn no_rule_is_forgotten() {
    macro_rules! names {
        (() $($module:ident :: $rule:ident),+ $(,)?) => {
            [$(concat!(stringify!($module), "::", stringify!($rule))),+]
        };
    }
    let listed: BTreeSet<String> =
        pubsub_core::store_rules! { [names] }.into_iter().map(str::to_owned).collect();
    assert_eq!(rules::written("store"), listed);
}

/// A run under stress of a store that breaks a promise.
async fn failing_under_stress(breaks: Breaks, wanted: fn(&str) -> bool) -> Vec<&'static str> {
    let stress = Stress::rounds(1);
    let broken = Broken(MemoryStore::new(), breaks);
    stress_store(broken, capabilities(breaks), stress, wanted).await.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn broken_stores_are_caught_under_stress_too() {
    let dropping = failing_under_stress(Breaks::DropsTheLastLine, |_| true).await;
    assert!(dropping.contains(&"what_is_appended_is_read_back_exactly"), "{dropping:?}");
    let repeating =
        failing_under_stress(Breaks::StoresARepeatedLineTwice, |rule| rule.contains("repeated")).await;
    assert_eq!(repeating, ["a_repeated_append_changes_nothing"]);
}

/// A rule that needs a store for itself is one of the suite.
#[test]
fn rules_that_run_alone_are_rules() {
    macro_rules! names {
        (() $($module:ident :: $rule:ident),+ $(,)?) => { [$(stringify!($rule)),+] };
    }
    let rules = pubsub_core::store_rules! { [names] };
    assert!(STORE_RULES_ALONE.iter().all(|alone| rules.contains(alone)));
}
