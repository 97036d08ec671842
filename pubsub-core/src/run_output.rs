//! Where a handler's output goes.

use bytes::Bytes;

use crate::{LineNumber, Result, Stream};

/// The output of one run: cheap to clone, in order within each stream.
#[derive(Clone, Debug)]
pub struct RunOutput {}

impl RunOutput {
    /// Takes printed bytes, in whatever pieces they come; waits while a store that may hold up the work is behind.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) once the run has ended.
    pub async fn write(&self, _stream: Stream, _bytes: Bytes) -> Result<()> {
        Ok(())
    }

    /// The stream has ended: an unfinished line goes out as it is.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed) once the run has ended.
    pub async fn end(&self, _stream: Stream) -> Result<()> {
        Ok(())
    }

    /// Says something about the run in its record, masked, after the last line so far.
    pub fn note(&self, _kind: &str, _text: &str) {}

    /// The text without secrets.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        text.to_owned()
    }

    /// The last number given.
    #[must_use]
    pub fn last_line(&self) -> Option<LineNumber> {
        None
    }
}
