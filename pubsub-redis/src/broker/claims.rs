//! Beginning and concluding.

use std::sync::Arc;

use async_trait::async_trait;
use pubsub_core::{
    Begin, Claim, Claims, Conclusion, Error, ErrorKind, Holder, LeaseId, Mark, OpenAttempt, Result,
};
use tokio::time::Instant;

use super::keys::{Kind, read_entry};
use super::leases::{Keeper, lost};
use super::member::Held;
use super::scripts::CLAIM;
use crate::reply::{bytes, fixed, text};

/// How often a claim is tried to be changed that others change at the same time.
pub(super) const MAX_TRIES: u32 = 100;

pub(super) fn claim_text(claim: &Claim) -> Result<String> {
    serde_json::to_string(claim).map_err(|e| Error::new(ErrorKind::Internal, "write a claim").with_source(e))
}

pub(super) fn read_claim(text: &str) -> Result<Claim> {
    if text.is_empty() {
        return Ok(Claim::default());
    }
    serde_json::from_str(text).map_err(|e| Error::new(ErrorKind::Corrupt, "read a claim").with_source(e))
}

/// What the server said to a change of a claim.
enum Said {
    Done,
    Lost,
    Other,
    Held,
}

impl Keeper {
    /// Changes the claim from what was seen to this, where the lease is held, and, where an attempt is open that counts, its
    /// holder's is not.
    async fn change(
        &self,
        held: &Held,
        lease: &LeaseId,
        (seen, new): (&str, &str),
        open: Option<&Holder>,
    ) -> Result<(Said, Arc<str>, String)> {
        let (doing, member) = ("change a claim", &self.member);
        let place = member.places.get(held.at).ok_or_else(lost)?;
        let of = &place.of;
        let (holder_stream, holder_id) = match open.and_then(|open| read_entry(&open.entry)) {
            Some((_, Kind::Again, id)) => {
                let group = open.map_or("", |open| &open.group).parse()?;
                (member.shared.keys.place(of.n, &group).again, id)
            }
            Some((_, Kind::Event, id)) => (of.events.clone(), id),
            None => (of.events.clone(), ""),
        };
        let keys = [
            place.stream(held.kind),
            &of.claims,
            &of.touched,
            &of.cancels,
            &of.groups,
            &of.ids,
            &of.events,
            &of.away,
            &holder_stream,
        ];
        let request = CLAIM.call(keys).arg(member.group.name.as_str()).arg(&*lease.owner).arg(held.id());
        let request = request.arg(held.deliveries).arg(held.claim_of(self.stage()?)).arg(seen).arg(new);
        let request = request
            .arg(held.action.as_str())
            .arg(held.entry())
            .arg(open.map_or("", |open| &open.group))
            .arg(holder_id)
            .arg(open.map_or("", |open| &open.owner))
            .arg(open.map_or(0, |open| open.count));
        let since = Instant::now();
        let [what, claim, mark] = fixed::<3>(member.shared.durable.one(request, doing).await?)?;
        let (claim, mark): (Arc<str>, String) = (text(claim)?.into(), text(mark)?);
        let said = match bytes(what)?.as_slice() {
            b"done" => Said::Done,
            b"other" => Said::Other,
            b"held" => Said::Held,
            _ => return Ok((Said::Lost, claim, mark)),
        };
        member.update(lease, |held| {
            held.until = since + member.group.lease;
            held.claim = Some(Arc::clone(&claim));
        });
        Ok((said, claim, mark))
    }
}

#[async_trait]
impl Claims for Keeper {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        self.stage()?;
        let held = self.member.held(lease).ok_or_else(lost)?;
        let me = Holder::new(self.member.group.name.as_str(), lease);
        let mut seen: Arc<str> = held.claim.clone().unwrap_or_else(|| Arc::from(""));
        // Also where the answer is lost: a plain acknowledgement would leave it open.
        self.member.update(lease, |held| held.open = true);
        for _ in 0..MAX_TRIES {
            let claim = read_claim(&seen)?;
            let open = claim.open.as_ref().filter(|open| **open != me);
            let mut begun = claim.clone();
            // Where the holder of an open attempt still has its lease, the server says so and changes nothing.
            begun.begin(me.clone(), OpenAttempt::Left, Mark::None);
            let new = claim_text(&begun)?;
            let (said, stands, mark) = self.change(&held, lease, (&seen, &new), open).await?;
            let mark = if held.is_covered(&mark) { Mark::Cancelled } else { Mark::None };
            match said {
                Said::Lost => {
                    self.member.forget(lease);
                    return Err(lost());
                }
                Said::Other => seen = stands,
                Said::Held => {
                    self.member.update(lease, |held| held.open = false);
                    return Ok(Begin::Elsewhere);
                }
                Said::Done => {
                    self.member.update(lease, |held| held.open = begun.open.as_ref() == Some(&me));
                    // The same question again, of what stands now: it answers and changes nothing.
                    return Ok(begun.begin(me, OpenAttempt::Held, mark));
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "begin: others change the claim all the time"))
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        self.stage()?;
        let held = self.member.held(lease).ok_or_else(lost)?;
        let me = Holder::new(self.member.group.name.as_str(), lease);
        let mut seen: Arc<str> = held.claim.clone().unwrap_or_else(|| Arc::from(""));
        for _ in 0..MAX_TRIES {
            let mut claim = read_claim(&seen)?;
            // What was seen may be old: only what stands now decides that it is refused.
            let accepted = claim.conclude(&me, conclusion.clone());
            let new = if accepted.is_ok() { claim_text(&claim)? } else { seen.to_string() };
            let (said, stands, _) = self.change(&held, lease, (&seen, &new), None).await?;
            match said {
                Said::Done => {
                    accepted?;
                    self.member.update(lease, |held| held.open = false);
                    return Ok(());
                }
                // What stands is answered the same way again, also once the lease is another's.
                Said::Lost => {
                    let standing = read_claim(&stands)?.conclusion;
                    let run = &conclusion.record.key.run_id;
                    let is_this = standing.is_some_and(|standing| standing.record.key.run_id == *run);
                    return if is_this { Ok(()) } else { Err(lost()) };
                }
                Said::Other | Said::Held => seen = stands,
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "conclude: others change the claim all the time"))
    }
}
