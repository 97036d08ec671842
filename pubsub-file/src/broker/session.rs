//! The writing connection: schema, transactions, and what it remembers between them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use pubsub_core::{Error, ErrorKind, Result, Timestamp};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::config::{FileBrokerConfig, FileDurability};
use super::hindered::Hindered;
use super::retention::{Full, Keep};
use crate::sqlite::failed;

/// SQLite's page, which is what space is given in.
pub(super) const PAGE_BYTES: u64 = 4096;

/// The version of the tables below, kept in `user_version`.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// `pending.state`: 0 may be taken from `due` on (also an expired lease, which keeps its owner so that nobody but a
/// taker ends it), 1 is leased until `due`. Times are microseconds of the wall clock: several processes share them.
/// A jump of that clock ends no lease at once: who sees it leaves the leases of others alone for a while. Owner and count
/// decide who may renew, settle and conclude, so it never makes two holders.
pub(super) const SCHEMA: &str = "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    action TEXT NOT NULL,
    role INTEGER,
    stage TEXT,
    root INTEGER,
    only_group INTEGER,
    due INTEGER,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX events_action ON events (action, seq);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    stage TEXT,
    lease INTEGER NOT NULL,
    patterns TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT;
CREATE TABLE members (
    grp INTEGER NOT NULL,
    owner TEXT NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (grp, owner)
) STRICT, WITHOUT ROWID;
CREATE TABLE pending (
    grp INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    owner TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (grp, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX pending_due ON pending (grp, due, seq) WHERE state = 0;
CREATE TABLE claims (
    seq INTEGER NOT NULL,
    stage TEXT NOT NULL,
    claim TEXT NOT NULL,
    PRIMARY KEY (seq, stage)
) STRICT, WITHOUT ROWID;
CREATE TABLE cancels (
    action TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    grp TEXT,
    action TEXT,
    reason TEXT NOT NULL,
    body BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    time INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_id ON dead (id);
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counters VALUES ('cancels', 0);
";

/// No event up to `seq` was published later than `time`. It came after version 1 and changes nothing for who does not
/// know it, so it has no version of its own.
const TIMES: &str =
    "CREATE TABLE IF NOT EXISTS times (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL) STRICT";

/// What a transaction changed that others wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effects {
    /// There may be something to take.
    pub(super) events: bool,
    /// Something was cancelled.
    pub(super) cancels: bool,
}

/// What is known of a group between two takes; forgotten with each transaction that fails.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// Every event up to here was looked at.
    pub(super) scanned: i64,
    /// No lease expires before.
    pub(super) next_expiry: i64,
    /// When the member's sign of life was written last.
    pub(super) seen: i64,
}

/// The one connection of a broker that writes.
pub(super) struct Session {
    pub(super) db: Connection,
    pub(super) effects: Effects,
    pub(super) scans: HashMap<(i64, std::sync::Arc<str>), Scan>,
    pub(super) keep: Keep,
    pub(super) full: Option<Full>,
    pub(super) hindered: Hindered,
    busy: Duration,
    version: i64,
    cancels: i64,
}

/// Microseconds of the wall clock.
pub(super) fn now() -> i64 {
    Timestamp::now().as_micros()
}

/// A duration in microseconds.
pub(super) fn micros(time: Duration) -> i64 {
    // A hundred years are for ever; more would overflow what is added to it.
    const FOR_EVER: u128 = 100 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(time.as_micros().min(FOR_EVER)).unwrap_or(i64::MAX / 4)
}

/// Opens a connection with the settings that all connections share. Reading waits as well: where a process was killed
/// while it wrote, the next one that comes recovers the log, and the database is busy until it has.
pub(super) fn connect(path: &Path, busy: Duration) -> Result<Connection> {
    let db = Connection::open(path).map_err(failed("open the broker's database"))?;
    db.set_prepared_statement_cache_capacity(64);
    db.busy_timeout(busy).map_err(failed("set the busy timeout"))?;
    db.pragma_update(None, "temp_store", "MEMORY").map_err(failed("set temp_store"))?;
    db.pragma_update(None, "cache_size", -16_384).map_err(failed("set cache_size"))?;
    Ok(db)
}

impl Session {
    /// Opens the database, making the tables where it is new. Call it with the folder's lock held.
    pub(super) fn open(path: &Path, config: &FileBrokerConfig) -> Result<Self> {
        let db = connect(path, config.busy())?;
        let mut session = Self {
            db,
            effects: Effects::default(),
            scans: HashMap::new(),
            keep: config.keep(),
            full: None,
            hindered: Hindered::new(),
            busy: config.busy(),
            version: 0,
            cancels: 0,
        };
        session.check_version()?;
        let synchronous = match config.durability() {
            FileDurability::ProcessCrash => "NORMAL",
            FileDurability::PowerLoss => "FULL",
        };
        session.patiently(|db| db.pragma_update(None, "journal_mode", "WAL"), "switch to WAL")?;
        session.db.pragma_update(None, "synchronous", synchronous).map_err(failed("set synchronous"))?;
        session.db.pragma_update(None, "wal_autocheckpoint", 4000).map_err(failed("set the checkpoint"))?;
        session.db.pragma_update(None, "journal_size_limit", 64 << 20).map_err(failed("limit the log"))?;
        // From here on it waits in its own way.
        session.db.busy_timeout(Duration::ZERO).map_err(failed("set the busy timeout"))?;
        session.begin()?;
        let made = session.make();
        if let Err(error) = made {
            session.rollback();
            return Err(error);
        }
        session.commit()?;
        session.look()?;
        Ok(session)
    }

    fn check_version(&self) -> Result<i64> {
        let found: i64 = self
            .db
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed("read the version of the broker's database"))?;
        if found > SCHEMA_VERSION {
            return Err(Error::new(ErrorKind::TooNew, "open the broker's database")
                .with("version", found)
                .with("newest known", SCHEMA_VERSION));
        }
        Ok(found)
    }

    fn make(&self) -> Result<()> {
        if self.check_version()? == 0 {
            self.db.execute_batch(SCHEMA).map_err(failed("make the broker's tables"))?;
            self.db
                .pragma_update(None, "user_version", SCHEMA_VERSION)
                .map_err(failed("write the version of the broker's database"))?;
        }
        self.db.execute_batch(TIMES).map_err(failed("make the broker's tables"))
    }

    /// Starts a transaction that may write, waiting for other processes up to the busy limit.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.effects = Effects::default();
        let since = Instant::now();
        let begun = self.patiently(
            |db| db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop),
            "begin a transaction",
        );
        self.hindered.waited(since.elapsed());
        begun
    }

    pub(super) fn commit(&mut self) -> Result<()> {
        #[cfg(feature = "fault-points")]
        super::faults::committing(&self.db);
        let done = self.patiently(|db| db.prepare_cached("COMMIT")?.execute([]).map(drop), "commit");
        if done.is_err() {
            self.rollback();
        }
        #[cfg(feature = "fault-points")]
        super::faults::committed();
        done
    }

    pub(super) fn rollback(&mut self) {
        // What was remembered may rest on what is undone now.
        self.scans.clear();
        self.full = None;
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "the broker could not roll back");
        }
    }

    /// SQLite's own waiting sleeps up to 100 ms at a time; between processes that write in bursts of a millisecond a
    /// shorter, jittered one is fairer and faster.
    fn patiently<T>(
        &self,
        mut call: impl FnMut(&Connection) -> rusqlite::Result<T>,
        what: &'static str,
    ) -> Result<T> {
        let since = Instant::now();
        let mut longest = 100;
        loop {
            match call(&self.db) {
                Err(rusqlite::Error::SqliteFailure(failure, _))
                    if matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                        && since.elapsed() < self.busy =>
                {
                    std::thread::sleep(Duration::from_micros(fastrand::u64(50..=longest)));
                    longest = (longest * 2).min(4000);
                }
                done => return done.map_err(failed(what)),
            }
        }
    }

    /// Whether others changed the database since the last look, and whether they cancelled something.
    pub(super) fn look(&mut self) -> Result<Effects> {
        let version: i64 = self.patiently(
            |db| db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0)),
            "look for changes",
        )?;
        if version == self.version {
            return Ok(Effects::default());
        }
        let sql = "SELECT value FROM counters WHERE name = 'cancels'";
        let cancels: Option<i64> = self.patiently(
            |db| db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional(),
            "look for cancels",
        )?;
        let cancels = cancels.unwrap_or(0);
        let effects = Effects { events: true, cancels: cancels != self.cancels };
        self.version = version;
        self.cancels = cancels;
        Ok(effects)
    }

    /// The position of the last event ever published.
    pub(super) fn last_seq(&self) -> Result<i64> {
        self.db
            .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
            .map(|seq| seq.unwrap_or(0))
            .map_err(failed("find the last event"))
    }

    /// Runs one statement with the group's id and a sequence number, as most do.
    pub(super) fn run(&self, sql: &str, group: i64, seq: i64, what: &'static str) -> Result<usize> {
        self.db
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params![group, seq]))
            .map_err(failed(what))
    }
}
