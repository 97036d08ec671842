//! Which actions are in the index of first events, as far as this process knows: their events need no script.
//!
//! The index goes with all else when a server is emptied, and a publisher that adds plainly does not see that. So each
//! partition's index has a token, which is looked at once a second along with what is published; where it is another, all
//! actions that were published plainly since are indexed again, from the beginning of what is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pubsub_core::ActionId;
use tokio::time::Instant;

/// How long an action counts as indexed. The index is looked through for old actions much less often.
pub(super) const STANDS: Duration = Duration::from_secs(60);

/// How often the token of a partition is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Most actions that are remembered; about 200 bytes each.
const MAX_ACTIONS: usize = 10_000;

#[derive(Default)]
pub(super) struct Indexed(Mutex<State>);

#[derive(Default)]
struct State {
    /// With their partition and when they were indexed.
    actions: HashMap<ActionId, (u16, Instant)>,
    tokens: HashMap<u16, Token>,
}

struct Token {
    text: String,
    looked: Instant,
}

impl Indexed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of these actions are indexed.
    pub(super) fn have<'a>(&self, actions: impl IntoIterator<Item = &'a ActionId>) -> Vec<bool> {
        let (state, now) = (self.lock(), Instant::now());
        let stands = |(_, since): &(u16, Instant)| now.saturating_duration_since(*since) < STANDS;
        actions.into_iter().map(|action| state.actions.get(action).is_some_and(stands)).collect()
    }

    /// Whether it is time to look at the token of a partition.
    pub(super) fn is_to_be_looked_at(&self, n: u16) -> bool {
        self.lock().tokens.get(&n).is_none_or(|token| token.looked.elapsed() >= LOOK)
    }

    /// A script has indexed an action. Answers the actions that have to be indexed again.
    pub(super) fn note(&self, action: &ActionId, n: u16, token: String) -> Vec<ActionId> {
        let lost = self.look(n, token);
        let mut state = self.lock();
        if state.actions.len() >= MAX_ACTIONS {
            state.actions.retain(|_, (_, since)| since.elapsed() < STANDS);
        }
        if state.actions.len() >= MAX_ACTIONS {
            state.actions.clear();
        }
        state.actions.insert(action.clone(), (n, Instant::now()));
        lost
    }

    /// The token of a partition is this. Answers the actions that have to be indexed again: where it was another, what was
    /// indexed before is not any more.
    pub(super) fn look(&self, n: u16, token: String) -> Vec<ActionId> {
        let mut state = self.lock();
        let known = state.tokens.insert(n, Token { text: token.clone(), looked: Instant::now() });
        if known.is_none_or(|known| known.text == token) {
            return Vec::new();
        }
        let lost: Vec<ActionId> =
            state.actions.iter().filter(|(_, (of, _))| *of == n).map(|(action, _)| action.clone()).collect();
        state.actions.retain(|_, (of, _)| *of != n);
        lost
    }
}

#[cfg(test)]
mod tests {
    use pubsub_core::ActionId;

    use super::{Indexed, MAX_ACTIONS, STANDS};

    fn action(id: &str) -> ActionId {
        ActionId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_indexed_stands_for_a_while_and_as_long_as_the_token() {
        let indexed = Indexed::default();
        let has = |action: &ActionId| indexed.have([action]) == [true];
        let (a, b, other) = (action("a"), action("b"), action("other"));
        assert!(indexed.is_to_be_looked_at(1) && !has(&a));
        for (action, n) in [(&a, 1), (&b, 1), (&other, 2)] {
            assert!(indexed.note(action, n, format!("token-{n}")).is_empty());
        }
        assert!(has(&a) && !indexed.is_to_be_looked_at(1));
        assert!(indexed.look(1, "token-1".to_owned()).is_empty());
        let mut lost = indexed.look(1, "another".to_owned());
        lost.sort();
        assert_eq!(lost, [a.clone(), b]);
        assert!(!has(&a) && has(&other), "the other partition has its own");
        tokio::time::advance(STANDS).await;
        assert!(!has(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let indexed = Indexed::default();
        for n in 0..=MAX_ACTIONS {
            indexed.note(&action(&n.to_string()), 0, "token".to_owned());
        }
        assert!(indexed.lock().actions.len() <= MAX_ACTIONS);
    }
}
