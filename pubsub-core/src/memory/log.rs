//! What the broker in memory keeps: events with their claims, groups, cancel marks and dead letters.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::group::GroupState;
use crate::{
    ActionId, Claim, DeadLetter, Error, ErrorKind, Event, EventId, GroupName, Mark, Novelty, Pattern,
    Position, Published, Result, Stage, StartAt, Subscription, Timestamp, wants,
};

/// How much is kept and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLimits {
    /// Most events and dead letters.
    pub events: usize,
    /// Most bytes of them, roughly.
    pub bytes: usize,
    /// How long what every group has settled is kept, and a group without members.
    pub retention: Duration,
}

impl Default for MemoryLimits {
    /// A million events, 512 MiB, seven days.
    fn default() -> Self {
        Self { events: 1_000_000, bytes: 512 * 1024 * 1024, retention: Duration::from_secs(7 * 24 * 60 * 60) }
    }
}

/// One event that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) event: Event,
    /// For one group alone: a replay.
    only: Option<GroupName>,
    due: Option<Instant>,
    since: Instant,
    bytes: usize,
    /// How many groups have not settled it.
    unsettled: usize,
    /// What is known of each stage's work at it. They go when it goes.
    claims: Vec<(Stage, Claim)>,
}

impl Kept {
    pub(super) fn claim(&mut self, stage: &Stage) -> &mut Claim {
        let index = self.claims.iter().position(|(name, _)| name == stage).unwrap_or_else(|| {
            self.claims.push((stage.clone(), Claim::default()));
            self.claims.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        &mut self.claims[index].1
    }
}

/// All that handles to one broker share.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) groups: HashMap<GroupName, GroupState>,
    pub(super) dead: VecDeque<DeadLetter>,
    limits: MemoryLimits,
    kept: BTreeMap<u64, Kept>,
    last: u64,
    bytes: usize,
    ids: HashMap<EventId, u64>,
    by_action: HashMap<ActionId, BTreeSet<u64>>,
    /// Groups whose patterns all name one action literally, by that action; a group of one action among many costs
    /// the others nothing.
    literal: HashMap<String, Vec<GroupName>>,
    /// All other groups.
    wild: Vec<GroupName>,
    /// Events that every group has settled.
    free: BTreeSet<u64>,
    marks: HashMap<ActionId, (u64, Instant)>,
}

impl Log {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            groups: HashMap::new(),
            dead: VecDeque::new(),
            limits,
            kept: BTreeMap::new(),
            last: 0,
            bytes: 0,
            ids: HashMap::new(),
            by_action: HashMap::new(),
            literal: HashMap::new(),
            wild: Vec::new(),
            free: BTreeSet::new(),
            marks: HashMap::new(),
        }
    }

    /// Keeps an event and offers it to the groups that want it, or to one alone.
    pub(super) fn publish(
        &mut self,
        now: Instant,
        event: Event,
        bytes: usize,
        only: Option<GroupName>,
    ) -> Result<Published> {
        if let Some(number) = self.ids.get(&event.id) {
            return Ok(Published { position: position(*number), novelty: Novelty::Duplicate });
        }
        self.make_room(now, bytes)?;
        self.last += 1;
        let number = self.last;
        let due = event.deliver_at.and_then(|at| until(now, at));
        self.ids.insert(event.id.clone(), number);
        self.by_action.entry(event.action_id.clone()).or_default().insert(number);
        self.bytes += bytes;
        let mut kept = Kept { event, only, due, since: now, bytes, unsettled: 0, claims: Vec::new() };
        let due = if self.is_cancelled(number, &kept.event) { None } else { due };
        let names = match &kept.only {
            Some(name) => vec![name.clone()],
            None => self.interested(&kept.event),
        };
        for name in names {
            if let Some(group) = self.groups.get_mut(&name) {
                group.offer(number, due);
                kept.unsettled += 1;
            }
        }
        if kept.unsettled == 0 {
            self.free.insert(number);
        }
        self.kept.insert(number, kept);
        Ok(Published { position: position(number), novelty: Novelty::New })
    }

    fn interested(&self, event: &Event) -> Vec<GroupName> {
        let literal = self.literal.get(event.action_id.as_str()).into_iter().flatten();
        literal
            .chain(&self.wild)
            .filter(|name| {
                self.groups.get(*name).is_some_and(|g| wants(&g.patterns, g.group.stage.as_ref(), event))
            })
            .cloned()
            .collect()
    }

    /// Makes a group and offers it what is kept from its start on.
    pub(super) fn make_group(&mut self, now: Instant, subscription: &Subscription) -> Result<()> {
        let Some(group) = subscription.group() else { return Ok(()) };
        let first = match subscription.start() {
            StartAt::Earliest => 0,
            StartAt::Latest => self.last + 1,
            StartAt::After(position) => number_of(position)? + 1,
        };
        let mut state = GroupState::new(group.clone(), subscription.patterns().to_vec(), now);
        let actions = literal_actions(subscription.patterns());
        let numbers: Vec<u64> = match &actions {
            Some(actions) => {
                let mut numbers: Vec<u64> = actions
                    .iter()
                    .filter_map(|action| ActionId::new(action).ok())
                    .filter_map(|action| self.by_action.get(&action))
                    .flat_map(|numbers| numbers.range(first..).copied())
                    .collect();
                numbers.sort_unstable();
                numbers
            }
            None => self.kept.range(first..).map(|(number, _)| *number).collect(),
        };
        for number in numbers {
            let Some(kept) = self.kept.get(&number) else { continue };
            if kept.only.is_some() || !subscription.wants(&kept.event) {
                continue;
            }
            let due = kept.due.filter(|due| *due > now && !self.is_cancelled(number, &kept.event));
            state.offer(number, due);
            if let Some(kept) = self.kept.get_mut(&number) {
                kept.unsettled += 1;
            }
            self.free.remove(&number);
        }
        let name = &group.name;
        for action in actions.iter().flatten() {
            self.literal.entry(action.clone()).or_default().push(name.clone());
        }
        if actions.is_none() {
            self.wild.push(name.clone());
        }
        self.groups.insert(name.clone(), state);
        Ok(())
    }

    /// Drops a group; answers how much it had not settled.
    pub(super) fn drop_group(&mut self, name: &GroupName) -> Option<usize> {
        let group = self.groups.remove(name)?;
        for number in group.unsettled() {
            self.settled(number);
        }
        self.wild.retain(|other| other != name);
        for action in literal_actions(&group.patterns).into_iter().flatten() {
            if let Some(names) = self.literal.get_mut(&action) {
                names.retain(|other| other != name);
                if names.is_empty() {
                    self.literal.remove(&action);
                }
            }
        }
        Some(group.len())
    }

    /// Drops groups that had no members for the retention time.
    pub(super) fn drop_idle_groups(&mut self, now: Instant) {
        let retention = self.limits.retention;
        let idle = |g: &GroupState| g.members == 0 && now.duration_since(g.idle_since) >= retention;
        let names: Vec<GroupName> =
            self.groups.iter().filter(|(_, group)| idle(group)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let unsettled = self.drop_group(&name).unwrap_or_default();
            tracing::warn!(group = %name, unsettled, "a group without members was dropped");
        }
    }

    /// One group has settled it.
    pub(super) fn settled(&mut self, number: u64) {
        if let Some(kept) = self.kept.get_mut(&number) {
            kept.unsettled = kept.unsettled.saturating_sub(1);
            if kept.unsettled == 0 {
                self.free.insert(number);
            }
        }
    }

    pub(super) fn kept(&mut self, number: u64) -> Option<&mut Kept> {
        self.kept.get_mut(&number)
    }

    pub(super) fn events_of(&self, action: &ActionId) -> impl Iterator<Item = u64> + '_ {
        self.by_action.get(action).into_iter().flatten().copied()
    }

    /// Marks an action up to now, and makes what is due later ready at once.
    pub(super) fn cancel(&mut self, now: Instant, action: &ActionId) -> Position {
        self.marks.insert(action.clone(), (self.last, now));
        let covered: Vec<u64> =
            self.events_of(action).filter(|number| self.mark(*number) == Mark::Cancelled).collect();
        for group in self.groups.values_mut() {
            for number in &covered {
                group.hurry(*number);
            }
        }
        position(self.last)
    }

    /// Whether a mark covers the event: its chain began up to it. A replay is a chain of its own.
    pub(super) fn is_cancelled(&self, number: u64, event: &Event) -> bool {
        let Some((mark, _)) = self.marks.get(&event.action_id) else { return false };
        let began = match &event.origin {
            Some(origin) if event.replay_of.is_none() => number_of(&origin.root_position).unwrap_or(number),
            _ => number,
        };
        began <= *mark
    }

    pub(super) fn mark(&self, number: u64) -> Mark {
        match self.kept.get(&number) {
            Some(kept) if self.is_cancelled(number, &kept.event) => Mark::Cancelled,
            _ => Mark::None,
        }
    }

    /// Room for one more dead letter.
    pub(super) fn bury(&mut self, now: Instant, letter: DeadLetter) -> Result<()> {
        self.make_room(now, letter.bytes.len())?;
        self.bytes += letter.bytes.len();
        self.dead.push_back(letter);
        Ok(())
    }

    pub(super) fn unbury(&mut self, index: usize) {
        if let Some(letter) = self.dead.remove(index) {
            self.bytes = self.bytes.saturating_sub(letter.bytes.len());
        }
    }

    /// Forgets what every group has settled: what is too old, and as much as the new one needs.
    fn make_room(&mut self, now: Instant, bytes: usize) -> Result<()> {
        while let Some(number) = self.free.first().copied() {
            let old = self
                .kept
                .get(&number)
                .is_none_or(|kept| now.duration_since(kept.since) >= self.limits.retention);
            if !old && self.fits(bytes) {
                return Ok(());
            }
            self.forget(number);
        }
        if self.fits(bytes) {
            return Ok(());
        }
        self.drop_idle_groups(now);
        while !self.fits(bytes)
            && let Some(number) = self.free.first().copied()
        {
            self.forget(number);
        }
        if self.fits(bytes) {
            return Ok(());
        }
        let holding = self.groups.iter().max_by_key(|(_, group)| group.len());
        Err(Error::new(ErrorKind::Full, "publish: the broker keeps as much as it may")
            .with("held back by group", holding.map_or("none", |(name, _)| name.as_str()))
            .with("events", self.kept.len())
            .with("dead letters", self.dead.len()))
    }

    fn fits(&self, bytes: usize) -> bool {
        self.kept.len() + self.dead.len() < self.limits.events
            && self.bytes.saturating_add(bytes) <= self.limits.bytes
    }

    fn forget(&mut self, number: u64) {
        self.free.remove(&number);
        let Some(kept) = self.kept.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.ids.remove(&kept.event.id);
        let action = &kept.event.action_id;
        let Some(numbers) = self.by_action.get_mut(action) else { return };
        numbers.remove(&number);
        if numbers.is_empty() {
            self.by_action.remove(action);
            // A chain that began before the mark may still go on: the mark stays as long as an event would.
            let retention = self.limits.retention;
            if self.marks.get(action).is_some_and(|(_, when)| when.elapsed() >= retention) {
                self.marks.remove(action);
            }
        }
    }
}

/// The actions that the patterns name, where each names one literally.
fn literal_actions(patterns: &[Pattern]) -> Option<Vec<String>> {
    let mut actions = patterns.iter().map(Pattern::literal_action).collect::<Option<Vec<_>>>()?;
    actions.sort();
    actions.dedup();
    Some(actions)
}

pub(super) fn position(number: u64) -> Position {
    Position::new(number.to_string())
}

pub(super) fn number_of(position: &Position) -> Result<u64> {
    position.as_str().parse().map_err(|e| {
        Error::invalid("this is no position of this broker").with("position", position).with_source(e)
    })
}

/// The instant at which the wall clock will show this time; `None` where it is past.
pub(super) fn until(now: Instant, at: Timestamp) -> Option<Instant> {
    let micros = at.as_micros().saturating_sub(Timestamp::now().as_micros());
    u64::try_from(micros)
        .ok()
        .filter(|micros| *micros > 0)
        .and_then(|m| now.checked_add(Duration::from_micros(m)))
}
