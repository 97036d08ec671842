//! Thin ways in for the fuzz targets.

use bytes::Bytes;
use pubsub_core::{LineBatch, Refused, Result};

use crate::frame::{self, Frame};
use crate::refused;
pub use crate::spool::fuzzing::Segments;
pub use crate::store::fuzzing::{StoredRun, check_entries};

/// What a frame's bytes are.
#[derive(Debug, PartialEq)]
pub enum Framed {
    /// A batch, and how many bytes it takes.
    Batch(LineBatch, usize),
    /// The beginning of one.
    Short,
    /// None of ours.
    Damaged,
}

/// Reads the frame at the start of these bytes.
pub fn decode_frame(bytes: &Bytes) -> Framed {
    match frame::decode(bytes) {
        Frame::Batch(batch, length) => Framed::Batch(batch, length),
        Frame::Short => Framed::Short,
        Frame::Damaged => Framed::Damaged,
    }
}

/// Writes a frame.
pub fn encode_frame(batch: &LineBatch, into: &mut Vec<u8>) {
    frame::encode(batch, into);
}

/// Writes refused lines as their file has them.
///
/// # Errors
/// Where they have no JSON form.
pub fn encode_refused(refused: &Refused) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    refused::Entry::new(refused).encode(&mut bytes).map(|()| bytes)
}

/// Reads one line of the file of refused lines.
///
/// # Errors
/// Where it is none.
pub fn decode_refused(line: &[u8]) -> Result<Refused> {
    refused::Entry::decode(line)
}
