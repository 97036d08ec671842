//! Leases and claims: renewing, settling, beginning and concluding, each in one transaction with the lease's check.

use std::time::Duration;

use pubsub_core::{
    Begin, Claim, Conclusion, Error, ErrorKind, Holder, LeaseId, Mark, OpenAttempt, Renewal, Result,
    Settlement,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::group::seen;
use super::publish::seq_of;
use super::session::{Session, micros, now};
use super::take::read_claim;
use crate::sqlite::failed;

/// The group whose leases these are.
#[derive(Clone)]
pub(super) struct Of {
    pub(super) group: i64,
    pub(super) name: String,
    pub(super) stage: Option<String>,
    pub(super) lease: Duration,
}

fn lost() -> Error {
    Error::new(ErrorKind::LeaseLost, "another holds this event by now, or it is gone")
}

fn count_of(lease: &LeaseId) -> i64 {
    i64::try_from(lease.count).unwrap_or(-1)
}

/// Renews a lease where it is still its owner's, expired or not.
fn hold(session: &Session, of: &Of, lease: &LeaseId, until: i64) -> Result<bool> {
    let Some(seq) = seq_of(&lease.entry) else { return Ok(false) };
    session
        .db
        .prepare_cached(
            "UPDATE pending SET state = 1, due = ?5 WHERE grp = ?1 AND seq = ?2 AND owner = ?3 AND count = ?4",
        )
        .and_then(|mut statement| {
            statement.execute(params![of.group, seq, lease.owner.as_ref(), count_of(lease), until])
        })
        .map(|rows| rows == 1)
        .map_err(failed("renew a lease"))
}

/// Whether the chain of an event was cancelled.
pub(super) fn is_cancelled(db: &Connection, seq: i64) -> Result<bool> {
    db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM events e JOIN cancels c ON c.action = e.action
         WHERE e.seq = ?1 AND coalesce(e.root, e.seq) <= c.seq)",
    )
    .and_then(|mut statement| statement.query_row([seq], |row| row.get(0)))
    .map_err(failed("look for a cancel"))
}

pub(super) fn renew(session: &Session, of: &Of, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
    let until = now() + micros(of.lease);
    let cancels: bool = session
        .db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM cancels)")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(failed("look for cancels"))?;
    if let Some(lease) = leases.first() {
        seen(session, of.group, &lease.owner)?;
    }
    leases
        .iter()
        .map(|lease| {
            if !hold(session, of, lease, until)? {
                return Ok(Renewal::Lost);
            }
            let seq = seq_of(&lease.entry).unwrap_or(0);
            Ok(if cancels && is_cancelled(&session.db, seq)? { Renewal::Cancelled } else { Renewal::Held })
        })
        .collect()
}

/// Settles each; what another holds is answered so.
pub(super) fn settle(
    session: &mut Session,
    of: &Of,
    settlements: &[(LeaseId, Settlement)],
) -> Result<Vec<Result<()>>> {
    let settled = settlements
        .iter()
        .map(|(lease, settlement)| match settle_one(session, of, lease, settlement) {
            Ok(true) => Ok(Ok(())),
            Ok(false) => Ok(Err(lost())),
            Err(error) => Err(error),
        })
        .collect();
    #[cfg(feature = "fault-points")]
    super::faults::changed("settle");
    settled
}

fn settle_one(session: &mut Session, of: &Of, lease: &LeaseId, settlement: &Settlement) -> Result<bool> {
    let Some(seq) = seq_of(&lease.entry) else { return Ok(false) };
    let (owner, count) = (lease.owner.as_ref(), count_of(lease));
    if let Settlement::Retry { after } | Settlement::Release { after } = settlement {
        // What is cancelled is concluded at once, not when its time has come.
        let at_once = after.is_zero() || is_cancelled(&session.db, seq)?;
        let due = if at_once { 0 } else { now() + micros(*after) };
        let done = session
            .db
            .prepare_cached(
                "UPDATE pending SET state = 0, due = ?5, owner = ''
                 WHERE grp = ?1 AND seq = ?2 AND owner = ?3 AND count = ?4",
            )
            .and_then(|mut statement| statement.execute(params![of.group, seq, owner, count, due]))
            .map_err(failed("put an event off"))?;
        if done == 0 {
            return Ok(false);
        }
        session.effects.events = true;
    } else {
        let done = session
            .db
            .prepare_cached("DELETE FROM pending WHERE grp = ?1 AND seq = ?2 AND owner = ?3 AND count = ?4")
            .and_then(|mut statement| statement.execute(params![of.group, seq, owner, count]))
            .map_err(failed("settle an event"))?;
        if done == 0 {
            return Ok(false);
        }
    }
    let claim = match &of.stage {
        Some(stage) => load(&session.db, seq, stage)?,
        None => None,
    };
    if let Settlement::DeadLetter { reason } = settlement {
        bury(session, of, seq, reason, claim.as_ref())?;
    }
    if let (Some(mut claim), Some(stage)) = (claim, &of.stage)
        && claim.open.is_some()
    {
        let holder = Holder::new(&of.name, lease);
        match settlement {
            Settlement::Retry { .. } => claim.retried(&holder),
            _ => claim.closed(&holder),
        }
        store(&session.db, seq, stage, &claim)?;
    }
    Ok(true)
}

fn bury(session: &Session, of: &Of, seq: i64, reason: &str, claim: Option<&Claim>) -> Result<()> {
    session
        .db
        .execute(
            "INSERT INTO dead (id, grp, action, reason, body, attempts, crashes, time)
             SELECT id, ?2, action, ?3, body, ?4, ?5, ?6 FROM events WHERE seq = ?1",
            params![
                seq,
                of.name,
                reason,
                claim.map_or(0, |claim| claim.attempts),
                claim.map_or(0, |claim| claim.crashes),
                now()
            ],
        )
        .map(drop)
        .map_err(failed("keep a dead letter"))
}

fn load(db: &Connection, seq: i64, stage: &str) -> Result<Option<Claim>> {
    let text: Option<String> = db
        .prepare_cached("SELECT claim FROM claims WHERE seq = ?1 AND stage = ?2")
        .and_then(|mut statement| statement.query_row(params![seq, stage], |row| row.get(0)).optional())
        .map_err(failed("read a claim"))?;
    text.as_deref().map(read_claim).transpose()
}

fn store(db: &Connection, seq: i64, stage: &str, claim: &Claim) -> Result<()> {
    let text = serde_json::to_string(claim)
        .map_err(|e| Error::new(ErrorKind::Internal, "write a claim").with_source(e))?;
    db.prepare_cached(
        "INSERT INTO claims (seq, stage, claim) VALUES (?1, ?2, ?3)
         ON CONFLICT (seq, stage) DO UPDATE SET claim = excluded.claim",
    )
    .and_then(|mut statement| statement.execute(params![seq, stage, text]))
    .map(drop)
    .map_err(failed("write a claim"))
}

fn stage_of(of: &Of) -> Result<&str> {
    of.stage
        .as_deref()
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "claims need a group that has a stage"))
}

/// Whether an attempt's holder still has its lease.
fn open_attempt(db: &Connection, holder: &Holder) -> Result<OpenAttempt> {
    let held: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM pending WHERE grp = (SELECT id FROM groups WHERE name = ?1)
             AND seq = ?2 AND owner = ?3 AND count = ?4 AND state = 1 AND due > ?5)",
        )
        .and_then(|mut statement| {
            statement.query_row(
                params![
                    holder.group,
                    holder.entry.parse::<i64>().unwrap_or(0),
                    holder.owner,
                    i64::try_from(holder.count).unwrap_or(-1),
                    now()
                ],
                |row| row.get(0),
            )
        })
        .map_err(failed("look at an attempt's lease"))?;
    Ok(if held { OpenAttempt::Held } else { OpenAttempt::Left })
}

/// Whether any stage has an attempt open that this lease began.
pub(super) fn is_open(db: &Connection, seq: i64, group: &str, owner: &str, count: i64) -> Result<bool> {
    let what = "read the claims of an event";
    let mut statement = db.prepare_cached("SELECT claim FROM claims WHERE seq = ?1").map_err(failed(what))?;
    let mut rows = statement.query([seq]).map_err(failed(what))?;
    while let Some(row) = rows.next().map_err(failed(what))? {
        let text: String = row.get(0).map_err(failed(what))?;
        if read_claim(&text)?.open.is_some_and(|open| {
            open.group == group && open.owner == owner && i64::try_from(open.count) == Ok(count)
        }) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn begin(session: &Session, of: &Of, lease: &LeaseId) -> Result<Begin> {
    let stage = stage_of(of)?;
    let seq = seq_of(&lease.entry).ok_or_else(lost)?;
    if !hold(session, of, lease, now() + micros(of.lease))? {
        return Err(lost());
    }
    let mut claim = load(&session.db, seq, stage)?.unwrap_or_default();
    let open = match &claim.open {
        Some(holder) => open_attempt(&session.db, holder)?,
        None => OpenAttempt::Left,
    };
    let mark = if is_cancelled(&session.db, seq)? { Mark::Cancelled } else { Mark::None };
    let before = claim.clone();
    let answer = claim.begin(Holder::new(&of.name, lease), open, mark);
    if claim != before {
        store(&session.db, seq, stage, &claim)?;
        #[cfg(feature = "fault-points")]
        super::faults::changed("begin");
    }
    Ok(answer)
}

pub(super) fn conclude(session: &Session, of: &Of, lease: &LeaseId, conclusion: &Conclusion) -> Result<()> {
    let stage = stage_of(of)?;
    let seq = seq_of(&lease.entry).ok_or_else(lost)?;
    let mut claim = load(&session.db, seq, stage)?.unwrap_or_default();
    // What stands is answered the same way again, also once the event is settled.
    if claim.conclusion.is_none() && !hold(session, of, lease, now() + micros(of.lease))? {
        return Err(lost());
    }
    claim.conclude(&Holder::new(&of.name, lease), conclusion.clone())?;
    store(&session.db, seq, stage, &claim)?;
    #[cfg(feature = "fault-points")]
    super::faults::changed("conclude");
    Ok(())
}
