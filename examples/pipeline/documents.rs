//! The JSON documents of `--json`: their fields are part of the command line.

use std::collections::BTreeMap;

use pubsub_pipeline::{
    Cause, DeadLetter, Digest, Error, Gap, Judgement, Line, LineEnd, LineNumber, LineRange, Note, Outcome,
    Refused, RunId, RunRecord, Stream, Timestamp,
};
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct ErrorDocument {
    kind: &'static str,
    message: String,
}

impl ErrorDocument {
    pub(crate) fn new(error: &Error) -> Self {
        Self { kind: error.kind().as_str(), message: error.chain() }
    }

    /// Of a wrong command line.
    pub(crate) const fn usage(message: String) -> Self {
        Self { kind: "invalid", message }
    }
}

#[derive(Serialize)]
pub(crate) struct EventDocument<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) action_id: &'a str,
    pub(crate) event_type: &'a str,
    /// Whether an event with this id was there already.
    pub(crate) duplicate: bool,
}

#[derive(Serialize)]
pub(crate) struct LineDocument<'a> {
    line: u64,
    time: Timestamp,
    stream: Stream,
    text: std::borrow::Cow<'a, str>,
    end: LineEnd,
    /// Whether the text shows something else than was printed.
    lossy: bool,
    /// Whether it was found in a file after a crash.
    recovered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a RunId>,
}

impl<'a> LineDocument<'a> {
    pub(crate) fn new(line: &'a Line, run_id: Option<&'a RunId>) -> Self {
        Self {
            line: line.number.get(),
            time: line.time,
            stream: line.stream,
            text: line.text(),
            end: line.end,
            lossy: line.is_lossy(),
            recovered: line.recovered,
            run_id,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct GapDocument<'a> {
    gap: LineRange,
    lines: u64,
    bytes: Option<u64>,
    reason: &'a str,
}

impl<'a> GapDocument<'a> {
    pub(crate) fn new(gap: &'a Gap) -> Self {
        Self { gap: gap.range, lines: gap.range.lines(), bytes: gap.bytes, reason: &gap.reason }
    }
}

/// A record as it is shown: with the reader's judgement in place of the stored status.
#[derive(Serialize)]
pub(crate) struct StatusDocument<'a> {
    pub(crate) action_id: &'a str,
    pub(crate) stage: &'a str,
    pub(crate) run_id: &'a str,
    pub(crate) event_id: &'a str,
    pub(crate) attempt: u32,
    pub(crate) status: Judgement,
    #[serde(rename = "final")]
    pub(crate) is_final: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) cause: Option<Cause>,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) continues: Option<bool>,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: Option<Digest>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) metadata: &'a BTreeMap<String, String>,
    pub(crate) notes: &'a [Note],
    pub(crate) command: &'a [String],
    pub(crate) detail: Option<&'a str>,
    pub(crate) output_incomplete: bool,
    pub(crate) gaps: Vec<&'a Gap>,
}

impl<'a> StatusDocument<'a> {
    pub(crate) fn new(record: &'a RunRecord, now: Timestamp) -> Self {
        Self::judged(record, record.judge(now))
    }

    pub(crate) fn judged(record: &'a RunRecord, status: Judgement) -> Self {
        Self {
            action_id: record.key.action_id.as_str(),
            stage: record.key.stage.as_str(),
            run_id: record.key.run_id.as_str(),
            event_id: record.key.event_id.as_str(),
            attempt: record.key.attempt,
            status,
            is_final: record.is_final,
            outcome: record.outcome,
            cause: record.cause,
            code: record.code,
            signal: record.signal,
            continues: record.continues,
            lines: record.counts.lines,
            bytes: record.counts.bytes,
            digest: record.digest,
            started_at: record.started_at,
            finished_at: record.finished_at,
            metadata: &record.metadata,
            notes: &record.notes,
            command: &record.command,
            detail: record.detail.as_deref(),
            output_incomplete: record.output_incomplete,
            gaps: record.gaps.iter().chain(&record.holes).collect(),
        }
    }
}

/// What `wait` answers: the status of the run that decides, and the groups that were not waited for.
#[derive(Serialize)]
pub(crate) struct WaitedDocument<'a> {
    #[serde(flatten)]
    pub(crate) status: StatusDocument<'a>,
    /// They have something to do for the action and no member.
    pub(crate) unattended: Vec<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct DeadLetterDocument<'a> {
    /// What it is: an event, or lines.
    kind: &'static str,
    id: &'a str,
    group: Option<&'a str>,
    action_id: Option<&'a str>,
    reason: &'a str,
    attempts: u32,
    crashes: u32,
    time: Timestamp,
    /// The event as it was kept; invalid bytes as U+FFFD.
    event: std::borrow::Cow<'a, str>,
}

impl<'a> DeadLetterDocument<'a> {
    pub(crate) fn new(letter: &'a DeadLetter) -> Self {
        Self {
            kind: "event",
            id: &letter.id,
            group: letter.group.as_ref().map(AsRef::as_ref),
            action_id: letter.action_id.as_ref().map(AsRef::as_ref),
            reason: &letter.reason,
            attempts: letter.attempts,
            crashes: letter.crashes,
            time: letter.time,
            event: String::from_utf8_lossy(&letter.bytes),
        }
    }
}

/// Lines that a store refused for good.
#[derive(Serialize)]
pub(crate) struct RefusedDocument {
    kind: &'static str,
    sink: String,
    action_id: String,
    stage: String,
    run_id: RunId,
    first: LineNumber,
    last: LineNumber,
    bytes: u64,
    reason: String,
    /// When the first of them was refused.
    time: Timestamp,
}

impl RefusedDocument {
    pub(crate) fn new(refused: &Refused) -> Self {
        let (run, lines) = (&refused.run, &refused.lines);
        Self {
            kind: "lines",
            sink: refused.sink.clone(),
            action_id: run.action_id.to_string(),
            stage: run.stage.to_string(),
            run_id: run.run_id.clone(),
            first: lines.first(),
            last: lines.last(),
            bytes: lines.bytes().len() as u64,
            reason: refused.reason.clone(),
            time: refused.time,
        }
    }

    /// Takes what follows in the same sink for the same reason; `false` for anything else.
    pub(crate) fn goes_on(&mut self, next: &Refused) -> bool {
        let follows = self.sink == next.sink
            && self.run_id == next.run.run_id
            && self.reason == next.reason
            && self.last.plus(1) == next.lines.first();
        if follows {
            self.last = next.lines.last();
            self.bytes += next.lines.bytes().len() as u64;
        }
        follows
    }

    pub(crate) fn cells(&self) -> [String; 9] {
        let Self { first, last, bytes, .. } = self;
        [
            "lines".to_owned(),
            self.time.to_string(),
            self.sink.clone(),
            self.action_id.clone(),
            self.stage.clone(),
            self.run_id.to_string(),
            format!("{first}-{last}"),
            format!("{bytes} bytes"),
            self.reason.clone(),
        ]
    }
}

/// The last document of an export is built by hand around these, so that no run has to fit in memory.
#[derive(Serialize)]
pub(crate) struct ExportedLine<'a> {
    line: std::borrow::Cow<'a, str>,
    timestamp: Timestamp,
    number: u64,
    stream: Stream,
    end: LineEnd,
    lossy: bool,
}

impl<'a> ExportedLine<'a> {
    pub(crate) fn new(line: &'a Line) -> Self {
        Self {
            line: line.text(),
            timestamp: line.time,
            number: line.number.get(),
            stream: line.stream,
            end: line.end,
            lossy: line.is_lossy(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorDocument, GapDocument, LineDocument, StatusDocument};
    use pubsub_pipeline::{
        ActionId, Error, EventId, Gap, Line, LineEnd, LineNumber, LineRange, RunKey, RunRecord, Stage,
        Stream, Timestamp,
    };
    use serde_json::{Value, json};

    #[test]
    fn a_status_has_the_fields_that_scripts_rely_on() {
        let key =
            RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::new("e").unwrap(), 1);
        let record = RunRecord::begun(key, "w");
        let value = serde_json::to_value(StatusDocument::new(&record, Timestamp::now())).unwrap();
        for field in [
            "action_id",
            "stage",
            "run_id",
            "event_id",
            "attempt",
            "status",
            "final",
            "outcome",
            "cause",
            "code",
            "signal",
            "continues",
            "lines",
            "bytes",
            "digest",
            "started_at",
            "finished_at",
            "metadata",
            "notes",
        ] {
            assert!(value.get(field).is_some(), "{field}");
        }
        assert_eq!((&value["status"], &value["final"]), (&json!("running"), &json!(false)));
        let later = record.beat_at.plus(std::time::Duration::from_secs(31));
        let lost = serde_json::to_value(StatusDocument::new(&record, later)).unwrap();
        assert_eq!(lost["status"], "lost");
    }

    #[test]
    fn lines_gaps_and_errors_have_their_fields() {
        let number = LineNumber::new(7).unwrap();
        let line = Line {
            number,
            time: Timestamp::EPOCH,
            stream: Stream::Stderr,
            end: LineEnd::CrLf,
            bytes: b"caf\xe9".as_slice().into(),
            recovered: false,
        };
        let value = serde_json::to_value(LineDocument::new(&line, None)).unwrap();
        let expected: Value = json!({
            "line": 7, "time": "1970-01-01T00:00:00.000000Z", "stream": "stderr", "text": "caf\u{fffd}",
            "end": "crlf", "lossy": true, "recovered": false,
        });
        assert_eq!(value, expected);
        let gap = Gap { range: LineRange::new(number, number.plus(2)), bytes: None, reason: "r".to_owned() };
        let value = serde_json::to_value(GapDocument::new(&gap)).unwrap();
        assert_eq!(value["gap"], json!({"first": 7, "last": 9}));
        let value = serde_json::to_value(ErrorDocument::new(&Error::invalid("no"))).unwrap();
        assert_eq!(value, json!({"kind": "invalid", "message": "no: invalid"}));
    }
}
