//! Records as people read them.

use std::time::Duration;

use pubsub_pipeline::{Cause, Judgement, Outcome, RunRecord, Timestamp};

const COLUMNS: [&str; 8] = ["STARTED", "ACTION", "STAGE", "ATTEMPT", "STATE", "TOOK", "LINES", "RUN"];

/// One run of a list.
pub(crate) type Row = [String; COLUMNS.len()];

pub(crate) fn row(record: &RunRecord, judged: Judgement, now: Timestamp) -> Row {
    [
        seconds(record.started_at),
        record.key.action_id.to_string(),
        record.key.stage.to_string(),
        record.key.attempt.to_string(),
        state(record, judged).to_owned(),
        took(record, now),
        record.counts.lines.to_string(),
        record.key.run_id.to_string(),
    ]
}

/// So many lines.
pub(crate) fn lines(count: u64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

/// So many lines with so many bytes.
pub(crate) fn size(count: u64, bytes: u64) -> String {
    if bytes == 1 { format!("{}, 1 byte", lines(count)) } else { format!("{}, {bytes} bytes", lines(count)) }
}

/// Aligned, with a head: for a terminal.
pub(crate) fn table(rows: &[Row]) -> Vec<String> {
    let head = COLUMNS.map(str::to_owned);
    let lines: Vec<&Row> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|at| lines.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let padded = |row: &Row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.into_iter().map(padded).collect()
}

/// Separated by tabs, without a head: for other programs.
pub(crate) fn columns(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.join("\t")).collect()
}

/// All that is known of a run, a line each.
pub(crate) fn status(record: &RunRecord, judged: Judgement, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| lines.push(format!("{name:<10}{value}"));
    say("action", record.key.action_id.to_string());
    say("stage", record.key.stage.to_string());
    say("status", standing(record, judged));
    if record.outcome.is_some() {
        say("outcome", format!("{}; {}", ending(record), following(record)));
    }
    if let Some(detail) = &record.detail {
        say("detail", detail.clone());
    }
    say("output", printed(record, judged));
    say("started", seconds(record.started_at));
    if let Some(finished) = record.finished_at {
        say("finished", format!("{} after {}", seconds(finished), took(record, now)));
    }
    if !record.command.is_empty() {
        say("command", record.command.join(" "));
    }
    say("run", record.key.run_id.to_string());
    say("event", record.key.event_id.to_string());
    for (name, value) in &record.metadata {
        say("metadata", format!("{name}={value}"));
    }
    for note in &record.notes {
        let place = note.after_line.map(|line| format!(" (after line {line})")).unwrap_or_default();
        say("note", format!("{}: {}{place}", note.kind, note.text));
    }
    for gap in record.gaps.iter().chain(&record.holes) {
        let (first, last) = (gap.range.first, gap.range.last);
        let which = if first == last { format!("line {first}") } else { format!("lines {first}-{last}") };
        say("missing", format!("{which}: {}", gap.reason));
    }
    if record.output_incomplete {
        say("warning", "a required store lacks lines of it".to_owned());
    }
    lines
}

/// One line about a run that has ended.
pub(crate) fn summary(record: &RunRecord, now: Timestamp) -> String {
    let (action, stage) = (&record.key.action_id, &record.key.stage);
    let (end, follows) = match record.judge(now) {
        Judgement::Lost => ("lost".to_owned(), "nobody has heard of its worker"),
        Judgement::Running => ("running".to_owned(), "it has not ended"),
        Judgement::Completed => (ending(record), following(record)),
    };
    let (attempt, took, lines) = (record.key.attempt, took(record, now), lines(record.counts.lines));
    format!("{action} {stage} attempt {attempt}: {end} after {took}, {lines}; {follows}")
}

/// How many bytes a run has printed is known once it has ended.
fn printed(record: &RunRecord, judged: Judgement) -> String {
    match judged {
        Judgement::Completed => size(record.counts.lines, record.counts.bytes),
        Judgement::Running => format!("{} so far", lines(record.counts.lines)),
        Judgement::Lost => lines(record.counts.lines),
    }
}

fn standing(record: &RunRecord, judged: Judgement) -> String {
    let status = match judged {
        Judgement::Running => "running",
        Judgement::Completed if record.is_final => "completed, final",
        Judgement::Completed => "completed, not final",
        Judgement::Lost => {
            "lost: nobody has heard of its worker for three intervals, or a later attempt has begun"
        }
    };
    format!("{status}, attempt {}", record.key.attempt)
}

/// What a list shows: the outcome of what has ended.
fn state(record: &RunRecord, judged: Judgement) -> &'static str {
    match judged {
        Judgement::Running => "running",
        Judgement::Lost => "lost",
        Judgement::Completed => record.outcome.map_or("completed", Outcome::as_str),
    }
}

/// The outcome, and how it ended.
fn ending(record: &RunRecord) -> String {
    let outcome = record.outcome.map_or("unknown", Outcome::as_str).replace('_', " ");
    let how = match (record.cause, record.code, record.signal) {
        (Some(Cause::WallTimeout), ..) => "it took longer than its limit".to_owned(),
        (Some(Cause::SilenceTimeout), ..) => "it printed nothing for too long".to_owned(),
        (Some(Cause::Cancelled), ..) => "cancelled".to_owned(),
        (Some(Cause::Shutdown), ..) => "stopped with the program that ran it".to_owned(),
        (Some(Cause::LeaseLost), ..) => {
            record.detail.clone().unwrap_or_else(|| "another worker holds the event".to_owned())
        }
        (Some(Cause::NotStarted), ..) => {
            record.detail.clone().unwrap_or_else(|| "it could not be started".to_owned())
        }
        (_, Some(code), _) => format!("exit {code}"),
        (_, None, Some(signal)) => format!("signal {signal}"),
        (_, None, None) => "no code".to_owned(),
    };
    format!("{outcome} ({how})")
}

/// What follows from its end.
fn following(record: &RunRecord) -> &'static str {
    match (record.is_final, record.cause, record.continues) {
        (true, _, Some(true)) => "the pipeline goes on",
        (true, ..) => "the pipeline stops",
        (false, Some(Cause::Shutdown | Cause::LeaseLost), _) => "not final: its event was given back",
        // In the moment before it is concluded.
        (false, _, Some(true)) => "not final yet",
        (false, ..) => "not final: it is to be tried again",
    }
}

fn took(record: &RunRecord, now: Timestamp) -> String {
    let took = record.finished_at.unwrap_or(now).since(record.started_at);
    let shown = if took < Duration::from_secs(60) {
        Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(took.as_secs())
    };
    humantime::format_duration(shown).to_string()
}

fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{columns, lines, row, size, status, summary, table};
    use pubsub_pipeline::{
        ActionId, Cause, EventId, Exit, ExitClassification, ExitTable, RunKey, RunRecord, SealBuilder, Stage,
    };
    use std::time::Duration;

    fn failed() -> RunRecord {
        let key = RunKey::new(
            ActionId::new("action-123").unwrap(),
            Stage::new("build").unwrap(),
            EventId::new("e").unwrap(),
            2,
        );
        let mut record = RunRecord::begun(key, "w");
        let exit = Exit::code(3);
        record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        record.finished_at = Some(record.started_at.plus(Duration::from_millis(2500)));
        record
    }

    #[test]
    fn a_run_is_told_in_words() {
        let record = failed();
        let lines = status(&record, record.judge(record.started_at), record.started_at);
        assert!(lines.contains(&"status    completed, not final, attempt 2".to_owned()), "{lines:?}");
        let outcome = "outcome   failed (exit 3); not final: it is to be tried again".to_owned();
        assert!(lines.contains(&outcome), "{lines:?}");
        let mut concluded = record.clone();
        concluded.conclude();
        assert_eq!(
            summary(&concluded, record.started_at),
            "action-123 build attempt 2: failed (exit 3) after 2s 500ms, 0 lines; the pipeline stops"
        );
    }

    #[test]
    fn what_was_cut_by_a_shutdown_is_not_the_end() {
        let mut record = failed();
        let exit = Exit::stopped(Cause::Shutdown);
        record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        let told = summary(&record, record.started_at);
        assert!(told.contains("interrupted (stopped with the program that ran it) after "), "{told}");
        assert!(told.ends_with("; not final: its event was given back"), "{told}");
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!([lines(0), lines(1), lines(2)], ["0 lines", "1 line", "2 lines"]);
        assert_eq!([size(1, 1), size(2, 9)], ["1 line, 1 byte", "2 lines, 9 bytes"]);
    }

    #[test]
    fn a_list_is_aligned_for_people_and_tabbed_for_programs() {
        let record = failed();
        let rows = [row(&record, record.judge(record.started_at), record.started_at)];
        let shown = table(&rows);
        assert_eq!(shown[0].find("STAGE"), shown[1].find("build"));
        let columns = columns(&rows);
        let cells: Vec<&str> = columns[0].split('\t').skip(1).take(5).collect();
        assert_eq!(cells, ["action-123", "build", "2", "failed", "2s 500ms"]);
    }
}
