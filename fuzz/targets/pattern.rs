//! Patterns: what is written is read back, and the matcher agrees with one that tries everything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pubsub_core::{ActionId, EventType, MAX_PATTERN_BYTES, Pattern};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let [pattern, event_type, action] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let ids = EventType::new(event_type).ok().zip(ActionId::new(action).ok());
    let parsed = Pattern::new(pattern);
    assert_eq!(parsed.is_ok(), sides(pattern).is_some(), "{pattern:?}");
    if let Ok(parsed) = &parsed {
        assert_eq!(parsed.to_string(), pattern);
        assert_eq!(&parsed.to_string().parse::<Pattern>().unwrap(), parsed);
        let json = serde_json::to_string(parsed).unwrap();
        assert_eq!(&serde_json::from_str::<Pattern>(&json).unwrap(), parsed);
    }
    let Some((event_type, action)) = ids else { return };
    if let (Ok(parsed), Some([on_type, on_action])) = (&parsed, sides(pattern)) {
        let action_matches = matches(&on_action, action.as_str());
        assert_eq!(parsed.matches_action(&action), action_matches, "{parsed:?} {action:?}");
        let both = matches(&on_type, event_type.as_str()) && action_matches;
        assert_eq!(parsed.matches(&event_type, &action), both, "{parsed:?} {event_type:?} {action:?}");
        if let Some(only) = parsed.literal_action() {
            assert_eq!(action_matches, only == action.as_str());
        }
    }
    let literal = Pattern::literal(&event_type, &action);
    assert!(literal.as_str().len() <= MAX_PATTERN_BYTES && literal.matches(&event_type, &action));
    assert_eq!(Pattern::new(literal.as_str()).unwrap(), literal);
    assert_eq!(literal.literal_action().as_deref(), Some(action.as_str()));
    assert_eq!(literal.literal_type().as_deref(), Some(event_type.as_str()));
});

/// The characters of a side, each with whether it is taken literally.
type Side = Vec<(char, bool)>;

/// `None` for what is no pattern.
fn sides(text: &str) -> Option<[Side; 2]> {
    if text.len() > MAX_PATTERN_BYTES || text.chars().any(char::is_control) {
        return None;
    }
    let (mut all, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        all.push(if c == '\\' { (chars.next()?, true) } else { (c, false) });
    }
    let colon = all.iter().position(|c| *c == (':', false))?;
    let action = all.split_off(colon + 1);
    all.pop();
    (!all.is_empty() && !action.is_empty()).then_some([all, action])
}

/// Which beginnings of the text each beginning of the side matches, in a table.
fn matches(side: &Side, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for (c, literal) in side {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let one_more = at > 0 && row[at - 1];
            next[at] = match (c, literal) {
                ('*', false) => row[at] || (at > 0 && next[at - 1]),
                ('?', false) => one_more,
                _ => one_more && text[at - 1] == *c,
            };
        }
        row = next;
    }
    row[text.len()]
}
