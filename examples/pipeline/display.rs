//! Output of our own run, shown while it is printed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pubsub_pipeline::{
    Appended, Error, ErrorKind, LineBatch, OutputSink, Result, RunKey, RunRecord, SinkConfig, WhenFull,
};
use tokio::sync::watch;

use crate::screen::{Form, Screen};

/// Shows lines on standard output as they come. Where nobody reads them any more the run goes on all the same.
pub(crate) struct Display {
    /// `None` once nobody reads it.
    screen: Mutex<Option<Screen>>,
    finished: watch::Sender<bool>,
}

impl Display {
    pub(crate) fn new(form: Form) -> io::Result<Arc<Self>> {
        let mut screen = Screen::new(form)?;
        // It runs here and now: what it prints is for this terminal.
        screen.terminal = false;
        Ok(Arc::new(Self { screen: Mutex::new(Some(screen)), finished: watch::Sender::new(false) }))
    }

    /// Shows at once, and holds up the command where whoever reads is slow, as a pipe would. What is shown twice would be
    /// seen twice, so no call is given up.
    pub(crate) fn sink(self: &Arc<Self>) -> SinkConfig {
        let sink: Arc<dyn OutputSink> = Arc::new(Shown(Arc::clone(self)));
        SinkConfig::best_effort("display", sink)
            .with_when_full(WhenFull::Block)
            .with_delay(Duration::ZERO)
            .with_call_limit(Duration::MAX)
    }

    /// Waits until all was shown.
    pub(crate) async fn finished(&self) {
        // The sender lives in `self`, so this ends only when it is so.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// Blocks where nobody reads.
    fn show(&self, batches: &[LineBatch]) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = screen.as_mut() else { return };
        let shown = batches.iter().try_for_each(|batch| open.lines(batch)).and_then(|()| open.flush());
        if let Err(e) = shown {
            if e.kind() != io::ErrorKind::BrokenPipe {
                tracing::warn!(error = %e, "the output can be shown no longer; it is stored all the same");
            }
            *screen = None;
        }
    }
}

struct Shown(Arc<Display>);

#[async_trait]
impl OutputSink for Shown {
    async fn begin(&self, _: &RunRecord) -> Result<()> {
        Ok(())
    }

    async fn append(&self, _: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let (display, batches) = (Arc::clone(&self.0), batches.to_vec());
        let shown = tokio::task::spawn_blocking(move || display.show(&batches)).await;
        shown.map_err(|e| Error::new(ErrorKind::Internal, "show lines").with_source(e))?;
        Ok(Appended::all())
    }

    async fn finish(&self, _: &RunRecord) -> Result<()> {
        self.0.finished.send_replace(true);
        Ok(())
    }
}
