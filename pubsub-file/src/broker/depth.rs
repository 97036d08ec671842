//! How much a group has to do.

use pubsub_core::{ActionId, Depth, Result};
use rusqlite::{Connection, params};

use super::group::{MATCH_COLUMNS, Matcher, Stored};
use super::session::now;
use crate::sqlite::failed;

/// What of this group, or of this action in it, is waiting, delayed and leased.
pub(super) fn depth(db: &Connection, group: &Stored, action: Option<&ActionId>) -> Result<Depth> {
    let what = "count what a group has to do";
    let action = action.map(ActionId::as_str);
    let now = now();
    let mut depth = Depth::default();
    let mut statement = db
        .prepare_cached(
            "SELECT p.state, p.due > ?2 FROM pending p WHERE p.grp = ?1
             AND (?3 IS NULL OR ?3 = (SELECT action FROM events e WHERE e.seq = p.seq))",
        )
        .map_err(failed(what))?;
    let mut rows = statement.query(params![group.id, now, action]).map_err(failed(what))?;
    while let Some(row) = rows.next().map_err(failed(what))? {
        let (state, later): (i64, bool) =
            row.get(0).and_then(|state| Ok((state, row.get(1)?))).map_err(failed(what))?;
        match (state, later) {
            (1, _) => depth.leased += 1,
            (_, true) => depth.delayed += 1,
            (_, false) => depth.waiting += 1,
        }
    }
    let mut matcher = Matcher::new(&group.patterns, group.stage.as_ref(), Some(group.id))?;
    let actions = match (action, matcher.literal_actions()) {
        (Some(action), _) => Some(vec![action.to_owned()]),
        (None, literal) => literal,
    };
    let Some(actions) = actions else {
        let sql = format!("SELECT {MATCH_COLUMNS} FROM events WHERE seq > ?1");
        unseen(db, &sql, &[&group.cursor], &mut matcher, &mut depth)?;
        return Ok(depth);
    };
    let sql = format!("SELECT {MATCH_COLUMNS} FROM events WHERE seq > ?1 AND action = ?2");
    for action in actions {
        unseen(db, &sql, &[&group.cursor, &action], &mut matcher, &mut depth)?;
    }
    Ok(depth)
}

fn unseen(
    db: &Connection,
    sql: &str,
    values: &[&dyn rusqlite::ToSql],
    matcher: &mut Matcher,
    depth: &mut Depth,
) -> Result<()> {
    let what = "count what a group has to do";
    let now = now();
    let mut statement = db.prepare_cached(sql).map_err(failed(what))?;
    let mut rows = statement.query(values).map_err(failed(what))?;
    while let Some(row) = rows.next().map_err(failed(what))? {
        if !matcher.wants(row).unwrap_or(false) {
            continue;
        }
        match row.get::<_, Option<i64>>(6).map_err(failed(what))? {
            Some(due) if due > now => depth.delayed += 1,
            _ => depth.waiting += 1,
        }
    }
    Ok(())
}
