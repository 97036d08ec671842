//! Finds those whose patterns may match an event without asking each of them.

use std::collections::{BTreeSet, HashMap};

use crate::{Event, Pattern};

/// Values by their patterns. One whose patterns all name their action, or all name their type, is looked up by that; the
/// others are asked at every event.
pub(super) struct ByPattern<T> {
    values: Vec<(Vec<Pattern>, T)>,
    by_action: HashMap<String, Vec<usize>>,
    by_type: HashMap<String, Vec<usize>>,
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
            by_action: HashMap::new(),
            by_type: HashMap::new(),
            rest: Vec::new(),
            full: FEW,
        }
    }
}

impl<T> ByPattern<T> {
    pub(super) const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds one. Before there would be too many, leaves out those that are of no more use, so that there are at most twice as
    /// many as there have to be.
    pub(super) fn add(&mut self, patterns: &[Pattern], value: T, is_of_use: impl Fn(&T) -> bool) {
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
        let names = |name: fn(&Pattern) -> Option<String>| {
            patterns.iter().map(name).collect::<Option<BTreeSet<String>>>()
        };
        if let Some(actions) = names(Pattern::literal_action) {
            actions.into_iter().for_each(|action| self.by_action.entry(action).or_default().push(at));
        } else if let Some(types) = names(Pattern::literal_type) {
            types.into_iter().for_each(|name| self.by_type.entry(name).or_default().push(at));
        } else {
            self.rest.push(at);
        }
        self.values.push((patterns, value));
    }

    /// Those that may match, each once. Whether they do is for their patterns to say.
    pub(super) fn may_match(&self, event: &Event) -> impl Iterator<Item = &T> {
        let named = [
            self.by_action.get(event.action_id.as_str()),
            self.by_type.get(event.event_type.as_str()),
            Some(&self.rest),
        ];
        let places = named.into_iter().flatten().flatten();
        places.filter_map(|at| self.values.get(*at).map(|(_, value)| value))
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
    fn what_is_of_no_more_use_is_left_out_before_there_are_twice_as_many() {
        let mut index = ByPattern::default();
        for number in 0..10_000 {
            index.add(&["t:a".parse().unwrap()], number, |old| old + 10 >= number);
            assert!(index.values.len() <= 2 * FEW, "{}", index.values.len());
        }
        assert!(index.may_match(&event("t", "a")).any(|number| *number == 9_999));
    }
}
