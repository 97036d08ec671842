//! What the broker in memory keeps: events with their claims, groups, cancel marks and dead letters.

mod retention;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

pub use retention::MemoryLimits;

use super::group::GroupState;
use crate::{
    ActionId, Claim, DeadLetter, Error, Event, EventId, GroupName, Mark, Novelty, Pattern, Position,
    Published, Result, Stage, StartAt, Subscription, Timestamp, wants,
};

/// One event that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) event: Event,
    /// For one group alone: a replay.
    only: Option<GroupName>,
    due: Option<Instant>,
    /// From when on its age counts: its publish, or when it is due.
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

/// A dead letter, and since when it is one.
#[derive(Debug)]
pub(super) struct Buried {
    pub(super) letter: DeadLetter,
    since: Instant,
}

/// All that handles to one broker share.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) groups: HashMap<GroupName, GroupState>,
    pub(super) dead: VecDeque<Buried>,
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
    /// Events that every group has settled, oldest first.
    free: BTreeSet<(Instant, u64)>,
    marks: HashMap<ActionId, (u64, Instant)>,
    /// When groups without members are looked for again: asking each at each publish would cost too much.
    next_idle_look: Instant,
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
            next_idle_look: Instant::now(),
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
        self.drop_old(now);
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
        let since = due.unwrap_or(now);
        let mut kept = Kept { event, only, due, since, bytes, unsettled: 0, claims: Vec::new() };
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
            self.free.insert((since, number));
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
        self.drop_old(now);
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
                self.free.remove(&(kept.since, number));
            }
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

    /// Drops a group with all that it has not settled.
    pub(super) fn drop_group(&mut self, name: &GroupName) {
        let Some(group) = self.groups.remove(name) else { return };
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
    }

    /// One group has settled it.
    pub(super) fn settled(&mut self, number: u64) {
        if let Some(kept) = self.kept.get_mut(&number) {
            kept.unsettled = kept.unsettled.saturating_sub(1);
            if kept.unsettled == 0 {
                self.free.insert((kept.since, number));
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
