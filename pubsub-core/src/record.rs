//! What is known of a run.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ActionId, Attempt, Cause, Chain, Counts, Digest, Error, ErrorKind, EventId, Exit, Gap, LineNumber,
    Outcome, Result, RunId, Seal, Stage, Timestamp, Verdict,
};

/// What a run is called: its id, and what it is an attempt at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// Derived from the three below.
    pub run_id: RunId,
    /// The action of the event.
    pub action_id: ActionId,
    /// The stage.
    pub stage: Stage,
    /// The event.
    pub event_id: EventId,
    /// Which try.
    pub attempt: Attempt,
}

impl RunKey {
    /// The key of an attempt.
    #[must_use]
    pub fn new(action_id: ActionId, stage: Stage, event_id: EventId, attempt: Attempt) -> Self {
        Self { run_id: RunId::derived(&event_id, &stage, attempt), action_id, stage, event_id, attempt }
    }
}

/// Whether a run has ended. Readers may judge a running one `lost`; that is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Its owner works on it.
    Running,
    /// It has ended and its output is sealed.
    Completed,
}

/// What we say about a run ourselves; never part of its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub time: Timestamp,
    /// What it is about, for programs: `stop_requested`, `descendant_left`, `repaired` …
    pub kind: String,
    /// For people; already masked.
    pub text: String,
    /// The last line before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after_line: Option<LineNumber>,
}

/// Most notes that a record keeps.
pub const MAX_NOTES: usize = 100;

/// The version of the record's JSON that this code writes.
pub const RECORD_VERSION: u32 = 1;

/// What is known of a run: its JSON is the record in every store.
///
/// A record only moves forward: whoever changes it raises `revision`, and a store keeps the highest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunRecord {
    /// The version of this shape.
    pub version: u32,
    /// Grows with each change.
    pub revision: u64,
    /// Which run.
    #[serde(flatten)]
    pub key: RunKey,
    /// Who runs it.
    pub owner: String,
    /// Whether it has ended.
    pub status: RunStatus,
    /// Whether its outcome is the conclusion: no other attempt will follow. A run without a broker is known to be final
    /// from its begin.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// What its end means, once it has ended.
    pub outcome: Option<Outcome>,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// Its exit code, where it had one.
    pub code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// What a shell would show as its code.
    pub shell_code: Option<u8>,
    /// Whether the pipeline goes on, once it has ended.
    pub continues: Option<bool>,
    /// More about its end, for people.
    pub detail: Option<String>,
    /// How much it printed: at the last beat, and in the end exactly.
    #[serde(flatten)]
    pub counts: Counts,
    /// The digest over its lines, once they are sealed.
    pub digest: Option<Digest>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The owner's last sign of life.
    pub beat_at: Timestamp,
    /// How often the owner gives one, in milliseconds.
    pub beat_every_ms: u64,
    /// What is run, already masked; empty for a Rust handler.
    pub command: Vec<String>,
    /// Free texts of the user.
    pub metadata: BTreeMap<String, String>,
    /// What we have to say about it.
    pub notes: Vec<Note>,
    /// Lines that were never kept, in any store.
    pub gaps: Vec<Gap>,
    /// Whether a required store refused lines of it for good.
    pub output_incomplete: bool,
    /// Lines that this store lacks; each store has its own.
    pub holes: Vec<Gap>,
}

/// How often an owner gives a sign of life, unless told otherwise.
pub const DEFAULT_BEAT: Duration = Duration::from_secs(10);

impl RunRecord {
    /// The record of a run that begins now.
    #[must_use]
    pub fn begun(key: RunKey, owner: impl Into<String>) -> Self {
        let now = Timestamp::now();
        Self {
            version: RECORD_VERSION,
            revision: 1,
            key,
            owner: owner.into(),
            status: RunStatus::Running,
            is_final: false,
            outcome: None,
            cause: None,
            code: None,
            signal: None,
            shell_code: None,
            continues: None,
            detail: None,
            counts: Counts::default(),
            digest: None,
            started_at: now,
            finished_at: None,
            beat_at: now,
            beat_every_ms: u64::try_from(DEFAULT_BEAT.as_millis()).unwrap_or(u64::MAX),
            command: Vec::new(),
            metadata: BTreeMap::new(),
            notes: Vec::new(),
            gaps: Vec::new(),
            output_incomplete: false,
            holes: Vec::new(),
        }
    }

    /// Reads a record as a store keeps it.
    ///
    /// # Errors
    /// [`TooNew`](ErrorKind::TooNew) for a version that this code does not know, [`Corrupt`](ErrorKind::Corrupt) for
    /// what is no record.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let corrupt =
            |e: serde_json::Error| Error::new(ErrorKind::Corrupt, "read the record of a run").with_source(e);
        let Version { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
        if version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "read the record of a run")
                .with("version", version)
                .with("newest known", RECORD_VERSION));
        }
        serde_json::from_slice(bytes).map_err(corrupt)
    }

    /// The record as stores keep it.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal), which no record of ours leads to.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|e| Error::new(ErrorKind::Internal, "write the record of a run").with_source(e))
    }

    /// The record as it was before its end, and before any hole was known: what a copy of the run begins with, for what
    /// its end adds must be news to the sink.
    #[must_use]
    pub fn as_begun(&self) -> Self {
        if self.status == RunStatus::Running {
            return Self { holes: Vec::new(), ..self.clone() };
        }
        Self {
            revision: self.revision.saturating_sub(1),
            started_at: self.started_at,
            beat_at: self.beat_at,
            beat_every_ms: self.beat_every_ms,
            command: self.command.clone(),
            metadata: self.metadata.clone(),
            ..Self::begun(self.key.clone(), self.owner.clone())
        }
    }

    /// A sign of life with what has been printed so far.
    pub fn beat(&mut self, counts: Counts) {
        self.revision += 1;
        self.beat_at = Timestamp::now();
        self.counts = counts;
    }

    /// The end: how it exited, what that means, and the seal over its output.
    pub fn complete(&mut self, exit: &Exit, verdict: Verdict, seal: &Seal) {
        let now = Timestamp::now();
        self.revision += 1;
        self.status = RunStatus::Completed;
        self.outcome = Some(verdict.outcome);
        self.cause = Some(exit.cause);
        self.code = exit.code;
        self.signal = exit.signal;
        self.shell_code = Some(exit.shell_code());
        self.continues = Some(verdict.chain == Chain::Continues);
        self.detail.clone_from(&exit.detail);
        self.counts = seal.counts;
        self.digest = Some(seal.digest);
        self.finished_at = Some(now.max(self.started_at));
        self.beat_at = now;
    }

    /// Its outcome became the conclusion.
    pub fn conclude(&mut self) {
        self.revision += 1;
        self.is_final = true;
    }

    /// Adds a note; past [`MAX_NOTES`] the last one says that there were more.
    pub fn note(&mut self, kind: &str, text: impl Into<String>, after_line: Option<LineNumber>) {
        self.add_note(Note { time: Timestamp::now(), kind: kind.to_owned(), text: text.into(), after_line });
    }

    /// Adds a note that was made before, with its own time.
    pub(crate) fn add_note(&mut self, note: Note) {
        self.revision += 1;
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        } else if let Some(last) = self.notes.last_mut() {
            *last = Note {
                kind: "more_notes".to_owned(),
                text: "further notes were left out".to_owned(),
                ..note
            };
        }
    }

    /// What is judged of it at `now`, by the clock of whoever asks or of the store.
    #[must_use]
    pub fn judge(&self, now: Timestamp) -> Judgement {
        if self.status == RunStatus::Completed {
            return Judgement::Completed;
        }
        let beats = Duration::from_millis(self.beat_every_ms.saturating_mul(3));
        if now.since(self.beat_at) > beats { Judgement::Lost } else { Judgement::Running }
    }

    /// What is judged of each of these at `now`: as [`judge`](Self::judge) says, and one without an end of which a later
    /// attempt at the same event and stage is among them is lost, however lately its owner was heard of.
    #[must_use]
    pub fn judge_all(records: &[Self], now: Timestamp) -> Vec<Judgement> {
        let mut latest: HashMap<(&EventId, &Stage), Attempt> = HashMap::new();
        for Self { key, .. } in records {
            let latest = latest.entry((&key.event_id, &key.stage)).or_insert(key.attempt);
            *latest = key.attempt.max(*latest);
        }
        let has_later = |key: &RunKey| latest.get(&(&key.event_id, &key.stage)) > Some(&key.attempt);
        let judged = records.iter().map(|record| match record.judge(now) {
            Judgement::Running if has_later(&record.key) => Judgement::Lost,
            judgement => judgement,
        });
        judged.collect()
    }
}

/// What a reader sees of a run's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Its owner gave a sign of life within three intervals.
    Running,
    /// It has ended.
    Completed,
    /// Nobody heard of its owner for three intervals, or a later attempt is known; a later record overrules this.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::{Judgement, RunKey, RunRecord};
    use crate::{
        ActionId, ErrorKind, EventId, Exit, ExitClassification, ExitTable, SealBuilder, Stage, Timestamp,
    };
    use std::time::Duration;

    fn record() -> RunRecord {
        let key = RunKey::new(
            ActionId::new("action-123").unwrap(),
            Stage::new("build").unwrap(),
            EventId::new("e1").unwrap(),
            1,
        );
        RunRecord::begun(key, "worker-1")
    }

    #[test]
    fn a_record_reads_back_and_a_newer_one_is_refused_by_name() {
        let mut record = record();
        record.note("repaired", "3 lines recovered", None);
        let exit = Exit::code(3);
        record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        let json = record.to_json().unwrap();
        assert_eq!(RunRecord::from_json(&json).unwrap(), record);
        let newer = String::from_utf8(json).unwrap().replace("\"version\":1", "\"version\":2");
        let error = RunRecord::from_json(newer.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.to_string().contains("version=2"), "{error}");
        assert_eq!(RunRecord::from_json(b"{}").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn lost_is_three_intervals_without_a_beat_and_never_a_completed_run() {
        let mut record = record();
        let after = |record: &RunRecord, secs| record.judge(record.beat_at.plus(Duration::from_secs(secs)));
        assert_eq!(after(&record, 30), Judgement::Running);
        assert_eq!(after(&record, 31), Judgement::Lost);
        let exit = Exit::code(0);
        record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        assert_eq!(after(&record, 3100), Judgement::Completed);
    }

    #[test]
    fn what_has_a_later_attempt_is_not_running() {
        let attempt = |stage: &str, event: &str, attempt| {
            let (stage, event) = (Stage::new(stage).unwrap(), EventId::new(event).unwrap());
            RunRecord::begun(RunKey::new(ActionId::new("a").unwrap(), stage, event, attempt), "w")
        };
        let mut ended = attempt("build", "e1", 1);
        let exit = Exit::code(1);
        ended.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        let (dead, current) = (attempt("build", "e1", 2), attempt("build", "e1", 3));
        let others = [attempt("test", "e1", 1), attempt("build", "e2", 1)];
        let [test, other] = others;
        let records = [current, test, dead, other, ended];
        let (running, lost) = (Judgement::Running, Judgement::Lost);
        let expected = [running, running, lost, running, Judgement::Completed];
        assert_eq!(RunRecord::judge_all(&records, Timestamp::now()), expected);
        assert_eq!(RunRecord::judge_all(&[], Timestamp::now()), []);
    }

    #[test]
    fn notes_are_bounded() {
        let mut record = record();
        (0..500).for_each(|n| record.note("n", n.to_string(), None));
        assert_eq!(record.notes.len(), super::MAX_NOTES);
        assert_eq!(record.notes.last().unwrap().kind, "more_notes");
    }
}
