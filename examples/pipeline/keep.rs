//! What is kept: `verify`, `export`, `copy`, `remove`.

use futures::StreamExt as _;
use pubsub_pipeline::{
    Lines, Output, OutputItem, OutputReader, Retention as _, RunQuery, RunRecord, Timestamp, connect_store,
    copy, verify, verify_against,
};
use serde::Serialize;

use crate::args;
use crate::codes::{DONE, Done, NO, not_there};
use crate::documents::{ExportedLine, StatusDocument};
use crate::places::{Places, chosen, existing};
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
    let store = places.existing_store().await?;
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
            None => screen.text(&format!("{run} agrees: {} lines, {} bytes", counts.lines, counts.bytes))?,
            Some(difference) => screen.text(&format!("{run} differs: {difference}"))?,
        },
    }
    Ok(if difference.is_none() { DONE } else { NO })
}

/// One document, written piece by piece: its lines need not fit in memory.
pub(crate) async fn export(places: &Places, screen: &mut Screen, args: &args::Chosen) -> Done {
    let store = places.existing_store().await?;
    let run = chosen(&*store, args).await?.key.run_id;
    let Output { record, mut items, .. } = store.lines(&run, Lines::ALL).await?;
    let head = to_json(&StatusDocument::new(&record, Timestamp::now()))?;
    // The status is an object; the lines become one more field of it.
    screen.raw(head.strip_suffix(b"}").unwrap_or(&head))?;
    screen.raw(b",\"output_lines\":[")?;
    let mut first = true;
    while let Some(item) = items.next().await {
        let OutputItem::Lines(batch) = item? else { continue };
        for line in batch.lines() {
            if !std::mem::replace(&mut first, false) {
                screen.raw(b",")?;
            }
            screen.raw(&to_json(&ExportedLine::new(&line))?)?;
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
}

pub(crate) async fn copied(places: &Places, screen: &mut Screen, args: &args::Copy) -> Done {
    let store = places.existing_store().await?;
    let run = chosen(&*store, &args.chosen).await?.key.run_id;
    let to = connect_store(&args.to).await?.store;
    let report = copy(&*store, &run, &*to).await?;
    for gap in &report.refused {
        screen.gap(gap)?;
    }
    match screen.form {
        Form::Json => screen.document(&Copied {
            run_id: run.as_str(),
            lines: report.lines,
            bytes: report.bytes,
            refused: report.refused.len(),
        })?,
        Form::Text => {
            screen.text(&format!("{run} copied: {} lines, {} bytes", report.lines, report.bytes))?
        }
    }
    Ok(if report.refused.is_empty() { DONE } else { NO })
}

#[derive(Serialize)]
struct Removed {
    run_id: String,
}

pub(crate) async fn remove(places: &Places, screen: &mut Screen, args: &args::Remove) -> Done {
    let mut query = RunQuery::all().with_action(args.action_id.clone());
    query.stage.clone_from(&args.stage);
    let mut removed: Vec<RunRecord> = Vec::new();
    places.existing_store().await?;
    for (connected, _) in places.stores().await? {
        for record in connected.store.runs(&query).await? {
            if connected.store.remove(&record.key.run_id).await?
                && !removed.iter().any(|other| other.key == record.key)
            {
                removed.push(record);
            }
        }
    }
    if removed.is_empty() {
        let what = args.stage.as_ref().map(|stage| format!("stage {stage} of ")).unwrap_or_default();
        return Err(not_there(format!(
            "{what}{} has no run here; `pipeline list` shows what has",
            args.action_id
        )));
    }
    for record in removed {
        let run_id = record.key.run_id.to_string();
        match screen.form {
            Form::Json => screen.document(&Removed { run_id })?,
            Form::Text => screen.text(&format!("{run_id} removed"))?,
        }
    }
    Ok(DONE)
}
