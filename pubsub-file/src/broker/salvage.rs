//! Sets a damaged database aside and copies into a new one whatever can still be read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pubsub_core::{Error, ErrorKind, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::config::FileBrokerConfig;
use super::open::{Repair, aside};
use super::session::Session;
use crate::sqlite::failed;

/// A table, its columns, and the number that its rows are looked up by one at a time where a page is damaged.
struct Table {
    name: &'static str,
    columns: &'static str,
    number: Option<&'static str>,
}

const TABLES: [Table; 7] = [
    Table {
        name: "events",
        columns: "seq, id, type, action, role, stage, root, only_group, due, body",
        number: Some("seq"),
    },
    Table { name: "groups", columns: "id, name, stage, lease, patterns, cursor, used", number: Some("id") },
    Table { name: "pending", columns: "grp, seq, state, due, owner, count", number: None },
    Table { name: "claims", columns: "seq, stage, claim", number: None },
    Table { name: "cancels", columns: "action, seq", number: None },
    Table {
        name: "dead",
        columns: "n, id, grp, action, reason, body, attempts, crashes, time",
        number: Some("n"),
    },
    Table { name: "sqlite_sequence", columns: "name, seq", number: None },
];

/// Rows in a row that cannot be read, after which a table is given up.
const GIVE_UP_AFTER: i64 = 100_000;

/// Moves the damaged database away and makes a new one of what it still says. A crash in the middle leaves the new one
/// under a name of its own, so that the next opening begins again.
pub(super) fn set_aside(path: &Path, damage: &str, config: &FileBrokerConfig) -> Result<Repair> {
    let moved = aside(path);
    let beside = |base: &Path, end: &str| -> PathBuf {
        let mut name: OsString = base.as_os_str().to_owned();
        name.push(end);
        name.into()
    };
    let fresh = beside(path, ".new");
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(&fresh, end));
    }
    let mut repair = Repair { set_aside: moved.clone(), damage: damage.to_owned(), ..Repair::default() };
    let session = Session::open(&fresh, config)?;
    match Connection::open(path) {
        Ok(old) => copy_all(&old, &session.db, &mut repair)?,
        Err(error) => tracing::warn!(%error, "nothing of the damaged database can be read"),
    }
    session
        .db
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(failed("write out the repaired database"))?;
    drop(session);
    let told = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "put a repaired database in place").with_source(e)
    };
    for end in ["", "-wal", "-shm"] {
        match std::fs::rename(beside(path, end), beside(&moved, end)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
    }
    std::fs::rename(&fresh, path).map_err(told)?;
    tracing::warn!(
        damage,
        set_aside = %moved.display(),
        rows_kept = repair.rows_kept,
        rows_lost = repair.rows_lost,
        "the broker's database was damaged; what could be read was copied into a new one"
    );
    Ok(repair)
}

fn copy_all(old: &Connection, new: &Connection, repair: &mut Repair) -> Result<()> {
    // Lets SQLite read a file that is shorter than its first page says.
    if let Err(error) = old.pragma_update(None, "writable_schema", "ON") {
        tracing::debug!(%error, "the damaged database is read as it is");
    }
    new.execute_batch("BEGIN").map_err(failed("copy a damaged database"))?;
    for table in &TABLES {
        if table.name == "sqlite_sequence" {
            new.execute_batch("DELETE FROM sqlite_sequence").map_err(failed("copy the numbering"))?;
        }
        copy(old, new, table, repair)?;
    }
    // Numbers that were given are never given again, also where the table that says so was lost.
    new.execute_batch(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'events', coalesce(max(seq), 0) FROM events
         WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'events');
         UPDATE sqlite_sequence SET seq = max(seq, (SELECT coalesce(max(seq), 0) FROM events)) WHERE name = 'events';
         COMMIT",
    )
    .map_err(failed("copy a damaged database"))
}

fn copy(old: &Connection, new: &Connection, table: &Table, repair: &mut Repair) -> Result<()> {
    let columns = table.columns.split(',').count();
    let marks = vec!["?"; columns].join(", ");
    let insert = format!("INSERT OR IGNORE INTO {} ({}) VALUES ({marks})", table.name, table.columns);
    let mut insert = new.prepare(&insert).map_err(failed("copy a damaged database"))?;
    let mut keep = |row: &Row<'_>| -> Result<Option<i64>> {
        let values: rusqlite::Result<Vec<Value>> = (0..columns).map(|column| row.get(column)).collect();
        let Ok(values) = values else { return Ok(None) };
        let number = match values.first() {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        };
        match insert.execute(params_from_iter(values)) {
            Ok(_) => Ok(Some(number)),
            // A value that the tables refuse is damage as well.
            Err(rusqlite::Error::SqliteFailure(failure, _))
                if failure.code == rusqlite::ErrorCode::ConstraintViolation =>
            {
                Ok(None)
            }
            Err(error) => Err(failed("copy a damaged database")(error)),
        }
    };
    let Some(number) = table.number else {
        let sql = format!("SELECT {} FROM {}", table.columns, table.name);
        if !read(old, &sql, None, &mut keep, repair)?.1 {
            repair.rows_lost += 1;
        }
        return Ok(());
    };
    let sql = format!("SELECT {} FROM {} WHERE {number} > ?1 ORDER BY {number}", table.columns, table.name);
    let one = format!("SELECT {} FROM {} WHERE {number} = ?1", table.columns, table.name);
    if old.prepare_cached(&one).is_err() {
        // Not even the list of tables can be read.
        repair.rows_lost += 1;
        return Ok(());
    }
    let last = last_number(old, table);
    let (mut from, mut missed) = (0, 0);
    loop {
        let (upto, whole) = read(old, &sql, Some(from), &mut keep, repair)?;
        if upto > from {
            missed = 0;
        }
        from = upto.max(from);
        if whole {
            return Ok(());
        }
        // The damage is right behind: its rows one by one, then on.
        for _ in 0..64 {
            from += 1;
            missed += 1;
            if from > last || missed > GIVE_UP_AFTER {
                return Ok(());
            }
            match read(old, &one, Some(from), &mut keep, repair)? {
                (found, true) if found == from => missed = 0,
                (_, true) => {}
                (_, false) => repair.rows_lost += 1,
            }
        }
    }
}

fn last_number(old: &Connection, table: &Table) -> i64 {
    old.query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table.name], |row| row.get(0))
        .unwrap_or(i64::MAX / 2)
}

/// Copies what a query gives until its end or an error; answers the last number and whether it came to the end.
fn read(
    old: &Connection,
    sql: &str,
    from: Option<i64>,
    keep: &mut impl FnMut(&Row<'_>) -> Result<Option<i64>>,
    repair: &mut Repair,
) -> Result<(i64, bool)> {
    let mut upto = from.unwrap_or(0);
    if sql.contains("= ?1") {
        upto -= 1;
    }
    let Ok(mut statement) = old.prepare_cached(sql) else { return Ok((upto, false)) };
    let Ok(mut rows) = statement.query(params_from_iter(from)) else { return Ok((upto, false)) };
    loop {
        match rows.next() {
            Ok(Some(row)) => match keep(row)? {
                Some(number) => {
                    repair.rows_kept += 1;
                    upto = number;
                }
                None => repair.rows_lost += 1,
            },
            Ok(None) => return Ok((upto, true)),
            Err(error) => {
                tracing::debug!(%error, "a page of the damaged database cannot be read");
                return Ok((upto, false));
            }
        }
    }
}
