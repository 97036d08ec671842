//! The events that a conclusion leads to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Conclusion, Event, EventId, EventType, MAX_LINKS, Origin, Outcome, Payload, Position, Result, Role,
    RunId, Stage,
};

/// The payload of `<stage>-completed`.
#[derive(Debug, Serialize, Deserialize)]
struct Completed {
    stage: Stage,
    run_id: RunId,
    outcome: Option<Outcome>,
    code: Option<i32>,
    continues: bool,
}

/// The payload of the next stage's event: what began the chain, what its stages wrote so far, and how the last ended.
#[derive(Debug, Serialize, Deserialize)]
struct Next {
    payload: Box<RawValue>,
    values: BTreeMap<String, String>,
    outcome: Option<Outcome>,
}

/// Whether the events of a conclusion would be one link too many for a chain.
pub(super) fn chain_is_full(event: &Event) -> bool {
    event.origin.as_ref().is_some_and(|origin| origin.links >= MAX_LINKS)
}

/// The events of a conclusion: their ids derive from event and stage, so that making them again makes the same.
pub(super) fn events(
    event: &Event,
    position: &Position,
    conclusion: &Conclusion,
    then: Option<&EventType>,
) -> Result<Vec<Event>> {
    let record = &conclusion.record;
    let stage = &record.key.stage;
    let continues = record.continues == Some(true);
    let completed = Completed {
        stage: stage.clone(),
        run_id: record.key.run_id.clone(),
        outcome: record.outcome,
        code: record.code,
        continues,
    };
    let kind = completed_type(stage)?;
    let mut events =
        vec![made(event, position, stage, Role::Outcome, kind, Payload::from_value(&completed)?)];
    if let Some(then) = then.filter(|_| continues) {
        let payload = next_payload(event, conclusion)?;
        events.push(made(event, position, stage, Role::Next, then.clone(), payload));
    }
    Ok(events)
}

/// `<stage>-completed`; a stage that is too long for that is cut, and a hash keeps it apart from others.
fn completed_type(stage: &Stage) -> Result<EventType> {
    EventType::new(format!("{stage}-completed")).or_else(|_| {
        let start: String = stage.as_str().chars().take(40).collect();
        let hash = blake3::hash(stage.as_str().as_bytes()).to_hex();
        EventType::new(format!("{start}-{hash}-completed"))
    })
}

fn next_payload(event: &Event, conclusion: &Conclusion) -> Result<Payload> {
    let is_next = event.origin.as_ref().is_some_and(|origin| origin.role == Role::Next);
    // Along a chain the first payload stays what it was, and values add up; a later stage's win.
    let before: Option<Next> = if is_next { event.payload.parse_as().ok() } else { None };
    let mut next = match before {
        Some(before) => before,
        None => Next { payload: event.payload.parse_as()?, values: BTreeMap::new(), outcome: None },
    };
    next.values.extend(conclusion.values.clone());
    next.outcome = conclusion.record.outcome;
    Payload::from_value(&next)
}

fn made(
    event: &Event,
    position: &Position,
    stage: &Stage,
    role: Role,
    kind: EventType,
    payload: Payload,
) -> Event {
    let before = event.origin.as_ref();
    let origin = Origin {
        role,
        stage: stage.clone(),
        cause: event.id.clone(),
        root: before.map_or_else(|| event.id.clone(), |origin| origin.root.clone()),
        root_position: before.map_or_else(|| position.clone(), |origin| origin.root_position.clone()),
        links: before.map_or(0, |origin| origin.links) + 1,
    };
    let id = EventId::derived(&event.id, stage, if role == Role::Outcome { "outcome" } else { "next" });
    let mut made = Event::identified(id, kind, event.action_id.clone()).with_payload(payload);
    made.origin = Some(origin);
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = event.headers.get(name) {
            made.headers.insert(name.to_owned(), value.clone());
        }
    }
    made
}
