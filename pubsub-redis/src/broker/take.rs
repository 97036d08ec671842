//! Taking: leases what is ready, and takes over what was left.

use std::time::Duration;

use pubsub_core::Result;
use redis::Value;
use tokio::time::Instant;

use super::batch::Raw;
use super::keys::Kind;
use super::member::{Member, sign};
use super::scripts::{MINE, TAKE, TAKEOVER};
use crate::reply::{count, entries, fixed, items, number, streams};
use crate::script::Request;

/// Most entries of one call, however many are asked for.
pub(super) const MAX_CALL: usize = 1000;

/// What one look in one place brought.
#[derive(Default)]
pub(super) struct Look {
    pub(super) raws: Vec<Raw>,
    /// Whether there was more to look at.
    pub(super) more: bool,
    /// How many were passed over that cannot be this group's.
    pub(super) passed: usize,
}

fn raws(at: usize, again: Value, events: Value) -> Result<Vec<Raw>> {
    let mut raws: Vec<Raw> =
        entries(again)?.into_iter().map(|entry| Raw { at, kind: Kind::Again, entry }).collect();
    raws.extend(entries(events)?.into_iter().map(|entry| Raw { at, kind: Kind::Event, entry }));
    Ok(raws)
}

fn wait(value: Value) -> Result<Option<Duration>> {
    Ok(number(value)?.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
}

impl Member {
    /// Asks, and hears of the server by its answer: also while looks take long, others have their time to renew.
    async fn ask(&self, request: Request, doing: &'static str) -> Result<Value> {
        let answer = self.shared.commands.one(request, doing).await?;
        self.hearing.heard();
        Ok(answer)
    }

    /// Looks for so many in one place, and brings back what is due there.
    pub(super) async fn look(&self, at: usize, many: usize) -> Result<Look> {
        let doing = "take events";
        let Some(place) = self.places.get(at) else { return Ok(Look::default()) };
        let keys = [&place.of.events, &place.again, &place.due, &place.held];
        let mut request = TAKE
            .call(keys.map(String::as_str))
            .arg(self.group.name.as_str())
            .arg(&*self.owner)
            .arg(many.min(MAX_CALL));
        for part in self.filters.get(at).into_iter().flatten() {
            request.push(part);
        }
        let answer = self.ask(request, doing).await?;
        let [again, events, due, more, passed] = fixed::<5>(answer)?;
        self.due_in(at, wait(due)?);
        let passed = usize::try_from(count(passed)?).unwrap_or(usize::MAX);
        Ok(Look { raws: raws(at, again, events)?, more: count(more)? > 0, passed })
    }

    /// As [`look`](Self::look) without a script, which costs the server a quarter: what is due does not come back, nothing is
    /// passed over, and where something came back there may be more than was asked for.
    pub(super) async fn read(&self, at: usize, many: usize) -> Result<Look> {
        let doing = "take events";
        let Some(place) = self.places.get(at) else { return Ok(Look::default()) };
        let many = many.min(MAX_CALL);
        let request = Request::new("XREADGROUP")
            .arg("GROUP")
            .arg(self.group.name.as_str())
            .arg(&*self.owner)
            .arg("COUNT")
            .arg(many)
            .arg("STREAMS")
            .arg(&place.again)
            .arg(&place.of.events)
            .arg(">")
            .arg(">");
        let answer = self.ask(request, doing).await?;
        let mut raws = Vec::with_capacity(many);
        for (stream, entries) in streams(answer)? {
            let kind = if stream == place.of.events { Kind::Event } else { Kind::Again };
            raws.extend(entries.into_iter().map(|entry| Raw { at, kind, entry }));
        }
        Ok(Look { more: raws.len() >= many, raws, passed: 0 })
    }

    /// Says that this member is there; answers how long ago the member was seen that was seen longest ago.
    pub(super) async fn sign_in(&self) -> Result<Duration> {
        let request = sign(&self.home, &self.group.name, &self.owner);
        let silence = self.ask(request, "say that a member is there").await?;
        Ok(wait(silence)?.unwrap_or_default())
    }

    /// The members that were not seen for a lease.
    pub(super) async fn silent(&self, silence: Duration) -> Result<Vec<String>> {
        let doing = "look for members that are gone";
        // By their number: whoever was seen last is the last.
        let request = Request::new("ZRANGE").arg(&self.home.members).arg(0).arg(-1).arg("WITHSCORES");
        let mut all = Vec::new();
        let mut flat = items(self.shared.commands.one(request, doing).await?)?.into_iter();
        while let (Some(name), Some(score)) = (flat.next(), flat.next()) {
            let seen: f64 = crate::reply::text(score)?.parse().unwrap_or(0.0);
            all.push((crate::reply::text(name)?, seen));
        }
        let oldest = all.first().map_or(0.0, |(_, seen)| *seen);
        // The clock is the server's: the oldest was seen `silence` ago.
        let lately = oldest + silence.saturating_sub(self.group.lease).as_secs_f64() * 1000.0;
        Ok(all.into_iter().filter(|(_, seen)| *seen <= lately).map(|(name, _)| name).collect())
    }

    /// Takes over up to so many in one place; answers what it took, whether there is more, and how long until the next lease
    /// of those who are silent is over.
    pub(super) async fn take_over(
        &self,
        at: usize,
        many: usize,
        silent: &[String],
    ) -> Result<(Look, Option<Duration>)> {
        let doing = "take over events";
        let Some(place) = self.places.get(at) else { return Ok((Look::default(), None)) };
        let of = &place.of;
        let keys = [&of.events, &place.again, &place.due, &place.held, &of.claims, &of.away];
        let mut request = TAKEOVER
            .call(keys.map(String::as_str))
            .arg(self.group.name.as_str())
            .arg(&*self.owner)
            .arg(self.lease_ms())
            .arg(many.min(MAX_CALL))
            .arg(self.stage())
            .arg(of.n.to_string())
            .arg(fastrand::u32(..1 << 31));
        for name in silent {
            request.push(name);
        }
        let answer = self.ask(request, doing).await?;
        let [again, events, dropped, more, next, due] = fixed::<6>(answer)?;
        let dropped = count(dropped)?;
        if dropped > 0 {
            tracing::warn!(group = %self.group.name, events = dropped, "what was to be delivered is gone");
        }
        self.due_in(at, wait(due)?);
        let look = Look { raws: raws(at, again, events)?, more: count(more)? > 0, passed: 0 };
        Ok((look, wait(next)?))
    }

    /// What the server holds as this member's and this member does not know of: its answer was lost.
    pub(super) async fn unknown(&self) -> Result<Vec<Raw>> {
        let doing = "look for what was taken";
        let ask = |place: &super::keys::Place| {
            MINE.call([&*place.of.events, &*place.again])
                .arg(self.group.name.as_str())
                .arg(&*self.owner)
                .arg(MAX_CALL)
        };
        let requests = self.places.iter().map(ask).collect();
        let mut all = Vec::new();
        for (at, answer) in (0..).zip(self.shared.commands.all(requests, doing).await?) {
            let [again, events] = fixed::<2>(answer.get(doing)?)?;
            all.extend(raws(at, again, events)?);
        }
        let known = self.lock();
        let is_known = |raw: &Raw| {
            let n = self.places.get(raw.at).map_or(0, |place| place.of.n);
            known.contains_key(&super::keys::lease_entry(n, raw.kind, &raw.entry.id))
        };
        all.retain(|raw| !is_known(raw));
        Ok(all)
    }

    /// The places where a lease of this member ended that nobody keeps any more, as of a worker that panicked.
    pub(super) fn left_by_itself(&self) -> Vec<usize> {
        let Some(late) = Instant::now().checked_sub(self.group.lease) else { return Vec::new() };
        let held = self.lock();
        let mut places: Vec<usize> = held
            .values()
            .filter(|held| held.until < late || held.left.is_some_and(|left| left < late))
            .map(|held| held.at)
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Forgets what could not be given back a lease before this.
    pub(super) fn forget_left(&self, now: Instant) {
        let Some(late) = now.checked_sub(self.group.lease) else { return };
        self.lock().retain(|_, held| held.left.is_none_or(|left| left >= late));
    }
}
