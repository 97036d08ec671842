//! Asking for runs and their output: `get-status`, `get-logs`, `search`, `list`.

use futures::StreamExt as _;
use pubsub_pipeline::{Gap, Lines, OutputItem, OutputReader, RunQuery, RunRecord, Search, Timestamp};

use crate::args;
use crate::codes::{DONE, Done, NO};
use crate::documents::StatusDocument;
use crate::human;
use crate::places::{Places, chosen, fresh, nothing};
use crate::screen::{Form, Screen};

pub(crate) async fn get_status(places: &Places, screen: &mut Screen, args: &args::GetStatus) -> Done {
    let store = places.existing_reader().await?;
    let found = if args.all {
        let chosen = &args.chosen;
        let runs = store.runs(&RunQuery::of(chosen.action_id.clone(), chosen.stage.clone())).await?;
        if runs.is_empty() {
            return Err(nothing(&*store, chosen).await?);
        }
        runs
    } else {
        vec![chosen(&*store, &args.chosen).await?]
    };
    let records = counted(&*store, found).await;
    let now = Timestamp::now();
    for (index, (record, judged)) in records.iter().zip(RunRecord::judge_all(&records, now)).enumerate() {
        match screen.form {
            Form::Json => screen.document(&StatusDocument::judged(record, judged))?,
            Form::Text => {
                if index > 0 {
                    screen.text("")?;
                }
                human::status(record, judged, now).iter().try_for_each(|line| screen.text(line))?;
            }
        }
    }
    Ok(DONE)
}

async fn counted(store: &dyn OutputReader, records: Vec<RunRecord>) -> Vec<RunRecord> {
    let mut counted = Vec::with_capacity(records.len());
    for record in records {
        counted.push(fresh(store, record).await);
    }
    counted
}

pub(crate) async fn get_logs(places: &Places, screen: &mut Screen, args: &args::GetLogs) -> Done {
    let store = places.existing_reader().await?;
    let record = chosen(&*store, &args.chosen).await?;
    let lines = args.n.map_or(Lines::ALL, Lines::Last);
    let mut items = store.lines(&record.key.run_id, lines).await?.items;
    while let Some(item) = items.next().await {
        match item? {
            OutputItem::Lines(batch) => screen.lines(&batch)?,
            OutputItem::Gap(gap) => screen.gap(&gap)?,
        }
    }
    Ok(DONE)
}

pub(crate) async fn search(places: &Places, screen: &mut Screen, args: &args::Search) -> Done {
    let search = if args.fixed_strings { Search::literal(&args.regex) } else { Search::regex(&args.regex) }?;
    let store = places.existing_reader().await?;
    let record = chosen(&*store, &args.chosen).await?;
    let mut hits = store.search(&RunQuery::of_run(record.key.run_id.clone()), &search).await?;
    // What is missing was not searched.
    let mut missing: Vec<&Gap> = record.gaps.iter().chain(&record.holes).collect();
    missing.sort_by_key(|gap| gap.range.first);
    let mut missing = missing.into_iter().peekable();
    let mut code = NO;
    while let Some(hit) = hits.next().await {
        let hit = hit?;
        while let Some(gap) = missing.next_if(|gap| gap.range.first < hit.line.number) {
            screen.gap(gap)?;
        }
        screen.hit(&hit)?;
        code = DONE;
    }
    missing.try_for_each(|gap| screen.gap(gap))?;
    if record.counts.parts > 0 {
        screen.notice(&format!(
            "parts of longer lines have numbers of their own ({} here); a match that goes across two of them is not found",
            record.counts.parts
        ))?;
    }
    Ok(code)
}

pub(crate) async fn list(places: &Places, screen: &mut Screen, args: &args::List) -> Done {
    let store = places.existing_reader().await?;
    let now = Timestamp::now();
    let mut query = RunQuery::all().with_limit(args.limit);
    query.action.clone_from(&args.action);
    query.stage.clone_from(&args.stage);
    query.outcome = args.outcome;
    query.since = args.since.map(|since| now.minus(since));
    let records = counted(&*store, store.runs(&query).await?).await;
    let judged = records.iter().zip(RunRecord::judge_all(&records, now));
    if screen.form == Form::Json {
        for (record, judged) in judged {
            screen.document(&StatusDocument::judged(record, judged))?;
        }
        return Ok(DONE);
    }
    let rows: Vec<_> = judged.map(|(record, judged)| human::row(record, judged, now)).collect();
    let lines = if screen.terminal { human::table(&rows) } else { human::columns(&rows) };
    lines.iter().try_for_each(|line| screen.text(line))?;
    Ok(DONE)
}
