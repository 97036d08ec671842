//! Finds those whose patterns may match an event without asking each of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{Event, Pattern};

/// Values by their patterns: for a broker that has many subscriptions in one process.
///
/// A value is looked up by what all of its patterns fix of the action, or of the type: the whole, or how it begins. It is
/// found by the side at which fewer others are; one whose patterns fix the beginning of neither is asked at every event.
///
/// ```
/// use pubsub_core::{ActionId, ByPattern, Event, EventType};
/// let mut all = ByPattern::default();
/// all.add(&["build-*:action-123".parse()?], "one", |_| true);
/// all.add(&["build-*:team-7/*".parse()?], "two", |_| true);
/// let event = Event::new(EventType::new("build-requested")?, ActionId::new("team-7/web")?);
/// assert_eq!(all.may_match(&event).collect::<Vec<_>>(), [&"two"]);
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Debug)]
pub struct ByPattern<T> {
    values: Vec<(Vec<Pattern>, T)>,
    by_action: Side,
    by_type: Side,
    rest: Vec<usize>,
    /// At how many values those that are of no more use are next looked for.
    full: usize,
}

/// Fewest values at which those of no more use are looked for.
const FEW: usize = 16;

impl<T> Default for ByPattern<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            by_action: Side::default(),
            by_type: Side::default(),
            rest: Vec::new(),
            full: FEW,
        }
    }
}

impl<T> ByPattern<T> {
    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All of them, in the order in which they were added.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(|(_, value)| value)
    }

    /// Adds one. Before there would be too many, leaves out those that are of no more use, so that there are at most twice as
    /// many as there have to be.
    pub fn add(&mut self, patterns: &[Pattern], value: T, is_of_use: impl Fn(&T) -> bool) {
        if self.values.len() >= self.full {
            let before = std::mem::take(&mut self.values);
            *self = Self::default();
            for (patterns, value) in before.into_iter().filter(|(_, value)| is_of_use(value)) {
                self.enter(patterns, value);
            }
            self.full = FEW.max(2 * self.values.len());
        }
        self.enter(patterns.to_vec(), value);
    }

    fn enter(&mut self, patterns: Vec<Pattern>, value: T) {
        let at = self.values.len();
        let action = Keys::of(&patterns, Pattern::literal_action, |pattern| pattern.action_ends().0);
        let name = Keys::of(&patterns, Pattern::literal_type, |pattern| pattern.type_ends().0);
        match (action, name) {
            (Some(action), Some(name)) if self.by_type.crowd(&name) < self.by_action.crowd(&action) => {
                self.by_type.enter(name, at);
            }
            (Some(action), _) => self.by_action.enter(action, at),
            (None, Some(name)) => self.by_type.enter(name, at),
            (None, None) => self.rest.push(at),
        }
        self.values.push((patterns, value));
    }

    /// Those that may match, each once. Whether they do is for their patterns to say.
    pub fn may_match(&self, event: &Event) -> impl Iterator<Item = &T> {
        let by_action = self.by_action.find(event.action_id.as_str());
        let places = by_action.chain(self.by_type.find(event.event_type.as_str())).chain(&self.rest);
        places.filter_map(|at| self.values.get(*at).map(|(_, value)| value))
    }
}

/// What the patterns of a value fix of one side. A text is at most one of them, or begins with at most one.
enum Keys {
    Wholes(BTreeSet<String>),
    Beginnings(BTreeSet<String>),
}

impl Keys {
    fn of(
        patterns: &[Pattern],
        whole: impl Fn(&Pattern) -> Option<String>,
        beginning: impl Fn(&Pattern) -> String,
    ) -> Option<Self> {
        if let Some(wholes) = patterns.iter().map(whole).collect() {
            return Some(Self::Wholes(wholes));
        }
        let all: BTreeSet<String> = patterns.iter().map(beginning).collect();
        let mut kept = BTreeSet::new();
        // In this order a text comes after what it begins with.
        let mut last: Option<&str> = None;
        for text in &all {
            if text.is_empty() {
                return None;
            }
            if last.is_none_or(|last| !text.starts_with(last)) {
                kept.insert(text.clone());
                last = Some(text);
            }
        }
        Some(Self::Beginnings(kept))
    }
}

type Places = HashMap<String, Vec<usize>>;

/// An index of one side.
#[derive(Debug, Default)]
struct Side {
    wholes: Places,
    /// By their length in bytes.
    beginnings: BTreeMap<usize, Places>,
}

impl Side {
    fn enter(&mut self, keys: Keys, at: usize) {
        match keys {
            Keys::Wholes(keys) => {
                keys.into_iter().for_each(|key| self.wholes.entry(key).or_default().push(at));
            }
            Keys::Beginnings(keys) => {
                for key in keys {
                    self.beginnings.entry(key.len()).or_default().entry(key).or_default().push(at);
                }
            }
        }
    }

    /// Most values at one of these.
    fn crowd(&self, keys: &Keys) -> usize {
        let many =
            |places: Option<&Places>, key: &String| places.and_then(|all| all.get(key)).map_or(0, Vec::len);
        let crowds =
            |keys: &BTreeSet<String>, at: &dyn Fn(&String) -> usize| keys.iter().map(at).max().unwrap_or(0);
        match keys {
            Keys::Wholes(keys) => crowds(keys, &|key| many(Some(&self.wholes), key)),
            Keys::Beginnings(keys) => crowds(keys, &|key| many(self.beginnings.get(&key.len()), key)),
        }
    }

    fn find(&self, text: &str) -> impl Iterator<Item = &usize> {
        let whole = self.wholes.get(text);
        let beginnings =
            self.beginnings.iter().filter_map(move |(length, places)| places.get(text.get(..*length)?));
        whole.into_iter().chain(beginnings).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{ByPattern, FEW};
    use crate::{ActionId, Event, EventType, Pattern};

    fn event(name: &str, action: &str) -> Event {
        Event::new(EventType::new(name).unwrap(), ActionId::new(action).unwrap())
    }

    proptest! {
        #[test]
        fn whatever_matches_is_found_once(
            all in proptest::collection::vec(proptest::collection::vec("[ab*?]{1,2}:[ab*?]{1,2}", 1..4), 1..50),
            name in "[ab]{1,2}", action in "[ab]{1,2}",
        ) {
            let mut index = ByPattern::default();
            let all: Vec<Vec<Pattern>> = all
                .iter()
                .map(|patterns| patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
                .collect();
            for (number, patterns) in all.iter().enumerate() {
                index.add(patterns, number, |_| true);
            }
            let event = event(&name, &action);
            let mut found: Vec<usize> = index.may_match(&event).copied().collect();
            let many = found.len();
            found.sort_unstable();
            found.dedup();
            prop_assert_eq!(found.len(), many);
            for (number, patterns) in all.iter().enumerate() {
                let matches = patterns.iter().any(|pattern| pattern.matches(&event.event_type, &event.action_id));
                prop_assert!(!matches || found.contains(&number), "{:?}", patterns);
            }
        }
    }

    #[test]
    fn ten_thousand_that_name_their_action_are_not_asked() {
        let mut index = ByPattern::default();
        for number in 0..10_000 {
            index.add(&[format!("build-*:action-{number}").parse().unwrap()], number, |_| true);
        }
        assert_eq!(index.may_match(&event("build-requested", "action-77")).collect::<Vec<_>>(), [&77]);
    }

    #[test]
    fn ten_thousand_of_patterns_that_fix_how_one_side_begins_are_not_asked() {
        for (pattern, name, action) in [
            ("build:team-{}/*", "build", "team-77/web"),
            ("build-*:team-{}/*", "build-requested", "team-77/web"),
            ("build-{}-*:team-*", "build-77-requested", "team-1"),
            ("build-{}-*:web", "build-77-requested", "web"),
            ("build-{}:*", "build-77", "web"),
        ] {
            let mut index = ByPattern::default();
            for number in 0..10_000 {
                index.add(&[pattern.replace("{}", &number.to_string()).parse().unwrap()], number, |_| true);
            }
            let event = event(name, action);
            let asked = index.may_match(&event).collect::<Vec<_>>();
            assert!(asked.contains(&&77) && asked.len() <= 2, "{pattern}: {asked:?}");
        }
    }

    #[test]
    fn what_is_of_no_more_use_is_left_out_before_there_are_twice_as_many() {
        let mut index = ByPattern::default();
        for number in 0..10_000 {
            index.add(&["t:a".parse().unwrap()], number, |old| old + 10 >= number);
            assert!(index.values.len() <= 2 * FEW, "{}", index.values.len());
        }
        assert!(index.may_match(&event("t", "a")).any(|number| *number == 9_999));
    }
}
