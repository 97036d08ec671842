//! A stream read in pages, of each entry only what says whose it is.

use pubsub_core::{
    ActionId, Error, ErrorKind, Event, EventId, EventType, Origin, Pattern, Position, Result, Role, Stage,
    Timestamp, wants,
};
use redis::Value;

use super::scripts::{PAGE, PENDING};
use super::shared::Shared;
use crate::reply::{fixed, items, text};
use crate::script::Request;

/// Entries of a page.
const MANY: usize = 1000;

/// What is known of an entry.
#[derive(Clone, Debug)]
pub(super) struct Brief {
    /// Its id in its stream.
    pub(super) entry: String,
    /// The id of its event.
    pub(super) id: String,
    pub(super) due: Option<Timestamp>,
    /// As much of the event as patterns ask for; `None` where that is none.
    event: Option<Event>,
}

impl Brief {
    fn read(value: Value) -> Result<Self> {
        let [entry, kind, subject, role, stage, due, id] = fixed::<7>(value)?;
        // What is not UTF-8 is no event.
        let lossy = |value: Value| text(value).unwrap_or_default();
        let (kind, subject, role, stage) = (lossy(kind), lossy(subject), lossy(role), lossy(stage));
        Ok(Self {
            entry: text(entry)?,
            id: lossy(id),
            due: lossy(due).parse().ok(),
            event: event(&kind, &subject, &role, &stage).ok(),
        })
    }

    pub(super) fn action(&self) -> Option<&ActionId> {
        self.event.as_ref().map(|event| &event.action_id)
    }

    /// Whether it is a group's; what is no event is nobody's.
    pub(super) fn is_of(&self, patterns: &[Pattern], stage: Option<&Stage>) -> bool {
        self.event.as_ref().is_some_and(|event| wants(patterns, stage, event))
    }

    /// Whether it is no event at all.
    pub(super) const fn is_damaged(&self) -> bool {
        self.event.is_none()
    }
}

fn event(kind: &str, subject: &str, role: &str, stage: &str) -> Result<Event> {
    let mut event = Event::new(EventType::new(kind)?, ActionId::new(subject)?);
    if !role.is_empty() {
        let nobody = EventId::new("-")?;
        event.origin = Some(Origin {
            role: if role == "outcome" { Role::Outcome } else { Role::Next },
            stage: Stage::new(stage)?,
            cause: nobody.clone(),
            root: nobody,
            root_position: Position::new(""),
            links: 1,
        });
    }
    Ok(event)
}

/// Up to the last entry.
pub(super) const END: &str = "+";

/// The entries of a stream after one and up to another, one page; and after which to go on, where there may be more.
pub(super) async fn page(
    shared: &Shared,
    stream: &str,
    (after, to): (&str, &str),
) -> Result<(Vec<Brief>, Option<String>)> {
    one(shared, PAGE.call([stream]).arg(after).arg(to).arg(MANY), after).await
}

/// The first pages of several streams, each after its entry and up to one.
pub(super) async fn pages(
    shared: &Shared,
    streams: &[(&str, String)],
    to: &str,
) -> Result<Vec<(Vec<Brief>, Option<String>)>> {
    let doing = "read pages of events";
    let request = |(stream, after): &(&str, String)| PAGE.call([*stream]).arg(after).arg(to).arg(MANY);
    let requests: Vec<Request> = streams.iter().map(request).collect();
    let answers = shared.commands.all(requests, doing).await?;
    answers.into_iter().zip(streams).map(|(answer, (_, after))| read(answer.get(doing)?, after)).collect()
}

/// As [`page`], of what is pending for a group.
pub(super) async fn pending(
    shared: &Shared,
    (stream, group): (&str, &str),
    after: &str,
) -> Result<(Vec<Brief>, Option<String>)> {
    one(shared, PENDING.call([stream]).arg(group).arg(after).arg(MANY), after).await
}

async fn one(shared: &Shared, request: Request, after: &str) -> Result<(Vec<Brief>, Option<String>)> {
    read(shared.commands.one(request, "read a page of events").await?, after)
}

fn read(value: Value, after: &str) -> Result<(Vec<Brief>, Option<String>)> {
    let briefs: Vec<Brief> = items(value)?.into_iter().map(Brief::read).collect::<Result<_>>()?;
    let next = if briefs.len() < MANY { None } else { briefs.last().map(|last| last.entry.clone()) };
    if next.as_deref() == Some(after) {
        return Err(Error::new(ErrorKind::Internal, "read a page of events"));
    }
    Ok((briefs, next))
}
