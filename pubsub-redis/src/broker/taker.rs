//! Looks for entries of a member: what is ready, what was left, what is new.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{ErrorKind, Result, Seldom};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::ahead::Ahead;
use super::batch::{Batch, Raw};
use super::doubts::Doubts;
use super::looking::Found;
use super::member::{Member, leaving};
use super::reads::{Brought, Reads};

/// How often a member that waits says that it is there, at most.
const SIGN: Duration = Duration::from_secs(5);

/// How often everything is looked at for what nothing told of.
const SWEEP: Duration = Duration::from_secs(300);

/// Looks for entries.
pub(super) struct Taker {
    pub(super) member: Arc<Member>,
    reads: Reads,
    /// Where something may be, in the order in which to look. Where nothing may be, the server says when there is.
    pub(super) todo: VecDeque<usize>,
    /// Of each place.
    pub(super) found: Vec<Found>,
    pub(super) ahead: Arc<Ahead>,
    /// How long whoever handles events needed for the last batch.
    pub(super) needed: Duration,
    /// How often in a row a read brought only what is another's.
    others: u32,
    /// When to ask for what the server may hold as this member's after a failure.
    doubts: Doubts,
    /// How often in a row what was waited at was gone, or elsewhere.
    gone: u32,
    /// The server lost the group.
    pub(super) lost: u32,
    signed: Option<Instant>,
    /// When to look whether somebody is gone.
    look_after: Instant,
    swept: Instant,
    outage: Seldom,
}

/// What comes first while a member waits.
enum Turn {
    Stop,
    LookAfter,
    Failed(pubsub_core::Error),
}

impl Taker {
    pub(super) fn new(member: &Arc<Member>, ahead: &Arc<Ahead>) -> Self {
        let now = Instant::now();
        Self {
            member: Arc::clone(member),
            reads: Reads::of(member),
            todo: (0..member.places.len()).collect(),
            found: vec![Found::default(); member.places.len()],
            ahead: Arc::clone(ahead),
            needed: Duration::MAX,
            others: 0,
            doubts: Doubts::default(),
            gone: 0,
            lost: 0,
            signed: None,
            look_after: now,
            swept: now.checked_sub(SWEEP).unwrap_or(now),
            outage: Seldom::default(),
        }
    }

    /// The next entries; an empty batch where the member is to look whether it goes on.
    pub(super) async fn find(&mut self) -> Result<Batch> {
        let found = self.find_once().await;
        match found {
            Ok(batch) => Ok(batch),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.lost = self.lost.saturating_add(1);
                Ok(Batch::nothing(&self.member))
            }
            Err(error) => {
                self.doubt();
                self.reads.close();
                self.look_everywhere();
                Err(error)
            }
        }
    }

    async fn find_once(&mut self) -> Result<Batch> {
        // First: what it took is known to nobody else.
        if self.ahead.is_begun().await {
            return self.look().await;
        }
        if self.lost > 0 {
            self.join_again().await?;
        }
        if self.doubts.next().is_some_and(|at| at <= Instant::now()) {
            let since = Instant::now();
            let raws = self.member.unknown().await?;
            self.doubts.asked(since);
            let batch = self.member.sort(raws, since).await?;
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
        if Instant::now() >= self.look_after {
            let batch = self.look_after_others().await?;
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
        if self.todo.is_empty() { self.wait().await } else { self.look().await }
    }

    /// Whether something has its time that comes before looking.
    pub(super) fn has_other_work(&self) -> bool {
        let now = Instant::now();
        self.lost > 0 || now >= self.look_after || self.doubts.next().is_some_and(|at| at <= now)
    }

    /// An answer may be lost, and the server may hold what this member does not know of.
    fn doubt(&mut self) {
        self.doubts.begin(Instant::now(), self.reads.longest(), self.member.group.lease);
    }

    fn look_everywhere(&mut self) {
        self.todo = (0..self.member.places.len()).collect();
    }

    /// The group is made again where the server lost it.
    async fn join_again(&mut self) -> Result<()> {
        if let Some(times) = self.outage.happened(1) {
            tracing::warn!(group = %self.member.group.name, times, "the server lost the group; it is made again");
        }
        if self.lost > 1 {
            let longest = 50_u64.saturating_mul(1 << self.lost.min(6));
            self.pause(Duration::from_millis(fastrand::u64(10..=longest))).await;
        }
        self.member.join_again().await?;
        self.look_everywhere();
        self.look_after = Instant::now();
        Ok(())
    }

    /// How often this member says that it is there.
    fn sign(&self) -> Duration {
        SIGN.min(self.member.group.lease / 3)
    }

    pub(super) fn has_to_sign(&self) -> bool {
        self.signed.is_none_or(|signed| signed.elapsed() >= self.sign())
    }

    /// Says that this member is there, and hears when another may be gone.
    pub(super) async fn sign_in(&mut self) -> Result<()> {
        self.signed = Some(Instant::now());
        let silence = self.member.sign_in().await?;
        let left = self.member.group.lease.saturating_sub(silence).max(Duration::from_millis(1));
        self.look_after = self.look_after.min(Instant::now() + left + Duration::from_millis(1));
        Ok(())
    }

    /// Waits for what is new, and does in the meantime what has its time.
    async fn wait(&mut self) -> Result<Batch> {
        let member = Arc::clone(&self.member);
        let mut reads = std::mem::take(&mut self.reads);
        let (mut stopped, mut closing) = (member.stopped.subscribe(), member.shared.closing());
        let other = async {
            tokio::select! {
                () = told(&mut stopped) => Turn::Stop,
                () = told(&mut closing) => Turn::Stop,
                turn = self.keep_time() => turn,
            }
        };
        let (brought, since, turn) = reads.wait(&member, other).await;
        self.reads = reads;
        let Brought { mut raws, gone, failure } = brought;
        if failure.is_some() {
            self.doubt();
        }
        let failed = if let Some(Turn::Failed(error)) = turn { Some(error) } else { None };
        if let Some(error) = failure.or(failed).filter(|_| raws.is_empty()) {
            return Err(error);
        }
        if gone.is_empty() {
            (self.gone, self.lost) = (0, 0);
        }
        let places: BTreeSet<usize> = raws.iter().map(|raw| raw.at).collect();
        let read = raws.len();
        let is_all = self.lay_by(&mut raws, since).await;
        let batch = member.sort(raws, since).await?;
        if !is_all {
            // There is more than is wanted: asking leases less.
            self.look_everywhere();
        } else if read > 0 && batch.is_empty() {
            // What is another's is passed over many at a time, and the more the more there is of it.
            self.others = self.others.saturating_add(1);
            let longest = (1_u64 << self.others.min(4)).min(10);
            self.pause(Duration::from_millis(fastrand::u64(0..=longest))).await;
            self.todo.extend(places);
        } else {
            self.others = 0;
        }
        self.look_after_gone(gone, read).await;
        Ok(batch)
    }

    /// What is gone from a server is at another one by now, or lost: looking for it says which.
    async fn look_after_gone(&mut self, gone: Vec<usize>, read: usize) {
        if gone.is_empty() {
            return;
        }
        self.todo.retain(|at| !gone.contains(at));
        self.todo.extend(gone);
        self.gone = self.gone.saturating_add(1);
        if read == 0 {
            let longest = 25_u64.saturating_mul(1 << self.gone.min(6));
            self.pause(Duration::from_millis(fastrand::u64(10..=longest))).await;
        }
    }

    async fn pause(&self, pause: Duration) {
        let (mut stopped, mut closing) = (self.member.stopped.subscribe(), self.member.shared.closing());
        tokio::select! {
            () = sleep(pause) => {}
            () = told(&mut stopped) => {}
            () = told(&mut closing) => {}
        }
    }

    /// Brings back what is due, and says that the member is there, until it is to look after others.
    async fn keep_time(&mut self) -> Turn {
        let member = Arc::clone(&self.member);
        loop {
            let sign = self.signed.map_or_else(Instant::now, |signed| signed + self.sign());
            let due = member.next_due();
            let look_after = self.doubts.next().map_or(self.look_after, |at| at.min(self.look_after));
            let next = due.map_or(sign, |(_, due)| due.min(sign)).min(look_after);
            tokio::select! {
                () = sleep_until(next) => {}
                () = member.sooner.notified() => continue,
            }
            let now = Instant::now();
            if self.doubts.next().is_some_and(|at| at <= now) {
                return Turn::LookAfter;
            }
            let done = match due {
                // Mostly nobody is, and the reads need not be ended.
                _ if now >= self.look_after => match self.is_somebody_gone().await {
                    Ok(true) => return Turn::LookAfter,
                    nobody => nobody.map(|_| ()),
                },
                // What comes back wakes the read.
                Some((at, due)) if due <= now => member.look(at, 0).await.map(drop),
                _ => self.sign_in().await,
            };
            if let Err(error) = done {
                return Turn::Failed(error);
            }
        }
    }

    /// Whether there may be something to take over; where not, it is known when to ask again.
    async fn is_somebody_gone(&mut self) -> Result<bool> {
        let (member, lease) = (&self.member, self.member.group.lease);
        self.signed = Some(Instant::now());
        let silence = member.sign_in().await?;
        if let Some(left) = member.hearing.spares() {
            self.look_after = Instant::now() + left;
            return Ok(false);
        }
        if silence > lease || self.swept.elapsed() >= SWEEP || !member.left_by_itself().is_empty() {
            return Ok(true);
        }
        self.look_after = Instant::now() + lease.saturating_sub(silence).max(Duration::from_millis(1));
        Ok(false)
    }

    /// Takes over what members left that are gone, and what of its own nobody keeps.
    async fn look_after_others(&mut self) -> Result<Batch> {
        let member = Arc::clone(&self.member);
        let lease = member.group.lease;
        self.signed = Some(Instant::now());
        let silence = member.sign_in().await?;
        if let Some(left) = member.hearing.spares() {
            self.look_after = Instant::now() + left;
            return Ok(Batch::nothing(&member));
        }
        let silent = if silence > lease { member.silent(silence).await? } else { Vec::new() };
        let sweeps = self.swept.elapsed() >= SWEEP;
        let own = member.left_by_itself();
        let mut next = lease.saturating_sub(silence).max(Duration::from_millis(1));
        let mut found = Batch::nothing(&member);
        if !silent.is_empty() || sweeps || !own.is_empty() {
            let mut raws: Vec<Raw> = Vec::new();
            let (mut wait, mut more, mut denied) = (None, false, false);
            let since = Instant::now();
            for at in 0..member.places.len() {
                let many = member.on.prefetch().saturating_sub(raws.len());
                let (look, left) = member.take_over(at, many, &silent).await?;
                raws.extend(look.raws);
                (more, denied) = (more || look.more, denied || look.denied);
                wait = [wait, left].into_iter().flatten().min();
            }
            if !denied {
                self.swept = Instant::now();
            }
            if more {
                wait = Some(Duration::ZERO);
            } else if !denied {
                // Others have what was not found.
                member.forget_left(since);
                if wait.is_none() {
                    self.forget(&silent).await?;
                }
            }
            next = wait.map_or(lease / 4, |wait| wait + Duration::from_millis(1));
            found = member.sort(raws, since).await?;
        }
        // Its own leases may be left as well, and nothing tells of that.
        self.look_after = Instant::now() + next.min(lease);
        Ok(found)
    }

    /// Nothing is left of these members.
    async fn forget(&self, silent: &[String]) -> Result<()> {
        let member = &self.member;
        for name in silent.iter().filter(|name| ***name != *member.owner) {
            let requests = leaving(&member.group.name, name, (&member.home, &member.places), "gone");
            for answer in member.shared.commands.all(requests, "forget a member that is gone").await? {
                answer.get("forget a member that is gone")?;
            }
        }
        Ok(())
    }
}

pub(super) async fn told(receiver: &mut watch::Receiver<bool>) {
    // Without a sender nobody is left who could say so.
    if receiver.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}
