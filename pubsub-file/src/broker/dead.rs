//! Dead letters and cancels.

use pubsub_core::{ActionId, DeadLetter, Error, ErrorKind, Event, EventId, GroupName, Result, Timestamp};
use rusqlite::{Connection, Row as SqlRow, params};

use super::group::load;
use super::publish::{Row, insert};
use super::session::Session;
use crate::sqlite::failed;

fn letter(row: &SqlRow<'_>) -> rusqlite::Result<Result<DeadLetter>> {
    let group: Option<String> = row.get(1)?;
    let action: Option<String> = row.get(2)?;
    let letter = DeadLetter {
        id: row.get(0)?,
        group: None,
        action_id: None,
        reason: row.get(3)?,
        bytes: row.get(4)?,
        attempts: row.get(5)?,
        crashes: row.get(6)?,
        time: Timestamp::from_micros(row.get(7)?),
    };
    Ok((|| {
        Ok(DeadLetter {
            group: group.map(GroupName::new).transpose()?,
            action_id: action.map(ActionId::new).transpose()?,
            ..letter
        })
    })())
}

pub(super) fn list(db: &Connection, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
    let what = "list the dead letters";
    let mut statement = db
        .prepare_cached(
            "SELECT id, grp, action, reason, body, attempts, crashes, time FROM dead
             WHERE ?1 IS NULL OR grp = ?1 ORDER BY n LIMIT ?2",
        )
        .map_err(failed(what))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        statement.query_map(params![group.map(GroupName::as_str), limit], letter).map_err(failed(what))?;
    rows.map(|row| row.map_err(failed(what))?).collect()
}

/// Makes a new event of a dead letter, for its group alone, and removes the letter.
pub(super) fn replay(
    session: &mut Session,
    id: &str,
    group: Option<&GroupName>,
    new_id: &EventId,
    max_bytes: usize,
) -> Result<EventId> {
    let what = "replay a dead letter";
    let mut found: Vec<(i64, Option<String>, Vec<u8>)> = session
        .db
        .prepare_cached("SELECT n, grp, body FROM dead WHERE id = ?1 AND (?2 IS NULL OR grp = ?2) ORDER BY n")
        .and_then(|mut statement| {
            statement
                .query_map(params![id, group.map(GroupName::as_str)], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
        })
        .map_err(failed(what))?;
    let groups = found.iter().map(|(_, group, _)| group).collect::<std::collections::BTreeSet<_>>();
    if groups.len() > 1 {
        return Err(Error::new(ErrorKind::Conflict, "several groups have this dead letter; name one")
            .with("id", id)
            .with("groups", format!("{groups:?}")));
    }
    let Some((n, name, body)) = found.pop() else {
        return Err(Error::new(ErrorKind::NotFound, what).with("id", id));
    };
    let mut event = Event::from_cloud_event(&body).map_err(|e| {
        Error::invalid("a dead letter that cannot be decoded cannot be replayed").with_source(e)
    })?;
    let name = name
        .map(GroupName::new)
        .transpose()?
        .ok_or_else(|| Error::invalid("a dead letter of no group cannot be replayed").with("id", id))?;
    let Some(target) = load(&session.db, Some(&name))?.pop() else {
        return Err(Error::new(ErrorKind::NotFound, "replay for a group that is gone").with("group", name));
    };
    event.replay_of = Some(event.id);
    event.id = new_id.clone();
    event.deliver_at = None;
    let row = Row::new(&event, max_bytes.saturating_mul(2))?.for_group(target.id);
    insert(session, &[row])?.into_iter().collect::<Result<Vec<_>>>()?;
    session.db.execute("DELETE FROM dead WHERE n = ?1", [n]).map_err(failed(what))?;
    Ok(event.id)
}

/// Marks an action up to now; answers up to where.
pub(super) fn cancel(session: &mut Session, action: &ActionId) -> Result<i64> {
    let what = "cancel an action";
    let seq = session.last_seq()?;
    session
        .db
        .execute(
            "INSERT INTO cancels (action, seq) VALUES (?1, ?2)
             ON CONFLICT (action) DO UPDATE SET seq = max(seq, excluded.seq)",
            params![action.as_str(), seq],
        )
        .map_err(failed(what))?;
    // What is to come later is concluded at once.
    session
        .db
        .execute(
            "UPDATE pending SET due = 0 WHERE state = 0 AND due > 0 AND seq IN
             (SELECT seq FROM events WHERE action = ?1 AND coalesce(root, seq) <= ?2)",
            params![action.as_str(), seq],
        )
        .map_err(failed(what))?;
    session
        .db
        .execute("UPDATE counters SET value = value + 1 WHERE name = 'cancels'", [])
        .map_err(failed(what))?;
    session.effects.cancels = true;
    session.effects.events = true;
    Ok(seq)
}
