//! Reads that wait for what listeners hear: one at all partitions, or in a cluster one at each.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::super::keys::EntryId;
use super::super::scripts::REACHED;
use super::super::shared::Shared;
use super::listeners::{Listeners, Reached};
use super::{MAX_READ, pause};
use crate::connect::Waiter;
use crate::reply::{count, fixed, text};

const DOING: &str = "wait for events";

/// What all reads of a reader know.
pub(super) struct Around {
    pub(super) shared: Arc<Shared>,
    pub(super) listeners: Arc<Listeners>,
    /// How long each of them waits.
    pub(super) wait: Duration,
    pub(super) opening: Semaphore,
}

/// What one read waits at, and with what.
pub(super) struct Reading {
    pub(super) partitions: Range<u16>,
    waiter: Option<Waiter>,
    /// How often it failed in a row.
    pub(super) failures: u32,
    /// The server may have removed or lost something meanwhile.
    pub(super) is_unsure: bool,
    /// The partitions that the last read was at.
    pub(super) asked: Vec<(u16, EntryId)>,
    pub(super) answer: Result<Value>,
}

/// How far the streams of these partitions are.
pub(super) async fn reached(shared: &Shared, partitions: &[u16]) -> Result<Vec<(u16, Reached)>> {
    let doing = "begin to listen";
    let request = |n: &u16| {
        let of = shared.keys.partition(*n);
        REACHED.call([&*of.events, &of.blanks])
    };
    let answers = shared.commands.all(partitions.iter().map(request).collect(), doing).await?;
    let read = |(n, answer): (&u16, crate::script::Answer)| {
        let [last, added] = fixed::<2>(answer.get(doing)?)?;
        let last = EntryId::parse(&text(last)?).ok_or_else(|| Error::new(ErrorKind::Internal, doing))?;
        Ok((*n, Reached { last, added: count(added)? }))
    };
    partitions.iter().zip(answers).map(read).collect()
}

impl Reading {
    pub(super) const fn new(partitions: Range<u16>) -> Self {
        Self {
            partitions,
            waiter: None,
            failures: 0,
            is_unsure: false,
            asked: Vec::new(),
            answer: Ok(Value::Nil),
        }
    }

    /// Nothing is to be read for now.
    pub(super) fn rest(&mut self) {
        self.waiter = None;
    }

    /// Reads once.
    pub(super) async fn read(mut self, around: Arc<Around>) -> Self {
        if self.failures > 0 {
            sleep(pause(self.failures)).await;
        }
        self.answer = self.try_read(&around).await;
        if self.answer.is_ok() {
            self.failures = 0;
        } else {
            self.waiter = None;
            self.failures = self.failures.saturating_add(1);
            self.is_unsure = true;
        }
        self
    }

    async fn try_read(&mut self, around: &Around) -> Result<Value> {
        let listeners = &around.listeners;
        if self.is_unsure {
            let read: Vec<u16> = listeners.cursors(&self.partitions).into_iter().map(|(n, _)| n).collect();
            for (n, reached) in reached(&around.shared, &read).await? {
                listeners.compare(n, reached);
            }
            self.is_unsure = false;
        }
        self.asked = listeners.cursors(&self.partitions);
        let Some((key, cmd)) = command(around, &self.asked) else { return Ok(Value::Nil) };
        let waiter = match self.waiter.take() {
            Some(waiter) => self.waiter.insert(waiter),
            None => {
                // Nobody closes it.
                let _one = around.opening.acquire().await;
                self.waiter.insert(around.shared.link.waiter(key.as_bytes()).await?)
            }
        };
        let ender = waiter.ender();
        let mut read = pin!(waiter.ask(&cmd, around.wait, DOING));
        let ended = tokio::select! {
            biased;
            answer = &mut read => return answer,
            () = listeners.more_than(&self.partitions, &self.asked) => ender.end(read),
        };
        ended.await
    }
}

/// A read at these, and the key by which it finds its server.
fn command(around: &Around, asked: &[(u16, EntryId)]) -> Option<(String, Cmd)> {
    let keys: Vec<String> = asked.iter().map(|(n, _)| around.shared.keys.partition(*n).events).collect();
    let first = keys.first()?.clone();
    let mut cmd = redis::cmd("XREAD");
    cmd.arg("COUNT").arg(MAX_READ).arg("BLOCK").arg(u64::try_from(around.wait.as_millis()).unwrap_or(1));
    cmd.arg("STREAMS").arg(keys);
    for (_, after) in asked {
        cmd.arg(after.to_string());
    }
    Some((first, cmd))
}
