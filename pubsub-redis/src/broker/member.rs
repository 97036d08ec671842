//! A member of a group: what it has leased, and when it next has something to look at.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pubsub_core::{
    ActionId, EventId, Group, GroupName, LeaseId, Pattern, Position, Result, Seldom, Subscription,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::group::{self, Noted, millis};
use super::hearing::Hearing;
use super::keys::{EntryId, Kind, Place, claim_name, id_of, partition_of_text};
use super::scripts::{LEAVE, SETTLE, SIGN};
use super::shared::Shared;
use crate::script::Request;

/// Most patterns that are sent along, so that the server passes over what cannot match.
const MAX_PATTERNS: usize = 64;

/// Of each pattern that can match in a partition what the script `take` has to know.
fn filter(patterns: &[Pattern], n: u16, partitions: u16) -> Vec<String> {
    let is_here = |pattern: &&Pattern| {
        pattern.literal_action().is_none_or(|action| partition_of_text(&action, partitions) == n)
    };
    let here: Vec<&Pattern> = patterns.iter().filter(is_here).collect();
    if here.len() > MAX_PATTERNS {
        return Vec::new();
    }
    let side = |literal: Option<String>, (begin, end): (String, String)| match literal {
        Some(literal) => ["=".to_owned(), literal, String::new()],
        None => ["~".to_owned(), begin, end],
    };
    let both = |pattern: &&Pattern| {
        [
            side(pattern.literal_type(), pattern.type_ends()),
            side(pattern.literal_action(), pattern.action_ends()),
        ]
    };
    here.iter().flat_map(both).flatten().collect()
}

/// A member of a group; it leaves when the last part of its subscription is dropped.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) owner: Arc<str>,
    pub(super) group: Group,
    pub(super) on: Subscription,
    /// Where the group has what there is once.
    pub(super) home: Place,
    /// What it reads.
    pub(super) places: Vec<Place>,
    /// For each place what the server passes over.
    pub(super) filters: Vec<Vec<String>>,
    pub(super) hearing: Hearing,
    noted: Mutex<Noted>,
    held: Mutex<HashMap<Position, Held>>,
    dues: Mutex<Vec<Option<Instant>>>,
    /// Something is due earlier than was known.
    pub(super) sooner: Notify,
    /// Nobody polls it any more.
    pub(super) stopped: watch::Sender<bool>,
    /// Something could not be given back.
    pub(super) in_vain: Seldom,
}

/// What is known of a lease of this member.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Which of the group's places.
    pub(super) at: usize,
    pub(super) kind: Kind,
    /// The name of the lease's entry: its partition, and its id in its stream.
    pub(super) lease: Position,
    /// How often the server delivered the entry.
    pub(super) deliveries: u64,
    /// How often it was leased in all, also as an entry that it was before.
    pub(super) count: u64,
    /// The entry it began as, where that is another one.
    pub(super) began: Option<Arc<str>>,
    pub(super) event: EventId,
    pub(super) action: ActionId,
    /// Where its chain began.
    pub(super) root: Option<EntryId>,
    /// Up to when the lease stands by the clock of this machine.
    pub(super) until: Instant,
    /// The claim as it was seen last.
    pub(super) claim: Option<Arc<str>>,
    /// Whether an attempt of this lease is open.
    pub(super) open: bool,
    /// It is settled at the server, and too few replicas have that.
    pub(super) is_settled: bool,
    /// When it could not be given back: nobody keeps it from then on.
    pub(super) left: Option<Instant>,
}

impl Held {
    /// Its id in its stream.
    pub(super) fn id(&self) -> &str {
        id_of(&self.lease)
    }

    /// The entry it began as.
    pub(super) fn entry(&self) -> &str {
        self.began.as_deref().unwrap_or_else(|| self.id())
    }

    /// Whether a mark covers it.
    pub(super) fn is_covered(&self, mark: &str) -> bool {
        EntryId::parse(mark).is_some_and(|mark| self.root.is_some_and(|root| root <= mark))
    }

    /// The name of its claim.
    pub(super) fn claim_of(&self, stage: &str) -> String {
        claim_name(&self.event, stage)
    }
}

/// How a lease is settled, as the script takes it.
pub(super) enum How<'a> {
    Ack,
    /// After so many milliseconds.
    Back(u64),
    /// At so many milliseconds since 1970.
    Due(u64),
    Dead(&'a str),
}

/// A change of a claim: its name, what was seen of it, what it is to be.
pub(super) type Change = (String, Arc<str>, String);

impl Member {
    pub(super) fn new(
        shared: &Arc<Shared>,
        owner: Arc<str>,
        (group, on): (Group, Subscription),
        (home, places): (Place, Vec<Place>),
        noted: Noted,
        partitions: u16,
    ) -> Arc<Self> {
        let filters = places.iter().map(|place| filter(on.patterns(), place.of.n, partitions)).collect();
        Arc::new(Self {
            shared: Arc::clone(shared),
            owner,
            hearing: Hearing::new(group.lease),
            group,
            on,
            dues: Mutex::new(vec![None; places.len()]),
            home,
            filters,
            places,
            noted: Mutex::new(noted),
            held: Mutex::default(),
            sooner: Notify::new(),
            stopped: watch::Sender::new(false),
            in_vain: Seldom::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Position, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a lease; `None` where it is none of this member's.
    pub(super) fn held(&self, lease: &LeaseId) -> Option<Held> {
        if lease.owner != self.owner {
            return None;
        }
        self.lock().get(&lease.entry).filter(|held| held.count == lease.count).cloned()
    }

    /// The lease is over.
    pub(super) fn forget(&self, lease: &LeaseId) {
        self.forget_all([lease]);
    }

    /// These leases are over.
    pub(super) fn forget_all<'l>(&self, leases: impl IntoIterator<Item = &'l LeaseId>) {
        let mut all = self.lock();
        for lease in leases {
            if let Entry::Occupied(held) = all.entry(lease.entry.clone())
                && held.get().count == lease.count
            {
                held.remove();
            }
        }
    }

    /// Changes what is known of a lease.
    pub(super) fn update(&self, lease: &LeaseId, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.lock().get_mut(&lease.entry).filter(|held| held.count == lease.count) {
            change(held);
        }
    }

    /// Its lease as milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        millis(self.group.lease)
    }

    pub(super) fn stage(&self) -> &str {
        self.group.stage.as_ref().map_or("", |stage| stage.as_str())
    }

    /// Something is due in this place so long from now, or nothing.
    pub(super) fn due_in(&self, at: usize, wait: Option<Duration>) {
        let mut dues = self.dues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = dues.get_mut(at) {
            // A millisecond more: timers round down, and a look that comes too early is for nothing.
            *due = wait.map(|wait| Instant::now() + wait + Duration::from_millis(1));
        }
    }

    /// As [`due_in`](Self::due_in), where something else may be due earlier.
    pub(super) fn also_due_in(&self, at: usize, wait: Duration) {
        let when = Instant::now() + wait + Duration::from_millis(1);
        let mut dues = self.dues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = dues.get_mut(at)
            && due.is_none_or(|due| when < due)
        {
            *due = Some(when);
            self.sooner.notify_one();
        }
    }

    /// Where something is due next, and when.
    pub(super) fn next_due(&self) -> Option<(usize, Instant)> {
        let dues = self.dues.lock().unwrap_or_else(PoisonError::into_inner);
        (0..).zip(dues.iter()).filter_map(|(at, due)| due.map(|due| (at, due))).min_by_key(|(_, due)| *due)
    }

    /// Whether something is due in this place by now.
    pub(super) fn is_due(&self, at: usize) -> bool {
        let dues = self.dues.lock().unwrap_or_else(PoisonError::into_inner);
        dues.get(at).copied().flatten().is_some_and(|due| due <= Instant::now())
    }

    /// The request that settles a lease.
    pub(super) fn settlement(&self, held: &Held, how: &How<'_>, change: Option<Change>) -> Option<Request> {
        let place = self.places.get(held.at)?;
        let of = &place.of;
        let keys = [
            place.stream(held.kind),
            &of.events,
            &place.again,
            &place.due,
            &place.held,
            &of.claims,
            &of.touched,
            &of.away,
            &of.cancels,
            &of.dead,
            &of.ids,
        ];
        let (name, ms, reason) = match how {
            How::Ack => ("ack", 0, ""),
            How::Back(ms) => ("back", *ms, ""),
            How::Due(ms) => ("due", *ms, ""),
            How::Dead(reason) => ("dead", 0, *reason),
        };
        let stage = self.stage();
        let (claim, seen, new) = match change {
            Some((claim, seen, new)) => (claim, seen, new),
            None if stage.is_empty() => (String::new(), Arc::from(""), String::new()),
            None => (held.claim_of(stage), Arc::from(""), String::new()),
        };
        let request = SETTLE.call(keys).arg(self.group.name.as_str()).arg(&*self.owner);
        let request = request.arg(held.id()).arg(held.deliveries).arg(name).arg(ms).arg(held.entry());
        Some(request.arg(held.count).arg(of.n.to_string()).arg(claim).arg(&*seen).arg(new).arg(reason))
    }

    /// Joins the group again after the server lost it.
    pub(super) async fn join_again(&self) -> Result<()> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.note().await?;
        let who = (&self.group, &self.on, &*self.owner);
        let noted = group::join(&self.shared, (&self.home, &self.places), who, Some(&noted)).await?;
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = noted;
        Ok(())
    }
}

/// The request by which a member says that it is there.
pub(super) fn sign(home: &Place, group: &GroupName, owner: &str) -> Request {
    SIGN.call([&*home.members]).arg(group.as_str()).arg(owner)
}

/// The requests by which a member leaves its group, or what is left of one is forgotten.
pub(super) fn leaving(
    group: &GroupName,
    owner: &str,
    (home, places): (&Place, &[Place]),
    note: &str,
) -> Vec<Request> {
    let leave = |place: &Place, note: &str| {
        let keys = [&place.of.events, &place.again, &place.members, &place.of.used];
        LEAVE.call(keys.map(String::as_str)).arg(group.as_str()).arg(owner).arg(note)
    };
    let mut requests: Vec<Request> = places.iter().map(|place| leave(place, "")).collect();
    requests.push(leave(home, note));
    requests
}

impl Drop for Member {
    fn drop(&mut self) {
        let (shared, group) = (Arc::clone(&self.shared), self.group.name.clone());
        let requests = leaving(&group, &self.owner, (&self.home, &self.places), "left");
        self.shared.chores.begin(async move {
            if let Err(error) = shared.commands.all(requests, "leave a group").await {
                // Others see that it is gone by its silence.
                tracing::debug!(%group, error = %error.chain(), "a member could not leave");
            }
        });
    }
}
