//! What lines cost in memory while they wait.

use crate::LineBatch;

/// What a batch costs beside its lines: itself, twice, for a queue grows by doubling, and the heads of its two shared
/// buffers as an allocator rounds them up.
const BATCH_BYTES: usize = 2 * size_of::<LineBatch>() + 64;

/// What a line costs beside its bytes: where it ends.
const LINE_BYTES: usize = size_of::<u32>();

/// What a batch costs in memory, in bytes: blank lines and single lines are not free. The only measure of what waits.
pub(super) fn cost(batch: &LineBatch) -> usize {
    BATCH_BYTES + batch.len() * LINE_BYTES + batch.bytes().len()
}
