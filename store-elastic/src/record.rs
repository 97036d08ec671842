//! The record of a run: read, and written where it is still the one that was seen.

use pubsub_core::{Error, ErrorKind, RECORD_VERSION, Result, RunId, RunRecord, RunStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connect::Request;
use crate::layout::FORMAT;
use crate::store::Inner;
use crate::template;

/// How often a record is written anew where others are faster each time.
const MAX_TRIES: usize = 50;

/// What the document of a run says.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) record: RunRecord,
    /// The index of its lines.
    pub(crate) index: String,
    /// What tells it from a run of the same id that was removed.
    pub(crate) made: String,
    /// Which write of it was seen.
    pub(crate) seen: Seen,
}

/// Names one write of a document, for a write that is to follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) number: u64,
    pub(crate) term: u64,
}

impl Seen {
    /// The request happens only where nothing was written since.
    pub(crate) fn unchanged(self, request: Request) -> Request {
        request.with("if_seq_no", self.number).with("if_primary_term", self.term)
    }
}

/// A document, as it is got by its id or found by a search.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    #[serde(rename = "_source")]
    source: Option<Source>,
    #[serde(rename = "_seq_no", default)]
    number: u64,
    #[serde(rename = "_primary_term", default)]
    term: u64,
}

/// What of it is read back; the rest is for others.
#[derive(Debug, Deserialize)]
struct Source {
    format: u32,
    made: String,
    index: String,
    record: String,
}

/// What is asked of a document of a run.
pub(crate) const FIELDS: [&str; 4] = ["format", "made", "index", "record"];

impl Document {
    /// `None` where it is not there.
    pub(crate) fn stored(self, doing: &'static str) -> Result<Option<Stored>> {
        let Some(source) = self.source else { return Ok(None) };
        if source.format > FORMAT {
            let error = Error::new(ErrorKind::TooNew, doing);
            return Err(error.with("version", source.format).with("newest known", FORMAT));
        }
        Ok(Some(Stored {
            record: RunRecord::from_json(source.record.as_bytes())?,
            index: source.index,
            made: source.made,
            seen: Seen { number: self.number, term: self.term },
        }))
    }
}

impl Inner {
    /// As it is now: a document that is got by its id needs no refresh.
    pub(crate) async fn stored(&self, doing: &'static str, run: &RunId) -> Result<Option<Stored>> {
        let get = Request::get(format!("{}/_doc/{run}", self.layout.runs()));
        let answer = self.link.send(doing, get.with("_source", FIELDS.join(","))).await?;
        match answer.status {
            404 if answer.complaint().name == "index_not_found_exception" => {
                // The server lost everything. Without the templates, what is written next would make fields by its looks.
                self.prepare().await?;
                Ok(None)
            }
            404 => Ok(None),
            _ if answer.is_success() => answer.read::<Document>(doing)?.stored(doing),
            _ => Err(answer.complaint().failed(doing)),
        }
    }

    /// Takes a record, where it moves the run forward, and fills holes whose lines have come.
    pub(crate) async fn put(&self, record: &RunRecord) -> Result<()> {
        let doing = "store a record";
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, doing).with("version", record.version));
        }
        let ends = record.status == RunStatus::Completed;
        for tried in 0..MAX_TRIES {
            let stored = self.stored(doing, &record.key.run_id).await?;
            if let (Some(stored), true, 0) = (&stored, ends, tried) {
                self.refresh(&stored.index).await?;
            }
            let mut next = match &stored {
                None => record.clone(),
                Some(stored) => stored.record.followed_by(record).unwrap_or_else(|| stored.record.clone()),
            };
            if let Some(stored) = &stored {
                self.fill(stored, &mut next).await?;
                if next == stored.record {
                    // The call that wrote it may not have come to its end.
                    return if ends { self.refresh(&self.layout.runs()).await } else { Ok(()) };
                }
            }
            if self.write(doing, stored.as_ref(), &next).await? {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "others write the record of the run all the time")
            .with("run", &record.key.run_id))
    }

    /// Writes where the document is still as it was seen; `false` where it is not.
    async fn write(&self, doing: &'static str, stored: Option<&Stored>, next: &RunRecord) -> Result<bool> {
        let (path, run) = (self.layout.runs(), &next.key.run_id);
        let (request, made, index) = match stored {
            Some(stored) => {
                let request = stored.seen.unchanged(Request::put(format!("{path}/_doc/{run}")));
                (request, stored.made.clone(), stored.index.clone())
            }
            None => {
                let index = self.layout.lines(next.started_at);
                self.make(&index).await?;
                (Request::put(format!("{path}/_create/{run}")), format!("{:016x}", fastrand::u64(..)), index)
            }
        };
        // That it is there, and that it ended, lists show at once; what it printed so far, when they are refreshed anyway.
        let is_told = stored.is_none() || next.status == RunStatus::Completed;
        let request = if is_told { request.with("refresh", true) } else { request };
        let answer = self.link.send(doing, request.json(document(next, &made, &index)?)).await?;
        match answer.status {
            409 => Ok(false),
            _ if answer.is_success() => Ok(true),
            _ => Err(answer.complaint().failed(doing)),
        }
    }

    /// Makes an index once; one that is removed while runs go on is made by the server when it gets lines.
    async fn make(&self, index: &str) -> Result<()> {
        if self.made_last().as_deref() == Some(index) {
            return Ok(());
        }
        template::make(&self.link, index).await?;
        *self.made_last() = Some(index.to_owned());
        Ok(())
    }

    /// Makes visible what was written before.
    pub(crate) async fn refresh(&self, index: &str) -> Result<()> {
        // An index that was removed has nothing to show.
        let refresh = Request::post(format!("{index}/_refresh")).with("ignore_unavailable", true);
        self.link.run("make lines visible", refresh).await
    }
}

/// The document of a run.
fn document(record: &RunRecord, made: &str, index: &str) -> Result<Value> {
    let json = String::from_utf8_lossy(&record.to_json()?).into_owned();
    let metadata: Vec<String> = record.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(json!({
        "format": FORMAT,
        "made": made,
        "index": index,
        "@timestamp": record.started_at.to_string(),
        "began_us": record.started_at.as_micros(),
        "finished_at": record.finished_at.map(|time| time.to_string()),
        "beat_at": record.beat_at.to_string(),
        "run_id": record.key.run_id,
        "action_id": record.key.action_id,
        "stage": record.key.stage,
        "event_id": record.key.event_id,
        "attempt": record.key.attempt,
        "owner": record.owner,
        "status": record.status,
        "outcome": record.outcome,
        "cause": record.cause,
        "code": record.code,
        "signal": record.signal,
        "final": record.is_final,
        "revision": record.revision,
        "lines": record.counts.lines,
        "bytes": record.counts.bytes,
        "command": record.command,
        "metadata": metadata,
        "record": json,
    }))
}

/// The name of a value as it stands in documents.
pub(crate) fn name_of(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
