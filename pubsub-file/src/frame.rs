//! How a batch of lines lies in a file that is only appended to.

use bytes::Bytes;
use pubsub_core::{LineBatch, LineEnd, LineNumber, MAX_BATCH_BYTES, Stream, Timestamp};

/// Bytes before those of the lines: length of the lines 4, CRC-32 of all that follows 4, first number 8, time 8,
/// stream 1, tail 1, recovered 1; all little-endian.
pub(crate) const HEAD_BYTES: usize = 27;

/// What lies at a place of such a file.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    /// A batch, and how many bytes it takes.
    Batch(LineBatch, usize),
    /// The beginning of one: the rest was not written, or not yet.
    Short,
    /// No frame of ours.
    Damaged,
}

pub(crate) fn encode(batch: &LineBatch, into: &mut Vec<u8>) {
    let lines = batch.bytes();
    // A batch is bounded far below what 32 bits hold.
    into.extend_from_slice(&u32::try_from(lines.len()).unwrap_or(u32::MAX).to_le_bytes());
    let checked = into.len();
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&batch.first().get().to_le_bytes());
    into.extend_from_slice(&batch.time().as_micros().to_le_bytes());
    into.push(u8::from(batch.stream() == Stream::Stderr));
    into.push(u8::from(batch.tail() == LineEnd::Part));
    into.push(u8::from(batch.is_recovered()));
    into.extend_from_slice(lines);
    let crc = crc32fast::hash(into.get(checked + 4..).unwrap_or_default());
    if let Some(place) = into.get_mut(checked..checked + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads the frame at the start of `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Frame {
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Frame::Short };
    let Some(length) = field(head, 0).map(u32::from_le_bytes).and_then(|length| usize::try_from(length).ok())
    else {
        return Frame::Short;
    };
    if length == 0 || length > MAX_BATCH_BYTES {
        return Frame::Damaged;
    }
    let whole = HEAD_BYTES + length;
    let Some(checked) = bytes.get(8..whole) else { return Frame::Short };
    if field(head, 4).map(u32::from_le_bytes) != Some(crc32fast::hash(checked)) {
        return Frame::Damaged;
    }
    batch(head, bytes.slice(HEAD_BYTES..whole)).map_or(Frame::Damaged, |batch| Frame::Batch(batch, whole))
}

fn batch(head: &[u8], lines: Bytes) -> Option<LineBatch> {
    let first = LineNumber::new(u64::from_le_bytes(field(head, 8)?))?;
    let time = Timestamp::from_micros(i64::from_le_bytes(field(head, 16)?));
    let [stream, part, recovered] = field(head, 24)?;
    let stream = if stream == 0 { Stream::Stdout } else { Stream::Stderr };
    let tail = if part == 0 { LineEnd::None } else { LineEnd::Part };
    let batch = LineBatch::split(first, time, stream, lines, tail).ok()?;
    Some(batch.with_recovered(recovered != 0))
}

fn field<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::{Frame, HEAD_BYTES, decode, encode};
    use bytes::Bytes;
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
    use pubsub_core::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_batch_reads_back_and_damage_is_told(
            bytes in proptest::collection::vec(any::<u8>(), 1..200),
            first in 1_u64..u64::MAX / 2,
            part in any::<bool>(),
            (at, flip) in (0_usize..1000, 1_u8..=255),
        ) {
            let tail = if part { LineEnd::Part } else { LineEnd::None };
            let batch = LineBatch::split(
                LineNumber::new(first).unwrap(), Timestamp::from_micros(7), Stream::Stderr, bytes.into(), tail,
            ).unwrap().with_recovered(true);
            let mut frame = Vec::new();
            encode(&batch, &mut frame);
            let whole = frame.len();
            frame.extend_from_slice(b"what follows");
            prop_assert_eq!(decode(&Bytes::from(frame.clone())), Frame::Batch(batch.clone(), whole));
            prop_assert_eq!(decode(&Bytes::copy_from_slice(&frame[..whole - 1])), Frame::Short);
            prop_assert_eq!(decode(&Bytes::copy_from_slice(&frame[..HEAD_BYTES - 1])), Frame::Short);
            let at = at % whole;
            frame[at] ^= flip;
            let told = decode(&Bytes::from(frame));
            prop_assert!(told != Frame::Batch(batch, whole), "a changed byte at {} is not seen", at);
        }
    }
}
