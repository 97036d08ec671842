//! Subscriptions without a group: each event from the start on, at most once, leased by nobody.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{Error, Event, Leased, NoLeases, Result, StartAt, Subscribed, Subscription, Timestamp};
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use super::batch::decode;
use super::group::partitions_of;
use super::keys::{EntryId, Partition, position, read_position};
use super::scripts::LAST;
use super::shared::Shared;
use crate::reply::{Entry, entries as read_entries, streams, text};
use crate::script::{Request, waiting};

/// Most events of one partition that one read brings.
const MAX_READ: usize = 256;

/// Longest wait of one read.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Most delayed events that one subscriber waits for. What would be more comes at once rather than never.
const MAX_DELAYED: usize = 1_000_000;

/// Where a subscriber is in one partition.
struct Cursor {
    of: Partition,
    after: String,
}

struct Broadcast {
    shared: Arc<Shared>,
    on: Subscription,
    cursors: Vec<Cursor>,
    connection: Option<MultiplexedConnection>,
    /// Due time in µs, which cursor, entry.
    delayed: BinaryHeap<Reverse<(i64, usize, String)>>,
    ready: VecDeque<Leased>,
    failures: u32,
}

/// Subscribes from now on, or from where it asks to start.
pub(super) async fn subscribe(shared: &Arc<Shared>, on: Subscription, partitions: u16) -> Result<Subscribed> {
    let doing = "begin a broadcast";
    let read: Vec<Partition> =
        partitions_of(on.patterns(), partitions).into_iter().map(|n| shared.keys.partition(n)).collect();
    let after: Vec<String> = match on.start() {
        StartAt::Earliest => read.iter().map(|_| "0-0".to_owned()).collect(),
        StartAt::After(start) => {
            let (of, id) = read_position(start).ok_or_else(|| {
                Error::invalid("start after a position that this broker never gave").with("position", start)
            })?;
            let begin = |n: u16| if n == of { id } else { EntryId::before_ms(id.ms) };
            read.iter().map(|partition| begin(partition.n).to_string()).collect()
        }
        _ => {
            let requests: Vec<Request> = read.iter().map(|of| LAST.call([&*of.events])).collect();
            let answers = shared.commands.all(requests, doing).await?;
            answers.into_iter().map(|answer| text(answer.get(doing)?)).collect::<Result<_>>()?
        }
    };
    let cursors = read.into_iter().zip(after).map(|(of, after)| Cursor { of, after }).collect();
    let broadcast = Broadcast {
        shared: Arc::clone(shared),
        on,
        cursors,
        connection: None,
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
                    let longest = 50_u64.saturating_mul(1 << self.failures.min(6));
                    sleep(Duration::from_millis(fastrand::u64(10..=longest))).await;
                }
                self.bring_delayed().await?;
                if self.ready.is_empty() { self.read().await } else { Ok(()) }
            };
            let found = tokio::select! {
                found = found => found,
                _ = closing.wait_for(|closed| *closed) => return None,
            };
            match found {
                Ok(()) => self.failures = 0,
                Err(error) => {
                    self.connection = None;
                    self.failures = self.failures.saturating_add(1);
                    return Some(Err(error));
                }
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
                    self.ready.push_back(leased(n, &entry, event));
                }
            }
        }
        Ok(())
    }

    /// Waits for what is new, or until something is due. Nothing is lost where it is dropped: what was read is known by where
    /// the cursors are.
    async fn read(&mut self) -> Result<()> {
        let doing = "wait for events";
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let key = self.cursors.first().map_or("", |cursor| &cursor.of.events);
                self.shared.link.waiting(key.as_bytes()).await?
            }
        };
        let until_due = self.next_due().map(|due| {
            let left = due.saturating_sub(Timestamp::now().as_micros());
            Duration::from_micros(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(1)
        });
        let wait = until_due.unwrap_or(MAX_WAIT).min(MAX_WAIT);
        let mut cmd = redis::cmd("XREAD");
        cmd.arg("COUNT").arg(MAX_READ).arg("BLOCK").arg(u64::try_from(wait.as_millis()).unwrap_or(1).max(1));
        cmd.arg("STREAMS");
        for cursor in &self.cursors {
            cmd.arg(&cursor.of.events);
        }
        for cursor in &self.cursors {
            cmd.arg(&cursor.after);
        }
        let limit = wait + self.shared.link.config().answer_limit();
        let answer = waiting(&mut connection, &cmd, limit, doing).await?;
        self.connection = Some(connection);
        let mut fresh: Vec<(Option<EntryId>, Leased)> = Vec::new();
        for (stream, entries) in streams(answer)? {
            let found = (0..).zip(&mut self.cursors).find(|(_, cursor)| cursor.of.events == stream);
            let Some((at, cursor)) = found else { continue };
            for entry in entries {
                cursor.after.clone_from(&entry.id);
                // What cannot be decoded is a group's to set aside; here it is passed over.
                let Some(event) = decode(&entry).ok().filter(|event| self.on.wants(event)) else { continue };
                match event.deliver_at.filter(|due| *due > Timestamp::now()) {
                    Some(due) => self.delayed.push(Reverse((due.as_micros(), at, entry.id))),
                    None => fresh.push((EntryId::parse(&entry.id), leased(cursor.of.n, &entry, event))),
                }
            }
        }
        // By their time, as far as the server's clock tells.
        fresh.sort_by_key(|(id, _)| *id);
        self.ready.extend(fresh.into_iter().map(|(_, leased)| leased));
        Ok(())
    }
}

fn leased(n: u16, entry: &Entry, event: Event) -> Leased {
    Leased { event, position: position(n, &entry.id), lease: None }
}
