//! What an append does before its request is sent, for benchmarks.

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineBatch, Result, RunKey};

use crate::bulk::packed;
use crate::line::Encoder;

/// The items of these lines, as a bulk has them.
///
/// # Errors
/// None that a buffer in memory leads to.
pub fn body(run: &RunKey, batches: &[LineBatch]) -> Result<Vec<u8>> {
    let encoder = Encoder::new(run, "0123456789abcdef");
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for batch in batches {
        let added = encoder.add(batch, &mut bytes, &mut ends);
        added.map_err(|e| Error::new(ErrorKind::Internal, "write lines as JSON").with_source(e))?;
    }
    Ok(bytes)
}

/// The same, compressed.
///
/// # Errors
/// As [`body`].
pub fn packed_body(run: &RunKey, batches: &[LineBatch]) -> Result<Bytes> {
    packed(&body(run, batches)?)
}
