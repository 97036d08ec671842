//! Events as CloudEvents: what is written is read back as it was, and what is read says the same when written again.
#![no_main]

use libfuzzer_sys::arbitrary::{Arbitrary, Result as Made, Unstructured};
use libfuzzer_sys::fuzz_target;
use pubsub_core::{
    ActionId, Event, EventId, EventType, MAX_ID_BYTES, Origin, Payload, Position, Role, Stage, Timestamp,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = Event::from_cloud_event(bytes) {
        let id = |text: &str| (1..=MAX_ID_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        assert!(id(event.id.as_str()) && id(event.event_type.as_str()) && id(event.action_id.as_str()));
        comes_back(&event);
    }
    if let Ok(payload) = String::from_utf8_lossy(bytes).parse::<Payload>() {
        comes_back(
            &Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap()).with_payload(payload),
        );
    }
    if let Ok(Some(event)) = made(&mut Unstructured::new(bytes)) {
        comes_back(&event);
    }
});

fn comes_back(event: &Event) {
    let text = event.to_cloud_event().unwrap();
    let read = Event::from_cloud_event(text.as_bytes());
    assert_eq!(read.as_ref().ok(), Some(event), "{text}: {read:?}");
    assert_eq!(read.unwrap().to_cloud_event().unwrap(), text);
}

fn made(from: &mut Unstructured<'_>) -> Made<Option<Event>> {
    let texts: [String; 8] = Arbitrary::arbitrary(from)?;
    let [id, event_type, action, source, payload, stage, cause, root] = &texts;
    let (Ok(id), Ok(event_type), Ok(action)) =
        (EventId::new(id), EventType::new(event_type), ActionId::new(action))
    else {
        return Ok(None);
    };
    let mut event = Event::new(event_type, action).with_id(id);
    event.payload = payload.parse().or_else(|_| Payload::from_value(payload)).unwrap();
    event.source.clone_from(source);
    event.headers = Arbitrary::arbitrary(from)?;
    event.time = Timestamp::from_micros(from.arbitrary()?);
    event.deliver_at = Option::<i64>::arbitrary(from)?.map(Timestamp::from_micros);
    event.replay_of = EventId::new(cause).ok().filter(|_| from.arbitrary().unwrap_or(false));
    if let (Ok(stage), Ok(cause), Ok(root)) = (Stage::new(stage), EventId::new(cause), EventId::new(root)) {
        let root_position = Position::new(String::arbitrary(from)?);
        event.origin =
            Some(Origin { role: Role::Outcome, stage, cause, root, root_position, links: from.arbitrary()? });
    }
    Ok(Some(event))
}
