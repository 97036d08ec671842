//! A member of a group: it takes, renews, settles, begins and concludes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::broker::Shared;
use super::log::{Log, number_of, position};
use crate::{
    Begin, Claims, Conclusion, DeadLetter, Error, ErrorKind, GroupName, Holder, LeaseId, Leased, Leases,
    OpenAttempt, Renewal, Result, Settlement, Stage, Taken, Timestamp,
};

/// One subscription of a group; it is a member as long as its stream, its leases or its claims are held.
pub(super) struct Member {
    shared: Arc<Shared>,
    closed: Arc<watch::Sender<bool>>,
    owner: Arc<str>,
    group: GroupName,
    stage: Option<Stage>,
    prefetch: usize,
    /// The cancel marks that `wake` has told of.
    seen: AtomicU64,
}

impl Member {
    /// The caller has counted it among the group's members.
    pub(super) fn new(
        shared: Arc<Shared>,
        closed: Arc<watch::Sender<bool>>,
        group: &crate::Group,
        prefetch: usize,
    ) -> Self {
        let owner = shared.new_owner();
        let seen = AtomicU64::new(*shared.marks.borrow());
        Self { shared, closed, owner, group: group.name.clone(), stage: group.stage.clone(), prefetch, seen }
    }

    /// Leases what is ready, waiting for it; `None` once the broker is closed.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Result<Taken>> {
        let mut closed = self.closed.subscribe();
        loop {
            let (changed, timer) = {
                let mut log = self.shared.log();
                if *closed.borrow() {
                    return None;
                }
                let now = Instant::now();
                let log = &mut *log;
                let Some(group) = log.groups.get_mut(&self.group) else {
                    return Some(Err(self.gone()));
                };
                group.turn(now);
                let taken = group.take(now, &self.owner, self.prefetch);
                if !taken.is_empty() {
                    let leased = self.leased(log, &taken);
                    let member = Arc::clone(self);
                    return Some(Ok(Taken::new(leased, move |left| member.give_back(&left))));
                }
                // Made under the lock, so that nothing is published between looking and listening.
                (Arc::clone(&group.changed).notified_owned(), group.next_timer())
            };
            let timer = async {
                match timer {
                    Some(when) => tokio::time::sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = timer => {}
                _ = closed.wait_for(|closed| *closed) => return None,
            }
        }
    }

    fn leased(&self, log: &mut Log, taken: &[(u64, u64)]) -> Vec<Leased> {
        let lease = |&(number, count): &(u64, u64)| {
            let event = log.kept(number)?.event.clone();
            let position = position(number);
            let id = LeaseId { entry: position.clone(), owner: Arc::clone(&self.owner), count };
            Some(Leased { event, position, lease: Some(id) })
        };
        taken.iter().filter_map(lease).collect()
    }

    fn give_back(&self, left: &[LeaseId]) {
        let mut log = self.shared.log();
        for lease in left {
            if let Err(error) =
                self.settle_one(&mut log, lease, Settlement::Release { after: Duration::ZERO })
            {
                tracing::debug!(%error, "another has it already");
            }
        }
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, "the group was removed").with("group", &self.group)
    }

    fn settle_one(&self, log: &mut Log, lease: &LeaseId, settlement: Settlement) -> Result<()> {
        let now = Instant::now();
        let number = number_of(&lease.entry)?;
        if !log.groups.get(&self.group).is_some_and(|group| group.is_held(number, lease)) {
            return Err(lost("settle"));
        }
        if let Settlement::DeadLetter { reason } = &settlement {
            let letter = self.dead_letter(log, number, reason)?;
            log.bury(now, letter);
        }
        if let (Some(stage), Some(kept)) = (&self.stage, log.kept(number)) {
            let holder = Holder::new(self.group.as_str(), lease);
            match settlement {
                Settlement::Retry { .. } => kept.claim(stage).retried(&holder),
                _ => kept.claim(stage).closed(&holder),
            }
        }
        let cancelled = log.mark(number) == crate::Mark::Cancelled;
        let Some(group) = log.groups.get_mut(&self.group) else { return Err(lost("settle")) };
        match settlement {
            Settlement::Retry { after } | Settlement::Release { after } => {
                let due = (!after.is_zero() && !cancelled).then(|| now + after);
                group.put(number, due);
            }
            Settlement::Ack | Settlement::DeadLetter { .. } => {
                group.remove(number);
                log.settled(number);
            }
        }
        Ok(())
    }

    fn dead_letter(&self, log: &mut Log, number: u64, reason: &str) -> Result<DeadLetter> {
        let kept = log.kept(number).ok_or_else(|| lost("settle"))?;
        let (attempts, crashes) = match &self.stage {
            Some(stage) => {
                let claim = kept.claim(stage);
                (claim.attempts, claim.crashes)
            }
            None => (0, 0),
        };
        Ok(DeadLetter {
            id: kept.event.id.as_str().to_owned(),
            group: Some(self.group.clone()),
            action_id: Some(kept.event.action_id.clone()),
            reason: reason.to_owned(),
            bytes: kept.event.to_cloud_event()?.into_bytes(),
            attempts,
            crashes,
            time: Timestamp::now(),
        })
    }

    fn stage(&self) -> Result<&Stage> {
        self.stage.as_ref().ok_or_else(|| Error::unsupported("a group without a stage has no claims"))
    }
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::LeaseLost, format!("{what}: another holds this event by now, or it is gone"))
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut log = self.shared.log();
        if let Some(group) = log.groups.get_mut(&self.group) {
            group.members = group.members.saturating_sub(1);
            group.idle_since = Instant::now();
        }
    }
}

#[async_trait]
impl Leases for Member {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        let now = Instant::now();
        let mut log = self.shared.log();
        let log = &mut *log;
        let mut answers = Vec::with_capacity(leases.len());
        for lease in leases {
            let number = number_of(&lease.entry)?;
            let held = log.groups.get_mut(&self.group).is_some_and(|group| group.renew(now, number, lease));
            answers.push(match (held, log.mark(number)) {
                (false, _) => Renewal::Lost,
                (true, crate::Mark::Cancelled) => Renewal::Cancelled,
                (true, crate::Mark::None) => Renewal::Held,
            });
        }
        Ok(answers)
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        let mut log = self.shared.log();
        settlements
            .into_iter()
            .map(|(lease, settlement)| self.settle_one(&mut log, &lease, settlement))
            .collect()
    }

    async fn wake(&self) -> Result<()> {
        let mut marks = self.shared.marks.subscribe();
        let seen = self.seen.load(Ordering::Acquire);
        let now = *marks
            .wait_for(|marks| *marks > seen)
            .await
            .map_err(|_| Error::new(ErrorKind::Closed, "the broker is gone"))?;
        self.seen.store(now, Ordering::Release);
        Ok(())
    }
}

#[async_trait]
impl Claims for Member {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        let stage = self.stage()?;
        let number = number_of(&lease.entry)?;
        let now = Instant::now();
        let mut log = self.shared.log();
        let log = &mut *log;
        for group in log.groups.values_mut().filter(|g| g.group.stage.as_ref() == Some(stage)) {
            group.turn(now);
        }
        if !log.groups.get_mut(&self.group).is_some_and(|group| group.renew(now, number, lease)) {
            return Err(lost("begin"));
        }
        let mark = log.mark(number);
        let open = log.kept(number).and_then(|kept| kept.claim(stage).open.clone());
        let open = if open.is_some_and(|holder| stands(log, number, &holder)) {
            OpenAttempt::Held
        } else {
            OpenAttempt::Left
        };
        let kept = log.kept(number).ok_or_else(|| lost("begin"))?;
        Ok(kept.claim(stage).begin(Holder::new(self.group.as_str(), lease), open, mark))
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        let stage = self.stage()?;
        let number = number_of(&lease.entry)?;
        let mut log = self.shared.log();
        if !log.groups.get(&self.group).is_some_and(|group| group.is_held(number, lease)) {
            return Err(lost("conclude"));
        }
        let kept = log.kept(number).ok_or_else(|| lost("conclude"))?;
        kept.claim(stage).conclude(&Holder::new(self.group.as_str(), lease), conclusion)
    }
}

/// Whether the delivery that has an attempt open still holds its lease.
fn stands(log: &Log, number: u64, holder: &Holder) -> bool {
    GroupName::new(&holder.group).is_ok_and(|name| {
        log.groups.get(&name).is_some_and(|group| group.stands(number, &holder.owner, holder.count))
    })
}
