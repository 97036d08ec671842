//! The reader of all that listen from now on by one handle: it reads once, hands each event to those who want it, and waits
//! for nobody.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, StreamExt as _};
use pubsub_core::{Leased, NoLeases, Result, Seldom, Subscribed, Subscription, Timestamp};
use redis::Value;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep;

use super::super::batch::decode;
use super::super::group::partitions_of;
use super::super::keys::EntryId;
use super::super::reads::{OPENING, longest, parts};
use super::super::shared::Shared;
use super::heard::{Heard, Passed, Queue};
use super::listeners::Listeners;
use super::reading::{Around, Reading, reached};
use super::{MAX_DELAYED, MAX_READ, leased, pause};
use crate::error::is_elsewhere;
use crate::reply::{Entry, entries as read_entries, streams};
use crate::script::Request;

/// How many events are handed out before those who hear of them get their turn.
const AT_ONCE: usize = 256;

/// The reader of a handle, as long as anybody listens.
#[derive(Default)]
pub(in super::super) struct Hub(Mutex<Weak<Listening>>);

impl Hub {
    fn listening(&self, shared: &Arc<Shared>, partitions: u16) -> Arc<Listening> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listening) = current.upgrade().filter(|listening| !listening.listeners.is_over()) {
            return listening;
        }
        let listening = Arc::new(Listening::begin(shared, partitions));
        *current = Arc::downgrade(&listening);
        listening
    }
}

/// Who listens, and the task that reads for them. It ends with the last of them.
struct Listening {
    listeners: Arc<Listeners>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listening {
    fn begin(shared: &Arc<Shared>, partitions: u16) -> Self {
        let listeners = Arc::new(Listeners::new(partitions));
        let parts = parts(&shared.link, usize::from(partitions));
        let around = Arc::new(Around {
            shared: Arc::clone(shared),
            listeners: Arc::clone(&listeners),
            wait: longest(parts.len()),
            opening: Semaphore::new(OPENING),
        });
        let of = |part: Range<usize>| {
            let n = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
            Reading::new(n(part.start)..n(part.end))
        };
        let reader = Reader {
            around,
            reads: FuturesUnordered::new(),
            ended: parts.into_iter().map(of).collect(),
            delayed: BinaryHeap::new(),
            failures: 0,
            outage: Seldom::default(),
        };
        let ends = Ends(Arc::clone(&listeners));
        let task = tokio::spawn(async move {
            let _ends = ends;
            reader.run().await;
        });
        Self { listeners, task }
    }
}

/// Whatever ends the task, nobody waits for it.
struct Ends(Arc<Listeners>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Subscribes from now on.
pub(super) async fn subscribe(shared: &Arc<Shared>, on: Subscription, partitions: u16) -> Result<Subscribed> {
    let listening = shared.hub.listening(shared, partitions);
    let read: Arc<[u16]> = partitions_of(on.patterns(), partitions).into();
    let queue = listening.listeners.enter(on, &read);
    let mut listener = Listener { shared: Arc::clone(shared), listening, queue, read, since: Vec::new() };
    // It hears already: between this answer and what it hears there is no gap.
    for (n, reached) in reached(shared, &listener.read).await? {
        listener.listening.listeners.begin(n, reached);
        listener.since.push((n, reached.last));
    }
    let entries = stream::unfold(listener, |mut listener| async move {
        let item = listener.next().await?;
        Some((item, listener))
    });
    Ok(Subscribed { entries: entries.boxed(), leases: Arc::new(NoLeases), claims: Arc::new(NoLeases) })
}

struct Listener {
    shared: Arc<Shared>,
    listening: Arc<Listening>,
    queue: Arc<Queue>,
    read: Arc<[u16]>,
    /// After which entry of each partition it listens, in their order.
    since: Vec<(u16, EntryId)>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listening.listeners.leave(&self.read);
    }
}

impl Listener {
    async fn next(&mut self) -> Option<Result<Leased>> {
        let mut closing = self.shared.closing();
        loop {
            let heard = tokio::select! {
                biased;
                _ = closing.wait_for(|closed| *closed) => return None,
                heard = self.queue.next() => heard?,
            };
            match heard {
                Heard::Event(passed) if !self.is_since(&passed) => {}
                Heard::Event(passed) => {
                    let event = Arc::try_unwrap(passed).map_or_else(
                        |shared| (shared.n, shared.id, shared.event.clone()),
                        |own| (own.n, own.id, own.event),
                    );
                    return Some(Ok(leased(event.0, &event.1.to_string(), event.2)));
                }
                Heard::Missed(missed) => return Some(Err(missed.error())),
                Heard::Failed(error) => return Some(Err(error.again())),
            }
        }
    }

    fn is_since(&self, passed: &Passed) -> bool {
        let at = self.since.binary_search_by_key(&passed.n, |(n, _)| *n);
        at.is_ok_and(|at| self.since.get(at).is_some_and(|(_, since)| passed.id > *since))
    }
}

/// What comes first.
enum Turn {
    Came(Box<Reading>),
    Due,
    Begun,
}

/// Due time in µs, partition, entry.
type Delayed = (i64, u16, EntryId);

/// Reads, and hands out what it read.
struct Reader {
    around: Arc<Around>,
    /// They take nothing, so one that brings something ends no other.
    reads: FuturesUnordered<BoxFuture<'static, Reading>>,
    /// Those that are to be begun again, or are at partitions that nobody wants.
    ended: Vec<Reading>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    /// How often in a row what is due could not be read.
    failures: u32,
    outage: Seldom,
}

impl Reader {
    async fn run(mut self) {
        let mut begun = self.around.listeners.begun();
        let mut closing = self.around.shared.closing();
        loop {
            begun.mark_unchanged();
            self.begin_reads();
            let due = self.until_due();
            let turn = tokio::select! {
                Some(first) = self.reads.next() => Turn::Came(Box::new(first)),
                () = sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => Turn::Due,
                _ = begun.changed() => Turn::Begun,
                _ = closing.wait_for(|closed| *closed) => return,
            };
            match turn {
                Turn::Came(first) => self.came(*first).await,
                Turn::Due => self.bring_delayed().await,
                Turn::Begun => {}
            }
        }
    }

    fn begin_reads(&mut self) {
        for mut reading in std::mem::take(&mut self.ended) {
            if self.around.listeners.cursors(&reading.partitions).is_empty() {
                reading.rest();
                self.ended.push(reading);
            } else {
                self.reads.push(reading.read(Arc::clone(&self.around)).boxed());
            }
        }
    }

    /// Hands out what this read brought, and whatever else has come by now, by their time as far as the servers' clocks
    /// tell.
    async fn came(&mut self, first: Reading) {
        let (mut fresh, mut next) = (Vec::new(), Some(first));
        while let Some(mut reading) = next {
            match std::mem::replace(&mut reading.answer, Ok(Value::Nil)).and_then(streams) {
                Ok(read) => self.take(&mut reading, read, &mut fresh),
                // Its node sends it to another one, where it goes on.
                Err(error) if is_elsewhere(&error) => {}
                Err(error) => {
                    if let Some(times) = self.outage.happened(1) {
                        tracing::warn!(error = %error.chain(), times, "events cannot be listened to; it is tried again");
                    }
                    if reading.failures <= 1 {
                        self.around.listeners.fail(&reading.partitions, &error);
                    }
                }
            }
            self.ended.push(reading);
            next = self.reads.next().now_or_never().flatten();
        }
        fresh.sort_by_key(|(n, id, _)| (*id, *n));
        let fresh = fresh.into_iter().filter_map(|(n, id, entry)| {
            let passed = decoded(n, id, &entry)?;
            let due = passed.event.deliver_at.filter(|due| *due > Timestamp::now());
            let Some(due) = due else { return Some(passed) };
            if self.around.listeners.want(&passed.event) {
                self.delayed.push(Reverse((due.as_micros(), n, id)));
            }
            None
        });
        let fresh: Vec<Passed> = fresh.collect();
        hand_out(&self.around.listeners, fresh).await;
    }

    fn take(
        &self,
        reading: &mut Reading,
        read: Vec<(String, Vec<Entry>)>,
        fresh: &mut Vec<(u16, EntryId, Entry)>,
    ) {
        let keys = &self.around.shared.keys;
        let mut read = read.into_iter().peekable();
        for (n, _) in &reading.asked {
            // Those that brought something, in the order in which they were asked.
            let entries = read.next_if(|(key, _)| *key == keys.partition(*n).events);
            let entries = entries.map_or_else(Vec::new, |(_, entries)| entries);
            // Who is behind is whom a removal can overtake.
            reading.is_unsure |= entries.len() >= MAX_READ;
            let new = self.around.listeners.take(*n, entries);
            fresh.extend(new.into_iter().map(|(id, entry)| (*n, id, entry)));
        }
    }

    /// How long until something is due, or is to be asked for again.
    fn until_due(&self) -> Option<Duration> {
        let Reverse((due, ..)) = self.delayed.peek()?;
        let left = due.saturating_sub(Timestamp::now().as_micros());
        let left = Duration::from_micros(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1);
        if self.delayed.len() > MAX_DELAYED {
            return Some(Duration::ZERO);
        }
        Some(if self.failures > 0 { left.max(pause(self.failures)) } else { left })
    }

    /// Reads and hands out what is due by now.
    async fn bring_delayed(&mut self) {
        let mut due: Vec<Delayed> = Vec::new();
        while let Some(Reverse(first)) = self.delayed.peek().copied()
            && due.len() < MAX_READ
            && (first.0 <= Timestamp::now().as_micros() || self.delayed.len() > MAX_DELAYED)
        {
            self.delayed.pop();
            due.push(first);
        }
        let brought = read_delayed(&self.around, &due).await;
        self.failures = if brought.is_ok() { 0 } else { self.failures.saturating_add(1) };
        match brought {
            Ok(passed) => hand_out(&self.around.listeners, passed).await,
            Err(error) => {
                tracing::debug!(error = %error.chain(), "delayed events cannot be read; it is tried again");
                self.delayed.extend(due.into_iter().map(Reverse));
            }
        }
    }
}

async fn hand_out(listeners: &Listeners, fresh: Vec<Passed>) {
    for (number, passed) in (1..).zip(fresh) {
        listeners.pass(&Arc::new(passed));
        if number % AT_ONCE == 0 {
            yield_now().await;
        }
    }
}

/// What cannot be decoded is a group's to set aside; here it is passed over.
fn decoded(n: u16, id: EntryId, entry: &Entry) -> Option<Passed> {
    let event = decode(entry).ok()?;
    Some(Passed { n, id, event, bytes: entry.fields().map(|(_, value)| value.len()).sum() })
}

async fn read_delayed(around: &Around, due: &[Delayed]) -> Result<Vec<Passed>> {
    let (doing, shared) = ("read delayed events", &around.shared);
    let request = |(_, n, id): &Delayed| {
        let (events, id) = (shared.keys.partition(*n).events, id.to_string());
        Request::new("XRANGE").arg(events).arg(&id).arg(&id)
    };
    let answers = shared.commands.all(due.iter().map(request).collect(), doing).await?;
    let read: Vec<Vec<Entry>> =
        answers.into_iter().map(|answer| read_entries(answer.get(doing)?)).collect::<Result<_>>()?;
    let mut passed = Vec::with_capacity(due.len());
    for ((_, n, id), entries) in due.iter().zip(read) {
        match entries.first() {
            Some(entry) => passed.extend(decoded(*n, *id, entry)),
            None => around.listeners.removed(*n, 1),
        }
    }
    Ok(passed)
}
