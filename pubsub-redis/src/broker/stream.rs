//! The entries of a group's member, as a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use pubsub_core::{InBatches, Leased, Result, Taken};
use tokio::time::{Instant, sleep};

use super::ahead::Ahead;
use super::batch::Batch;
use super::member::Member;
use super::taker::Taker;

/// What a member takes, as long as it has not ended.
struct Entries {
    member: Arc<Member>,
    call: Option<BoxFuture<'static, (Result<Batch>, Box<Taker>)>>,
    taker: Option<Box<Taker>>,
    ahead: Arc<Ahead>,
    /// When the last batch was handed out.
    handed: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Going,
    /// The last call failed and may succeed later.
    Pausing(u32),
    Ended,
}

/// The stream of a member's entries.
pub(super) fn entries(member: Arc<Member>) -> BoxStream<'static, Result<Leased>> {
    let ahead = Ahead::new(&member);
    let taker = Some(Box::new(Taker::new(&member, &ahead)));
    let entries = Entries { member, call: None, taker, ahead, handed: None, state: State::Going };
    let batches = stream::unfold(entries, |mut entries| async move {
        let item = entries.next().await?;
        Some((item, entries))
    });
    InBatches::new(batches).boxed()
}

impl Entries {
    async fn next(&mut self) -> Option<Result<Taken>> {
        loop {
            if self.member.shared.is_closed() || self.state == State::Ended {
                return None;
            }
            if let State::Pausing(failures) = self.state {
                let longest = 50_u64.saturating_mul(1 << failures.min(6));
                self.pause(Duration::from_millis(fastrand::u64(10..=longest))).await;
            }
            match self.call().await {
                Ok(batch) => {
                    self.state = State::Going;
                    if !batch.is_empty() {
                        self.handed = Some(Instant::now());
                        return Some(Ok(batch.taken()));
                    }
                }
                Err(error) if error.is_retryable() => {
                    let failures = if let State::Pausing(failures) = self.state { failures } else { 0 };
                    self.state = State::Pausing(failures.saturating_add(1));
                    return Some(Err(error));
                }
                Err(error) => {
                    self.state = State::Ended;
                    return Some(Err(error));
                }
            }
        }
    }

    async fn pause(&mut self, pause: Duration) {
        let mut closing = self.member.shared.closing();
        tokio::select! {
            () = sleep(pause) => {}
            _ = closing.wait_for(|closed| *closed) => {}
        }
    }

    /// One call of the taker, which lives on here where this future is dropped.
    async fn call(&mut self) -> Result<Batch> {
        if let Some(mut taker) = self.taker.take() {
            taker.needed = self.handed.take().map_or(Duration::MAX, |handed| handed.elapsed());
            self.call = Some(Box::pin(async move {
                let found = taker.find().await;
                (found, taker)
            }));
        }
        let Some(call) = &mut self.call else { return Ok(Batch::nothing(&self.member)) };
        let (found, taker) = Pin::new(call).await;
        self.call = None;
        self.taker = Some(taker);
        found
    }
}

impl Drop for Entries {
    /// What a call under way takes has to be given back: the call is told to end, and goes on until it has. So has what a
    /// look ahead brings.
    fn drop(&mut self) {
        self.member.stopped.send_replace(true);
        let (call, ahead) = (self.call.take(), Arc::clone(&self.ahead));
        self.member.shared.chores.begin(async move {
            if let Some(call) = call {
                drop(call.await);
            }
            ahead.give_back(|_| true).await;
        });
    }
}
