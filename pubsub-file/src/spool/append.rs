//! Lines come into the spool, and what happens where it has no room for them.

use std::error::Error as _;
use std::slice;
use std::sync::Arc;

use pubsub_core::{Appended, Error, ErrorKind, LineBatch, LineRange, OutputSink, Result, RunKey, WhenFull};
use tokio::time::{Instant, timeout};

use super::adopt::COUNT_AGAIN;
use super::log::Log;
use super::{Shared, removal};
use crate::files::blocking;

/// A call waits for room so many times shorter than one to the sink may take, so that who calls is not impatient.
const WAITS_PART: u32 = 3;

impl<S: OutputSink + 'static> Shared<S> {
    /// Appends lines; waits for room where that is wanted.
    pub(super) async fn append_waiting(
        self: &Arc<Self>,
        run: &RunKey,
        batches: &[LineBatch],
    ) -> Result<Appended> {
        let until = Instant::now() + self.config.call_limit / WAITS_PART;
        let mut left = batches.to_vec();
        loop {
            let freed = self.room.notified();
            let (shared, key, own) = (Arc::clone(self), run.clone(), left.clone());
            let appended = match blocking(move || shared.append(&key, &own)).await {
                Err(error) if error.kind() == ErrorKind::Full && Instant::now() < until => None,
                // What it had room for is told.
                Err(error) if error.kind() == ErrorKind::Full && left.len() < batches.len() => {
                    let again = |batch: &LineBatch| LineRange::new(batch.first(), batch.last());
                    return Ok(left.iter().map(again).fold(Appended::all(), Appended::with_again));
                }
                appended => Some(appended?),
            };
            match appended {
                Some(Taken::All(appended)) => return Ok(appended),
                Some(Taken::First(taken)) => {
                    left.drain(..taken);
                }
                // The sink knows.
                Some(Taken::NotHere) => return self.sink.append(run, &left).await,
                // Other processes, and whoever else uses the disk, tell nobody what they free.
                None => {
                    let _ = timeout(COUNT_AGAIN, freed).await;
                }
            }
        }
    }
}

/// What became of lines.
enum Taken {
    All(Appended),
    /// So many batches; there was no room for the next one, which waits for it.
    First(usize),
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
                written => return written.map(|()| Taken::All(Appended::all())),
            }
            for batch in batches {
                self.write(log, slice::from_ref(batch))?;
                taken += 1;
            }
            Ok(Taken::All(Appended::all()))
        });
        let error = match appended {
            Err(error) if error.kind() == ErrorKind::Full => error,
            appended => return appended,
        };
        match self.config.when_full {
            WhenFull::Block if taken > 0 => Ok(Taken::First(taken)),
            WhenFull::Block => Err(error),
            WhenFull::Drop => {
                let on_disk = error.source().is_some();
                let why = if on_disk { "no space is left on the disk of the spool" } else { error.message() };
                let dropped = |batch: &LineBatch| batch.gap(format!("dropped: {why}"));
                let dropped = batches.iter().skip(taken).map(dropped);
                Ok(Taken::All(dropped.fold(Appended::all(), Appended::with_dropped)))
            }
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
