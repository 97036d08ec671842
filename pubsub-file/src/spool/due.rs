//! What a run has to ship just now.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Judgement, Result, RunRecord, RunStatus, Timestamp};
use tokio::time::Instant;

use super::cursor::Chunk;
use super::folder::Turn;
use super::{Run, lock};
use crate::files::blocking;

/// Most bytes of one append to the sink.
const CHUNK_BYTES: usize = 1 << 20;

/// What is to be done about a run.
pub(super) enum Look {
    Nothing,
    Due(Box<Due>),
    /// It is marked as removed.
    Removed,
    /// Its owner is dead, and the sink has what it left.
    Left,
}

/// What a run has to ship.
pub(super) struct Due {
    pub(super) chunk: Chunk,
    pub(super) record: RunRecord,
    /// The highest revision that the sink took; 0 before the run began there.
    pub(super) revision: u64,
    /// The chunk is the last one.
    pub(super) is_read: bool,
    /// Until when what there is waits for more; the chunk is empty.
    pub(super) gathers: Option<Instant>,
    /// Held until the step is done.
    pub(super) turn: Turn,
}

pub(super) async fn due(run: &Run, delay: Duration, keep_damaged: Duration) -> Result<Look> {
    let run = Arc::clone(run);
    blocking(move || {
        let mut log = lock(&run);
        let Some(log) = log.as_mut() else { return Ok(Look::Nothing) };
        // Whoever removes it has the turn, or has had it and left a mark.
        let Some(turn) = log.turn()? else { return Ok(Look::Nothing) };
        if log.is_removed() {
            return Ok(Look::Removed);
        }
        let Some(record) = log.record().cloned() else { return Ok(Look::Nothing) };
        let running = record.status == RunStatus::Running;
        let gathers = log.gathers(delay, CHUNK_BYTES).filter(|_| running).map(Instant::from_std);
        let chunk = if gathers.is_some() { Chunk::default() } else { log.take(CHUNK_BYTES)? };
        let (is_read, revision) = (log.is_read(), log.cursor.revision);
        if chunk.is_empty() && is_read && log.adopted && record.revision <= revision {
            let now = Timestamp::now();
            // The sink has what there is, and nobody writes more. Holes that no end of the run has told stay for a while.
            let is_told = log.cursor.refused.is_empty() || now.since(record.beat_at) >= keep_damaged;
            if is_told && record.judge(now) != Judgement::Running {
                return Ok(Look::Left);
            }
        }
        Ok(Look::Due(Box::new(Due { chunk, record, revision, is_read, gathers, turn })))
    })
    .await
}
