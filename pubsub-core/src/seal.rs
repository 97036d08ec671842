//! What ends a run's output: counts and one digest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, LineBatch, LineEnd, Result, Stream};

/// How much output a run has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines and parts.
    pub lines: u64,
    /// Bytes as printed, ends included.
    pub bytes: u64,
    /// Lines of standard output.
    pub stdout_lines: u64,
    /// Lines of standard error.
    pub stderr_lines: u64,
    /// Lines that go on in a next one.
    pub parts: u64,
    /// Lines whose bytes are not UTF-8.
    pub lossy: u64,
}

/// BLAKE3 over the lines of a run; see [`SealBuilder`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hash = blake3::Hash::from_hex(text)
            .map_err(|e| Error::invalid("a digest is 64 hexadecimal digits").with_source(e))?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// What ends a run's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// How much was printed and kept.
    #[serde(flatten)]
    pub counts: Counts,
    /// Over the lines kept.
    pub digest: Digest,
}

/// Counts lines and takes their digest, in whatever batches they come.
///
/// The digest (version 1) is BLAKE3 over two BLAKE3 hashes: of the heads (for each line its number as 8 bytes, its
/// stream as 1, its end as 1 and its length without the end as 4, all little-endian), and of the lines' bytes with
/// their ends as printed. So the bytes of a batch are hashed as they lie.
#[derive(Clone, Default)]
pub struct SealBuilder {
    counts: Counts,
    heads: BlockHasher,
    bytes: BlockHasher,
    /// The heads of one batch; kept, so that no batch allocates them.
    scratch: Vec<u8>,
}

/// BLAKE3 that is fed in aligned blocks: what is fed at odd places misses its wide kernels and takes three times as long.
#[derive(Clone, Default)]
struct BlockHasher {
    hasher: blake3::Hasher,
    /// Less than a block.
    rest: Vec<u8>,
}

/// As many chunks of BLAKE3 as its widest kernel takes at once.
const BLOCK_BYTES: usize = 16 * 1024;

impl BlockHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        if !self.rest.is_empty() {
            let (now, after) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.rest.len()));
            self.rest.extend_from_slice(now);
            bytes = after;
            if self.rest.len() < BLOCK_BYTES {
                return;
            }
            self.hasher.update(&self.rest);
            self.rest.clear();
        }
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK_BYTES);
        self.hasher.update(blocks);
        self.rest.extend_from_slice(rest);
    }

    fn finalize(&self) -> blake3::Hash {
        self.hasher.clone().update(&self.rest).finalize()
    }
}

impl fmt::Debug for SealBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealBuilder").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl SealBuilder {
    /// Of no lines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the lines of a batch; batches come in number order.
    pub fn add(&mut self, batch: &LineBatch) {
        let stream: u8 = match batch.stream() {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        let mut parts = 0;
        self.scratch.clear();
        let scratch = &mut self.scratch;
        batch.for_each(|number, end, bytes| {
            let end_code: u8 = match end {
                LineEnd::Lf => 1,
                LineEnd::CrLf => 2,
                LineEnd::None => 3,
                LineEnd::Part => 4,
            };
            parts += u64::from(end == LineEnd::Part);
            // A line is at most 64 KiB.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let [n0, n1, n2, n3, n4, n5, n6, n7] = number.get().to_le_bytes();
            let [l0, l1, l2, l3] = length.to_le_bytes();
            scratch.extend_from_slice(&[n0, n1, n2, n3, n4, n5, n6, n7, stream, end_code, l0, l1, l2, l3]);
        });
        self.heads.update(&self.scratch);
        self.bytes.update(batch.bytes());
        let lines = batch.len() as u64;
        self.counts.lines += lines;
        self.counts.bytes += batch.bytes().len() as u64;
        match batch.stream() {
            Stream::Stdout => self.counts.stdout_lines += lines,
            Stream::Stderr => self.counts.stderr_lines += lines,
        }
        self.counts.parts += parts;
        // One check of the whole batch; single lines are looked at only where it fails.
        if std::str::from_utf8(batch.bytes()).is_err() {
            batch.for_each(|_, _, bytes| self.counts.lossy += u64::from(std::str::from_utf8(bytes).is_err()));
        }
    }

    /// The counts so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The seal over what was added.
    #[must_use]
    pub fn seal(&self) -> Seal {
        let mut whole = blake3::Hasher::new();
        whole.update(b"pubsub-pipeline seal 1");
        whole.update(self.heads.finalize().as_bytes());
        whole.update(self.bytes.finalize().as_bytes());
        Seal { counts: self.counts, digest: Digest(*whole.finalize().as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::SealBuilder;
    use crate::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};
    use proptest::prelude::{prop_assert_eq, proptest};

    fn batch(first: u64, stream: Stream, text: &'static str) -> LineBatch {
        let first = LineNumber::new(first).unwrap();
        LineBatch::split(first, Timestamp::EPOCH, stream, text.into(), LineEnd::Part).unwrap()
    }

    fn digest(batches: &[LineBatch]) -> String {
        let mut builder = SealBuilder::new();
        batches.iter().for_each(|batch| builder.add(batch));
        builder.seal().digest.to_string()
    }

    #[test]
    fn the_digest_does_not_depend_on_batches_and_on_everything_else() {
        let out = Stream::Stdout;
        let whole = digest(&[batch(1, out, "a\nb\n")]);
        assert_eq!(whole, digest(&[batch(1, out, "a\n"), batch(2, out, "b\n")]));
        for other in [
            digest(&[batch(1, out, "a\nb")]),
            digest(&[batch(1, out, "a\r\nb\n")]),
            digest(&[batch(2, out, "a\nb\n")]),
            digest(&[batch(1, Stream::Stderr, "a\nb\n")]),
            digest(&[batch(1, out, "ab\n")]),
        ] {
            assert_ne!(whole, other);
        }
    }

    proptest! {
        /// Over several blocks, in pieces that end anywhere in them.
        #[test]
        fn the_digest_is_what_its_definition_says(lengths in proptest::collection::vec(0usize..9_000, 1..30)) {
            let (mut builder, mut heads, mut bytes) = (SealBuilder::new(), Vec::new(), Vec::new());
            for (number, length) in (1u64..).zip(lengths) {
                let text = "x".repeat(length) + "\n";
                heads.extend(number.to_le_bytes());
                heads.extend([2, 1]);
                heads.extend(u32::try_from(length).unwrap().to_le_bytes());
                bytes.extend(text.as_bytes());
                let first = LineNumber::new(number).unwrap();
                builder.add(&LineBatch::split(first, Timestamp::EPOCH, Stream::Stderr, text.into(), LineEnd::None).unwrap());
            }
            let (heads, bytes) = (blake3::hash(&heads), blake3::hash(&bytes));
            let whole = [&b"pubsub-pipeline seal 1"[..], heads.as_bytes(), bytes.as_bytes()].concat();
            prop_assert_eq!(builder.seal().digest.to_string(), blake3::hash(&whole).to_string());
        }
    }

    #[test]
    fn lines_are_counted_by_stream_and_flag() {
        let mut builder = SealBuilder::new();
        builder.add(&batch(1, Stream::Stdout, "a\nb"));
        let lossy = LineBatch::split(
            LineNumber::new(3).unwrap(),
            Timestamp::EPOCH,
            Stream::Stderr,
            b"\xff\xfe\nok\n".as_slice().into(),
            LineEnd::None,
        );
        builder.add(&lossy.unwrap());
        let counts = builder.counts();
        assert_eq!((counts.lines, counts.bytes, counts.stdout_lines, counts.stderr_lines), (4, 9, 2, 2));
        assert_eq!((counts.parts, counts.lossy), (1, 1));
    }
}
