//! Renewing and settling.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::{Error, ErrorKind, Holder, LeaseId, Leases, Position, Renewal, Result, Settlement};
use redis::Value;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::claims::{MAX_TRIES, claim_text, read_claim};
use super::group::millis;
use super::keys::{Kind, id_of};
use super::member::{Change, Held, How, Member, sign};
use super::scripts::RENEW;
use crate::reply::{bytes, count, fixed, items, number, text};
use crate::script::{Answer, Request};

/// No claim is like this.
const UNKNOWN: &str = "?";

/// The leases and claims of a member.
pub(super) struct Keeper {
    pub(super) member: Arc<Member>,
    cancels: Mutex<watch::Receiver<u64>>,
}

/// Of each place the entries that are acknowledged without a check, with the number of their settlement.
type Plain = BTreeMap<usize, Vec<(usize, Position)>>;

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::LeaseLost, "another holds this event by now, or it is gone")
}

impl Keeper {
    pub(super) fn new(member: &Arc<Member>) -> Arc<Self> {
        let cancels = Mutex::new(member.shared.cancels.subscribe());
        Arc::new(Self { member: Arc::clone(member), cancels })
    }

    pub(super) fn stage(&self) -> Result<&str> {
        match self.member.stage() {
            "" => Err(Error::unsupported("claims need a group that has a stage")),
            stage => Ok(stage),
        }
    }
}

#[async_trait]
impl Leases for Keeper {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        let (doing, member) = ("renew leases", &self.member);
        let mut answers = vec![Renewal::Lost; leases.len()];
        let mut by_place: BTreeMap<usize, Vec<(usize, Held)>> = BTreeMap::new();
        for (index, lease) in leases.iter().enumerate() {
            if let Some(held) = member.held(lease) {
                by_place.entry(held.at).or_default().push((index, held));
            }
        }
        if by_place.is_empty() {
            return Ok(answers);
        }
        let since = Instant::now();
        let mut requests: Vec<Request> =
            by_place.iter().filter_map(|(at, of)| renewal(member, *at, of)).collect();
        requests.push(sign(&member.home, &member.group.name, &member.owner));
        let renewed = member.shared.commands.all(requests, doing).await?;
        let renewed: Vec<Value> =
            renewed.into_iter().map(|answer| answer.get(doing)).collect::<Result<_>>()?;
        // A server that refuses, as while it loads its data, let nobody renew.
        member.hearing.heard();
        for (of, answer) in by_place.values().zip(renewed) {
            for ((index, held), answer) in of.iter().zip(items(answer)?) {
                let [is_held, mark] = fixed::<2>(answer)?;
                let Some((lease, renewal)) = leases.get(*index).zip(answers.get_mut(*index)) else {
                    continue;
                };
                if count(is_held)? == 0 {
                    if held.is_settled {
                        *renewal = Renewal::Held;
                    } else {
                        member.forget(lease);
                    }
                    continue;
                }
                member.update(lease, |held| (held.until, held.left) = (since + member.group.lease, None));
                *renewal = if held.is_covered(&text(mark)?) { Renewal::Cancelled } else { Renewal::Held };
            }
        }
        Ok(answers)
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        let (plain, others) = self.plain_and_others(&settlements);
        let mut answers: Vec<Option<Result<()>>> = settlements.iter().map(|_| None).collect();
        let mut settled = self.acknowledge(plain).await;
        settled.extend(self.settle_others(&settlements, others).await);
        for (index, answer) in settled {
            if let Some(place) = answers.get_mut(index) {
                *place = Some(answer);
            }
        }
        let answers: Vec<Result<()>> =
            answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect();
        let is_over = |((lease, _), answer): (&'_ (LeaseId, Settlement), &Result<()>)| {
            let is_over = answer.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::LeaseLost);
            is_over && lease.owner == self.member.owner
        };
        for ((lease, settlement), answer) in settlements.iter().zip(&answers) {
            // Whoever released it keeps it no longer.
            if let (Settlement::Release { .. }, Err(error)) = (settlement, answer)
                && !error.is_retryable()
                && error.kind() != ErrorKind::LeaseLost
            {
                self.member.update(lease, |held| held.left = Some(Instant::now()));
            }
        }
        let over = settlements.iter().zip(&answers).filter(|one| is_over(*one));
        self.member.forget_all(over.map(|((lease, _), _)| lease));
        answers
    }

    async fn wake(&self) -> Result<()> {
        let mut seen = self.cancels.lock().await;
        self.member.shared.cancels.heard(&self.member.shared.link, &mut seen).await
    }
}

fn renewal(member: &Member, at: usize, of: &[(usize, Held)]) -> Option<Request> {
    let place = member.places.get(at)?;
    let keys = [&place.of.events, &place.again, &place.of.cancels];
    let mut request =
        RENEW.call(keys.map(String::as_str)).arg(member.group.name.as_str()).arg(&*member.owner);
    for (_, held) in of {
        request.push(if held.kind == Kind::Event { "e" } else { "a" });
        request.push(held.id());
        request.push(held.deliveries);
        request.push(held.action.as_str());
    }
    Some(request)
}

impl Held {
    /// Whether an acknowledgement need not be checked: the lease stands by this machine's own clock, with a margin for the
    /// way to the server, and nothing else is to be changed with it.
    fn is_vouched_for(&self, lease: Duration, now: Instant) -> bool {
        let margin = (lease / 4).min(Duration::from_secs(2));
        self.kind == Kind::Event && !self.open && now + margin < self.until
    }
}

impl Keeper {
    /// What can be acknowledged without a check, by place, and what is held besides.
    fn plain_and_others(&self, settlements: &[(LeaseId, Settlement)]) -> (Plain, Vec<(usize, Held)>) {
        let (member, mut plain, mut others) = (&self.member, Plain::new(), Vec::new());
        let (all, now) = (member.lock(), Instant::now());
        for (index, (lease, settlement)) in settlements.iter().enumerate() {
            let held = all.get(&lease.entry).filter(|held| held.count == lease.count);
            let Some(held) = held.filter(|_| lease.owner == member.owner) else { continue };
            if *settlement == Settlement::Ack && held.is_vouched_for(member.group.lease, now) {
                plain.entry(held.at).or_default().push((index, held.lease.clone()));
            } else {
                others.push((index, held.clone()));
            }
        }
        (plain, others)
    }

    /// Acknowledges without a check: one command for each partition.
    async fn acknowledge(&self, plain: Plain) -> Vec<(usize, Result<()>)> {
        let (doing, member) = ("acknowledge events", &self.member);
        let request = |(at, ids): (&usize, &Vec<(usize, Position)>)| {
            let stream = member.places.get(*at).map_or("", |place| &place.of.events);
            let room = 256 + ids.iter().map(|(_, lease)| lease.as_str().len()).sum::<usize>();
            let request = Request::with_room("XACK", 2 + ids.len(), room);
            let mut request = request.arg(stream).arg(member.group.name.as_str());
            for (_, lease) in ids {
                request.push(id_of(lease));
            }
            request
        };
        let requests: Vec<Request> = plain.iter().map(request).collect();
        let answers = match member.shared.commands.each(requests).await {
            Ok(answers) => answers,
            Err(error) => {
                let failed = error.for_each(plain.values().map(Vec::len).sum());
                return plain.into_values().flatten().map(|(index, _)| index).zip(failed).collect();
            }
        };
        let mut settled = Vec::new();
        for (ids, answer) in plain.into_values().zip(answers) {
            let answer = answer.get(doing).and_then(count);
            for (index, _) in &ids {
                settled.push((
                    *index,
                    match &answer {
                        Ok(many) if usize::try_from(*many) == Ok(ids.len()) => Ok(()),
                        // Which of them were gone is not known; none of them comes back.
                        Ok(_) => Err(lost()),
                        Err(error) if error.kind() == ErrorKind::NotFound => Err(lost()),
                        Err(error) => Err(error.again()),
                    },
                ));
            }
        }
        settled
    }

    /// Settles with a check of each lease, as often as claims change meanwhile.
    async fn settle_others(
        &self,
        settlements: &[(LeaseId, Settlement)],
        mut others: Vec<(usize, Held)>,
    ) -> Vec<(usize, Result<()>)> {
        let member = &self.member;
        let mut settled = Vec::new();
        let mut tries = 0;
        while !others.is_empty() && tries < MAX_TRIES {
            tries += 1;
            let (mut requests, mut changes_claims) = (Vec::with_capacity(others.len()), false);
            for (index, held) in &others {
                let request = settlements.get(*index).and_then(|(lease, settlement)| {
                    let how = how(settlement);
                    let change = self.closing(lease, held, settlement).unwrap_or(None);
                    changes_claims |= change.is_some();
                    member.settlement(held, &how, change)
                });
                requests.extend(request);
            }
            // An event that was settled without a claim comes back where a failover loses that, and nothing else is lost.
            let commands = if changes_claims { &member.shared.durable } else { &member.shared.commands };
            let answers = match commands.each(requests).await {
                Ok(answers) => answers,
                Err(error) => {
                    let failed = error.for_each(others.len());
                    settled.extend(others.into_iter().map(|(index, _)| index).zip(failed));
                    return settled;
                }
            };
            let mut again = Vec::new();
            for ((index, held), answer) in others.into_iter().zip(answers) {
                let (answer, few) = answer.apart();
                match self.settled(&held, answer) {
                    Ok(None) => {
                        let lease = settlements.get(index).map(|(lease, _)| lease);
                        let answer = few.map_or(Ok(()), |few| Err(few.error("settle events")));
                        if let (Err(_), Some(lease)) = (&answer, lease) {
                            member.update(lease, |held| held.is_settled = true);
                        }
                        settled.push((index, answer));
                    }
                    Ok(Some(claim)) => again.push((index, Held { claim: Some(claim), ..held })),
                    Err(error) if error.kind() == ErrorKind::NotFound => settled.push((index, Err(lost()))),
                    Err(error) => settled.push((index, Err(error))),
                }
            }
            others = again;
        }
        settled
    }

    /// What becomes of the claim when a lease is settled, where an attempt of it is open.
    fn closing(&self, lease: &LeaseId, held: &Held, settlement: &Settlement) -> Result<Option<Change>> {
        if !held.open {
            return Ok(None);
        }
        let Some(seen) = &held.claim else {
            // Whether the attempt was begun was never answered: the server is made to say what stands.
            return Ok(Some((held.claim_of(self.stage()?), Arc::from(UNKNOWN), UNKNOWN.to_owned())));
        };
        let holder = Holder::new(self.member.group.name.as_str(), lease);
        let mut claim = read_claim(seen)?;
        if claim.open.as_ref() != Some(&holder) {
            return Ok(None);
        }
        match settlement {
            Settlement::Retry { .. } => claim.retried(&holder),
            _ => claim.closed(&holder),
        }
        Ok(Some((held.claim_of(self.stage()?), Arc::clone(seen), claim_text(&claim)?)))
    }

    /// Reads the answer to a settlement: `None` where it is done, otherwise the claim that stands.
    fn settled(&self, held: &Held, answer: Answer) -> Result<Option<Arc<str>>> {
        let mut parts = items(answer.get("settle events")?)?.into_iter();
        let what = bytes(parts.next().unwrap_or(Value::Nil))?;
        let value = parts.next().unwrap_or(Value::Nil);
        match what.as_slice() {
            b"done" => {
                if let Some(wait) = number(value)? {
                    let wait = Duration::from_millis(u64::try_from(wait).unwrap_or(0));
                    self.member.also_due_in(held.at, wait);
                }
                Ok(None)
            }
            b"other" => Ok(Some(text(value)?.into())),
            // By the call before.
            _ if held.is_settled => Ok(None),
            _ => Err(lost()),
        }
    }
}

fn how(settlement: &Settlement) -> How<'_> {
    match settlement {
        Settlement::Ack => How::Ack,
        Settlement::Retry { after } | Settlement::Release { after } => {
            // A part of a millisecond is a whole one: never before its time.
            How::Back(millis(*after + Duration::from_micros(999)))
        }
        Settlement::DeadLetter { reason } => How::Dead(reason),
    }
}
