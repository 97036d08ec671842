//! How large an argument of a command may be: a server closes the connection on which it is told of a larger one, with all
//! that was sent beside it.

use pubsub_core::{Error, ErrorKind};

/// What a server takes as it comes; managed ones mostly do not say ("proto-max-bulk-len" of `redis.conf`).
const USUAL: Most = Most { bytes: 512 * 1024 * 1024, setting: "proto-max-bulk-len" };

/// What a server has in the buffer of a connection beside an argument that it reads.
const BESIDE: usize = 64 * 1024;

/// The most bytes that one argument may have, and the server's setting that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Most {
    bytes: usize,
    setting: &'static str,
}

impl Most {
    /// The settings that [`of`](Self::of) reads.
    pub(super) const SETTINGS: [&'static str; 2] = ["proto-max-bulk-len", "client-query-buffer-limit"];

    /// By the settings that a server told; one that told none takes what is usual.
    pub(super) fn of(settings: &[(String, String)]) -> Self {
        let told = |name: &str| {
            let (_, text) = settings.iter().find(|(told, _)| told == name)?;
            text.parse::<usize>().ok().filter(|bytes| *bytes > 0)
        };
        let [bulk, buffer] = Self::SETTINGS;
        let of_bulk = Self { bytes: told(bulk).unwrap_or(USUAL.bytes), setting: bulk };
        match told(buffer) {
            Some(bytes) => of_bulk.or(Self { bytes: bytes.saturating_sub(BESIDE), setting: buffer }),
            None => of_bulk,
        }
    }

    /// The smaller one.
    pub(super) const fn or(self, other: Self) -> Self {
        if other.bytes < self.bytes { other } else { self }
    }

    /// What is wrong with a command that has this argument, where it is too large.
    pub(crate) const fn exceeded(self, bytes: usize) -> Option<TooLong> {
        if bytes > self.bytes { Some(TooLong { bytes, most: self }) } else { None }
    }
}

impl Default for Most {
    fn default() -> Self {
        USUAL
    }
}

/// An argument that a server would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    bytes: usize,
    most: Most,
}

impl TooLong {
    /// Nothing was sent.
    pub(crate) fn error(self, doing: &'static str) -> Error {
        Error::new(ErrorKind::TooLarge, doing)
            .with("bytes", self.bytes)
            .with("limit", self.most.bytes)
            .with("setting", self.most.setting)
    }
}

#[cfg(test)]
mod tests {
    use super::{BESIDE, Most, USUAL};

    #[test]
    fn the_smaller_of_two_settings_counts_and_what_is_not_told_is_usual() {
        let told = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            Most::of(&pairs.collect::<Vec<_>>())
        };
        let [bulk, buffer] = Most::SETTINGS;
        for (settings, bytes, setting) in [
            (&[][..], USUAL.bytes, bulk),
            (&[(bulk, "no number"), (buffer, "0")], USUAL.bytes, bulk),
            (&[(bulk, "1048576")], 1 << 20, bulk),
            (&[(bulk, "1048576"), (buffer, "1073741824")], 1 << 20, bulk),
            (&[(bulk, "1048576"), (buffer, "1048576")], (1 << 20) - BESIDE, buffer),
            (&[(buffer, "1048576")], (1 << 20) - BESIDE, buffer),
            // More than usual, where the server is set so.
            (&[(bulk, "2147483648"), (buffer, "4294967296")], 1 << 31, bulk),
        ] {
            assert_eq!(told(settings), Most { bytes, setting }, "{settings:?}");
        }
        assert_eq!(Most::default().exceeded(USUAL.bytes), None);
        assert!(Most::default().exceeded(USUAL.bytes + 1).is_some());
    }
}
