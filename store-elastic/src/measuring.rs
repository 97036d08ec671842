//! What an append does before its request is sent, for benchmarks.

use bytes::Bytes;
use pubsub_core::{Error, ErrorKind, LineBatch, Result, RunKey};

use crate::bulk::Packer;
use crate::line::Encoder;

/// The items of these lines, as a bulk has them.
///
/// # Errors
/// None that a buffer in memory leads to.
pub fn body(run: &RunKey, batches: &[LineBatch]) -> Result<Vec<u8>> {
    let encoder = Encoder::new(run, "0123456789abcdef");
    let mut bytes = Vec::new();
    batches.iter().try_for_each(|batch| add(&encoder, batch, &mut bytes))?;
    Ok(bytes)
}

/// The same, compressed as it comes.
///
/// # Errors
/// As [`body`].
pub fn packed_body(run: &RunKey, batches: &[LineBatch]) -> Result<Bytes> {
    let (encoder, mut packer, mut items) = (Encoder::new(run, "0123456789abcdef"), Packer::new(), Vec::new());
    for batch in batches {
        items.clear();
        add(&encoder, batch, &mut items)?;
        packer.add(&items)?;
    }
    packer.finish()
}

fn add(encoder: &Encoder, batch: &LineBatch, items: &mut Vec<u8>) -> Result<()> {
    let added = encoder.add(batch, items, &mut Vec::new());
    added.map_err(|e| Error::new(ErrorKind::Internal, "write lines as JSON").with_source(e))
}
