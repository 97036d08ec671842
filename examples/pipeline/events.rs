//! Talking to the broker: `publish`, `cancel`, `dead-letters`, `wait`.

use std::fs::File;
use std::io::{self, Read};

use pubsub_pipeline::{
    ActionId, Broker, Error, ErrorKind, Event, Novelty, Payload, PublisherExt as _, RefusedLines as _, Scope,
    Timestamp, Wait, Waited, wait,
};
use serde::Serialize;

use crate::args::{self, DeadLettersCommand};
use crate::codes::{DONE, Done, Failure, of_run};
use crate::documents::{DeadLetterDocument, EventDocument, RefusedDocument, StatusDocument, WaitedDocument};
use crate::human;
use crate::places::{Places, fresh, has_run, waits};
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
        Form::Text => {
            screen.text(id.as_str())?;
            if published.novelty == Novelty::Duplicate {
                screen
                    .notice(&format!("an event with the id {id} was there already; nothing was published"))?;
            }
        }
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
    let broker = places.existing_broker().await?;
    // Asked before, for by the mark itself workers may end what there is.
    let known = is_known(places, &*broker, &args.action_id).await?;
    let position = broker.cancel(&args.action_id).await?;
    if !known {
        screen.notice(&format!(
            "no run of {} is stored here, and no group has anything of it to do; events of it that nobody \
             subscribed to yet are cancelled all the same",
            args.action_id
        ))?;
    }
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

/// Whether a run or a delivery of an action is known.
async fn is_known(places: &Places, broker: &dyn Broker, action: &ActionId) -> Done<bool> {
    let scope = Scope { action: Some(action.clone()), group: None };
    if broker.groups(&scope).await?.iter().any(|group| !group.depth.is_idle()) {
        return Ok(true);
    }
    Ok(has_run(&*places.reader().await?, action, None).await?)
}

/// Says of a broker that is only asked, and whose folder can only be read, who can ask it.
pub(crate) fn only_read(failure: Failure) -> Failure {
    match failure {
        Failure::Error(error) if error.kind() == ErrorKind::Refused => Error::new(
            ErrorKind::Refused,
            "the broker can be asked only by who may write into its folder, for readers of its database share locks in a \
             file there: ask as a user of the workers; get-status, get-logs, stream-logs, search, verify, export and list \
             need no broker",
        )
        .with_source(error)
        .into(),
        other => other,
    }
}

pub(crate) async fn dead_letters(places: &Places, screen: &mut Screen, args: &args::DeadLetters) -> Done {
    let broker = places.existing_broker().await;
    match &args.command {
        DeadLettersCommand::List { group, limit } => {
            let broker = broker.map_err(only_read)?;
            let letters = broker.list(group.as_ref(), *limit).await?;
            let left = limit.saturating_sub(letters.len());
            for letter in letters {
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
            // Lines belong to no group.
            if group.is_none() {
                refused_lines(places, screen, left).await?;
            }
        }
        DeadLettersCommand::Replay { id, group } => {
            let event_id = broker?.replay(id, group.as_ref()).await?;
            match screen.form {
                Form::Json => screen.document(&serde_json::json!({ "event_id": event_id }))?,
                Form::Text => screen.text(event_id.as_str())?,
            }
        }
    }
    Ok(DONE)
}

/// Lines that a store refused for good: neighbours that were refused for one reason are one entry.
async fn refused_lines(places: &Places, screen: &mut Screen, limit: usize) -> Done<()> {
    let mut entries: Vec<RefusedDocument> = Vec::new();
    for refused in places.refused_lines().list(None, usize::MAX).await? {
        if !entries.last_mut().is_some_and(|last| last.goes_on(&refused)) {
            entries.push(RefusedDocument::new(&refused));
        }
    }
    for entry in entries.iter().take(limit) {
        match screen.form {
            Form::Json => screen.document(entry)?,
            Form::Text => screen.text(&entry.cells().join("\t"))?,
        }
    }
    Ok(())
}

pub(crate) async fn waited(places: &Places, screen: &mut Screen, args: &args::Wait) -> Done {
    let (store, broker) = (places.reader().await?, places.broker().await.map_err(only_read)?);
    waits(&*store, screen, &args.action_id, args.stage.as_ref()).await?;
    let mut what = Wait::new(args.action_id.clone());
    what.stage.clone_from(&args.stage);
    what.event.clone_from(&args.event);
    what.limit = args.timeout;
    let Waited { record, unattended, .. } =
        wait(&*store, &*broker, &what).await.map_err(|error| too_late(error, args))?;
    let mut record = fresh(&*store, record).await;
    let now = Timestamp::now();
    match screen.form {
        Form::Json => screen.document(&WaitedDocument {
            status: StatusDocument::new(&record, now),
            unattended: unattended.iter().map(AsRef::as_ref).collect(),
        })?,
        Form::Text => {
            for group in &unattended {
                screen.notice(&format!(
                    "group {group} has something to do and no member, so it was not waited for: start a worker of \
                     its stage, or name the stage that you wait for"
                ))?;
            }
            // Nothing is left that could try it again.
            record.is_final = true;
            screen.text(&human::summary(&record, now))?;
        }
    }
    Ok(of_run(&record, args.pass_code))
}

/// Says what to do about work that has not ended in time.
fn too_late(error: Error, args: &args::Wait) -> Error {
    if error.kind() != ErrorKind::TimedOut {
        return error;
    }
    let what = args.stage.as_ref().map(|stage| format!("stage {stage} of ")).unwrap_or_default();
    let mut sentence = format!("{what}{} has not ended: start a worker where none runs", args.action_id);
    if args.event.is_none() {
        sentence.push_str(", or wait for one event of a stage alone with --event ID");
    }
    Error::new(ErrorKind::TimedOut, sentence).with_source(error)
}

#[cfg(test)]
mod tests {
    use pubsub_pipeline::{Error, ErrorKind};

    use super::only_read;
    use crate::codes::Failure;

    #[test]
    fn who_may_only_read_is_told_who_can_ask_and_what_needs_no_broker() {
        let told = |kind| match only_read(Error::new(kind, "open the broker's lock").into()) {
            Failure::Error(error) => (error.kind(), error.chain()),
            Failure::PipeClosed => panic!("it is an error"),
        };
        let (kind, text) = told(ErrorKind::Refused);
        assert_eq!(kind, ErrorKind::Refused);
        assert!(text.contains("may write into its folder") && text.contains("get-status"), "{text}");
        assert!(text.ends_with("open the broker's lock: refused"), "{text}");
        assert_eq!(told(ErrorKind::Unavailable).1, "open the broker's lock: unavailable");
    }
}
