//! Lines come into the spool, and what happens where it has no room for them.

use std::error::Error as _;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Appended, Error, ErrorKind, LineBatch, LineRange, OutputSink, Result, RunKey, WhenFull};
use tokio::time::{Instant, timeout};

use super::adopt::COUNT_AGAIN;
use super::log::Log;
use super::{Shared, removal};
use crate::files::blocking;

/// A call waits for room so many times shorter than one to the sink may take, so that who calls is not impatient.
const WAITS_PART: u32 = 3;

/// How long shipping may free nothing until lines are dropped, where that is wanted.
const FREES: Duration = Duration::from_secs(1);

impl<S: OutputSink + 'static> Shared<S> {
    /// Appends lines. Without room for them, it waits for what shipping frees: where it is to block, and otherwise as long
    /// as the sink takes what is there, so that none is dropped for a sink in reach.
    pub(super) async fn append_waiting(
        self: &Arc<Self>,
        run: &RunKey,
        batches: &[LineBatch],
    ) -> Result<Appended> {
        let until = Instant::now() + self.config.call_limit / WAITS_PART;
        let mut left = batches;
        loop {
            let freed = self.room.notified();
            let (shared, key, own) = (Arc::clone(self), run.clone(), left.to_vec());
            let full = match blocking(move || shared.append(&key, &own)).await? {
                Taken::All => return Ok(Appended::all()),
                // The sink knows.
                Taken::NotHere => return self.sink.append(run, left).await,
                Taken::First(taken, full) => {
                    left = left.get(taken..).unwrap_or_default();
                    // What is gathered takes the room.
                    self.hurry();
                    full
                }
            };
            let waits = Instant::now() < until;
            match self.config.when_full {
                // Other processes, and whoever else uses the disk, tell nobody what they free.
                WhenFull::Block if waits => drop(timeout(COUNT_AGAIN, freed).await),
                WhenFull::Block if left.len() == batches.len() => return Err(full),
                // What it had room for is told.
                WhenFull::Block => {
                    let again = |batch: &LineBatch| LineRange::new(batch.first(), batch.last());
                    return Ok(left.iter().map(again).fold(Appended::all(), Appended::with_again));
                }
                WhenFull::Drop => {
                    let in_reach = waits && !*self.away.borrow();
                    if !in_reach || timeout(FREES, freed).await.is_err() {
                        return Ok(dropped(left, &full));
                    }
                }
            }
        }
    }
}

fn dropped(left: &[LineBatch], full: &Error) -> Appended {
    let on_disk = full.source().is_some();
    let why = if on_disk { "no space is left on the disk of the spool" } else { full.message() };
    let gaps = left.iter().map(|batch| batch.gap(format!("dropped: {why}")));
    gaps.fold(Appended::all(), Appended::with_dropped)
}

/// What became of lines.
enum Taken {
    All,
    /// So many batches; there was no room for the next one.
    First(usize, Error),
    /// Nothing of the run is here: it was shipped to its end, or never began.
    NotHere,
}

impl<S> Shared<S> {
    fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Taken> {
        let mut taken = 0;
        let appended = self.with(&run.run_id, |log| {
            if self.is_gone(log, &run.run_id) {
                return Err(removal::is_removed(&run.run_id));
            }
            if log.record().is_none() {
                return Ok(Taken::NotHere);
            }
            match self.write(log, batches) {
                // As much as there is room for.
                Err(error) if error.kind() == ErrorKind::Full && batches.len() > 1 => {}
                written => return written.map(|()| Taken::All),
            }
            for batch in batches {
                self.write(log, slice::from_ref(batch))?;
                taken += 1;
            }
            Ok(Taken::All)
        });
        match appended {
            Err(full) if full.kind() == ErrorKind::Full => Ok(Taken::First(taken, full)),
            appended => appended,
        }
    }

    fn write(&self, log: &mut Log, batches: &[LineBatch]) -> Result<()> {
        let bytes: u64 = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        if !self.has_room(bytes) {
            return Err(Error::new(ErrorKind::Full, "the spool is full").with("bytes", self.config.max_bytes));
        }
        let written = log.append(batches, self.sync())?;
        self.add(written);
        Ok(())
    }
}
