//! Names of ids: reversible, never two on one, never out of their folder.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use pubsub_core::name::{MAX_NAME_BYTES, decode, encode};
use pubsub_core::{ActionId, EventId, MAX_ID_BYTES, RunId, Stage};

fuzz_target!(|texts: (&str, &str, u32)| {
    let (a, b, attempt) = texts;
    for text in [a, b] {
        an_id_is_taken_by_its_rule(text);
        a_name_is_harmless_and_comes_back(text);
        if let Some(id) = decode(text) {
            assert_eq!(encode(&id), text, "a name that was never made was read");
        }
        if let Ok(run) = RunId::new(text) {
            assert_eq!((run.as_str(), encode(text).as_str()), (text, text));
        }
    }
    if a != b && !a.is_empty() && !b.is_empty() {
        assert_ne!(encode(a).to_lowercase(), encode(b).to_lowercase(), "two ids meet on one name");
    }
    runs_differ(a, b, attempt);
});

fn an_id_is_taken_by_its_rule(text: &str) {
    let fits = (1..=MAX_ID_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    let id = ActionId::new(text);
    assert_eq!(id.is_ok(), fits, "{text:?}");
    let json = serde_json::to_string(text).unwrap();
    let read: Result<ActionId, _> = serde_json::from_str(&json);
    assert_eq!(read.ok(), id.ok());
}

fn a_name_is_harmless_and_comes_back(text: &str) {
    if text.is_empty() {
        return;
    }
    let name = encode(text);
    assert!((1..=MAX_NAME_BYTES).contains(&name.len()), "{name}");
    assert!(
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.=".contains(&b)),
        "{name}"
    );
    let parts: Vec<_> = Path::new(&name).components().collect();
    assert!(matches!(parts.as_slice(), [Component::Normal(part)] if *part == name.as_str()), "{name}");
    assert!(!name.ends_with('.') && !name.starts_with('.'), "{name}");
    match decode(&name) {
        Some(id) => assert_eq!(id, text),
        // Too long to be kept whole.
        None => assert!(name.contains("==") && name.len() > MAX_NAME_BYTES - 40, "{text:?} is lost: {name}"),
    }
}

/// Where the parts are only cut elsewhere, the run is another one.
fn runs_differ(a: &str, b: &str, attempt: u32) {
    let (Ok(event), Ok(stage), attempt) = (EventId::new(a), Stage::new(b), attempt.max(1)) else { return };
    let run = RunId::derived(&event, &stage, attempt);
    assert_eq!(RunId::new(run.as_str()).unwrap(), run);
    let both = format!("{a}{b}");
    for at in (1..both.len()).filter(|at| *at != a.len() && both.is_char_boundary(*at)) {
        let (Ok(event), Ok(stage)) = (EventId::new(&both[..at]), Stage::new(&both[at..])) else { continue };
        assert_ne!(RunId::derived(&event, &stage, attempt), run);
    }
}
