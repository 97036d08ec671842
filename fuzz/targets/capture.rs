//! Line splitting and masking: the same bytes cut otherwise give the same lines, and no secret passes.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pubsub_core::{
    Capture, Line, LineBatch, LineEnd, MAX_BATCH_BYTES, MAX_LINE_BYTES, MIN_SECRET_BYTES, Masker, PART_AFTER,
    Stream, Timestamp,
};
use tokio::time::Instant;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    secrets: Vec<&'a str>,
    /// What is printed: each piece so often.
    pieces: Vec<(&'a [u8], u16)>,
    /// How many bytes each read brings, in turns.
    reads: Vec<u16>,
    /// After which of them a line has waited too long.
    waits: u8,
}

/// Most bytes that are printed: some longest lines.
const MOST_BYTES: usize = 2 * MAX_LINE_BYTES;

fuzz_target!(|input: Input<'_>| {
    let secrets: Vec<String> = input.secrets.iter().take(4).map(|secret| (*secret).to_owned()).collect();
    let masker = Arc::new(Masker::new(secrets.clone()));
    let printed = printed(&input);
    let at_once = captured(&masker, &printed, &[u16::MAX], 0);
    let in_pieces = captured(&masker, &printed, &input.reads, 0);
    let lines = checked(&at_once);
    assert_same(&lines, &checked(&in_pieces));
    let waited = captured(&masker, &printed, &input.reads, input.waits);
    let whole = joined(&lines);
    assert_eq!(whole, joined(&checked(&waited)), "a wait changed the content");
    if !secrets.iter().any(|secret| secret.len() >= MIN_SECRET_BYTES) {
        assert_eq!(whole, printed, "nothing is secret, and something is lost");
    }
    // What a mask makes together with what stands beside it was never printed.
    let plain =
        |secret: &&String| !secret.contains(['*', '\n', '\r']) && secret.trim().len() >= MIN_SECRET_BYTES;
    for secret in secrets.iter().filter(plain) {
        let secret = secret.as_bytes();
        for text in whole.split(|byte| *byte == b'\n') {
            let passes = text.windows(secret.len()).any(|window| window == secret);
            assert!(!passes, "a secret of {} bytes passes", secret.len());
        }
    }
});

fn printed(input: &Input<'_>) -> Vec<u8> {
    let mut printed = Vec::new();
    for (bytes, times) in &input.pieces {
        // Mostly few: what is long takes its time.
        let times = if *times < 0xf000 { usize::from(*times % 8) } else { usize::from(*times) };
        let times = times.min((MOST_BYTES - printed.len()) / bytes.len().max(1));
        printed.extend_from_slice(&bytes.repeat(times));
    }
    printed
}

fn captured(masker: &Arc<Masker>, printed: &[u8], reads: &[u16], waits: u8) -> Vec<LineBatch> {
    let mut capture = Capture::new(Arc::clone(masker));
    let (mut now, time, mut out) = (Instant::now(), Timestamp::EPOCH, Vec::new());
    let (mut left, mut turn) = (printed, 0);
    while !left.is_empty() {
        // Not so many turns that they are all that is done.
        let least = printed.len() / 64 + 1;
        let read = reads.get(turn % reads.len().max(1)).map_or(usize::MAX, |read| usize::from(*read));
        let read = if reads == [u16::MAX] { left.len() } else { read.max(least).min(left.len()) };
        let (bytes, rest) = left.split_at(read);
        capture.push(Stream::Stdout, Bytes::copy_from_slice(bytes), now, time, &mut out);
        if waits & (1 << (turn % 8)) != 0 {
            now += PART_AFTER + Duration::from_millis(1);
            capture.flush_due(now, time, &mut out);
        }
        (left, turn) = (rest, turn + 1);
    }
    capture.end(Stream::Stdout, time, &mut out);
    out
}

fn checked(batches: &[LineBatch]) -> Vec<Line> {
    let mut lines = Vec::new();
    for batch in batches {
        assert!(batch.bytes().len() <= MAX_BATCH_BYTES);
        for line in batch.lines() {
            assert!(line.bytes.len() <= MAX_LINE_BYTES, "a line of {} bytes", line.bytes.len());
            assert!(!line.bytes.contains(&b'\n'));
            assert_eq!(line.number.get(), lines.len() as u64 + 1);
            lines.push(line);
        }
    }
    lines
}

fn assert_same(a: &[Line], b: &[Line]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!(a == b, "line {} is another one: {} and {} bytes", a.number, a.bytes.len(), b.bytes.len());
    }
}

/// As it was printed, less its secrets.
fn joined(lines: &[Line]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(&line.bytes);
        text.extend_from_slice(line.end.as_bytes());
        debug_assert!(line.end != LineEnd::None || line.number == lines[lines.len() - 1].number);
    }
    text
}
