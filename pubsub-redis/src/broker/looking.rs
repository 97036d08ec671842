//! Looks at the places in turn, and for those who ask quickly one look ahead.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::Result;
use tokio::time::Instant;

use super::ahead::Asked;
use super::batch::{Batch, Raw};
use super::keys::Kind;
use super::taker::Taker;

/// How long a place may be read without a look at what is due there, which another member may have put off and left.
const DUES: Duration = Duration::from_secs(1);

/// How a place was found at the last look.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// When the server last said what is due there.
    dues: Option<Instant>,
    /// Something came back there, or most of what lies there is for others: a script takes just what is wanted.
    is_mixed: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self { dues: None, is_mixed: true }
    }
}

impl Taker {
    /// Asks the places in turn until one has something.
    pub(super) async fn look(&mut self) -> Result<Batch> {
        let member = Arc::clone(&self.member);
        if let Some((at, _)) = member.next_due().filter(|(_, due)| *due <= Instant::now()) {
            self.todo.retain(|other| *other != at);
            self.todo.push_front(at);
        }
        loop {
            // Each time: to look everywhere may take long.
            if self.has_to_sign() {
                self.sign_in().await?;
            }
            let asked = match (self.ahead.take().await?, self.todo.front()) {
                (Some(asked), _) => asked,
                (None, Some(at)) => self.ask(*at),
                (None, None) => break,
            };
            let at = asked.at;
            let (batch, more) = self.look_at(asked).await?;
            self.lost = 0;
            self.todo.retain(|other| Some(*other) != at);
            if !batch.is_empty() {
                // The others first, so that each gets its turn.
                self.todo.extend(at);
                return Ok(batch);
            }
            if let Some(at) = at.filter(|_| more) {
                self.todo.push_front(at);
            }
            if *member.stopped.borrow() || member.shared.is_closed() {
                break;
            }
        }
        Ok(Batch::nothing(&member))
    }

    /// A look at one place, which is not sent off yet.
    fn ask(&self, at: usize) -> Asked {
        let member = Arc::clone(&self.member);
        let many = self.ahead.part(self.needed).unwrap_or(self.member.on.prefetch());
        let found = self.found.get(at).copied().unwrap_or_default();
        let knows_dues = found.dues.is_some_and(|asked| asked.elapsed() < DUES);
        let plainly = knows_dues && !member.is_due(at) && !found.is_mixed;
        let call =
            async move { if plainly { member.read(at, many).await } else { member.look(at, many).await } };
        Asked::new((at, plainly), self.member.group.lease, Box::pin(call))
    }

    /// Sends off the next look, where there may be something.
    async fn look_ahead(&self, at: usize, more: bool) {
        let member = &self.member;
        if self.ahead.part(self.needed).is_none()
            || self.has_other_work()
            || *member.stopped.borrow()
            || member.shared.is_closed()
        {
            return;
        }
        let other = self.todo.iter().copied().find(|other| *other != at);
        if let Some(next) = other.or(more.then_some(at)) {
            self.ahead.begin(self.ask(next)).await;
        }
    }

    /// Lays by what is over the prefetch, for one who asks quickly; whether there is nothing over it any more.
    pub(super) async fn lay_by(&self, raws: &mut Vec<Raw>, since: Instant) -> bool {
        let most = self.member.on.prefetch();
        if raws.len() > most && self.ahead.is_for(self.needed) {
            self.ahead.begin(Asked::left(raws.split_off(most), since)).await;
        }
        raws.len() <= most
    }

    /// Looks; answers what was found, and whether there may be more at that place.
    async fn look_at(&mut self, asked: Asked) -> Result<(Batch, bool)> {
        let Asked { at, since, plainly, call, .. } = asked;
        let mut look = call.await?;
        let Some(at) = at else {
            self.lay_by(&mut look.raws, since).await;
            return Ok((self.member.sort(look.raws, since).await?, false));
        };
        let (taken, came_back) = (look.raws.len(), look.raws.iter().any(|raw| raw.kind == Kind::Again));
        if taken > 0 {
            self.look_ahead(at, look.more).await;
        }
        let batch = self.member.sort(look.raws, since).await?;
        if let Some(found) = self.found.get_mut(at) {
            found.is_mixed = came_back || look.passed + taken > 2 * batch.len();
            // Where nothing is left, only a script says whether anything is due.
            found.dues = if plainly { found.dues.filter(|_| taken > 0) } else { Some(since) };
        }
        Ok((batch, look.more || (plainly && taken == 0)))
    }
}
