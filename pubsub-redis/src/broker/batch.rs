//! What one look brought: its entries read, sorted into events to hand out and what has to be done with the others.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Error, Event, LeaseId, Leased, Result, Taken, Timestamp};
use tokio::time::Instant;

use super::keys::{EntryId, Kind, lease_entry, position, read_position};
use super::member::{Held, How, Member};
use super::scripts::SET_ASIDE;
use crate::reply::{Entry, fixed, number};
use crate::script::Request;

/// An entry that the server leased to this member.
#[derive(Debug)]
pub(super) struct Raw {
    /// In which of the group's places.
    pub(super) at: usize,
    pub(super) kind: Kind,
    pub(super) entry: Entry,
}

const GIVES_BACK: &str = "give events back";

/// What was leased and nobody has yet; dropped, it is given back.
pub(super) struct Batch {
    member: Arc<Member>,
    pub(super) leased: Vec<Leased>,
}

impl Batch {
    pub(super) const fn len(&self) -> usize {
        self.leased.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.leased.is_empty()
    }

    pub(super) fn nothing(member: &Arc<Member>) -> Self {
        Self { member: Arc::clone(member), leased: Vec::new() }
    }

    /// As the entries that a stream hands out.
    pub(super) fn taken(mut self) -> Taken {
        let member = Arc::clone(&self.member);
        Taken::new(std::mem::take(&mut self.leased), move |left| give_back(&member, left))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let left: Vec<LeaseId> = self.leased.drain(..).filter_map(|leased| leased.lease).collect();
        if !left.is_empty() {
            give_back(&self.member, left);
        }
    }
}

fn give_back(member: &Arc<Member>, left: Vec<LeaseId>) {
    let owned = Arc::clone(member);
    member.shared.chores.begin(async move {
        let settlement = |lease: LeaseId| {
            let held = owned.held(&lease)?;
            let request = owned.settlement(&held, &How::Back(0), None)?;
            Some(((lease, held), request))
        };
        let (left, requests): (Vec<_>, Vec<Request>) = left.into_iter().filter_map(settlement).unzip();
        let answers = match owned.shared.commands.all(requests, GIVES_BACK).await {
            Ok(answers) => answers,
            Err(error) => {
                left.into_iter().for_each(|(_, held)| owned.leave(held, &error));
                return;
            }
        };
        for ((lease, held), answer) in left.into_iter().zip(answers) {
            match answer.get(GIVES_BACK) {
                Ok(_) => owned.forget(&lease),
                Err(error) => owned.leave(held, &error),
            }
        }
    });
}

impl Member {
    /// Reads what was leased at `since`: what is not this group's is settled at once, what is to come later is put off, what
    /// cannot be decoded is set aside, and what is over the prefetch is given back.
    pub(super) async fn sort(self: &Arc<Self>, raws: Vec<Raw>, since: Instant) -> Result<Batch> {
        let (batch, sorted) = self.sorted(&raws, since);
        if !sorted.0.is_empty() {
            self.carry_out(sorted).await?;
        }
        Ok(batch)
    }

    fn sorted(self: &Arc<Self>, raws: &[Raw], since: Instant) -> (Batch, Sorted) {
        let (mut batch, mut sorted) = (Batch::nothing(self), Sorted::default());
        let most = self.on.prefetch();
        batch.leased.reserve_exact(most.min(raws.len()));
        self.lock().reserve(most.min(raws.len()));
        for raw in raws {
            let event = match decode(&raw.entry) {
                Ok(event) => event,
                Err(reason) => {
                    self.set_aside(raw, &reason, &mut sorted);
                    continue;
                }
            };
            if !self.on.wants(&event) {
                self.acknowledge(raw, &mut sorted);
                continue;
            }
            let n = self.places.get(raw.at).map_or(0, |place| place.of.n);
            let held = self.lease_of(raw, n, &event, since);
            if raw.kind == Kind::Event
                && let Some(at) = event.deliver_at.filter(|at| *at > Timestamp::now())
            {
                let ms = u64::try_from(at.as_micros().saturating_add(999) / 1000).unwrap_or(0);
                sorted.0.extend(self.settlement(&held, &How::Due(ms), None).map(|request| Step {
                    request,
                    lease: Some(held),
                    puts_off: true,
                }));
                continue;
            }
            if batch.leased.len() >= most {
                sorted.0.extend(self.settlement(&held, &How::Back(0), None).map(|request| Step {
                    request,
                    lease: Some(held),
                    puts_off: false,
                }));
                continue;
            }
            let position = match raw.kind {
                Kind::Event => held.lease.clone(),
                Kind::Again => position(n, held.entry()),
            };
            let lease =
                LeaseId { entry: held.lease.clone(), owner: Arc::clone(&self.owner), count: held.count };
            // Locked for each: others settle meanwhile.
            self.lock().insert(held.lease.clone(), held);
            batch.leased.push(Leased { event, position, lease: Some(lease) });
        }
        (batch, sorted)
    }

    async fn carry_out(&self, sorted: Sorted) -> Result<()> {
        let doing = "sort what was taken";
        let (requests, leases): (Vec<_>, Vec<_>) =
            sorted.0.into_iter().map(|step| (step.request, (step.lease, step.puts_off))).unzip();
        for ((lease, puts_off), answer) in
            leases.into_iter().zip(self.shared.commands.all(requests, doing).await?)
        {
            match (answer.get(doing), lease) {
                (Ok(answer), Some(held)) if puts_off => {
                    let Ok([_, wait]) = fixed::<2>(answer) else { continue };
                    if let Some(wait) = number(wait)? {
                        self.also_due_in(held.at, Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
                    }
                }
                (Ok(_), _) => {}
                (Err(error), Some(held)) => self.leave(held, &error),
                (Err(error), None) => self.tell_in_vain(&error),
            }
        }
        Ok(())
    }

    /// What could not be given back is known, so that nobody takes it for an answer that was lost: it returns after its lease.
    fn leave(&self, held: Held, error: &Error) {
        self.tell_in_vain(error);
        let left = Held { left: Some(Instant::now()), ..held };
        let mut all = self.lock();
        if all.get(&left.lease).is_none_or(|known| known.count <= left.count) {
            all.insert(left.lease.clone(), left);
        }
    }

    fn tell_in_vain(&self, error: &Error) {
        if let Some(events) = self.in_vain.happened(1) {
            tracing::warn!(group = %self.group.name, error = %error.chain(), events, "events could not be given back; they return after their leases");
        }
    }

    fn lease_of(&self, raw: &Raw, n: u16, event: &Event, since: Instant) -> Held {
        let (began, before) = match raw.kind {
            Kind::Event => (None, 0),
            Kind::Again => {
                let before = raw.entry.text("_count").and_then(|count| count.parse().ok());
                (raw.entry.text("_entry").map(Arc::from), before.unwrap_or(0))
            }
        };
        Held {
            lease: lease_entry(n, raw.kind, &raw.entry.id),
            root: root(event, n, began.as_deref().unwrap_or(&raw.entry.id)),
            began,
            at: raw.at,
            kind: raw.kind,
            deliveries: raw.entry.deliveries,
            count: before + raw.entry.deliveries,
            event: event.id.clone(),
            action: event.action_id.clone(),
            until: since + self.group.lease,
            claim: None,
            open: false,
            is_settled: false,
            left: None,
        }
    }

    fn acknowledge(&self, raw: &Raw, sorted: &mut Sorted) {
        let Some(place) = self.places.get(raw.at) else { return };
        let stream = place.stream(raw.kind);
        let id = &raw.entry.id;
        sorted.push(Request::new("XACK").arg(stream).arg(self.group.name.as_str()).arg(id));
        if raw.kind == Kind::Again {
            sorted.push(Request::new("XDEL").arg(stream).arg(id));
        }
    }

    fn set_aside(&self, raw: &Raw, reason: &str, sorted: &mut Sorted) {
        let Some(place) = self.places.get(raw.at) else { return };
        let id = raw.entry.text("id").map_or_else(|| format!("undecodable-{}", raw.entry.id), str::to_owned);
        tracing::warn!(id, reason, "an event cannot be decoded and goes to the dead letters");
        let of = &place.of;
        let keys = [place.stream(raw.kind), &*of.dead, &*of.ids];
        sorted.push(SET_ASIDE.call(keys).arg(&raw.entry.id).arg(reason).arg(id));
        self.acknowledge(raw, sorted);
    }
}

/// What is to be done with entries that are not handed out.
#[derive(Default)]
struct Sorted(Vec<Step>);

struct Step {
    request: Request,
    /// What it settles, where that would be this group's.
    lease: Option<Held>,
    puts_off: bool,
}

impl Sorted {
    fn push(&mut self, request: Request) {
        self.0.push(Step { request, lease: None, puts_off: false });
    }
}

/// The event of an entry, or why there is none.
pub(super) fn decode(entry: &Entry) -> std::result::Result<Event, String> {
    let mut wrong = None;
    let attributes = entry.fields().filter(|(name, _)| !name.starts_with(b"_")).map_while(|(name, value)| {
        match (std::str::from_utf8(name), std::str::from_utf8(value)) {
            (Ok(name), Ok(value)) => Some((name, value)),
            (Ok(name), Err(_)) => {
                wrong = Some(format!("the field {name} is not UTF-8"));
                None
            }
            (Err(_), _) => {
                wrong = Some("a field's name is not UTF-8".to_owned());
                None
            }
        }
    });
    let event = Event::from_attributes(attributes);
    // What was read up to there says less.
    wrong.map_or_else(|| event.map_err(|error| error.chain()), Err)
}

/// Where the chain of an event began: a replay begins one anew.
fn root(event: &Event, n: u16, entry: &str) -> Option<EntryId> {
    let origin = event.origin.as_ref().filter(|_| event.replay_of.is_none());
    let root = origin.and_then(|origin| read_position(&origin.root_position)).filter(|(of, _)| *of == n);
    root.map(|(_, id)| id).or_else(|| EntryId::parse(entry))
}
