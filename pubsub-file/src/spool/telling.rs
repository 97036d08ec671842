//! What a spool says of itself in the log.

use pubsub_core::Error;

use super::Shared;

impl<S> Shared<S> {
    /// The sink answers.
    pub(super) fn answers(&self) {
        if self.away.send_replace(false) {
            tracing::info!(spool = %self.config.dir.display(), "the sink of a spool answers again");
        }
    }

    /// The sink is out of reach.
    pub(super) fn fails(&self, error: &Error) {
        if !self.away.send_replace(true) {
            tracing::warn!(spool = %self.config.dir.display(), error = %error.chain(), "the sink of a spool fails; it is tried again");
        }
    }

    /// Its own files are.
    pub(super) fn files_fail(&self, error: &Error) {
        if let Some(times) = self.logs.files.happened(1) {
            tracing::warn!(spool = %self.config.dir.display(), times, error = %error.chain(), "files of a spool cannot be read or written now");
        }
    }
}
