//! Retention: what every group has settled goes once it is old, and sooner where room is needed.
//!
//! How old an event is says the table `times`: now and then the last number and the time are noted, so no event up to
//! that number was published later. Publishing writes nothing for it, and an event never counts as older than it is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pubsub_core::{Error, ErrorKind, Result, wants};
use rusqlite::{Connection, Row, params};

use super::group::{MATCH_COLUMNS, Matcher, Stored, drop_unused, load};
use super::publish::set_aside;
use super::session::{PAGE_BYTES, Session, micros, now};
use crate::sqlite::failed;

/// Most events that one step looks at, so that others get their turn.
const STEP: i64 = 1024;

/// Most dead letters that one step removes.
const STEP_DEAD: i64 = 1024;

/// How long "full" stands before everything is looked at again, in multiples of what looking took: the writing thread
/// has other things to do.
const FULL_STANDS: u32 = 5;

/// How much is kept and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// What every group has settled, and dead letters.
    pub(super) age: Duration,
    /// A group without members.
    pub(super) group_age: Duration,
    pub(super) bytes: Option<u64>,
    pub(super) dead_letters: u64,
}

/// Why nothing more can be kept, and how long that need not be asked again.
pub(super) struct Full {
    held_by: Option<(String, u64)>,
    dead_letters: u64,
    until: Instant,
}

impl Full {
    fn error(&self) -> Error {
        let error = Error::new(ErrorKind::Full, "publish: the broker keeps as much as it may");
        let error = match &self.held_by {
            Some((name, unsettled)) => {
                error.with("held back by group", name).with("unsettled there", unsettled)
            }
            None => error.with("held back by group", "none"),
        };
        error.with("dead letters", self.dead_letters)
    }
}

/// All groups, found by what their patterns name.
struct Groups {
    all: Vec<Stored>,
    by_action: HashMap<String, Vec<usize>>,
    wild: Vec<usize>,
    reader: Matcher,
    /// Of the events that were asked about, by group.
    unsettled: Vec<u64>,
}

impl Groups {
    fn load(db: &Connection) -> Result<Self> {
        let all = load(db, None)?;
        let (mut by_action, mut wild) = (HashMap::<String, Vec<usize>>::new(), Vec::new());
        for (index, group) in all.iter().enumerate() {
            match Matcher::new(&group.patterns, None, None)?.literal_actions() {
                Some(actions) => {
                    for action in actions {
                        by_action.entry(action).or_default().push(index);
                    }
                }
                None => wild.push(index),
            }
        }
        let unsettled = vec![0; all.len()];
        Ok(Self { all, by_action, wild, reader: Matcher::new(&[], None, None)?, unsettled })
    }

    /// Whether a group has not settled the event of this row.
    fn hold(&mut self, db: &Connection, row: &Row<'_>) -> Result<bool> {
        let only = self.reader.read(row)?;
        let event = self.reader.event();
        let seq: i64 = row.get(0).map_err(failed("read an event's row"))?;
        let mut held = false;
        let named = self.by_action.get(event.action_id.as_str()).into_iter().flatten();
        for index in named.chain(&self.wild) {
            let Some(group) = self.all.get(*index) else { continue };
            if only.is_some_and(|only| only != group.id)
                || !wants(&group.patterns, group.stage.as_ref(), event)
            {
                continue;
            }
            // What a group has not looked at lies behind its cursor; what it has looked at and not settled is pending.
            if seq > group.cursor || is_pending(db, group.id, seq)? {
                held = true;
                if let Some(unsettled) = self.unsettled.get_mut(*index) {
                    *unsettled += 1;
                }
            }
        }
        Ok(held)
    }

    /// The group with the most that it has not settled.
    fn holding(&self) -> Option<(String, u64)> {
        let most = self.all.iter().zip(&self.unsettled).max_by_key(|(_, unsettled)| **unsettled)?;
        (*most.1 > 0).then(|| (most.0.name.as_str().to_owned(), *most.1))
    }
}

fn is_pending(db: &Connection, group: i64, seq: i64) -> Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM pending WHERE grp = ?1 AND seq = ?2)")
        .and_then(|mut statement| statement.query_row([group, seq], |row| row.get(0)))
        .map_err(failed("look whether an event is settled"))
}

/// Which events a sweep may remove.
#[derive(Clone, Copy)]
enum Sweep {
    /// Those up to this number, unless they were due after this time.
    Old(i64, i64),
    All,
}

struct Swept {
    upto: i64,
    removed: u64,
    ended: bool,
}

/// Looks at some events after a number and removes those that no group holds, with their claims.
fn sweep(session: &Session, groups: &mut Groups, from: i64, which: Sweep) -> Result<Swept> {
    let what = "look for events that nobody waits for";
    let last = if let Sweep::Old(last, _) = which { last } else { i64::MAX };
    let sql =
        format!("SELECT {MATCH_COLUMNS} FROM events WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3");
    let mut statement = session.db.prepare_cached(&sql).map_err(failed(what))?;
    let mut rows = statement.query([from, last, STEP]).map_err(failed(what))?;
    let (mut upto, mut looked) = (from, 0);
    let (mut free, mut undecodable) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next().map_err(failed(what))? {
        upto = row.get(0).map_err(failed(what))?;
        looked += 1;
        let due: Option<i64> = row.get(6).map_err(failed(what))?;
        if let Sweep::Old(_, border) = which
            && due.is_some_and(|due| due >= border)
        {
            continue;
        }
        match groups.hold(&session.db, row) {
            Ok(true) => {}
            Ok(false) => free.push(upto),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
                undecodable.push((upto, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    drop(rows);
    for seq in &free {
        for sql in ["DELETE FROM events WHERE seq = ?1", "DELETE FROM claims WHERE seq = ?1"] {
            session
                .db
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([seq]))
                .map_err(failed("remove an event that every group has settled"))?;
        }
    }
    if let Sweep::Old(..) = which {
        for (seq, reason) in undecodable {
            set_aside(session, seq, &reason)?;
        }
    }
    let removed = u64::try_from(free.len()).unwrap_or(u64::MAX);
    Ok(Swept { upto, removed, ended: looked < STEP })
}

fn count(db: &Connection, sql: &str) -> Result<u64> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
        .map(|count| u64::try_from(count).unwrap_or(0))
        .map_err(failed("look how much is kept"))
}

/// How many bytes more may be kept. Pages that are free again count as room: the file does not shrink, they are used
/// again.
pub(super) fn room(session: &Session) -> Result<u64> {
    let Some(most) = session.keep.bytes else { return Ok(u64::MAX) };
    let pages = count(&session.db, "PRAGMA page_count")?;
    let free = count(&session.db, "PRAGMA freelist_count")?;
    Ok(most.saturating_sub(pages.saturating_sub(free).saturating_mul(PAGE_BYTES)))
}

/// Removes what every group has settled, oldest first, until so many bytes fit; answers the room, or that there is
/// none.
pub(super) fn make_room(session: &mut Session, bytes: u64) -> Result<Result<u64>> {
    if let Some(full) = &session.full
        && Instant::now() < full.until
    {
        return Ok(Err(full.error()));
    }
    let began = Instant::now();
    drop_unused(session, session.keep.group_age)?;
    let mut groups = Groups::load(&session.db)?;
    let (mut from, mut removed) = (0, 0);
    let room = loop {
        let swept = sweep(session, &mut groups, from, Sweep::All)?;
        (from, removed) = (swept.upto, removed + swept.removed);
        let room = room(session)?;
        if bytes <= room || swept.ended {
            break room;
        }
    };
    if removed > 0 {
        tracing::warn!(
            events = removed,
            "events that no group waits for were removed before their time, to make room for new ones"
        );
    }
    if bytes <= room {
        session.full = None;
        return Ok(Ok(room));
    }
    let full = Full {
        held_by: groups.holding(),
        dead_letters: count(&session.db, "SELECT count(*) FROM dead")?,
        until: Instant::now() + began.elapsed() * FULL_STANDS,
    };
    let error = full.error();
    session.full = Some(full);
    Ok(Err(error))
}

/// What goes by age, a bounded step at a time.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Up to where the pass that is under way has looked.
    from: Option<i64>,
    removed: u64,
}

impl Upkeep {
    /// Does a step; answers whether there is more to do at once.
    pub(super) fn step(&mut self, session: &mut Session) -> Result<bool> {
        let border = now() - micros(session.keep.age);
        if self.from.is_none() {
            note_time(session)?;
        }
        let dropped_all = drop_unused(session, session.keep.group_age)?;
        let old = old_number(session, border)?;
        let mut groups = Groups::load(&session.db)?;
        let swept = sweep(session, &mut groups, self.from.unwrap_or(0), Sweep::Old(old, border))?;
        self.removed += swept.removed;
        #[cfg(feature = "fault-points")]
        pubsub_core::fault::point("broker.retention");
        if !swept.ended {
            self.from = Some(swept.upto);
            return Ok(true);
        }
        self.from = None;
        let removed = std::mem::take(&mut self.removed);
        if removed > 0 {
            tracing::debug!(
                events = removed,
                "events that every group has settled are older than the retention"
            );
        }
        forget_marks(session, old)?;
        let letters_left = drop_dead_letters(session, border)?;
        Ok(letters_left || !dropped_all)
    }
}

/// Notes that no event up to now was published later than now.
fn note_time(session: &Session) -> Result<()> {
    let last = session.last_seq()?;
    session
        .db
        .execute(
            "INSERT INTO times (seq, time) SELECT ?1, ?2 WHERE ?1 > (SELECT coalesce(max(seq), 0) FROM times)",
            params![last, now()],
        )
        .map(drop)
        .map_err(failed("note the time of the last event"))
}

/// Up to which number all events are older than this.
fn old_number(session: &Session, border: i64) -> Result<i64> {
    let what = "find what is old";
    let old: Option<i64> = session
        .db
        .query_row("SELECT max(seq) FROM times WHERE time < ?1", [border], |row| row.get(0))
        .map_err(failed(what))?;
    let old = old.unwrap_or(0);
    session.db.execute("DELETE FROM times WHERE seq < ?1", [old]).map_err(failed(what))?;
    Ok(old)
}

/// Removes the cancel marks of actions of which nothing is kept any more. A mark at this number may be younger than the
/// event, hence the smaller ones only.
fn forget_marks(session: &Session, old: i64) -> Result<()> {
    session
        .db
        .execute(
            "DELETE FROM cancels WHERE seq < ?1
             AND NOT EXISTS (SELECT 1 FROM events WHERE events.action = cancels.action)",
            [old],
        )
        .map(drop)
        .map_err(failed("forget old cancels"))
}

/// Removes some dead letters that are too old or too many; answers whether there are more of them.
fn drop_dead_letters(session: &Session, border: i64) -> Result<bool> {
    let what = "remove old dead letters";
    let many = count(&session.db, "SELECT count(*) FROM dead")?;
    let excess = i64::try_from(many.saturating_sub(session.keep.dead_letters)).unwrap_or(i64::MAX);
    let too_many = session
        .db
        .execute(
            "DELETE FROM dead WHERE n IN (SELECT n FROM dead ORDER BY n LIMIT ?1)",
            [excess.min(STEP_DEAD)],
        )
        .map_err(failed(what))?;
    // Numbers grow with time, so the oldest are first.
    let too_old = session
        .db
        .execute(
            "DELETE FROM dead WHERE n IN (SELECT n FROM dead ORDER BY n LIMIT ?2) AND time < ?1",
            [border, STEP_DEAD],
        )
        .map_err(failed(what))?;
    if too_many + too_old > 0 {
        tracing::warn!(too_old, too_many, "dead letters were removed by retention");
    }
    Ok(excess > STEP_DEAD || i64::try_from(too_old) == Ok(STEP_DEAD))
}
