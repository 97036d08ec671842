//! Taking: leases to a member what is ready.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Claim, ErrorKind, LeaseId, Result};
use rusqlite::{OptionalExtension, params};

use super::claims;
use super::group::{MATCH_COLUMNS, Matcher, seen};
use super::publish::{seq_of, set_aside};
use super::session::{Scan, Session, micros, now};
use crate::sqlite::failed;

/// Most events that one take looks at, so that others get their turn.
const MAX_SCAN: i64 = 4096;

/// Bytes of events after which a take ends; one event may be larger.
const MAX_TAKE_BYTES: usize = 8 * 1024 * 1024;

/// How far the cursor may be behind what was looked at: it is written with what is taken, or once it lags so far.
const MAX_CURSOR_LAG: i64 = 512;

/// Longest time by which what was held in a crash comes back later than its lease says.
const MAX_JITTER: Duration = Duration::from_millis(500);

/// Who takes, for which group.
pub(super) struct Taker {
    pub(super) group: i64,
    pub(super) name: String,
    pub(super) owner: Arc<str>,
    pub(super) lease: Duration,
    pub(super) prefetch: usize,
    pub(super) matcher: Matcher,
}

/// One event that is leased now.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) count: i64,
    pub(super) body: Vec<u8>,
}

/// What a take brought.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) rows: Vec<Row>,
    /// When the next becomes due, by the wall clock.
    pub(super) next_due: Option<i64>,
    /// Whether there was more to look at.
    pub(super) more: bool,
    bytes: usize,
    /// Whether anything became the group's, which the cursor then has to be behind of.
    kept: bool,
}

impl Taken {
    fn is_full(&self, prefetch: usize) -> bool {
        self.rows.len() >= prefetch || self.bytes >= MAX_TAKE_BYTES
    }

    fn push(&mut self, row: Row) {
        self.bytes += row.body.len();
        self.rows.push(row);
    }
}

/// Leases what is ready, oldest first: what came back, then what is new.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) where the group is gone.
pub(super) fn take(session: &mut Session, taker: &mut Taker) -> Result<Taken> {
    let cursor: Option<i64> = session
        .db
        .prepare_cached("SELECT cursor FROM groups WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([taker.group], |row| row.get(0)).optional())
        .map_err(failed("find a group"))?;
    let Some(cursor) = cursor else {
        return Err(pubsub_core::Error::new(ErrorKind::NotFound, "take from a group that is gone"));
    };
    let key = (taker.group, Arc::clone(&taker.owner));
    let mut scan = session.scans.get(&key).copied().unwrap_or_default();
    let now = now();
    if now - scan.seen >= micros(taker.lease.min(Duration::from_secs(30)) / 3) || now < scan.seen {
        seen(session, taker.group, &taker.owner)?;
        scan.seen = now;
    }
    let mut taken = Taken::default();
    session.hindered.look(now);
    let left_alone = session.hindered.left(taker.lease);
    if left_alone.is_zero() {
        expire(session, taker, &mut scan, now)?;
    } else {
        scan.next_expiry = now + micros(left_alone);
    }
    take_ready(session, taker, now, &mut taken)?;
    let from = scan.scanned.max(cursor);
    let upto = take_new(session, taker, now, from, &mut taken)?;
    if upto > cursor && (taken.kept || upto - cursor >= MAX_CURSOR_LAG || taken.more) {
        session.run(
            "UPDATE groups SET cursor = max(cursor, ?2) WHERE id = ?1",
            taker.group,
            upto,
            "move a cursor",
        )?;
    }
    scan.scanned = upto;
    session.scans.insert(key, scan);
    #[cfg(feature = "fault-points")]
    if !taken.rows.is_empty() {
        super::faults::changed("take");
    }
    if taken.rows.is_empty() {
        taken.next_due =
            Some(next_due(session, taker.group)?.map_or(scan.next_expiry, |due| due.min(scan.next_expiry)));
    }
    Ok(taken)
}

fn next_due(session: &Session, group: i64) -> Result<Option<i64>> {
    session
        .db
        .prepare_cached("SELECT min(due) FROM pending WHERE grp = ?1 AND state = 0")
        .and_then(|mut statement| statement.query_row([group], |row| row.get(0)))
        .map_err(failed("find what is due next"))
}

/// Makes what leases left ready again. All leases of a group are equally long, so no lease that is given later ends
/// before those seen now: the leased are read again only when the first of them ends.
fn expire(session: &Session, taker: &Taker, scan: &mut Scan, now: i64) -> Result<()> {
    let latest = now + micros(taker.lease);
    if now < scan.next_expiry && scan.next_expiry <= latest {
        return Ok(());
    }
    let what = "look for leases that ended";
    let mut statement = session
        .db
        .prepare_cached("SELECT seq, due, owner, count FROM pending WHERE grp = ?1 AND state = 1")
        .map_err(failed(what))?;
    let mut rows = statement.query([taker.group]).map_err(failed(what))?;
    let mut next = latest;
    let mut ended: Vec<(i64, String, i64)> = Vec::new();
    while let Some(row) = rows.next().map_err(failed(what))? {
        let due: i64 = row.get(1).map_err(failed(what))?;
        if due > now {
            next = next.min(due);
        } else {
            let lease = row.get(0).and_then(|seq| Ok((seq, row.get(2)?, row.get(3)?)));
            ended.push(lease.map_err(failed(what))?);
        }
    }
    scan.next_expiry = next;
    for (seq, owner, count) in ended {
        // What was begun may have killed its holder: such suspects come back apart from each other.
        let suspect = claims::is_open(&session.db, seq, &taker.name, &owner, count)?;
        let longest = micros((taker.lease / 4).min(MAX_JITTER));
        let due = if suspect { now + fastrand::i64(0..=longest) } else { 0 };
        session
            .db
            .prepare_cached("UPDATE pending SET state = 0, due = ?3 WHERE grp = ?1 AND seq = ?2")
            .and_then(|mut statement| statement.execute(params![taker.group, seq, due]))
            .map_err(failed("end a lease"))?;
    }
    Ok(())
}

/// Takes what is due: released, to be tried again, delayed, or left by a lease.
fn take_ready(session: &Session, taker: &Taker, now: i64, taken: &mut Taken) -> Result<()> {
    let what = "find what is due";
    let limit = i64::try_from(taker.prefetch).unwrap_or(i64::MAX);
    let ready: Vec<(i64, i64)> = session
        .db
        .prepare_cached(
            "SELECT seq, count FROM pending WHERE grp = ?1 AND state = 0 AND due <= ?2 ORDER BY due, seq LIMIT ?3",
        )
        .and_then(|mut statement| {
            statement
                .query_map(params![taker.group, now, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .map_err(failed(what))?;
    for (seq, count) in ready {
        if taken.is_full(taker.prefetch) {
            taken.more = true;
            break;
        }
        let body: Option<Vec<u8>> = session
            .db
            .prepare_cached("SELECT body FROM events WHERE seq = ?1")
            .and_then(|mut statement| statement.query_row([seq], |row| row.get(0)).optional())
            .map_err(failed(what))?;
        let Some(body) = body else {
            tracing::warn!(seq, "what was to be delivered is gone");
            session.run("DELETE FROM pending WHERE grp = ?1 AND seq = ?2", taker.group, seq, what)?;
            continue;
        };
        let count = count + 1;
        session
            .db
            .prepare_cached(
                "UPDATE pending SET state = 1, due = ?3, owner = ?4, count = ?5 WHERE grp = ?1 AND seq = ?2",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    taker.group,
                    seq,
                    now + micros(taker.lease),
                    taker.owner.as_ref(),
                    count
                ])
            })
            .map_err(failed("lease an event"))?;
        taken.push(Row { seq, count, body });
    }
    Ok(())
}

/// Takes new events after the cursor and answers up to where it looked.
fn take_new(session: &Session, taker: &mut Taker, now: i64, from: i64, taken: &mut Taken) -> Result<i64> {
    if taken.is_full(taker.prefetch) {
        taken.more = true;
        return Ok(from);
    }
    let Some(actions) = taker.matcher.literal_actions() else {
        let sql = format!("SELECT {MATCH_COLUMNS}, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2");
        return take_from(session, taker, now, &sql, &[&from, &MAX_SCAN], from, taken);
    };
    if let [action] = actions.as_slice() {
        let sql = format!(
            "SELECT {MATCH_COLUMNS}, body FROM events WHERE action = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2"
        );
        let last = session.last_seq()?;
        let upto = take_from(session, taker, now, &sql, &[&from, &MAX_SCAN, action], from, taken)?;
        return Ok(if taken.more { upto } else { last.max(upto) });
    }
    // Several actions: their numbers are merged, so that one cursor serves all.
    let last = session.last_seq()?;
    let mut seqs: Vec<i64> = Vec::new();
    for action in &actions {
        let some: Vec<i64> = session
            .db
            .prepare_cached("SELECT seq FROM events WHERE action = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")
            .and_then(|mut statement| {
                statement.query_map(params![action, from, MAX_SCAN], |row| row.get(0))?.collect()
            })
            .map_err(failed("find an action's events"))?;
        seqs.extend(some);
    }
    seqs.sort_unstable();
    let most = usize::try_from(MAX_SCAN).unwrap_or(usize::MAX);
    let all = seqs.len() < most;
    seqs.truncate(most);
    let sql = format!("SELECT {MATCH_COLUMNS}, body FROM events WHERE seq = ?1");
    let mut upto = from;
    for seq in seqs {
        if taken.is_full(taker.prefetch) {
            taken.more = true;
            return Ok(upto);
        }
        take_from(session, taker, now, &sql, &[&seq], from, taken)?;
        upto = seq;
    }
    taken.more |= !all;
    Ok(if all { last.max(upto) } else { upto })
}

fn take_from(
    session: &Session,
    taker: &mut Taker,
    now: i64,
    sql: &str,
    values: &[&dyn rusqlite::ToSql],
    from: i64,
    taken: &mut Taken,
) -> Result<i64> {
    let what = "look at new events";
    let mut statement = session.db.prepare_cached(sql).map_err(failed(what))?;
    let mut insert = session
        .db
        .prepare_cached(
            "INSERT INTO pending (grp, seq, state, due, owner, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (grp, seq) DO NOTHING",
        )
        .map_err(failed(what))?;
    let mut rows = statement.query(values).map_err(failed(what))?;
    let until = now + micros(taker.lease);
    let (mut upto, mut looked) = (from, 0);
    while let Some(row) = rows.next().map_err(failed(what))? {
        if taken.is_full(taker.prefetch) {
            taken.more = true;
            return Ok(upto);
        }
        let seq: i64 = row.get(0).map_err(failed(what))?;
        upto = seq;
        looked += 1;
        match taker.matcher.wants(row) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                set_aside(session, seq, &error.to_string())?;
                continue;
            }
        }
        let due: Option<i64> = row.get(6).map_err(failed(what))?;
        if let Some(due) = due.filter(|due| *due > now)
            && !claims::is_cancelled(&session.db, seq)?
        {
            insert.execute(params![taker.group, seq, 0, due, "", 0]).map_err(failed("put an event off"))?;
            taken.kept = true;
            continue;
        }
        let new = insert
            .execute(params![taker.group, seq, 1, until, taker.owner.as_ref(), 1])
            .map_err(failed("lease an event"))?;
        if new == 1 {
            taken.kept = true;
            taken.push(Row { seq, count: 1, body: row.get(7).map_err(failed(what))? });
        }
    }
    taken.more |= looked >= MAX_SCAN;
    Ok(upto)
}

/// Gives back what nobody will look at, as when a stream is dropped.
pub(super) fn give_back(session: &mut Session, group: i64, left: &[LeaseId]) -> Result<()> {
    for lease in left {
        let (Some(seq), Ok(count)) = (seq_of(&lease.entry), i64::try_from(lease.count)) else { continue };
        session
            .db
            .prepare_cached(
                "UPDATE pending SET state = 0, due = 0, owner = ''
                 WHERE grp = ?1 AND seq = ?2 AND owner = ?3 AND count = ?4",
            )
            .and_then(|mut statement| statement.execute(params![group, seq, lease.owner.as_ref(), count]))
            .map_err(failed("release an event"))?;
    }
    session.effects.events |= !left.is_empty();
    Ok(())
}

/// The claim as its text says, for those who only read it.
pub(super) fn read_claim(text: &str) -> Result<Claim> {
    serde_json::from_str(text)
        .map_err(|e| pubsub_core::Error::new(ErrorKind::Corrupt, "read a claim").with_source(e))
}
