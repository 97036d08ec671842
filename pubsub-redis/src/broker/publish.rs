//! Publishing: events become entries.

use std::sync::Arc;

use pubsub_core::{Error, ErrorKind, Event, Novelty, Published, Result};
use redis::Value;

use super::keys::{Partition, partition_of, position};
use super::scripts::PUBLISH;
use super::shared::{Shared, for_each};
use crate::reply::{bytes, count, fixed, text};
use crate::script::Request;

/// Most events, and most bytes of them, that one round trip takes along.
const MAX_CALLS: usize = 1000;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most headers of an event: a script can pass on only so many fields.
const MAX_HEADERS: usize = 1000;

/// What an entry takes beside its fields, roughly: its id, its lengths, and what a node of the stream leaves empty.
const ENTRY_BYTES: usize = 200;

/// An event that has been looked at.
#[derive(Debug)]
pub(super) struct Ready {
    event: Event,
    n: u16,
    bytes: usize,
}

/// What one call of a publisher wants to have published.
pub(super) type Batch = Arc<Vec<Ready>>;

impl Ready {
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) with the limit.
    pub(super) fn new(event: Event, partitions: u16, max_bytes: usize) -> Result<Self> {
        if event.headers.len() > MAX_HEADERS {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event with so many headers")
                .with("event", &event.id)
                .with("headers", event.headers.len())
                .with("limit", MAX_HEADERS));
        }
        // As JSON: quotes, a colon and a comma for each.
        let bytes = event.to_attributes()?.iter().map(|(name, text)| name.len() + text.len() + 6).sum();
        if bytes > max_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event")
                .with("event", &event.id)
                .with("bytes", bytes)
                .with("limit", max_bytes));
        }
        let n = partition_of(&event.action_id, partitions);
        Ok(Self { event, n, bytes })
    }

    fn request(&self, partition: &Partition, most: u64) -> Result<Request> {
        let id = if self.event.id.is_generated() { "" } else { self.event.id.as_str() };
        let keys = [&partition.events, &partition.ids, &partition.first];
        let mut request = PUBLISH
            .call(keys.map(String::as_str))
            .arg(id)
            .arg(self.event.action_id.as_str())
            .arg(most)
            .arg(self.bytes + ENTRY_BYTES);
        for (name, text) in self.event.to_attributes()? {
            request.push(name);
            request.push(&*text);
        }
        Ok(request)
    }

    fn read(&self, answer: Value) -> Result<Outcome> {
        let [what, value] = fixed::<2>(answer)?;
        let novelty = match bytes(what)?.as_slice() {
            b"new" => Novelty::New,
            b"known" => Novelty::Duplicate,
            _ => return Ok(Outcome::Full(count(value)?)),
        };
        Ok(Outcome::Published(Published { position: position(self.n, &text(value)?), novelty }))
    }
}

enum Outcome {
    Published(Published),
    /// With the bytes that the events of its partition take.
    Full(u64),
}

/// Publishes what several callers want, in one go as far as it fits.
pub(super) async fn insert(shared: &Shared, batches: Vec<Batch>) -> Vec<Vec<Result<Published>>> {
    let all: Vec<&Ready> = batches.iter().flat_map(|batch| batch.iter()).collect();
    let mut answers: Vec<Result<Published>> = Vec::with_capacity(all.len());
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        let mut size = 0_usize;
        let fitting = rest.iter().take(MAX_CALLS).take_while(|ready| {
            let fits = size == 0 || size + ready.bytes <= MAX_BYTES;
            size += ready.bytes;
            fits
        });
        let (now, later) = rest.split_at(fitting.count());
        answers.extend(insert_some(shared, now).await);
        rest = later;
    }
    let mut answers = answers.into_iter();
    batches.iter().map(|batch| answers.by_ref().take(batch.len()).collect()).collect()
}

async fn insert_some(shared: &Shared, some: &[&Ready]) -> Vec<Result<Published>> {
    let doing = "publish an event";
    let most = most_bytes(shared).await.unwrap_or(0);
    let requests = some.iter().map(|ready| ready.request(&shared.keys.partition(ready.n), most));
    let requests = match requests.collect::<Result<Vec<_>>>() {
        Ok(requests) => requests,
        Err(error) => return for_each(some.len(), &error),
    };
    let answers = match shared.commands.all(&requests, doing).await {
        Ok(answers) => answers,
        Err(error) => return for_each(some.len(), &error),
    };
    let mut published = Vec::with_capacity(some.len());
    for (ready, answer) in some.iter().zip(answers) {
        let outcome = answer.get(doing).and_then(|value| ready.read(value));
        published.push(match outcome {
            Ok(Outcome::Published(published)) => Ok(published),
            Ok(Outcome::Full(_)) => when_full(shared, ready, most).await,
            Err(error) => Err(error),
        });
    }
    published
}

/// What the events of one partition may take; 0 where there is no limit.
async fn most_bytes(shared: &Shared) -> Result<u64> {
    match shared.config.max_bytes() {
        Some(bytes) => Ok((bytes / u64::from(shared.partitions().await?)).max(1)),
        None => Ok(0),
    }
}

/// Makes room and tries again.
async fn when_full(shared: &Shared, ready: &Ready, most: u64) -> Result<Published> {
    let doing = "publish an event";
    let bytes = u64::try_from(ready.bytes + ENTRY_BYTES).unwrap_or(u64::MAX);
    if bytes > most {
        return Err(Error::new(
            ErrorKind::TooLarge,
            "publish an event that is larger than all that may be kept",
        )
        .with("event", &ready.event.id)
        .with("bytes", bytes)
        .with("limit", most));
    }
    let holding = super::retention::make_room(shared, ready.n).await?;
    let request = ready.request(&shared.keys.partition(ready.n), most)?;
    match ready.read(shared.commands.one(request, doing).await?)? {
        Outcome::Published(published) => Ok(published),
        Outcome::Full(used) => {
            let error = Error::new(ErrorKind::Full, "publish: the broker keeps as much as it may");
            let error = match holding {
                Some((name, unsettled)) => {
                    error.with("held back by group", name).with("unsettled there", unsettled)
                }
                None => error.with("held back by group", "none"),
            };
            Err(error.with("bytes", used).with("limit", most))
        }
    }
}
