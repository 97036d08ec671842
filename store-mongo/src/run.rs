//! The document of a run: read, and written where it is still the one that was seen.

use mongodb::bson::{DateTime, Document, RawDocument, doc, serialize_to_document};
use pubsub_core::{
    Error, ErrorKind, LineNumber, Outcome, RECORD_VERSION, Result, RunId, RunKey, RunRecord, RunStatus,
    Timestamp,
};
use serde::Serialize;

use crate::config::MIN_KEEP;
use crate::layout::{FORMAT, Ids, field};
use crate::line::date_of;
use crate::numbers::Holes;
use crate::store::Inner;

/// How often a record is written anew where others are faster each time.
const MAX_TRIES: usize = 50;

/// What a document of a run says.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) record: RunRecord,
    pub(crate) made: String,
    pub(crate) writes: i64,
    pub(crate) last_line: u64,
    pub(crate) through: u64,
    pub(crate) bytes: u64,
}

/// A run, or what is left of one that is on its way out.
#[derive(Debug)]
pub(crate) enum Found {
    Run(Box<Stored>),
    Removing { made: String },
}

/// What other tools see of a record, and what it is found by.
#[derive(Debug, Serialize)]
struct Fields<'a> {
    version: i32,
    #[serde(flatten)]
    key: &'a RunKey,
    owner: &'a str,
    command: &'a [String],
    status: RunStatus,
    outcome: Option<Outcome>,
    code: Option<i32>,
    started_at: DateTime,
    finished_at: Option<DateTime>,
    began: i64,
    record: String,
}

/// Which document is this run, as long as nobody removes it.
pub(crate) fn is_run(run: &RunId, made: &str) -> Document {
    doc! { "_id": run.as_str(), "made": made, "removing": { "$exists": false } }
}

/// Tells whoever watches this action: a value that is another each time, for only what changed is told.
pub(crate) fn wake(action: &str) -> String {
    format!("{:08x}/{action}", fastrand::u32(..))
}

/// That a run is not there.
pub(crate) fn not_found(doing: &'static str, run: &RunId) -> Error {
    Error::new(ErrorKind::NotFound, doing).with("run", run)
}

/// A number as MongoDB has it; the largest for what is larger.
pub(crate) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of a document; 0 for what is none.
pub(crate) fn number(document: &RawDocument, name: &str) -> u64 {
    let number = document.get_i64(name).or_else(|_| document.get_i32(name).map(i64::from));
    number.ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

impl Stored {
    pub(crate) fn ids(&self) -> Ids {
        Ids::of(&self.record.key.run_id, &self.made)
    }

    /// The last number that there is anything to say of.
    pub(crate) fn end(&self) -> u64 {
        self.last_line.max(self.complete_through())
    }

    /// All lines up to this number are visible, or will never be.
    pub(crate) fn complete_through(&self) -> u64 {
        let through = match self.record.status {
            RunStatus::Running => Holes::of(&self.record).over(self.through),
            RunStatus::Completed => self.last_line.max(self.record.last_number().map_or(0, LineNumber::get)),
        };
        // Whatever a damaged record says: after each line there is a next number.
        through.min(u64::MAX - 1)
    }
}

/// What a document is.
pub(crate) fn found(document: &RawDocument) -> Result<Found> {
    let damaged = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("the document of a run has no {what}"))
            .with("run", document.get_str("_id").unwrap_or("?"))
    };
    let version = number(document, "version");
    if version > u64::from(FORMAT.unsigned_abs()) {
        return Err(Error::new(ErrorKind::TooNew, "read the document of a run")
            .with("version", version)
            .with("newest known", FORMAT));
    }
    let made = document.get_str("made").map_err(|_| damaged("made"))?.to_owned();
    if document.get_bool("removing").unwrap_or(false) {
        return Ok(Found::Removing { made });
    }
    let record = document.get_str("record").map_err(|_| damaged("record"))?;
    Ok(Found::Run(Box::new(Stored {
        record: RunRecord::from_json(record.as_bytes())?,
        made,
        writes: int(number(document, "writes")),
        last_line: number(document, "last_line"),
        through: number(document, "through"),
        bytes: number(document, "bytes"),
    })))
}

impl Inner {
    pub(crate) async fn find_any(&self, doing: &'static str, run: &RunId) -> Result<Option<Found>> {
        let runs = self.link.collections(doing).await?.runs;
        let document = self.link.answer(doing, runs.find_one(doc! { "_id": run.as_str() })).await?;
        document.map(|document| found(&document)).transpose()
    }

    pub(crate) async fn find(&self, doing: &'static str, run: &RunId) -> Result<Option<Stored>> {
        Ok(match self.find_any(doing, run).await? {
            Some(Found::Run(stored)) => Some(*stored),
            Some(Found::Removing { .. }) | None => None,
        })
    }

    /// Takes a record, where it moves the run forward, and fills holes whose lines have come.
    pub(crate) async fn put(&self, record: &RunRecord) -> Result<()> {
        let doing = "store a record";
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, doing).with("version", record.version));
        }
        let run = &record.key.run_id;
        for _ in 0..MAX_TRIES {
            let is_written = match self.find_any(doing, run).await? {
                None => self.make(doing, record).await?,
                Some(Found::Removing { made }) => {
                    self.clear(doing, run, &made).await?;
                    false
                }
                Some(Found::Run(stored)) => {
                    let next = stored.record.followed_by(record);
                    let mut next = next.unwrap_or_else(|| stored.record.clone());
                    self.fill(&stored, &mut next).await?;
                    next == stored.record || self.write(doing, &stored, &next).await?
                }
            };
            if is_written {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "others write the record of the run all the time")
            .with("run", run))
    }

    /// Makes the run; `false` where another did meanwhile.
    async fn make(&self, doing: &'static str, record: &RunRecord) -> Result<bool> {
        let made = format!("{:08x}", fastrand::u32(..));
        let mut document = self.fields(record)?;
        document.insert("_id", record.key.run_id.as_str());
        document.insert("made", &made);
        document.insert("writes", 1_i64);
        for count in ["last_line", "through", "bytes"] {
            document.insert(count, 0_i64);
        }
        let runs = self.link.collections(doing).await?.runs.clone_with_type::<Document>();
        match self.link.answer(doing, runs.insert_one(document)).await {
            Ok(_) => {
                self.known.is(&record.key.run_id, &made);
                Ok(true)
            }
            // Ours as well, where only its answer was lost: then the next look finds it.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the record where it is still the one that was seen.
    async fn write(&self, doing: &'static str, stored: &Stored, next: &RunRecord) -> Result<bool> {
        let runs = self.link.collections(doing).await?.runs;
        let mut seen = is_run(&next.key.run_id, &stored.made);
        seen.insert("writes", stored.writes);
        let change = doc! { "$set": self.fields(next)?, "$inc": { "writes": 1_i64 } };
        let answer = self.link.answer(doing, runs.update_one(seen, change)).await?;
        if answer.matched_count == 0 {
            return Ok(false);
        }
        match next.status {
            RunStatus::Completed => self.known.forget(&next.key.run_id),
            // What it says of lines that nobody has may be what those behind them waited for.
            RunStatus::Running if stored.through < stored.last_line => self.advance(&next.key.run_id).await?,
            RunStatus::Running => {}
        }
        Ok(true)
    }

    fn fields(&self, record: &RunRecord) -> Result<Document> {
        let wrong = |error: mongodb::bson::error::Error| {
            Error::new(ErrorKind::Internal, "write the document of a run").with_source(error.to_string())
        };
        let text = String::from_utf8(record.to_json()?)
            .map_err(|e| Error::new(ErrorKind::Internal, "a record is text").with_source(e))?;
        let mut fields = serialize_to_document(&Fields {
            version: FORMAT,
            key: &record.key,
            owner: &record.owner,
            command: &record.command,
            status: record.status,
            outcome: record.outcome,
            code: record.code,
            started_at: date_of(record.started_at).0,
            finished_at: record.finished_at.map(|time| date_of(time).0),
            began: record.started_at.as_micros(),
            record: text,
        })
        .map_err(wrong)?;
        // Its name is the id of the document.
        fields.remove("run_id");
        let mut metadata = doc! { "indexed_at": date_of(Timestamp::now()).0 };
        metadata.extend(record.metadata.iter().map(|(name, text)| (field(name), text.into())));
        fields.insert("metadata", metadata);
        fields.insert("wake", wake(record.key.action_id.as_str()));
        if let Some(keep) = self.link.config().keep() {
            let goes = match record.finished_at {
                Some(end) => record.started_at.plus(keep).max(end.plus(MIN_KEEP)),
                None => Timestamp::now().plus(keep),
            };
            fields.insert("expires_at", date_of(goes).0);
        }
        Ok(fields)
    }
}
