//! Publishing: events become rows.

use pubsub_core::{
    ActionId, Error, ErrorKind, Event, EventId, EventType, Novelty, Position, Published, Result, Role,
    Timestamp,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::retention;
use super::session::{PAGE_BYTES, Session, now};
use crate::sqlite::failed;

/// What a database without events takes, a little more than less.
pub(super) const EMPTY_BYTES: u64 = 24 * PAGE_BYTES;

/// An event as it is written.
pub(super) struct Row {
    id: EventId,
    event_type: EventType,
    action: ActionId,
    role: Option<i64>,
    stage: Option<String>,
    /// Where its chain began, where that is not the event itself.
    root: Option<i64>,
    /// The one group that it is for.
    only_group: Option<i64>,
    due: Option<i64>,
    body: String,
}

/// `events.role`.
pub(super) const fn role_number(role: Role) -> i64 {
    match role {
        Role::Outcome => 1,
        Role::Next => 2,
    }
}

pub(super) fn position(seq: i64) -> Position {
    Position::new(seq.to_string())
}

pub(super) fn seq_of(position: &Position) -> Option<i64> {
    position.as_str().parse().ok()
}

impl Row {
    pub(super) fn new(event: &Event, max_bytes: usize) -> Result<Self> {
        let body = event.to_cloud_event()?;
        if body.len() > max_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "publish an event")
                .with("event", &event.id)
                .with("bytes", body.len())
                .with("limit", max_bytes));
        }
        // A replay begins a chain anew: a cancel before it does not reach it.
        let origin = event.origin.as_ref();
        let root = origin.filter(|_| event.replay_of.is_none()).map(|origin| &origin.root_position);
        Ok(Self {
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            action: event.action_id.clone(),
            role: origin.map(|origin| role_number(origin.role)),
            stage: origin.map(|origin| origin.stage.as_str().to_owned()),
            root: root.and_then(seq_of),
            only_group: None,
            due: event.deliver_at.filter(|at| *at > Timestamp::now()).map(Timestamp::as_micros),
            body,
        })
    }

    pub(super) fn for_group(mut self, group: i64) -> Self {
        self.only_group = Some(group);
        self
    }

    /// What the event takes in the database, roughly: a row, two entries of indexes, and what a page leaves empty.
    fn kept_bytes(&self) -> u64 {
        u64::try_from(self.bytes()).unwrap_or(u64::MAX).saturating_add(512)
    }

    /// Why it does not fit into a broker of this size, whatever is removed.
    fn never_fits(&self, limit: Option<u64>) -> Option<Error> {
        let limit = limit?;
        let most = limit.saturating_sub(EMPTY_BYTES);
        (self.kept_bytes() > most).then(|| {
            Error::new(ErrorKind::TooLarge, "publish an event that is larger than all that may be kept")
                .with("event", &self.id)
                .with("bytes", self.kept_bytes())
                .with("limit", limit)
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.body.len() + self.id.as_str().len() + self.action.as_str().len() + self.event_type.as_str().len()
    }
}

/// Writes events in their order, as far as there is room; one whose id is there already changes nothing.
pub(super) fn insert(session: &mut Session, rows: &[Row]) -> Result<Vec<Result<Published>>> {
    let mut published = Vec::with_capacity(rows.len());
    let mut room = retention::room(session)?;
    let mut left = rows;
    loop {
        let fits = |row: &&Row| {
            let rest = room.checked_sub(row.kept_bytes());
            room = rest.unwrap_or(room);
            rest.is_some()
        };
        let (fitting, others) = left.split_at(left.iter().take_while(fits).count());
        write(session, fitting, &mut published)?;
        let Some((row, rest)) = others.split_first() else { return Ok(published) };
        if let Some(seq) = find(&session.db, &row.id)? {
            published.push(Ok(Published { position: position(seq), novelty: Novelty::Duplicate }));
            left = rest;
            continue;
        }
        if let Some(error) = row.never_fits(session.keep.bytes) {
            published.push(Err(error));
            left = rest;
            continue;
        }
        match retention::make_room(session, row.kept_bytes())? {
            Ok(made) => (room, left) = (made, others),
            Err(full) => {
                published.push(Err(full));
                left = rest;
            }
        }
    }
}

/// Writes events for which there is room.
fn write(session: &mut Session, rows: &[Row], published: &mut Vec<Result<Published>>) -> Result<()> {
    const INSERT: &str = "INSERT INTO events (id, type, action, role, stage, root, only_group, due, body)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING";
    let what = "publish an event";
    let mut statement = session.db.prepare_cached(INSERT).map_err(failed(what))?;
    for row in rows {
        let new = statement
            .execute(params![
                row.id.as_str(),
                row.event_type.as_str(),
                row.action.as_str(),
                row.role,
                row.stage,
                row.root,
                row.only_group,
                row.due,
                row.body.as_bytes(),
            ])
            .map_err(failed(what))?;
        let (seq, novelty) = if new == 1 {
            session.effects.events = true;
            (session.db.last_insert_rowid(), Novelty::New)
        } else {
            let there = find(&session.db, &row.id)?;
            let gone = || Error::new(ErrorKind::Internal, "find an event that is there");
            (there.ok_or_else(gone)?, Novelty::Duplicate)
        };
        published.push(Ok(Published { position: position(seq), novelty }));
    }
    #[cfg(feature = "fault-points")]
    super::faults::changed("publish");
    Ok(())
}

fn find(db: &Connection, id: &EventId) -> Result<Option<i64>> {
    db.prepare_cached("SELECT seq FROM events WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.as_str()], |found| found.get(0)).optional())
        .map_err(failed("find an event by its id"))
}

/// Sets aside what cannot be decoded: it becomes a dead letter of no group, and nobody is given it again.
pub(super) fn set_aside(session: &Session, seq: i64, reason: &str) -> Result<()> {
    let found = session
        .db
        .query_row("SELECT CAST(id AS BLOB), CAST(body AS BLOB) FROM events WHERE seq = ?1", [seq], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .optional()
        .map_err(failed("read an event that cannot be decoded"))?;
    let Some((id, body)) = found else { return Ok(()) };
    let id = String::from_utf8(id).unwrap_or_else(|_| format!("undecodable-{seq}"));
    tracing::warn!(seq, id, reason, "an event cannot be decoded and goes to the dead letters");
    session
        .db
        .execute(
            "INSERT INTO dead (id, grp, action, reason, body, attempts, crashes, time)
             VALUES (?1, NULL, NULL, ?2, ?3, 0, 0, ?4)",
            params![id, reason, body, now()],
        )
        .map_err(failed("keep a dead letter"))?;
    for sql in [
        "DELETE FROM pending WHERE seq = ?1",
        "DELETE FROM claims WHERE seq = ?1",
        "DELETE FROM events WHERE seq = ?1",
    ] {
        session.db.execute(sql, [seq]).map_err(failed("set an event aside"))?;
    }
    Ok(())
}
