//! What is kept: `verify`, `export`, `copy`, `remove`, `expire`.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use pubsub_pipeline::{
    Error, ErrorKind, Judgement, Keep, Lines, OutputItem, OutputReader, RefusedLines as _, Retention as _,
    RunId, RunKey, RunQuery, RunRecord, Timestamp, connect_store, copy_verified, remove_tail, verify,
    verify_against, verify_spool,
};
use serde::Serialize;

use crate::args;
use crate::codes::{DONE, Done, Failure, NO, not_there};
use crate::documents::{ExportedLine, GapDocument, StatusDocument};
use crate::human;
use crate::places::{Places, chosen, existing, seen};
use crate::screen::{Form, Screen};

#[derive(Serialize)]
struct Verified<'a> {
    run_id: &'a str,
    agrees: bool,
    difference: Option<String>,
    lines: u64,
    bytes: u64,
}

pub(crate) async fn verified(places: &Places, screen: &mut Screen, args: &args::Verify) -> Done {
    let store = places.first_store().await?;
    let record = chosen(&*store, &args.chosen).await?;
    let run = &record.key.run_id;
    let found = verify(&*store, run).await?;
    let mut difference = found.problem();
    if let Some(place) = &args.against {
        let other = existing(place).await?;
        if other.runs(&RunQuery::of_run(run.clone())).await?.is_empty() {
            return Err(not_there(format!("run {run} is not in the other store")));
        }
        // Of a run that goes on, two copies can agree although neither is sealed.
        let between = verify_against(&*store, &*other, run).await?.map(|difference| match difference.line {
            Some(line) => format!("line {line}: {}", difference.what),
            None => difference.what,
        });
        difference = between.or(difference.filter(|_| record.finished_at.is_some()));
    }
    let counts = found.found.counts;
    match screen.form {
        Form::Json => screen.document(&Verified {
            run_id: run.as_str(),
            agrees: difference.is_none(),
            lines: counts.lines,
            bytes: counts.bytes,
            difference: difference.clone(),
        })?,
        Form::Text => match &difference {
            None => {
                screen.text(&format!("{run} agrees: {}", human::size(counts.lines, counts.bytes)))?;
            }
            Some(difference) => screen.text(&format!("{run} differs: {difference}"))?,
        },
    }
    Ok(if difference.is_none() { DONE } else { NO })
}

/// One document, written piece by piece: its lines need not fit in memory.
pub(crate) async fn export(places: &Places, screen: &mut Screen, args: &args::Chosen) -> Done {
    let store = places.existing_reader().await?;
    let run = chosen(&*store, args).await?.key.run_id;
    let output = store.lines(&run, Lines::ALL).await?;
    let head = to_json(&StatusDocument::new(&seen(&output), Timestamp::now()))?;
    let mut items = output.items;
    // The status is an object; the lines become one more field of it.
    screen.raw(head.strip_suffix(b"}").unwrap_or(&head))?;
    screen.raw(b",\"output_lines\":[")?;
    let mut first = true;
    while let Some(item) = items.next().await {
        let lines = match item? {
            OutputItem::Lines(batch) => {
                batch.lines().map(|line| to_json(&ExportedLine::new(&line))).collect::<Done<Vec<_>>>()?
            }
            // In its place, so that nobody takes its neighbours for neighbours.
            OutputItem::Gap(gap) => vec![to_json(&GapDocument::new(&gap))?],
        };
        for line in lines {
            if !std::mem::replace(&mut first, false) {
                screen.raw(b",")?;
            }
            screen.raw(&line)?;
        }
    }
    screen.raw(b"]}\n")?;
    Ok(DONE)
}

fn to_json(value: &impl Serialize) -> Done<Vec<u8>> {
    Ok(serde_json::to_vec(value).map_err(std::io::Error::from)?)
}

#[derive(Serialize)]
struct Copied<'a> {
    run_id: &'a str,
    lines: u64,
    bytes: u64,
    refused: usize,
    /// A damaged copy was there.
    replaced: bool,
}

pub(crate) async fn copied(places: &Places, screen: &mut Screen, args: &args::Copy) -> Done {
    let store = places.first_store().await?;
    let run = chosen(&*store, &args.chosen).await?.key.run_id;
    let to = connect_store(&args.to).await?.store;
    let report = copy_verified(&*store, &run, &*to).await?;
    for gap in &report.refused {
        screen.gap(gap)?;
    }
    match screen.form {
        Form::Json => screen.document(&Copied {
            run_id: run.as_str(),
            lines: report.lines,
            bytes: report.bytes,
            refused: report.refused.len(),
            replaced: report.replaced,
        })?,
        Form::Text => {
            let replaced = if report.replaced { ", in place of a damaged copy" } else { "" };
            screen.text(&format!("{run} copied{replaced}: {}", human::size(report.lines, report.bytes)))?;
        }
    }
    Ok(if report.refused.is_empty() { DONE } else { NO })
}

/// Refuses a run that goes on: its worker would print into nothing.
fn not_running(record: &RunRecord) -> Done<()> {
    if record.judge(Timestamp::now()) != Judgement::Running {
        return Ok(());
    }
    let RunKey { action_id, stage, run_id, .. } = &record.key;
    let sentence = format!(
        "run {run_id} of stage {stage} of {action_id} is running; wait for it (`pipeline wait {action_id} {stage}`), \
         stop it (`pipeline cancel {action_id}`, or a signal to the program that runs it), or remove it all the same \
         with --force"
    );
    Err(Error::new(ErrorKind::Conflict, sentence).into())
}

#[derive(Serialize)]
struct Removed {
    run_id: String,
}

pub(crate) async fn remove(places: &Places, screen: &mut Screen, args: &args::Remove) -> Done {
    let mut query = RunQuery::all().with_action(args.action_id.clone());
    query.stage.clone_from(&args.stage);
    let mut removed: Vec<RunRecord> = Vec::new();
    places.has_runs()?;
    let (mut found, mut failed) = (Vec::new(), None);
    for of in places.stores().await? {
        let mut records = match of.spool() {
            // Before the store is asked: what is shipped meanwhile is found there.
            Some(spool) => spool.waiting().await?,
            None => Vec::new(),
        };
        records.retain(|record| query.matches(record));
        // What waits can be removed also where the store is out of reach, and so can what others have.
        match of.store.runs(&query).await {
            Err(error) => {
                screen.notice(&format!("{} cannot be asked for its runs: {}", of.name, error.chain()))?;
                failed = failed.or(Some(error));
            }
            Ok(stored) => records.extend(stored),
        }
        found.push((of, records));
    }
    if !args.force {
        // Before anything is removed: all of it, or nothing.
        found.iter().flat_map(|(_, records)| records).try_for_each(not_running)?;
    }
    for (of, records) in found {
        for record in records {
            match of.store.remove(&record.key.run_id).await {
                Ok(true) if !removed.iter().any(|other| other.key == record.key) => removed.push(record),
                Ok(_) => {}
                // The others go all the same.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    if removed.is_empty() && failed.is_none() {
        let what = args.stage.as_ref().map(|stage| format!("stage {stage} of ")).unwrap_or_default();
        return Err(not_there(format!(
            "{what}{} has no run here; `pipeline list` shows what has",
            args.action_id
        )));
    }
    for record in removed {
        places.refused_lines().remove(&record.key.run_id).await?;
        for held_back in places.all_held_back() {
            remove_tail(held_back, &record.key.run_id).await?;
        }
        let run_id = record.key.run_id.to_string();
        match screen.form {
            Form::Json => screen.document(&Removed { run_id })?,
            Form::Text => screen.text(&format!("{run_id} removed"))?,
        }
    }
    failed.map_or(Ok(DONE), |error| Err(error.into()))
}

#[derive(Serialize)]
struct Expired {
    store: String,
    expired: u64,
}

pub(crate) async fn expire(places: &Places, screen: &mut Screen, args: &args::Expire) -> Done {
    let mut keep = Keep::new();
    keep.since = args.older_than.map(|age| Timestamp::now().minus(age));
    (keep.bytes, keep.runs) = (args.max_bytes, args.max_runs);
    let (mut stores, mut failed) = (Vec::new(), None);
    for (place, store) in places.each_existing().await {
        let expired = match store {
            Ok(store) => {
                let expired = store.expire(&keep).await;
                stores.push(store);
                expired.map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        match (expired, screen.form) {
            (Ok(expired), Form::Json) => screen.document(&Expired { store: place.to_string(), expired })?,
            (Ok(expired), Form::Text) => screen.text(&format!("{expired} runs expired in {place}"))?,
            // The others do not wait for this one.
            (Err(Failure::Error(error)), _) => {
                screen.notice(&format!("in {place} nothing expired: {}", error.chain()))?;
                failed = failed.or(Some(error));
            }
            (Err(failure), _) => return Err(failure),
        }
    }
    if let Some(failure) = failed {
        // Whether it still has the runs whose lines were refused is not known.
        return Err(failure.into());
    }
    // Lines that were refused go with their run, once no store has it.
    let refused = places.refused_lines();
    let runs: BTreeSet<RunId> =
        refused.list(None, usize::MAX).await?.into_iter().map(|lines| lines.run.run_id).collect();
    for run in runs {
        let query = RunQuery::of_run(run.clone());
        let mut is_there = false;
        for store in &stores {
            is_there |= !store.runs(&query).await?.is_empty();
        }
        if !is_there {
            refused.remove(&run).await?;
        }
    }
    Ok(DONE)
}

#[derive(Serialize)]
struct SpooledDocument<'a> {
    store: &'a str,
    run_id: &'a str,
    action_id: Option<&'a str>,
    stage: Option<&'a str>,
    attempt: Option<u32>,
    lines: u64,
    bytes: u64,
    damage: &'a [String],
}

/// What waits in the spool.
pub(crate) async fn spooled(places: &Places, screen: &mut Screen) -> Done {
    let mut code = DONE;
    for (store, folder) in places.spools()? {
        for waits in verify_spool(folder).await? {
            let key = waits.record.as_ref().map(|record| &record.key);
            if !waits.damage.is_empty() {
                code = NO;
            }
            if screen.form == Form::Json {
                screen.document(&SpooledDocument {
                    store: &store,
                    run_id: waits.run.as_str(),
                    action_id: key.map(|key| key.action_id.as_str()),
                    stage: key.map(|key| key.stage.as_str()),
                    attempt: key.map(|key| key.attempt),
                    lines: waits.lines,
                    bytes: waits.bytes,
                    damage: &waits.damage,
                })?;
                continue;
            }
            let what = key.map_or_else(
                || format!("run {}", waits.run),
                |key| format!("{} {} attempt {}", key.action_id, key.stage, key.attempt),
            );
            screen.text(&format!("{what}: {} wait for {store}", human::size(waits.lines, waits.bytes)))?;
            for damage in &waits.damage {
                screen.text(&format!("{what}: damaged: {damage}"))?;
            }
        }
    }
    Ok(code)
}
