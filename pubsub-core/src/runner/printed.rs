//! What the runner needs of a run's output.

use bytes::Bytes;

use crate::{Result, RunOutput, Stream};

/// Takes what a command prints: [`RunOutput`], and in tests one that can be held up.
pub(super) trait Printed: Sync {
    /// See [`RunOutput::write`].
    fn write(&self, stream: Stream, bytes: Bytes) -> impl Future<Output = Result<()>> + Send;
    /// See [`RunOutput::end`].
    fn end(&self, stream: Stream) -> impl Future<Output = Result<()>> + Send;
    /// See [`RunOutput::note`].
    fn note(&self, kind: &str, text: &str);
    /// See [`RunOutput::mask`].
    fn mask(&self, text: &str) -> String;
}

impl Printed for RunOutput {
    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<()> {
        Self::write(self, stream, bytes).await
    }

    async fn end(&self, stream: Stream) -> Result<()> {
        Self::end(self, stream).await
    }

    fn note(&self, kind: &str, text: &str) {
        Self::note(self, kind, text);
    }

    fn mask(&self, text: &str) -> String {
        Self::mask(self, text)
    }
}
