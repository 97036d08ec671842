//! The record of a run: read, and written where it is still the one that was seen.

use pubsub_core::{
    Error, ErrorKind, Gap, LineNumber, LineRange, RECORD_VERSION, Result, RunId, RunRecord, RunStatus,
};
use redis::Value;

use super::Inner;
use super::clock::{self, Ahead};
use super::layout::{FORMAT, RunKeys, score};
use super::server::{self, Answers, PUT, Said, call, said, taken};
use crate::script::Request;

/// How often a record is written anew where others are faster each time.
const MAX_TRIES: usize = 50;

/// What the hash of a run says.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) record: RunRecord,
    /// Its JSON as it lies there.
    pub(super) text: Vec<u8>,
    pub(super) keys: RunKeys,
    pub(super) made: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) last_line: u64,
    pub(super) late: u64,
    pub(super) dropped: Dropped,
    /// How far the server's clock was ahead of that of who wrote the last sign of life, and is ahead of ours.
    writers: Ahead,
    ours: Ahead,
}

/// The first lines of a run, which went for its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) through: u64,
    bytes: u64,
}

const FIELDS: [&str; 9] = [
    "version",
    "record",
    "made",
    "bytes",
    "last_line",
    "late",
    "dropped_through",
    "dropped_bytes",
    clock::FIELD,
];

/// Asks for what the hash of a run says.
pub(super) fn asked(record_key: &str) -> Request {
    Request::new("HMGET").arg(record_key).arg(&FIELDS)
}

/// Asks whether it is still the same run, and what went of it.
pub(super) fn asked_again(record_key: &str) -> Request {
    Request::new("HMGET").arg(record_key).arg(&["made", "dropped_through", "dropped_bytes"])
}

/// What [`asked_again`] got.
pub(super) fn again(values: Vec<Value>) -> (Vec<u8>, Dropped) {
    let mut fields = values.into_iter();
    let made = bytes(fields.next()).unwrap_or_default();
    (made, Dropped { through: number(fields.next()), bytes: number(fields.next()) })
}

fn bytes(value: Option<Value>) -> Option<Vec<u8>> {
    if let Some(Value::BulkString(text)) = value { Some(text) } else { None }
}

fn number(value: Option<Value>) -> u64 {
    let text = bytes(value).unwrap_or_default();
    std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Dropped {
    /// The hole, without what nobody kept.
    pub(super) fn enter(self, max_bytes: u64, record: &mut RunRecord) {
        let Some(through) = LineNumber::new(self.through) else { return };
        let range = LineRange::new(LineNumber::FIRST, through);
        record.fill(range);
        let reason = match max_bytes {
            0 => "over the bound of a run in this store".to_owned(),
            most => format!("over the bound of {most} bytes per run in this store"),
        };
        record.holes.insert(0, Gap { range, bytes: Some(self.bytes), reason });
        for gap in record.gaps.clone() {
            record.fill(gap.range);
        }
    }
}

impl Inner {
    /// What [`asked`] got, at a server that is so far ahead of us; `None` where the run is not there.
    pub(super) fn stored(
        &self,
        doing: &'static str,
        ours: Ahead,
        values: Vec<Value>,
    ) -> Result<Option<Stored>> {
        let mut fields = values.into_iter();
        let (version, text) = (bytes(fields.next()), bytes(fields.next()));
        let Some(version) = version else { return Ok(None) };
        if number(Some(Value::BulkString(version.clone()))) > u64::from(FORMAT) {
            return Err(server::newer(doing, Some(&version)));
        }
        let text = text.unwrap_or_default();
        let record = RunRecord::from_json(&text)?;
        Ok(Some(Stored {
            keys: self.layout.of(&record.key),
            record,
            text,
            made: bytes(fields.next()).unwrap_or_default(),
            bytes: number(fields.next()),
            last_line: number(fields.next()),
            late: number(fields.next()),
            dropped: Dropped { through: number(fields.next()), bytes: number(fields.next()) },
            writers: Ahead::read(fields.next()),
            ours,
        }))
    }

    pub(super) async fn find(&self, doing: &'static str, run: &RunId) -> Result<Option<Stored>> {
        Ok(self.look(doing, run).await?.0)
    }

    /// The run, where it is there, and how far the server's clock is ahead of ours.
    async fn look(&self, doing: &'static str, run: &RunId) -> Result<(Option<Stored>, Ahead)> {
        let key = self.layout.record(run);
        let (mut answers, ours) = self.timed(doing, &key, vec![asked(&key)]).await?;
        Ok((self.stored(doing, ours, server::list(doing, &mut answers)?)?, ours))
    }

    /// Asks along with these how far the server's clock is ahead of ours.
    pub(super) async fn timed(
        &self,
        doing: &'static str,
        record_key: &str,
        mut requests: Vec<Request>,
    ) -> Result<(Answers, Ahead)> {
        requests.push(clock::asked(record_key));
        let before = (self.now)();
        let mut answers = self.run(doing, requests).await?;
        let ours = clock::ahead(before, answers.next_back(), (self.now)());
        Ok((answers, ours))
    }

    /// As readers see it: with what went for the bound, and by our clock.
    pub(super) fn seen(&self, stored: &Stored) -> RunRecord {
        let mut record = stored.record.clone();
        stored.ours.translate(stored.writers, &mut record);
        stored.dropped.enter(self.config.max_run_bytes(), &mut record);
        record
    }

    /// Takes a record, where it moves the run forward, and fills holes whose lines have come.
    pub(super) async fn put(&self, record: &RunRecord) -> Result<()> {
        let doing = "store a record";
        if record.version > RECORD_VERSION {
            return Err(Error::new(ErrorKind::TooNew, doing).with("version", record.version));
        }
        for _ in 0..MAX_TRIES {
            let (stored, ours) = self.look(doing, &record.key.run_id).await?;
            let mut next = match &stored {
                None => record.clone(),
                Some(stored) => stored.record.followed_by(record).unwrap_or_else(|| stored.record.clone()),
            };
            if let Some(stored) = &stored {
                self.fill(stored, &mut next).await?;
                if next == stored.record {
                    return self.repeat(doing, &next).await;
                }
            }
            if self.write(doing, stored.as_ref(), &next, ours).await? == Said::Done {
                if next.status == RunStatus::Completed && self.config.keep_finished_ms() > 0 {
                    self.tidy(&next.key).await?;
                }
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "others write the record of the run all the time")
            .with("run", &record.key.run_id))
    }

    async fn write(
        &self,
        doing: &'static str,
        stored: Option<&Stored>,
        next: &RunRecord,
        ours: Ahead,
    ) -> Result<Said> {
        let keys = self.layout.of(&next.key);
        let seen = stored.map_or(&[][..], |stored| &stored.text);
        let ended = next.status == RunStatus::Completed;
        let stays = if ended { self.config.keep_finished_ms() } else { 0 };
        let made = format!("{:016x}", fastrand::u64(..));
        let mut put = call(&PUT, &keys).arg(seen).arg(next.to_json()?).arg(made).arg(stays);
        for (name, value) in shown(next) {
            put.push((name, value));
        }
        if stored.is_none_or(|stored| stored.record.beat_at != next.beat_at) {
            put.push((clock::FIELD, ours.micros()));
        }
        let is_new = stored.is_none_or(|stored| stored.record.started_at != next.started_at);
        // A run that is there is in its sets, whenever its writer dies.
        let before: Vec<Request> = if is_new { self.entering(next).collect() } else { Vec::new() };
        let mut after: Vec<Request> =
            if is_new || ended { self.entering(next).collect() } else { Vec::new() };
        after.push(self.wake(&next.key));
        let put_at = before.len();
        let mut answers = self.run_in_order(doing, [before, vec![put], after]).await?;
        let mut result = Ok(Said::Other);
        for at in 0..answers.len() {
            let answer = taken(doing, &mut answers)?;
            if at == put_at {
                result = said(doing, answer).map(|(said, _)| said);
            }
        }
        result
    }

    fn entering(&self, record: &RunRecord) -> impl Iterator<Item = Request> {
        let (began, run) = (score(record.started_at), record.key.run_id.clone());
        let sets = self.layout.sets(&record.key).into_iter();
        sets.map(move |set| Request::new("ZADD").arg(set).arg(&began).arg(run.as_str()))
    }

    /// Whoever repeats a call does not know how far the first one came: the run is entered and told of.
    async fn repeat(&self, doing: &'static str, record: &RunRecord) -> Result<()> {
        let mut requests: Vec<Request> = self.entering(record).collect();
        requests.push(self.wake(&record.key));
        self.run(doing, requests).await?.try_for_each(|answer| answer.get(doing).map(drop))
    }
}

/// Fields of a record that people look at.
fn shown(record: &RunRecord) -> Vec<(&'static str, String)> {
    let status = match record.status {
        RunStatus::Running => "running",
        RunStatus::Completed => "completed",
    };
    let mut fields = vec![
        ("revision", record.revision.to_string()),
        ("status", status.to_owned()),
        ("action_id", record.key.action_id.to_string()),
        ("stage", record.key.stage.to_string()),
        ("event_id", record.key.event_id.to_string()),
        ("started_at", record.started_at.to_string()),
    ];
    let outcome = record.outcome.and_then(|outcome| serde_json::to_value(outcome).ok());
    fields.extend(outcome.and_then(|outcome| Some(("outcome", outcome.as_str()?.to_owned()))));
    fields.extend(record.code.map(|code| ("code", code.to_string())));
    fields
}
