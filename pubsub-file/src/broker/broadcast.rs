//! Subscriptions without a group: each event from the start on, at most once, leased by nobody.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{Event, Leased, Result, Subscription};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::watch;

use super::Shared;
use super::group::{MATCH_COLUMNS, Matcher};
use super::publish::position;
use super::session::now;
use crate::sqlite::failed;

/// Most events that one look reads.
const MAX_LOOK: usize = 1024;

/// Bytes of events after which a look ends.
const MAX_LOOK_BYTES: usize = 8 * 1024 * 1024;

/// Most delayed events that one subscriber waits for; 16 bytes each. What would be more comes at once rather than
/// never.
const MAX_DELAYED: usize = 1_000_000;

struct Broadcast {
    shared: Arc<Shared>,
    subscription: Subscription,
    cursor: i64,
    delayed: BinaryHeap<Reverse<(i64, i64)>>,
    ready: VecDeque<(i64, Vec<u8>)>,
    events: watch::Receiver<u64>,
    failures: u32,
}

/// What one look found.
#[derive(Default)]
struct Look {
    ready: VecDeque<(i64, Vec<u8>)>,
    delayed: Vec<(i64, i64)>,
    upto: i64,
    more: bool,
}

pub(super) fn entries(
    shared: &Arc<Shared>,
    subscription: Subscription,
    cursor: i64,
) -> BoxStream<'static, Result<Leased>> {
    let broadcast = Broadcast {
        shared: Arc::clone(shared),
        subscription,
        cursor,
        delayed: BinaryHeap::new(),
        ready: VecDeque::new(),
        events: shared.signals.events.subscribe(),
        failures: 0,
    };
    stream::unfold(broadcast, |mut broadcast| async move {
        let item = broadcast.next().await?;
        Some((item, broadcast))
    })
    .boxed()
}

impl Broadcast {
    async fn next(&mut self) -> Option<Result<Leased>> {
        loop {
            if self.shared.is_closed() {
                return None;
            }
            while let Some((seq, body)) = self.ready.pop_front() {
                // What cannot be decoded is a group's to set aside; here it is passed over.
                if let Ok(event) = Event::from_cloud_event(&body) {
                    return Some(Ok(Leased { event, position: position(seq), lease: None }));
                }
            }
            if self.failures > 0 {
                let longest = 50_u64.saturating_mul(1 << self.failures.min(6));
                tokio::time::sleep(Duration::from_millis(fastrand::u64(10..=longest))).await;
            }
            self.events.borrow_and_update();
            match self.look().await {
                Ok(true) => self.failures = 0,
                Ok(false) => {
                    self.failures = 0;
                    self.wait().await;
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    return Some(Err(error));
                }
            }
        }
    }

    /// Reads what is new and what is due; `false` where that was nothing.
    async fn look(&mut self) -> Result<bool> {
        let mut due = Vec::new();
        while let Some(Reverse((at, seq))) = self.delayed.peek().copied()
            && (at <= now() || self.delayed.len() > MAX_DELAYED)
            && due.len() < MAX_LOOK
        {
            self.delayed.pop();
            due.push(seq);
        }
        let (on, from) = (self.subscription.clone(), self.cursor);
        let wanted = due.clone();
        let look = self.shared.read(move |db| look(db, &on, from, &wanted)).await;
        let look = look.inspect_err(|_| self.delayed.extend(due.iter().map(|seq| Reverse((0, *seq)))))?;
        self.cursor = look.upto;
        self.delayed.extend(look.delayed.into_iter().map(Reverse));
        self.ready = look.ready;
        Ok(look.more || !self.ready.is_empty())
    }

    async fn wait(&mut self) {
        let longest = Duration::from_secs(5);
        let due = self.delayed.peek().map_or(longest, |Reverse((at, _))| {
            Duration::from_micros(u64::try_from(at.saturating_sub(now())).unwrap_or(0))
        });
        let _ =
            tokio::time::timeout(due.min(longest) + Duration::from_millis(1), self.events.changed()).await;
    }
}

fn look(db: &Connection, on: &Subscription, from: i64, due: &[i64]) -> Result<Look> {
    let what = "look at new events";
    let mut look = Look { upto: from, ..Look::default() };
    for seq in due {
        let body: Option<Vec<u8>> = db
            .prepare_cached("SELECT body FROM events WHERE seq = ?1")
            .and_then(|mut statement| statement.query_row([seq], |row| row.get(0)).optional())
            .map_err(failed(what))?;
        look.ready.extend(body.map(|body| (*seq, body)));
    }
    let mut matcher = Matcher::new(on.patterns(), None, None)?;
    let sql = format!("SELECT {MATCH_COLUMNS}, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut statement = db.prepare_cached(&sql).map_err(failed(what))?;
    let mut rows =
        statement.query((from, i64::try_from(MAX_LOOK).unwrap_or(i64::MAX))).map_err(failed(what))?;
    let (now, mut looked, mut bytes) = (now(), 0, 0);
    while let Some(row) = rows.next().map_err(failed(what))? {
        looked += 1;
        look.upto = row.get(0).map_err(failed(what))?;
        if matcher.wants(row).unwrap_or(false) {
            match row.get::<_, Option<i64>>(6).map_err(failed(what))? {
                Some(due) if due > now => look.delayed.push((due, look.upto)),
                _ => {
                    let body: Vec<u8> = row.get(7).map_err(failed(what))?;
                    bytes += body.len();
                    look.ready.push_back((look.upto, body));
                }
            }
        }
        if bytes >= MAX_LOOK_BYTES {
            look.more = true;
            break;
        }
    }
    look.more |= looked >= MAX_LOOK;
    Ok(look)
}
