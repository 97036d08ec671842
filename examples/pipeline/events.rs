//! Talking to the broker: `publish`, `cancel`, `dead-letters`, `wait`.

use std::fs::File;
use std::io::{self, Read};

use pubsub_pipeline::{Error, ErrorKind, Event, Novelty, Payload, PublisherExt as _, Timestamp, Wait, wait};
use serde::Serialize;

use crate::args::{self, DeadLettersCommand};
use crate::codes::{DONE, Done, of_run};
use crate::documents::{DeadLetterDocument, EventDocument, StatusDocument};
use crate::human;
use crate::places::Places;
use crate::screen::{Form, Screen};
use crate::values::PayloadSource;

/// More than any broker takes; read no further.
const MAX_PAYLOAD_BYTES: u64 = 64 << 20;

pub(crate) async fn publish(places: &Places, screen: &mut Screen, args: &args::Publish) -> Done {
    let mut event =
        Event::new(args.event_type.clone(), args.action_id.clone()).with_payload(payload(&args.payload)?);
    if let Some(id) = &args.id {
        event = event.with_id(id.clone());
    }
    if let Some(delay) = args.delay {
        event = event.with_deliver_at(Timestamp::now().plus(delay));
    }
    for (name, value) in &args.meta {
        event = event.with_header(name, value);
    }
    let id = event.id.clone();
    let broker = places.broker().await?;
    let published = broker.publish_one(event).await?;
    match screen.form {
        Form::Json => screen.document(&EventDocument {
            event_id: id.as_str(),
            action_id: args.action_id.as_str(),
            event_type: args.event_type.as_str(),
            duplicate: published.novelty == Novelty::Duplicate,
        })?,
        Form::Text => screen.text(id.as_str())?,
    }
    Ok(DONE)
}

fn payload(source: &PayloadSource) -> Done<Payload> {
    let text = match source {
        PayloadSource::Text(text) => text.clone(),
        PayloadSource::Stdin => read(io::stdin(), "standard input")?,
        PayloadSource::File(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|e| unreadable(&name, e))?;
            read(file, &name)?
        }
    };
    Ok(text.parse()?)
}

fn read(from: impl Read, name: &str) -> Done<String> {
    let mut text = String::new();
    from.take(MAX_PAYLOAD_BYTES + 1).read_to_string(&mut text).map_err(|e| unreadable(name, e))?;
    if text.len() as u64 > MAX_PAYLOAD_BYTES {
        return Err(Error::new(ErrorKind::TooLarge, "a payload has at most 64 MiB").into());
    }
    Ok(text)
}

fn unreadable(name: &str, error: io::Error) -> Error {
    Error::invalid("the payload cannot be read").with("from", name).with_source(error)
}

#[derive(Serialize)]
struct Cancelled<'a> {
    action_id: &'a str,
    position: &'a str,
}

pub(crate) async fn cancel(places: &Places, screen: &mut Screen, args: &args::Cancel) -> Done {
    let position = places.existing_broker().await?.cancel(&args.action_id).await?;
    match screen.form {
        Form::Json => {
            screen.document(&Cancelled { action_id: args.action_id.as_str(), position: position.as_str() })?
        }
        Form::Text => screen.text(&format!(
            "{} cancelled: all that began up to now, at position {position}",
            args.action_id
        ))?,
    }
    Ok(DONE)
}

pub(crate) async fn dead_letters(places: &Places, screen: &mut Screen, args: &args::DeadLetters) -> Done {
    let broker = places.existing_broker().await?;
    match &args.command {
        DeadLettersCommand::List { group, limit } => {
            for letter in broker.list(group.as_ref(), *limit).await? {
                if screen.form == Form::Json {
                    screen.document(&DeadLetterDocument::new(&letter))?;
                    continue;
                }
                let known = |text: Option<&str>| text.unwrap_or("-").to_owned();
                let group = known(letter.group.as_ref().map(AsRef::as_ref));
                let action = known(letter.action_id.as_ref().map(AsRef::as_ref));
                let cells = [letter.id, letter.time.to_string(), group, action, letter.reason];
                screen.text(&cells.join("\t"))?;
            }
        }
        DeadLettersCommand::Replay { id, group } => {
            let event_id = broker.replay(id, group.as_ref()).await?;
            match screen.form {
                Form::Json => screen.document(&serde_json::json!({ "event_id": event_id }))?,
                Form::Text => screen.text(event_id.as_str())?,
            }
        }
    }
    Ok(DONE)
}

pub(crate) async fn waited(places: &Places, screen: &mut Screen, args: &args::Wait) -> Done {
    let (store, broker) = (places.store().await?, places.broker().await?);
    let mut what = Wait::new(args.action_id.clone());
    what.stage.clone_from(&args.stage);
    what.event.clone_from(&args.event);
    what.limit = args.timeout;
    let waited = wait(&*store, &*broker, &what).await?;
    for group in &waited.unattended {
        screen.notice(&format!("group {group} has something to do and no member: it was not waited for"))?;
    }
    let now = Timestamp::now();
    match screen.form {
        Form::Json => screen.document(&StatusDocument::new(&waited.record, now))?,
        Form::Text => screen.text(&human::summary(&waited.record, now))?,
    }
    Ok(of_run(&waited.record, args.pass_code))
}
