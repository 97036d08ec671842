//! Frames of lines: what is written is read back, what is cut or changed is told, and any bytes are bounded.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pubsub_core::{LineBatch, LineEnd, LineNumber, MAX_BATCH_BYTES, Stream, Timestamp};
use pubsub_file::fuzzing::{Framed, decode_frame, encode_frame};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    first: u64,
    micros: i64,
    flags: u8,
    /// How often the lines stand there.
    times: u16,
    lines: &'a [u8],
    cut: usize,
    at: usize,
    flip: u8,
    raw: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    any_bytes_are_bounded(input.raw);
    let Some(batch) = batch(&input) else { return };
    let mut bytes = Vec::new();
    encode_frame(&batch, &mut bytes);
    let whole = bytes.len();
    bytes.extend_from_slice(input.raw);
    assert_eq!(decode_frame(&bytes.clone().into()), Framed::Batch(batch.clone(), whole));
    let cut = input.cut % whole;
    assert_eq!(decode_frame(&Bytes::copy_from_slice(&bytes[..cut])), Framed::Short, "cut at {cut}");
    if input.flip != 0 {
        let at = input.at % whole;
        bytes[at] ^= input.flip;
        let told = decode_frame(&bytes.into());
        assert!(!matches!(told, Framed::Batch(..)), "a change at {at} is not seen: {told:?}");
    }
});

fn batch(input: &Input<'_>) -> Option<LineBatch> {
    // Mostly few: what is long takes its time.
    let times = if input.times < 0xf000 { usize::from(input.times % 4) } else { usize::from(input.times) };
    let times = times.min(MAX_BATCH_BYTES / input.lines.len().max(1));
    let [stream, tail, recovered] = [1, 2, 4].map(|bit| input.flags & bit != 0);
    let stream = if stream { Stream::Stdout } else { Stream::Stderr };
    let tail = if tail { LineEnd::Part } else { LineEnd::None };
    let (first, time) = (LineNumber::new(input.first)?, Timestamp::from_micros(input.micros));
    let batch = LineBatch::split(first, time, stream, input.lines.repeat(times).into(), tail).ok()?;
    Some(batch.with_recovered(recovered))
}

fn any_bytes_are_bounded(raw: &[u8]) {
    let mut left = Bytes::copy_from_slice(raw);
    while let Framed::Batch(batch, length) = decode_frame(&left) {
        assert!(
            length <= left.len() && batch.bytes().len() < length && batch.bytes().len() <= MAX_BATCH_BYTES
        );
        let mut again = Vec::new();
        encode_frame(&batch, &mut again);
        assert!(matches!(decode_frame(&again.into()), Framed::Batch(same, _) if same == batch));
        left = left.slice(length..);
    }
}
