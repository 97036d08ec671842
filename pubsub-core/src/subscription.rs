//! What a subscriber asks for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Event, GroupName, Pattern, Position, Result, Role, Stage};

/// How long a delivery stays its subscriber's without a sign of life, unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);

/// Shortest and longest lease.
pub const LEASE_LIMITS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(24 * 60 * 60));

/// A durable subscription: one name, one set of patterns, one lease length and one stage, shared by its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What it is called.
    pub name: GroupName,
    /// The work that is done at its events; without one there are no claims and no runs.
    pub stage: Option<Stage>,
    /// How long a delivery stays a member's without a sign of life.
    pub lease: Duration,
}

/// Where a subscription starts. For a group this counts only when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// At the earliest event kept.
    #[default]
    Earliest,
    /// After what is there now.
    Latest,
    /// After this position.
    After(Position),
}

/// What a subscriber asks for.
///
/// ```
/// use pubsub_core::{Stage, Subscription};
/// let subscription = Subscription::for_stage(Stage::new("build")?, ["build-requested:action-123".parse()?])?;
/// assert_eq!(subscription.group().unwrap().name.as_str(), "build@build-requested:action-123");
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    patterns: Vec<Pattern>,
    group: Option<Group>,
    start: StartAt,
    prefetch: usize,
}

/// Most patterns of one subscription.
pub const MAX_PATTERNS: usize = 1000;

impl Subscription {
    /// Each event to this subscriber, at most once, from now on: no group, no lease, no runs.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) without a pattern or with more than [`MAX_PATTERNS`].
    pub fn broadcast(patterns: impl IntoIterator<Item = Pattern>) -> Result<Self> {
        let mut patterns: Vec<Pattern> = patterns.into_iter().collect();
        patterns.sort();
        patterns.dedup();
        if patterns.is_empty() || patterns.len() > MAX_PATTERNS {
            return Err(Error::invalid(format!("a subscription takes 1 to {MAX_PATTERNS} patterns"))
                .with("patterns", patterns.len()));
        }
        Ok(Self { patterns, group: None, start: StartAt::Latest, prefetch: 1 })
    }

    /// A group whose name is made of the stage and the patterns, so that all who do the same work share it.
    ///
    /// # Errors
    /// As for [`broadcast`](Self::broadcast).
    pub fn for_stage(stage: Stage, patterns: impl IntoIterator<Item = Pattern>) -> Result<Self> {
        let plain = Self::broadcast(patterns)?;
        let listed = plain.patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",");
        let name = GroupName::new(format!("{stage}@{listed}")).or_else(|_| {
            let hash = blake3::hash(format!("{stage}@{listed}").as_bytes()).to_hex();
            GroupName::new(format!("{}@{hash}", stage.as_str().chars().take(40).collect::<String>()))
        })?;
        Ok(plain.in_group(Group { name, stage: Some(stage), lease: DEFAULT_LEASE }))
    }

    /// A group with a name of its own.
    ///
    /// # Errors
    /// As for [`broadcast`](Self::broadcast).
    pub fn for_group(name: GroupName, patterns: impl IntoIterator<Item = Pattern>) -> Result<Self> {
        Ok(Self::broadcast(patterns)?.in_group(Group { name, stage: None, lease: DEFAULT_LEASE }))
    }

    fn in_group(mut self, group: Group) -> Self {
        self.group = Some(group);
        self.start = StartAt::Earliest;
        self
    }

    /// With another group name; nothing changes without a group.
    #[must_use]
    pub fn with_group_name(mut self, name: GroupName) -> Self {
        if let Some(group) = &mut self.group {
            group.name = name;
        }
        self
    }

    /// With a stage; nothing changes without a group.
    #[must_use]
    pub fn with_stage(mut self, stage: Stage) -> Self {
        if let Some(group) = &mut self.group {
            group.stage = Some(stage);
        }
        self
    }

    /// With another lease length; nothing changes without a group.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) outside [`LEASE_LIMITS`].
    pub fn with_lease(mut self, lease: Duration) -> Result<Self> {
        if lease < LEASE_LIMITS.0 || lease > LEASE_LIMITS.1 {
            return Err(Error::invalid("a lease takes 100 ms to 24 h").with("lease", format!("{lease:?}")));
        }
        if let Some(group) = &mut self.group {
            group.lease = lease;
        }
        Ok(self)
    }

    /// With another place to start.
    #[must_use]
    pub fn with_start(mut self, start: StartAt) -> Self {
        self.start = start;
        self
    }

    /// With so many deliveries taken in advance, at least 1; what is taken is leased and waits for the subscriber.
    #[must_use]
    pub fn with_prefetch(mut self, deliveries: usize) -> Self {
        self.prefetch = deliveries.clamp(1, MAX_PREFETCH);
        self
    }

    /// Sorted, each once.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// The group, where there is one.
    #[must_use]
    pub const fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Where it starts.
    #[must_use]
    pub const fn start(&self) -> &StartAt {
        &self.start
    }

    /// How many deliveries are taken in advance.
    #[must_use]
    pub const fn prefetch(&self) -> usize {
        self.prefetch
    }

    /// Whether an event is one of this subscription's: the one rule that every broker applies.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        wants(&self.patterns, self.group.as_ref().and_then(|group| group.stage.as_ref()), event)
    }
}

/// Most deliveries that are taken in advance.
pub const MAX_PREFETCH: usize = 10_000;

/// Whether an event is for a subscription with these patterns and this stage.
///
/// A pattern matches an event that the library made only where its type side fixes at least one character, and a stage
/// never receives its own outcome.
#[must_use]
pub fn wants(patterns: &[Pattern], stage: Option<&Stage>, event: &Event) -> bool {
    if let Some(origin) = &event.origin
        && origin.role == Role::Outcome
        && Some(&origin.stage) == stage
    {
        return false;
    }
    patterns.iter().any(|pattern| {
        (event.origin.is_none() || pattern.fixes_type())
            && pattern.matches(&event.event_type, &event.action_id)
    })
}

#[cfg(test)]
mod tests {
    use super::Subscription;
    use crate::{ActionId, Event, EventId, EventType, GroupName, Origin, Position, Role, Stage};

    #[test]
    fn events_of_the_library_need_a_fixed_character_and_never_reach_their_own_stage() {
        let stage = Stage::new("build").unwrap();
        let mut event = Event::new(EventType::new("build-completed").unwrap(), ActionId::new("a").unwrap());
        let on = |pattern: &str, stage: &str| {
            Subscription::for_stage(Stage::new(stage).unwrap(), [pattern.parse().unwrap()]).unwrap()
        };
        assert!(on("*:a", "build").wants(&event), "an event of the user's, whatever its type");
        event.origin = Some(Origin {
            role: Role::Outcome,
            stage,
            cause: EventId::new("c").unwrap(),
            root: EventId::new("c").unwrap(),
            root_position: Position::new("1"),
            links: 1,
        });
        assert!(!on("*:a", "deploy").wants(&event));
        assert!(!on("???????????????:a", "deploy").wants(&event));
        assert!(on("*-completed:a", "deploy").wants(&event));
        assert!(!on("*-completed:a", "build").wants(&event));
    }

    #[test]
    fn group_names_are_made_of_stage_and_patterns_in_any_order_and_fit() {
        let of = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|p| p.parse().unwrap());
            Subscription::for_stage(Stage::new("s").unwrap(), patterns).unwrap().group().unwrap().name.clone()
        };
        assert_eq!(of(&["b:*", "a:*", "b:*"]), of(&["a:*", "b:*"]));
        let long = "x".repeat(250);
        assert_ne!(of(&[&format!("a:{long}1")]), of(&[&format!("a:{long}2")]));
        assert!(GroupName::new(of(&[&format!("a:{long}1")]).as_str()).is_ok());
    }
}
