//! Groups: joining one, leaving it, and which events are a group's.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{
    ActionId, Error, ErrorKind, Event, EventId, EventType, Group, GroupName, Origin, Pattern, Position,
    Result, Role, Stage, StartAt, Subscription, wants,
};
use rusqlite::{Connection, Row, params};

use super::publish::{role_number, seq_of};
use super::session::{Session, micros, now};
use crate::sqlite::failed;

/// A group as its row says.
pub(super) struct Stored {
    pub(super) id: i64,
    pub(super) name: GroupName,
    pub(super) stage: Option<Stage>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) lease: Duration,
    pub(super) cursor: i64,
}

const COLUMNS: &str = "SELECT id, name, stage, lease, patterns, cursor FROM groups";

fn stored(row: &Row<'_>) -> rusqlite::Result<Result<Stored>> {
    let name: String = row.get(1)?;
    let stage: Option<String> = row.get(2)?;
    let lease: i64 = row.get(3)?;
    let patterns: String = row.get(4)?;
    let (id, cursor) = (row.get(0)?, row.get(5)?);
    Ok((|| {
        Ok(Stored {
            id,
            name: GroupName::new(name)?,
            stage: stage.map(Stage::new).transpose()?,
            patterns: serde_json::from_str(&patterns)
                .map_err(|e| Error::new(ErrorKind::Corrupt, "read a group's patterns").with_source(e))?,
            lease: Duration::from_micros(u64::try_from(lease).unwrap_or(0)),
            cursor,
        })
    })())
}

/// All groups, or the one of this name.
pub(super) fn load(db: &Connection, name: Option<&GroupName>) -> Result<Vec<Stored>> {
    let what = "read the groups";
    let mut statement = db
        .prepare_cached(&format!("{COLUMNS} WHERE ?1 IS NULL OR name = ?1 ORDER BY id"))
        .map_err(failed(what))?;
    let rows = statement.query_map([name.map(GroupName::as_str)], stored).map_err(failed(what))?;
    rows.map(|row| row.map_err(failed(what))?).collect()
}

/// Joins the group of this subscription, making it where it is new; answers its number.
pub(super) fn join(session: &Session, group: &Group, on: &Subscription, owner: &str) -> Result<i64> {
    let found = load(&session.db, Some(&group.name))?.pop();
    let id = match found {
        Some(stored) => {
            agree(&stored, group, on)?;
            stored.id
        }
        None => make(session, group, on)?,
    };
    session
        .db
        .execute("DELETE FROM members WHERE grp = ?1 AND seen < ?2", params![id, now() - micros(DAY)])
        .map_err(failed("forget old members"))?;
    seen(session, id, owner)?;
    Ok(id)
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn agree(stored: &Stored, group: &Group, on: &Subscription) -> Result<()> {
    let differs = |what: &'static str, there: String, asked: String| {
        Err(Error::new(ErrorKind::Conflict, format!("join a group that has another {what}"))
            .with("group", &group.name)
            .with("there", there)
            .with("asked", asked))
    };
    if stored.patterns != on.patterns() {
        return differs("set of patterns", format!("{:?}", stored.patterns), format!("{:?}", on.patterns()));
    }
    if stored.stage != group.stage {
        return differs("stage", format!("{:?}", stored.stage), format!("{:?}", group.stage));
    }
    if stored.lease != group.lease {
        return differs("lease", format!("{:?}", stored.lease), format!("{:?}", group.lease));
    }
    Ok(())
}

fn make(session: &Session, group: &Group, on: &Subscription) -> Result<i64> {
    let cursor = start(on.start(), session.last_seq()?)?;
    let patterns = serde_json::to_string(on.patterns())
        .map_err(|e| Error::new(ErrorKind::Internal, "write a group's patterns").with_source(e))?;
    session
        .db
        .execute(
            "INSERT INTO groups (name, stage, lease, patterns, cursor, used) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                group.name.as_str(),
                group.stage.as_ref().map(Stage::as_str),
                micros(group.lease),
                patterns,
                cursor,
                now()
            ],
        )
        .map_err(failed("make a group"))?;
    Ok(session.db.last_insert_rowid())
}

/// After which event a subscription starts.
pub(super) fn start(at: &StartAt, last: i64) -> Result<i64> {
    match at {
        StartAt::Earliest => Ok(0),
        StartAt::Latest => Ok(last),
        StartAt::After(position) => seq_of(position).ok_or_else(|| {
            Error::invalid("start after a position that this broker never gave").with("position", position)
        }),
        _ => Err(Error::new(ErrorKind::Unsupported, "start a subscription there")),
    }
}

/// Notes a member's sign of life.
pub(super) fn seen(session: &Session, group: i64, owner: &str) -> Result<()> {
    let what = "note a sign of life";
    session
        .db
        .prepare_cached(
            "INSERT INTO members (grp, owner, seen) VALUES (?1, ?2, ?3)
             ON CONFLICT (grp, owner) DO UPDATE SET seen = excluded.seen",
        )
        .and_then(|mut statement| statement.execute(params![group, owner, now()]))
        .map_err(failed(what))?;
    session.run("UPDATE groups SET used = ?2 WHERE id = ?1", group, now(), what).map(drop)
}

/// A member leaves.
pub(super) fn leave(session: &mut Session, group: i64, owner: &Arc<str>) -> Result<()> {
    session.scans.remove(&(group, Arc::clone(owner)));
    session
        .db
        .execute("DELETE FROM members WHERE grp = ?1 AND owner = ?2", params![group, owner.as_ref()])
        .map(drop)
        .map_err(failed("leave a group"))
}

/// How many members gave a sign of life lately.
pub(super) fn members(db: &Connection, group: &Stored) -> Result<u64> {
    let lately = group.lease.max(Duration::from_secs(60));
    db.prepare_cached("SELECT count(*) FROM members WHERE grp = ?1 AND seen >= ?2")
        .and_then(|mut statement| {
            statement.query_row(params![group.id, now() - micros(lately)], |row| row.get::<_, i64>(0))
        })
        .map(|count| u64::try_from(count).unwrap_or(0))
        .map_err(failed("count members"))
}

/// Drops a group with all that it has not settled.
pub(super) fn drop_group(session: &Session, group: i64) -> Result<()> {
    for sql in [
        "DELETE FROM pending WHERE grp = ?1",
        "DELETE FROM members WHERE grp = ?1",
        "DELETE FROM groups WHERE id = ?1",
    ] {
        session.db.execute(sql, [group]).map_err(failed("drop a group"))?;
    }
    Ok(())
}

/// Whether `events` rows are a subscription's, by the columns alone: bodies are read for those that are.
pub(super) struct Matcher {
    patterns: Vec<Pattern>,
    stage: Option<Stage>,
    group: Option<i64>,
    /// The event that `wants` is asked about; only what it reads is filled in.
    probe: Event,
    origin: Origin,
}

/// The columns that a [`Matcher`] reads, in this order.
pub(super) const MATCH_COLUMNS: &str = "seq, type, action, role, stage, only_group, due";

impl Matcher {
    pub(super) fn new(patterns: &[Pattern], stage: Option<&Stage>, group: Option<i64>) -> Result<Self> {
        let cause = EventId::new("-")?;
        Ok(Self {
            patterns: patterns.to_vec(),
            stage: stage.cloned(),
            group,
            probe: Event::new(EventType::new("-")?, ActionId::new("-")?),
            origin: Origin {
                role: Role::Next,
                stage: Stage::new("-")?,
                cause: cause.clone(),
                root: cause,
                root_position: Position::new("0"),
                links: 1,
            },
        })
    }

    /// The actions that it can match, where all of its patterns name one.
    pub(super) fn literal_actions(&self) -> Option<Vec<String>> {
        let mut actions: Vec<String> =
            self.patterns.iter().map(Pattern::literal_action).collect::<Option<_>>()?;
        actions.sort();
        actions.dedup();
        Some(actions)
    }

    /// Whether a row is the subscription's.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Invalid`](ErrorKind::Invalid) for a row that no event can have made.
    pub(super) fn wants(&mut self, row: &Row<'_>) -> Result<bool> {
        let only = self.read(row)?;
        if only.is_some() && only != self.group {
            return Ok(false);
        }
        Ok(wants(&self.patterns, self.stage.as_ref(), &self.probe))
    }

    /// The event that was read last, as far as patterns ask for it.
    pub(super) const fn event(&self) -> &Event {
        &self.probe
    }

    /// Reads a row; answers the one group that it is for.
    ///
    /// # Errors
    /// As [`wants`](Self::wants).
    pub(super) fn read(&mut self, row: &Row<'_>) -> Result<Option<i64>> {
        let what = "read an event's row";
        let text = |column: usize| {
            row.get_ref(column)
                .map_err(failed(what))?
                .as_str()
                .map_err(|e| Error::new(ErrorKind::Corrupt, what).with_source(e))
        };
        self.probe.event_type = EventType::new(text(1)?)?;
        self.probe.action_id = ActionId::new(text(2)?)?;
        self.probe.origin = match row.get::<_, Option<i64>>(3).map_err(failed(what))? {
            None => None,
            Some(role) => {
                let role = if role == role_number(Role::Outcome) { Role::Outcome } else { Role::Next };
                Some(Origin { role, stage: Stage::new(text(4)?)?, ..self.origin.clone() })
            }
        };
        row.get(5).map_err(failed(what))
    }
}

/// Most groups that are dropped in one step.
const MAX_DROPPED: u32 = 256;

/// Drops some groups that had no member for longer than this, and says what they had not settled; answers whether
/// these were all.
pub(super) fn drop_unused(session: &Session, retention: Duration) -> Result<bool> {
    let mut statement = session
        .db
        .prepare_cached("SELECT id, name FROM groups WHERE used < ?1 LIMIT ?2")
        .map_err(failed("find unused groups"))?;
    let unused: Vec<(i64, String)> = statement
        .query_map(params![now() - micros(retention), MAX_DROPPED], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(failed("find unused groups"))?;
    let all = unused.len() < MAX_DROPPED as usize;
    for (id, name) in unused {
        let name = GroupName::new(name)?;
        if let Some(stored) = load(&session.db, Some(&name))?.pop() {
            let depth = super::depth::depth(&session.db, &stored, None)?;
            tracing::warn!(
                group = %name,
                waiting = depth.waiting,
                delayed = depth.delayed,
                leased = depth.leased,
                "a group without members for longer than the retention time is dropped with what it had not settled"
            );
        }
        drop_group(session, id)?;
    }
    Ok(all)
}
