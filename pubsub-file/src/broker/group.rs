//! Groups: joining one, leaving it, and which events are a group's.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{
    ActionId, Error, ErrorKind, Event, EventId, EventType, Group, GroupName, Origin, Pattern, Position,
    Result, Role, Stage, StartAt, Subscription, group_dropped, wants,
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

fn by_name() -> String {
    format!("{COLUMNS} WHERE name = ?1")
}

/// All groups, or the one of this name.
pub(super) fn load(db: &Connection, name: Option<&GroupName>) -> Result<Vec<Stored>> {
    let what = "read the groups";
    // Two statements: one with a condition that may not count would look at every group for each that is named.
    let (sql, values) = match name {
        Some(name) => (by_name(), vec![name.as_str()]),
        None => (format!("{COLUMNS} ORDER BY id"), vec![]),
    };
    let mut statement = db.prepare_cached(&sql).map_err(failed(what))?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), stored).map_err(failed(what))?;
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
        Err(Error::new(
            ErrorKind::Conflict,
            format!("join a group that has another {what}: ask for the same, or name another group"),
        )
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

/// A member leaves: from now on the group is without it.
pub(super) fn leave(session: &mut Session, group: i64, owner: &Arc<str>) -> Result<()> {
    let what = "leave a group";
    session.scans.remove(&(group, Arc::clone(owner)));
    let left = session
        .db
        .execute("DELETE FROM members WHERE grp = ?1 AND owner = ?2", params![group, owner.as_ref()])
        .map_err(failed(what))?;
    if left > 0 {
        session.run("UPDATE groups SET used = ?2 WHERE id = ?1", group, now(), what)?;
    }
    Ok(())
}

/// A member is one as long as it gave a sign of life within this time, or within a lease where that is longer.
const LATELY: Duration = Duration::from_secs(60);

/// How many members gave a sign of life lately.
pub(super) fn members(db: &Connection, group: &Stored) -> Result<u64> {
    let lately = group.lease.max(LATELY);
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
    let (what, now) = ("find unused groups", now());
    // A member that has nothing to do gives a sign of life every few seconds: it may be longer ago than the retention.
    let sql = format!(
        "{COLUMNS} WHERE used < ?1 AND NOT EXISTS
         (SELECT 1 FROM members WHERE grp = groups.id AND seen >= ?2 - max(groups.lease, ?3)) LIMIT ?4"
    );
    let mut statement = session.db.prepare_cached(&sql).map_err(failed(what))?;
    let values = params![now - micros(retention), now, micros(LATELY), MAX_DROPPED];
    let unused: Vec<Stored> = statement
        .query_map(values, stored)
        .map_err(failed(what))?
        .map(|row| row.map_err(failed(what))?)
        .collect::<Result<_>>()?;
    for group in &unused {
        group_dropped(&group.name, super::depth::depth(&session.db, group, None)?);
        drop_group(session, group.id)?;
    }
    Ok(unused.len() < MAX_DROPPED as usize)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pubsub_core::conformance::broker::on;
    use rusqlite::params;

    use super::{by_name, drop_unused, join, leave, load};
    use crate::broker::config::FileBrokerConfig;
    use crate::broker::session::{Session, micros, now};

    const RETENTION: Duration = Duration::from_secs(5);

    /// A broker with one group, whose lease is the default, and one member, `one`.
    fn with_a_group() -> (tempfile::TempDir, Session, i64) {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::open(&dir.path().join("db"), &FileBrokerConfig::new(dir.path())).unwrap();
        let subscription = on("s", &["t:a"]);
        let id = join(&session, subscription.group().unwrap(), &subscription, "one").unwrap();
        (dir, session, id)
    }

    fn set(session: &Session, used_ago: u64, seen_ago: u64) {
        let ago = |seconds| now() - micros(Duration::from_secs(seconds));
        session.db.execute("UPDATE groups SET used = ?1", [ago(used_ago)]).unwrap();
        session.db.execute("UPDATE members SET seen = ?1", params![ago(seen_ago)]).unwrap();
    }

    fn is_there(session: &Session) -> bool {
        assert!(drop_unused(session, RETENTION).unwrap());
        !load(&session.db, None).unwrap().is_empty()
    }

    #[test]
    fn a_group_with_an_idle_member_stays_and_one_whose_member_died_goes() {
        let (_dir, session, _) = with_a_group();
        set(&session, 20, 20);
        assert!(is_there(&session), "its member was seen within a minute");
        set(&session, 59, 59);
        assert!(is_there(&session));
        set(&session, 61, 61);
        assert!(!is_there(&session));
        let members: i64 =
            session.db.query_row("SELECT count(*) FROM members", [], |row| row.get(0)).unwrap();
        assert_eq!(members, 0);
    }

    #[test]
    fn a_group_is_found_by_its_name_without_a_look_at_the_others() {
        let (_dir, session, _) = with_a_group();
        let sql = format!("EXPLAIN QUERY PLAN {}", by_name());
        let plan: String = session.db.query_row(&sql, ["s@t:a"], |row| row.get("detail")).unwrap();
        assert!(plan.starts_with("SEARCH groups USING INDEX"), "{plan}");
    }

    #[test]
    fn a_lease_longer_than_a_minute_keeps_its_group_as_long() {
        let (_dir, session, _) = with_a_group();
        session.db.execute("UPDATE groups SET lease = ?1", [micros(Duration::from_secs(600))]).unwrap();
        set(&session, 590, 590);
        assert!(is_there(&session));
        set(&session, 610, 610);
        assert!(!is_there(&session));
    }

    #[test]
    fn the_time_without_members_begins_when_the_last_one_leaves() {
        let (_dir, mut session, id) = with_a_group();
        set(&session, 50, 50);
        leave(&mut session, id, &Arc::from("one")).unwrap();
        assert!(is_there(&session), "it left just now");
        set(&session, 6, 0);
        // Who left before changes nothing.
        leave(&mut session, id, &Arc::from("one")).unwrap();
        assert!(!is_there(&session));
    }
}
