//! What a subscription names: `type:action`, each side literal or with `*` and `?`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ActionId, Error, EventType, Result};

/// Longest pattern, in bytes: both sides written with every character escaped.
pub const MAX_PATTERN_BYTES: usize = 1023;

/// A pattern over event type and action id.
///
/// It is split at its first unescaped colon; `*` is any run of characters (also none), `?` one Unicode scalar,
/// `\` takes the next character literally. The action side may contain further colons.
///
/// ```
/// use pubsub_core::{ActionId, EventType, Pattern};
/// let pattern: Pattern = "build-*:action-123".parse()?;
/// assert!(pattern.matches(&EventType::new("build-requested")?, &ActionId::new("action-123")?));
/// assert!(!pattern.matches(&EventType::new("build-requested")?, &ActionId::new("action-1234")?));
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    event_type: Glob,
    action: Glob,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Glob(Vec<Piece>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Piece {
    Literal(char),
    One,
    Any,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) where the colon or a side is missing, a `\` ends it, or it is too long.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let wrong = |what: &str| {
            Error::invalid(format!(
                "{what}; a pattern is type:action, each side with * and ? and \\ before a literal one"
            ))
            .with("pattern", text.escape_debug())
        };
        if text.len() > MAX_PATTERN_BYTES {
            return Err(Error::invalid(format!(
                "a pattern has at most {MAX_PATTERN_BYTES} bytes, this one {}",
                text.len()
            )));
        }
        if text.chars().any(char::is_control) {
            return Err(wrong("a control character, which no id has"));
        }
        let mut sides = [Vec::new(), Vec::new()];
        let [event_type, action] = &mut sides;
        let mut side = &mut *event_type;
        let mut on_type = true;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    side.push(Piece::Literal(chars.next().ok_or_else(|| wrong("nothing after the last \\"))?))
                }
                ':' if on_type => {
                    side = &mut *action;
                    on_type = false;
                }
                // A run of stars is one star.
                '*' if side.last() == Some(&Piece::Any) => {}
                '*' => side.push(Piece::Any),
                '?' => side.push(Piece::One),
                c => side.push(Piece::Literal(c)),
            }
        }
        let [event_type, action] = sides;
        if on_type {
            return Err(wrong("no colon between type and action"));
        }
        if event_type.is_empty() || action.is_empty() {
            return Err(wrong("an empty side"));
        }
        Ok(Self { text: text.to_owned(), event_type: Glob(event_type), action: Glob(action) })
    }

    /// The pattern that names exactly this type and this action, whatever characters they have.
    #[must_use]
    pub fn literal(event_type: &EventType, action: &ActionId) -> Self {
        let glob = |id: &str| Glob(id.chars().map(Piece::Literal).collect());
        let mut text = escape(event_type.as_str(), true);
        text.push(':');
        text.push_str(&escape(action.as_str(), false));
        Self { text, event_type: glob(event_type.as_str()), action: glob(action.as_str()) }
    }

    /// Whether both sides match.
    #[must_use]
    pub fn matches(&self, event_type: &EventType, action: &ActionId) -> bool {
        self.event_type.matches(event_type.as_str()) && self.action.matches(action.as_str())
    }

    /// Whether the action side matches, whatever the type.
    #[must_use]
    pub fn matches_action(&self, action: &ActionId) -> bool {
        self.action.matches(action.as_str())
    }

    /// The one action id it can match, where its action side is literal: what an index can look up.
    #[must_use]
    pub fn literal_action(&self) -> Option<String> {
        self.action.literal()
    }

    /// The one event type it can match, where its type side is literal.
    #[must_use]
    pub fn literal_type(&self) -> Option<String> {
        self.event_type.literal()
    }

    /// What every event type that it matches begins and ends with: for a broker that passes over what cannot match.
    ///
    /// ```
    /// let pattern: pubsub_core::Pattern = "build-*:?123".parse()?;
    /// assert_eq!(pattern.type_ends(), ("build-".to_owned(), String::new()));
    /// assert_eq!(pattern.action_ends(), (String::new(), "123".to_owned()));
    /// # Ok::<(), pubsub_core::Error>(())
    /// ```
    #[must_use]
    pub fn type_ends(&self) -> (String, String) {
        self.event_type.ends()
    }

    /// As [`type_ends`](Self::type_ends), of the action.
    #[must_use]
    pub fn action_ends(&self) -> (String, String) {
        self.action.ends()
    }

    /// Whether the type side fixes at least one character: only then does it match events that the library made.
    #[must_use]
    pub fn fixes_type(&self) -> bool {
        self.event_type.0.iter().any(|piece| matches!(piece, Piece::Literal(_)))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Writes an id so that a pattern takes it literally.
fn escape(id: &str, colon: bool) -> String {
    let mut text = String::with_capacity(id.len());
    for c in id.chars() {
        if matches!(c, '*' | '?' | '\\') || (colon && c == ':') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

impl Glob {
    /// Goes back only to the last star, so the work is at most pieces × characters.
    fn matches(&self, text: &str) -> bool {
        let mut pieces = self.0.as_slice();
        let mut rest = text.chars();
        let mut star: Option<(&[Piece], std::str::Chars<'_>)> = None;
        loop {
            match (pieces.split_first(), rest.clone().next()) {
                (Some((Piece::Any, after)), _) => {
                    star = Some((after, rest.clone()));
                    pieces = after;
                    continue;
                }
                (Some((Piece::One, after)), Some(_)) => {
                    rest.next();
                    pieces = after;
                    continue;
                }
                (Some((Piece::Literal(want), after)), Some(c)) if *want == c => {
                    rest.next();
                    pieces = after;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((after, from)) = &mut star else { return false };
            if from.next().is_none() {
                return false;
            }
            pieces = after;
            rest = from.clone();
        }
    }

    fn literal(&self) -> Option<String> {
        self.0.iter().map(|piece| piece.literal()).collect()
    }

    fn ends(&self) -> (String, String) {
        let begin = self.0.iter().map_while(|piece| piece.literal()).collect();
        let end: Vec<char> = self.0.iter().rev().map_while(|piece| piece.literal()).collect();
        (begin, end.into_iter().rev().collect())
    }
}

impl Piece {
    const fn literal(self) -> Option<char> {
        match self {
            Self::Literal(c) => Some(c),
            Self::One | Self::Any => None,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;
    use crate::{ActionId, EventType};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_pattern_needs_both_sides() {
        for bad in ["", "build", ":", "build:", ":a", "build\\:a", "build:a\\", "b\u{7}:a"] {
            assert!(Pattern::new(bad).unwrap_err().to_string().contains("a pattern is type:action"), "{bad}");
        }
    }

    /// What the matcher must say, said in the shortest way: try everything.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', after)), _) => {
                model(after, text) || text.split_first().is_some_and(|(_, rest)| model(pattern, rest))
            }
            (Some(('?', after)), Some((_, rest))) => model(after, rest),
            (Some((p, after)), Some((c, rest))) => p == c && model(after, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_its_model(side in "[ab*?]{1,8}", id in "[abé]{1,10}") {
            let pattern = Pattern::new(format!("{side}:{side}")).unwrap();
            let expected = model(&side.chars().collect::<Vec<_>>(), &id.chars().collect::<Vec<_>>());
            prop_assert_eq!(pattern.matches(&EventType::new(&id).unwrap(), &ActionId::new(&id).unwrap()), expected);
        }

        #[test]
        fn every_id_can_be_subscribed_to_literally(t in "\\PC{1,20}", a in "\\PC{1,20}", other in "\\PC{1,20}") {
            let (t, a) = (EventType::new(&t).unwrap(), ActionId::new(&a).unwrap());
            let pattern = Pattern::literal(&t, &a);
            prop_assert_eq!(&Pattern::new(pattern.as_str()).unwrap(), &pattern);
            prop_assert!(pattern.matches(&t, &a));
            let other = ActionId::new(&other).unwrap();
            prop_assert_eq!(pattern.matches(&t, &other), other == a);
            prop_assert_eq!(pattern.literal_action(), Some(a.as_str().to_owned()));
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_one() {
        let pattern = Pattern::new(format!("{}b:*", "*a".repeat(100))).unwrap();
        let text = EventType::new("a".repeat(255)).unwrap();
        assert!(!pattern.matches(&text, &ActionId::new("x").unwrap()));
    }
}
