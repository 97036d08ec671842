//! A subscription that starts in the past: it reads for itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use pubsub_core::{Error, Leased, NoLeases, Result, StartAt, Subscribed, Subscription, Timestamp};
use redis::{Cmd, Value};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::super::batch::decode;
use super::super::group::partitions_of;
use super::super::keys::{EntryId, Partition, read_position};
use super::super::reads::{OPENING, longest, parts};
use super::super::shared::Shared;
use super::{MAX_DELAYED, MAX_READ, leased, pause};
use crate::connect::Waiter;
use crate::error::is_elsewhere;
use crate::reply::{Entry, entries as read_entries, streams};
use crate::script::Request;

/// Where a subscriber is in one partition.
struct Cursor {
    of: Partition,
    after: String,
}

struct Broadcast {
    shared: Arc<Shared>,
    on: Subscription,
    cursors: Vec<Cursor>,
    /// What waits: one read at all partitions, or in a cluster one at each. They take nothing, and so may go on for as long
    /// as they want.
    reads: FuturesUnordered<BoxFuture<'static, Part>>,
    /// Those that are to be begun again.
    ended: Vec<Part>,
    /// How long each of them waits.
    wait: Duration,
    opening: Arc<Semaphore>,
    /// Due time in µs, which cursor, entry.
    delayed: BinaryHeap<Reverse<(i64, usize, String)>>,
    ready: VecDeque<Leased>,
    /// How often in a row what is due could not be read.
    failures: u32,
}

/// The key by which a read finds its server, its command, and how long it waits.
type Asked = (String, Cmd, Duration);

/// A read, of the partitions of these cursors.
struct Part {
    cursors: Range<usize>,
    waiter: Option<Waiter>,
    /// How often it failed in a row.
    failures: u32,
    answer: Result<Value>,
}

/// Subscribes from where it asks to start.
pub(super) fn subscribe(shared: &Arc<Shared>, on: Subscription, partitions: u16) -> Result<Subscribed> {
    let read: Vec<Partition> =
        partitions_of(on.patterns(), partitions).into_iter().map(|n| shared.keys.partition(n)).collect();
    let after: Vec<String> = if let StartAt::After(start) = on.start() {
        let (of, id) = read_position(start).ok_or_else(|| {
            Error::invalid("start after a position that this broker never gave").with("position", start)
        })?;
        let begin = |n: u16| if n == of { id } else { EntryId::before_ms(id.ms) };
        read.iter().map(|partition| begin(partition.n).to_string()).collect()
    } else {
        read.iter().map(|_| "0-0".to_owned()).collect()
    };
    let parts = parts(&shared.link, read.len());
    let part = |cursors| Part { cursors, waiter: None, failures: 0, answer: Ok(Value::Nil) };
    let cursors = read.into_iter().zip(after).map(|(of, after)| Cursor { of, after }).collect();
    let broadcast = Broadcast {
        shared: Arc::clone(shared),
        on,
        cursors,
        reads: FuturesUnordered::new(),
        wait: longest(parts.len()),
        ended: parts.into_iter().map(part).collect(),
        opening: Arc::new(Semaphore::new(OPENING)),
        delayed: BinaryHeap::new(),
        ready: VecDeque::new(),
        failures: 0,
    };
    Ok(Subscribed { entries: entries(broadcast), leases: Arc::new(NoLeases), claims: Arc::new(NoLeases) })
}

fn entries(broadcast: Broadcast) -> BoxStream<'static, Result<Leased>> {
    stream::unfold(broadcast, |mut broadcast| async move {
        let item = broadcast.next().await?;
        Some((item, broadcast))
    })
    .boxed()
}

impl Broadcast {
    async fn next(&mut self) -> Option<Result<Leased>> {
        let mut closing = self.shared.closing();
        loop {
            if self.shared.is_closed() {
                return None;
            }
            if let Some(leased) = self.ready.pop_front() {
                return Some(Ok(leased));
            }
            let found = async {
                if self.failures > 0 {
                    sleep(pause(self.failures)).await;
                }
                let brought = self.bring_delayed().await;
                self.failures = if brought.is_ok() { 0 } else { self.failures.saturating_add(1) };
                brought?;
                if self.ready.is_empty() { self.read().await } else { Ok(()) }
            };
            let found = tokio::select! {
                found = found => found,
                _ = closing.wait_for(|closed| *closed) => return None,
            };
            if let Err(error) = found {
                return Some(Err(error));
            }
        }
    }

    fn next_due(&self) -> Option<i64> {
        self.delayed.peek().map(|Reverse((due, ..))| *due)
    }

    /// Reads what is due by now.
    async fn bring_delayed(&mut self) -> Result<()> {
        while let Some(Reverse((due, at, id))) = self.delayed.peek().cloned()
            && (due <= Timestamp::now().as_micros() || self.delayed.len() > MAX_DELAYED)
        {
            let Some(cursor) = self.cursors.get(at) else { break };
            let request = Request::new("XRANGE").arg(&cursor.of.events).arg(&id).arg(&id);
            let answer = self.shared.commands.one(request, "read a delayed event").await?;
            let n = cursor.of.n;
            self.delayed.pop();
            for entry in read_entries(answer)? {
                if let Ok(event) = decode(&entry) {
                    self.ready.push_back(leased(n, &entry.id, event));
                }
            }
        }
        Ok(())
    }

    /// Waits for what is new, or until something is due. Nothing is lost where it is dropped: what was read is known by where
    /// the cursors are.
    async fn read(&mut self) -> Result<()> {
        for part in std::mem::take(&mut self.ended) {
            let asked = self.asked(&part.cursors);
            let (shared, opening) = (Arc::clone(&self.shared), Arc::clone(&self.opening));
            self.reads.push(part.read(shared, opening, asked).boxed());
        }
        let until_due = self.next_due().map(|due| {
            let left = due.saturating_sub(Timestamp::now().as_micros());
            Duration::from_micros(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1)
        });
        let first = tokio::select! {
            first = self.reads.next() => first,
            () = sleep(until_due.unwrap_or(Duration::MAX)), if until_due.is_some() => None,
        };
        let (mut fresh, mut failure) = (Vec::new(), None);
        let mut next = first;
        while let Some(mut part) = next {
            match std::mem::replace(&mut part.answer, Ok(Value::Nil)).and_then(streams) {
                Ok(read) => self.take(&part.cursors, read, &mut fresh),
                // Its node sends it to another one, where it goes on.
                Err(error) if is_elsewhere(&error) => {}
                Err(error) => failure = Some(error),
            }
            self.ended.push(part);
            // Whatever else has come by now, so that it is in order.
            next = self.reads.next().now_or_never().flatten();
        }
        // By their time, as far as the servers' clocks tell.
        fresh.sort_by_key(|(id, _)| *id);
        self.ready.extend(fresh.into_iter().map(|(_, leased)| leased));
        failure.map_or(Ok(()), Err)
    }

    fn asked(&self, cursors: &Range<usize>) -> Asked {
        let mut cmd = redis::cmd("XREAD");
        cmd.arg("COUNT").arg(MAX_READ).arg("BLOCK").arg(u64::try_from(self.wait.as_millis()).unwrap_or(1));
        cmd.arg("STREAMS");
        let read = self.cursors.get(cursors.clone()).unwrap_or_default();
        for cursor in read {
            cmd.arg(&cursor.of.events);
        }
        for cursor in read {
            cmd.arg(&cursor.after);
        }
        let key = read.first().map_or("", |cursor| &cursor.of.events).to_owned();
        (key, cmd, self.wait)
    }

    fn take(
        &mut self,
        cursors: &Range<usize>,
        read: Vec<(String, Vec<Entry>)>,
        fresh: &mut Vec<(Option<EntryId>, Leased)>,
    ) {
        for (stream, entries) in read {
            let own = self.cursors.get_mut(cursors.clone()).unwrap_or_default();
            let found = cursors.clone().zip(own).find(|(_, cursor)| cursor.of.events == stream);
            let Some((at, cursor)) = found else { continue };
            for entry in entries {
                cursor.after.clone_from(&entry.id);
                // What cannot be decoded is a group's to set aside; here it is passed over.
                let Some(event) = decode(&entry).ok().filter(|event| self.on.wants(event)) else { continue };
                match event.deliver_at.filter(|due| *due > Timestamp::now()) {
                    Some(due) => self.delayed.push(Reverse((due.as_micros(), at, entry.id))),
                    None => fresh.push((EntryId::parse(&entry.id), leased(cursor.of.n, &entry.id, event))),
                }
            }
        }
    }
}

impl Part {
    async fn read(mut self, shared: Arc<Shared>, opening: Arc<Semaphore>, (key, cmd, wait): Asked) -> Self {
        if self.failures > 0 {
            sleep(pause(self.failures)).await;
        }
        self.answer = self.try_read(&shared, &opening, (&key, &cmd, wait)).await;
        if self.answer.is_ok() {
            self.failures = 0;
        } else {
            (self.waiter, self.failures) = (None, self.failures.saturating_add(1));
        }
        self
    }

    async fn try_read(
        &mut self,
        shared: &Shared,
        opening: &Semaphore,
        (key, cmd, wait): (&str, &Cmd, Duration),
    ) -> Result<Value> {
        let waiter = match self.waiter.take() {
            Some(waiter) => self.waiter.insert(waiter),
            None => {
                // Nobody closes it.
                let _one = opening.acquire().await;
                self.waiter.insert(shared.link.waiter(key.as_bytes()).await?)
            }
        };
        waiter.ask(cmd, wait, "wait for events").await
    }
}
