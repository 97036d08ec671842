//! Where a handler's output goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{
    Capture, Counts, Error, ErrorKind, FanOutRun, LineBatch, LineNumber, MAX_NOTES, Masker, Note, Result,
    Seal, Stream, Timestamp,
};

/// The output of one run: cheap to clone, in order within each stream.
#[derive(Clone, Debug)]
pub struct RunOutput(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    masker: Arc<Masker>,
    sinks: FanOutRun,
    /// An unfinished line began to wait.
    waiting: Notify,
}

#[derive(Debug)]
struct State {
    capture: Capture,
    /// Kept between calls, so that no write allocates it.
    batches: Vec<LineBatch>,
    notes: Vec<Note>,
    closed: bool,
}

impl RunOutput {
    /// Output that is masked, numbered, and given to the sinks of a run.
    #[must_use]
    pub fn new(masker: Arc<Masker>, sinks: FanOutRun) -> Self {
        let capture = Capture::new(Arc::clone(&masker));
        let state = State { capture, batches: Vec::new(), notes: Vec::new(), closed: false };
        Self(Arc::new(Inner { state: Mutex::new(state), masker, sinks, waiting: Notify::new() }))
    }

    /// Takes printed bytes, in whatever pieces they come; waits while a sink that may hold up the work is behind.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the run has ended.
    ///
    /// # Cancel safety
    /// The bytes are taken at once, and only the wait after them is dropped; but while a queue is over its bound because
    /// an earlier wait was dropped or another prints as well, the wait comes first, and bytes dropped in it are not taken.
    pub async fn write(&self, stream: Stream, bytes: Bytes) -> Result<()> {
        // Or whoever drops each wait could fill the memory.
        self.0.sinks.room().await;
        self.capture(|capture, out| capture.push(stream, bytes, Instant::now(), Timestamp::now(), out))?;
        self.0.sinks.room().await;
        Ok(())
    }

    /// Prints one line, and its line feed, to standard output.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the run has ended.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn line(&self, text: impl AsRef<str>) -> Result<()> {
        let mut bytes = text.as_ref().as_bytes().to_vec();
        bytes.push(b'\n');
        self.write(Stream::Stdout, bytes.into()).await
    }

    /// The stream has ended: an unfinished line goes out as it is.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the run has ended.
    pub async fn end(&self, stream: Stream) -> Result<()> {
        self.capture(|capture, out| capture.end(stream, Timestamp::now(), out))?;
        self.0.sinks.room().await;
        Ok(())
    }

    /// Says something about the run in its record, masked, after the last line so far.
    pub fn note(&self, kind: &str, text: &str) {
        let text = self.mask(text);
        let mut state = self.lock();
        let after_line = state.capture.last_line();
        if state.notes.len() <= MAX_NOTES {
            state.notes.push(Note { time: Timestamp::now(), kind: kind.to_owned(), text, after_line });
        }
    }

    /// The text without secrets.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        self.0.masker.mask_text(text)
    }

    /// The last number given.
    #[must_use]
    pub fn last_line(&self) -> Option<LineNumber> {
        self.lock().capture.last_line()
    }

    /// How much was captured so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().capture.counts()
    }

    /// Sends unfinished lines out as parts when they have waited long enough. Never returns; it is polled beside the
    /// handler.
    pub async fn drive(&self) {
        loop {
            let due = self.lock().capture.due();
            match due {
                None => self.0.waiting.notified().await,
                Some(due) => tokio::time::sleep_until(due).await,
            }
            let flush = |capture: &mut Capture, out: &mut Vec<LineBatch>| {
                capture.flush_due(Instant::now(), Timestamp::now(), out);
            };
            if self.capture(flush).is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Ends the output: unfinished lines go out, and nothing more is taken. Answers the seal and the notes.
    #[must_use]
    pub fn close(&self) -> (Seal, Vec<Note>) {
        // Under one lock, so that nothing can be captured behind the end and before the seal.
        let mut state = self.lock();
        if !state.closed {
            self.take(&mut state, |capture, out| {
                Stream::BOTH.iter().for_each(|stream| capture.end(*stream, Timestamp::now(), out));
            });
            state.closed = true;
        }
        (state.capture.seal(), std::mem::take(&mut state.notes))
    }

    fn capture(&self, change: impl FnOnce(&mut Capture, &mut Vec<LineBatch>)) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the run has ended and takes no more output"));
        }
        let begins_to_wait = self.take(&mut state, change);
        drop(state);
        if begins_to_wait {
            self.0.waiting.notify_one();
        }
        Ok(())
    }

    /// Captures and queues under one lock, so that every sink gets the numbers in order. Answers whether an unfinished
    /// line began to wait.
    fn take(&self, state: &mut State, change: impl FnOnce(&mut Capture, &mut Vec<LineBatch>)) -> bool {
        let State { capture, batches, .. } = state;
        let waited = capture.due().is_some();
        change(capture, batches);
        if !batches.is_empty() {
            self.0.sinks.append(batches);
            batches.clear();
        }
        !waited && capture.due().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
