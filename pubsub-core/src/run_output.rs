//! Where a handler's output goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cap::{Cap, Over, Ring, Tail, off_thread};
use crate::{
    Capture, Counts, Error, ErrorKind, FanOutRun, Gap, LineBatch, LineNumber, MAX_NOTES, Masker, Note,
    Result, RunKey, Seal, SealBuilder, Stream, Timestamp,
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
    /// Where lines over the cap are held back. Whoever has the lock moves blocks to the disk, off the async threads: one
    /// at a time, also where the wait for it is dropped.
    ring: Option<Arc<tokio::sync::Mutex<Option<Ring>>>>,
    /// Lines began to be held back.
    held_back: Notify,
}

#[derive(Debug)]
struct State {
    capture: Capture,
    /// Over what was given to the sinks.
    seal: SealBuilder,
    /// What the cap holds back, where there is one.
    over: Option<Over>,
    /// Kept between calls, so that no write allocates it.
    batches: Vec<LineBatch>,
    notes: Vec<Note>,
    closed: bool,
}

impl RunOutput {
    /// Output that is masked, numbered, and given to the sinks of a run.
    #[must_use]
    pub fn new(masker: Arc<Masker>, sinks: FanOutRun) -> Self {
        Self::with_cap(masker, sinks, None)
    }

    /// As [`new`](Self::new), but what is over the cap of this run is held back, and is a [`Tail`] in the end.
    pub(crate) fn with_cap(masker: Arc<Masker>, sinks: FanOutRun, cap: Option<(&Cap, &RunKey)>) -> Self {
        let state = Mutex::new(State {
            capture: Capture::new(Arc::clone(&masker)),
            seal: SealBuilder::new(),
            over: cap.map(|(cap, _)| Over::new(cap)),
            batches: Vec::new(),
            notes: Vec::new(),
            closed: false,
        });
        let ring = cap.map(|(cap, run)| Ring::new(cap.clone(), run.clone()));
        let ring = ring.map(|ring| Arc::new(tokio::sync::Mutex::new(Some(ring))));
        let (waiting, held_back) = (Notify::new(), Notify::new());
        Self(Arc::new(Inner { state, masker, sinks, waiting, ring, held_back }))
    }

    /// Takes printed bytes, in whatever pieces they come; waits while a sink that may hold up the work is behind, or the
    /// disk on which lines over the cap are held back.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) once the run has ended.
    ///
    /// # Cancel safety
    /// The bytes are taken at once, and only the wait after them is dropped; but while a queue is over its bound because
    /// an earlier wait was dropped or another prints as well, the wait comes first, and bytes dropped in it are not taken.
    pub async fn write(&self, stream: Stream, bytes: Bytes) -> Result<()> {
        // Or whoever drops each wait could fill the memory.
        self.room().await;
        self.capture(|capture, out| capture.push(stream, bytes, Instant::now(), Timestamp::now(), out))?;
        self.room().await;
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
        self.room().await;
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

    /// How much was given to the sinks so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().seal.counts()
    }

    /// The seal over what was given to the sinks so far: over all that is kept, once the run's last lines were.
    #[must_use]
    pub fn seal(&self) -> Seal {
        self.lock().seal.seal()
    }

    /// Sends unfinished lines out as parts when they have waited long enough, and brings what is held back to the disk.
    /// Never returns; it is polled beside the
    /// handler.
    pub async fn drive(&self) {
        loop {
            let (due, held) = {
                let state = self.lock();
                (state.capture.due(), state.over.as_ref().and_then(Over::due))
            };
            match due.into_iter().chain(held).min() {
                None => self.0.waiting.notified().await,
                Some(due) => {
                    // Or by what is due sooner by now.
                    let _ = tokio::time::timeout_at(due, self.0.waiting.notified()).await;
                }
            }
            self.keep().await;
            let flush = |capture: &mut Capture, out: &mut Vec<LineBatch>| {
                capture.flush_due(Instant::now(), Timestamp::now(), out);
            };
            if self.capture(flush).is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The notes that were made since the last call.
    #[must_use]
    pub(crate) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut self.lock().notes)
    }

    /// Returns when lines begin to be held back; once.
    pub(crate) async fn held_back(&self) {
        self.0.held_back.notified().await;
    }

    /// Ends the output: unfinished lines go out, and nothing more is taken.
    pub fn close(&self) {
        // Under one lock, so that nothing can be captured behind the end.
        let mut state = self.lock();
        if !state.closed {
            self.take(&mut state, |capture, out| {
                Stream::BOTH.iter().for_each(|stream| capture.end(*stream, Timestamp::now(), out));
            });
            state.closed = true;
        }
    }

    /// What of a closed output is left of what was held back; `None` where that is nothing.
    ///
    /// # Cancel safety
    /// Dropped, the tail is lost.
    pub(crate) async fn tail(&self) -> Option<Tail> {
        let mut ring = Arc::clone(self.0.ring.as_ref()?).lock_owned().await;
        let over = self.lock().over.take()?;
        let ring = ring.take()?;
        off_thread(move || Tail::new(ring, over)).await?
    }

    /// Gives the next lines of the tail to the sinks, at the pace of those that keep up. Answers the rest of it, and the
    /// lines that could not be read again; `None` after the last.
    ///
    /// # Cancel safety
    /// Dropped, lines are lost.
    pub(crate) async fn give_next(&self, tail: Tail) -> Option<(Tail, Option<Gap>)> {
        let (tail, next) = tail.next_off_thread().await?;
        let batches = match next {
            Err(gap) => return Some((tail, Some(gap))),
            Ok(batches) => batches,
        };
        for batch in &batches {
            // One by one, so that a sink which drops has room for each.
            self.0.sinks.caught_up().await;
            let mut state = self.lock();
            state.seal.add(batch);
            self.0.sinks.append(std::slice::from_ref(batch));
        }
        Some((tail, None))
    }

    /// Waits while sinks or the disk are behind.
    async fn room(&self) {
        self.0.sinks.room().await;
        self.spill().await;
    }

    /// Moves full blocks that are held back to the disk.
    async fn spill(&self) {
        let is_behind = |over: &Over| over.is_behind();
        self.hold(is_behind, |ring, output| {
            let next = || output.lock().over.as_mut().and_then(Over::next);
            std::iter::from_fn(next).for_each(|block| ring.push(&block));
        })
        .await;
    }

    /// Brings what is held back and in no full block to the disk as well, where that is due.
    async fn keep(&self) {
        let is_due = |over: &Over| over.due().is_some_and(|due| due <= Instant::now());
        self.hold(is_due, |ring, output| {
            let begun = output.lock().over.as_mut().and_then(Over::begun);
            begun.into_iter().for_each(|block| ring.keep(&block));
        })
        .await;
    }

    /// Does what has to do with the disk, off the async threads, where it is to be done.
    async fn hold(&self, wanted: fn(&Over) -> bool, work: fn(&mut Ring, &Self)) {
        let Some(ring) = &self.0.ring else { return };
        let wanted = || self.lock().over.as_ref().is_some_and(wanted);
        if !wanted() {
            return;
        }
        let mut ring = Arc::clone(ring).lock_owned().await;
        // Whoever had the lock may have done it.
        if !wanted() {
            return;
        }
        let output = self.clone();
        off_thread(move || {
            if let Some(ring) = ring.as_mut() {
                work(ring, &output);
            }
        })
        .await;
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

    /// Captures and queues under one lock, so that every sink gets the numbers in order. Answers whether something began to
    /// wait: an unfinished line, or lines that are held back.
    fn take(&self, state: &mut State, change: impl FnOnce(&mut Capture, &mut Vec<LineBatch>)) -> bool {
        let State { capture, seal, over, batches, notes, .. } = state;
        let waits = |capture: &Capture, over: &Option<Over>| {
            (capture.due().is_some(), over.as_ref().is_some_and(|over| over.due().is_some()))
        };
        let waited = waits(capture, over);
        change(capture, batches);
        if let Some(over) = over
            && let Some(text) = over.hold_back(batches)
        {
            // Beside the limit on notes: whoever follows the run has to hear of it.
            let (time, after_line) = (Timestamp::now(), over.head_end());
            notes.push(Note { time, kind: "output_held_back".to_owned(), text, after_line });
            self.0.held_back.notify_one();
        }
        if !batches.is_empty() {
            batches.iter().for_each(|batch| seal.add(batch));
            self.0.sinks.append(batches);
            batches.clear();
        }
        let waits = waits(capture, over);
        waits.0 && !waited.0 || waits.1 && !waited.1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
