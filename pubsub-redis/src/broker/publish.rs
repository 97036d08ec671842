//! Publishing: events become entries.

use std::collections::BTreeSet;
use std::sync::Arc;

use pubsub_core::{ActionId, Error, ErrorKind, Event, EventId, Novelty, Published, Result};
use redis::{Arg, Cmd, Value};

use super::indexed::STANDS;
use super::keys::{Partition, partition_of, position};
use super::scripts::{INDEX, PUBLISH};
use super::shared::Shared;
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
    id: EventId,
    action: ActionId,
    /// The command that adds it where nothing has to be looked up: to a stream that is there.
    add: Cmd,
    partition: Arc<Partition>,
    bytes: usize,
}

/// How many words of that command come before the fields: names and texts one after the other.
const BEFORE_FIELDS: usize = 4;

/// What one call of a publisher wants to have published.
pub(super) type Batch = Arc<Vec<Ready>>;

impl Ready {
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) with the limit.
    pub(super) fn new(event: Event, partitions: &[Arc<Partition>], max_bytes: usize) -> Result<Self> {
        if event.headers.len() > MAX_HEADERS {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event with so many headers")
                .with("event", &event.id)
                .with("headers", event.headers.len())
                .with("limit", MAX_HEADERS));
        }
        let attributes = event.to_attributes()?;
        let text: usize = attributes.iter().map(|(name, text)| name.len() + text.len()).sum();
        // About what they take as JSON: with quotes, a colon and a comma for each.
        let bytes = text + 6 * attributes.len();
        if bytes > max_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event")
                .with("event", &event.id)
                .with("bytes", bytes)
                .with("limit", max_bytes));
        }
        let n = partition_of(&event.action_id, u16::try_from(partitions.len()).unwrap_or(u16::MAX));
        let partition = partitions.get(usize::from(n)).map(Arc::clone);
        let partition =
            partition.ok_or_else(|| Error::new(ErrorKind::Internal, "a broker without partitions"))?;
        let (stream, words) = (&partition.events, BEFORE_FIELDS + 2 * attributes.len());
        let mut add = Cmd::with_capacity(words, 16 + stream.len() + text);
        add.arg("XADD").arg(stream).arg("NOMKSTREAM").arg("*");
        for (name, text) in &attributes {
            add.arg(name).arg(&**text);
        }
        drop(attributes);
        Ok(Self { id: event.id, action: event.action_id, add, partition, bytes })
    }

    fn request(&self, shared: &Shared, most: u64) -> Request {
        // A publish that too few replicas had in time is done, and is repeated.
        let is_new = self.id.is_generated() && shared.config.replicas() == 0;
        let id = if is_new { "" } else { self.id.as_str() };
        let keys = [&self.partition.events, &self.partition.ids, &self.partition.first];
        let mut request = PUBLISH
            .call(keys.map(String::as_str))
            .arg(id)
            .arg(self.action.as_str())
            .arg(most)
            .arg(self.bytes + ENTRY_BYTES)
            .arg(fastrand::u64(..));
        for field in self.add.args_iter().skip(BEFORE_FIELDS) {
            if let Arg::Simple(field) = field {
                request.push(field);
            }
        }
        request
    }

    fn published(&self, entry: &str, novelty: Novelty) -> Published {
        Published { position: position(self.partition.n, entry), novelty }
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

/// Which of them can be added without a look at what is there.
fn are_plain(shared: &Shared, some: &[&Ready]) -> Vec<bool> {
    let config = &shared.config;
    let keeps_index = config.max_bytes().is_none() && config.retention() >= 2 * STANDS;
    if !keeps_index || config.replicas() > 0 {
        return vec![false; some.len()];
    }
    let are_indexed = shared.indexed.have(some.iter().map(|ready| &ready.action));
    some.iter().zip(are_indexed).map(|(ready, is_indexed)| is_indexed && ready.id.is_generated()).collect()
}

async fn insert_some(shared: &Shared, some: &[&Ready]) -> Vec<Result<Published>> {
    let doing = "publish an event";
    let most = most_bytes(shared).await.unwrap_or(0);
    let are_plain = are_plain(shared, some);
    let request = |(ready, is_plain): (&&Ready, &bool)| {
        if *is_plain { ready.add.clone().into() } else { ready.request(shared, most) }
    };
    let mut requests: Vec<Request> = some.iter().zip(&are_plain).map(request).collect();
    let plain = some.iter().zip(&are_plain).filter(|(_, is_plain)| **is_plain);
    let used: BTreeSet<u16> = plain.map(|(ready, _)| ready.partition.n).collect();
    let looked_at: Vec<u16> = used.into_iter().filter(|n| shared.indexed.is_to_be_looked_at(*n)).collect();
    for n in &looked_at {
        requests.push(Request::new("HGET").arg(shared.keys.partition(*n).first).arg(""));
    }
    let mut answers = match shared.durable.each(requests).await {
        Ok(answers) => answers.into_iter(),
        Err(error) => return error.for_each(some.len()),
    };
    let mut published = Vec::with_capacity(some.len());
    for ((ready, plain), answer) in some.iter().zip(are_plain).zip(answers.by_ref()) {
        let answer = answer.get(doing);
        published.push(match answer {
            Err(error) if error.kind() == ErrorKind::TooLarge => Err(error.with("event", &ready.id)),
            Err(error) => Err(error),
            // The stream is gone: the server was emptied.
            Ok(Value::Nil) if plain => with_script(shared, ready, most).await,
            Ok(entry) if plain => text(entry).map(|entry| ready.published(&entry, Novelty::New)),
            Ok(answer) => match read(shared, ready, answer).await {
                Ok(Outcome::Published(published)) => Ok(published),
                Ok(Outcome::Full(_)) => when_full(shared, ready, most).await,
                Err(error) => Err(error),
            },
        });
    }
    for (n, answer) in looked_at.into_iter().zip(answers) {
        if let Ok(token) = answer.get(doing).and_then(text) {
            index_again(shared, n, shared.indexed.look(n, token)).await;
        }
    }
    published
}

async fn with_script(shared: &Shared, ready: &Ready, most: u64) -> Result<Published> {
    let request = ready.request(shared, most);
    let answer = shared.durable.one(request, "publish an event").await?;
    match read(shared, ready, answer).await? {
        Outcome::Published(published) => Ok(published),
        Outcome::Full(_) => when_full(shared, ready, most).await,
    }
}

/// Reads what the script said.
async fn read(shared: &Shared, ready: &Ready, answer: Value) -> Result<Outcome> {
    let [what, value, token] = fixed::<3>(answer)?;
    let novelty = match bytes(what)?.as_slice() {
        b"new" => Novelty::New,
        b"known" => Novelty::Duplicate,
        _ => return Ok(Outcome::Full(count(value)?)),
    };
    let token = text(token)?;
    if !token.is_empty() {
        index_again(shared, ready.partition.n, shared.indexed.note(&ready.action, ready.partition.n, token))
            .await;
    }
    Ok(Outcome::Published(ready.published(&text(value)?, novelty)))
}

/// The index of a partition was lost with what was in it; what was added since then is found from the beginning.
async fn index_again(shared: &Shared, n: u16, lost: Vec<ActionId>) {
    if lost.is_empty() {
        return;
    }
    let partition = shared.keys.partition(n);
    let mut request = INDEX.call([&*partition.first]);
    for action in &lost {
        request.push(action.as_str());
    }
    if let Err(error) = shared.commands.one(request, "index actions again").await {
        tracing::warn!(error = %error.chain(), actions = lost.len(), "new groups may miss events of before now");
    }
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
        .with("event", &ready.id)
        .with("bytes", bytes)
        .with("limit", most));
    }
    let holding = super::retention::make_room(shared, ready.partition.n).await?;
    let request = ready.request(shared, most);
    match read(shared, ready, shared.durable.one(request, doing).await?).await? {
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
