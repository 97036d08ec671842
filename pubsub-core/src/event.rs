//! Events: plain data that says what happened or is wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ActionId, EventId, EventType, Payload, Stage, Timestamp};

/// Free texts that travel with an event, such as `traceparent`.
pub type Headers = BTreeMap<String, String>;

/// Longest chain of events that the library makes out of each other; what would be one more goes to dead letters.
pub const MAX_LINKS: u32 = 64;

/// One event.
///
/// ```
/// use pubsub_core::{ActionId, Event, EventType};
/// let event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)
///     .with_payload(r#"{"branch":"main"}"#.parse()?);
/// assert_eq!(event.payload.as_str(), r#"{"branch":"main"}"#);
/// # Ok::<(), pubsub_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique; an id that the caller chose makes publishing it twice within the dedupe window one event.
    pub id: EventId,
    /// What happened or is wanted.
    pub event_type: EventType,
    /// What it is about.
    pub action_id: ActionId,
    /// JSON.
    pub payload: Payload,
    /// When it was made, by the maker's wall clock.
    pub time: Timestamp,
    /// Who made it: a URI reference, as CloudEvents asks for.
    pub source: String,
    /// Free texts.
    pub headers: Headers,
    /// Not to be delivered before.
    pub deliver_at: Option<Timestamp>,
    /// Set on events that the library made.
    pub origin: Option<Origin>,
    /// The event that this one repeats for one group.
    pub replay_of: Option<EventId>,
}

/// The `source` of events that name none.
pub const DEFAULT_SOURCE: &str = "/pubsub-pipeline";

impl Event {
    /// An event of now with a new id and payload `null`.
    #[must_use]
    pub fn new(event_type: EventType, action_id: ActionId) -> Self {
        Self::identified(EventId::generate(), event_type, action_id)
    }

    /// As [`new`](Self::new), where the id is known: none is drawn.
    pub(crate) fn identified(id: EventId, event_type: EventType, action_id: ActionId) -> Self {
        Self {
            id,
            event_type,
            action_id,
            payload: Payload::null(),
            time: Timestamp::now(),
            source: DEFAULT_SOURCE.to_owned(),
            headers: Headers::new(),
            deliver_at: None,
            origin: None,
            replay_of: None,
        }
    }

    /// With an id that the caller chose.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// With a payload.
    #[must_use]
    pub fn with_payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Not to be delivered before this time.
    #[must_use]
    pub fn with_deliver_at(mut self, time: Timestamp) -> Self {
        self.deliver_at = Some(time);
        self
    }
}

/// Where an event that the library made comes from. Its presence is the mark of such events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Which of the two kinds it is.
    pub role: Role,
    /// The stage whose conclusion it tells.
    pub stage: Stage,
    /// The event at which that stage worked.
    pub cause: EventId,
    /// The event that began the chain.
    pub root: EventId,
    /// Where the broker had the event that began the chain: a cancel covers chains that began before it.
    pub root_position: Position,
    /// How many events the library made in a row up to this one: 1, 2, 3 …
    pub links: u32,
}

/// The kinds of events that the library makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `<stage>-completed`: how the work ended.
    Outcome,
    /// What the stage names with `then`.
    Next,
}

/// Where an event stands in its broker: text that only the broker reads, and that it alone can compare.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(Arc<str>);

impl Position {
    /// A position as the broker writes it.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
