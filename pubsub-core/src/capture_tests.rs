//! Tests of the capture.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use tokio::time::Instant;

use super::{Capture, PART_AFTER};
use crate::{LineBatch, LineEnd, MAX_BATCH_BYTES, MAX_LINE_BYTES, Masker, SealBuilder, Stream, Timestamp};

struct Bench {
    capture: Capture,
    now: Instant,
    out: Vec<LineBatch>,
}

impl Bench {
    fn new(secrets: &[&str]) -> Self {
        let masker = Masker::new(secrets.iter().map(|s| (*s).to_owned()));
        Self { capture: Capture::new(Arc::new(masker)), now: Instant::now(), out: Vec::new() }
    }

    fn push(&mut self, stream: Stream, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.capture.push(stream, bytes, self.now, Timestamp::EPOCH, &mut self.out);
    }

    fn wait(&mut self) {
        self.now += PART_AFTER;
        self.capture.flush_due(self.now, Timestamp::EPOCH, &mut self.out);
    }

    fn end(&mut self) {
        Stream::BOTH.iter().for_each(|s| self.capture.end(*s, Timestamp::EPOCH, &mut self.out));
    }

    fn lines(&self) -> Vec<(Stream, Vec<u8>, LineEnd)> {
        let lines: Vec<_> = self.out.iter().flat_map(LineBatch::lines).collect();
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(line.number.get(), index as u64 + 1);
        }
        lines.into_iter().map(|l| (l.stream, l.bytes.to_vec(), l.end)).collect()
    }

    fn printed(&self, stream: Stream) -> Vec<u8> {
        let of = self.lines().into_iter().filter(|(s, ..)| *s == stream);
        of.flat_map(|(_, bytes, end)| [bytes, end.as_bytes().to_vec()].concat()).collect()
    }
}

fn of(text: &[u8]) -> Vec<(Vec<u8>, LineEnd)> {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, text);
    bench.end();
    bench.lines().into_iter().map(|(_, bytes, end)| (bytes, end)).collect()
}

#[test]
fn the_last_line_needs_no_newline() {
    type Expected<'a> = &'a [(&'a [u8], LineEnd)];
    let table: [(&[u8], Expected<'_>); 5] = [
        (
            "one\ntwo\nfin é".as_bytes(),
            &[(b"one", LineEnd::Lf), (b"two", LineEnd::Lf), ("fin é".as_bytes(), LineEnd::None)],
        ),
        (b"", &[]),
        (b"\n", &[(b"", LineEnd::Lf)]),
        (b"x\r\n", &[(b"x", LineEnd::CrLf)]),
        (b"x\r", &[(b"x\r", LineEnd::None)]),
    ];
    for (text, expected) in table {
        let expected: Vec<_> = expected.iter().map(|(b, e)| (b.to_vec(), *e)).collect();
        assert_eq!(of(text), expected);
    }
}

#[test]
fn invalid_bytes_end_nothing() {
    let lines = of(b"ok1\ncaf\xe9\nok2\n\xff\xfe\nok3\n");
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[3].0, b"\xff\xfe");
}

#[test]
fn a_character_split_over_two_reads_arrives_whole() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, b"a\xe2\x82");
    bench.wait();
    bench.push(Stream::Stdout, b"\xac\n");
    assert_eq!(bench.lines().iter().map(|l| l.1.clone()).collect::<Vec<_>>(), [b"a".to_vec(), "€".into()]);
}

#[test]
fn a_long_line_becomes_parts_and_what_follows_is_there() {
    for length in [MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 1 << 20] {
        for end in ["\n", "\r\n"] {
            let text = format!("before\n{}{end}after\n", "x".repeat(length));
            let lines = of(text.as_bytes());
            let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
            assert_eq!((first.0.as_slice(), last.0.as_slice()), (&b"before"[..], &b"after"[..]));
            assert_eq!(lines.len(), 2 + length.div_ceil(MAX_LINE_BYTES));
            assert!(
                lines[1..lines.len() - 2].iter().all(|l| l.1 == LineEnd::Part && l.0.len() <= MAX_LINE_BYTES)
            );
        }
    }
}

#[test]
fn parts_are_cut_between_characters() {
    let text = format!("x{}\n", "€".repeat(60_000));
    let lines = of(text.as_bytes());
    assert!(lines.len() > 2 && lines.iter().all(|(bytes, _)| std::str::from_utf8(bytes).is_ok()));
}

#[test]
fn memory_stays_bounded_on_a_line_without_end() {
    let mut bench = Bench::new(&["S3cr3t-Value-42"]);
    for _ in 0..64 {
        bench.push(Stream::Stdout, vec![b'y'; 1 << 20]);
        bench.out.clear();
        assert!(bench.capture.stdout.bytes.len() <= MAX_LINE_BYTES + 64);
    }
    assert_eq!(bench.capture.last_line().unwrap().get(), 1023);
}

#[test]
fn an_unfinished_line_goes_out_after_two_seconds_and_both_streams_stay_apart() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, "half");
    bench.push(Stream::Stderr, "ERR\n");
    assert_eq!(bench.capture.due(), Some(bench.now + PART_AFTER));
    bench.wait();
    assert_eq!(bench.capture.due(), None);
    bench.push(Stream::Stdout, " rest\n");
    let expected = [
        (Stream::Stderr, b"ERR".to_vec(), LineEnd::Lf),
        (Stream::Stdout, b"half".to_vec(), LineEnd::Part),
        (Stream::Stdout, b" rest".to_vec(), LineEnd::Lf),
    ];
    assert_eq!(bench.lines(), expected);
}

#[test]
fn progress_bars_are_seen_as_parts_and_the_return_waits_for_its_feed() {
    let mut bench = Bench::new(&[]);
    for step in ["10%\r", "20%\r"] {
        bench.push(Stream::Stdout, step);
        bench.wait();
    }
    bench.push(Stream::Stdout, "\n");
    let lines: Vec<_> = bench.lines().into_iter().map(|(_, b, e)| (b, e)).collect();
    assert_eq!(
        lines,
        [(b"10%".to_vec(), LineEnd::Part), (b"\r20%".to_vec(), LineEnd::Part), (b"".to_vec(), LineEnd::CrLf)]
    );
}

#[test]
fn a_secret_in_two_pieces_with_a_pause_is_masked_on_both_streams() {
    for stream in Stream::BOTH {
        let mut bench = Bench::new(&["S3cr3t-Value-42"]);
        bench.push(stream, "token S3cr3t-");
        bench.wait();
        bench.push(stream, "Value-42 end\n");
        assert_eq!(bench.printed(stream), b"token *** end\n");
    }
}

#[test]
fn a_secret_across_the_split_of_a_long_line_is_masked() {
    let secret = "S3cr3t-Value-42";
    for before in MAX_LINE_BYTES - 20..MAX_LINE_BYTES + 2 {
        let text = format!("{}{secret}{}\n", "x".repeat(before), "y".repeat(100));
        for piece in [text.len(), 1000] {
            let mut bench = Bench::new(&[secret]);
            text.as_bytes().chunks(piece).for_each(|c| bench.push(Stream::Stdout, c));
            let printed = String::from_utf8(bench.printed(Stream::Stdout)).unwrap();
            assert_eq!(printed, text.replace(secret, "***"));
            assert!(bench.lines().iter().all(|(_, bytes, _)| !bytes.ends_with(b"S3cr3t")));
        }
    }
}

fn chunks(text: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = text;
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_lines_and_rebuilds_the_bytes(
        text in "[ab\\r\\n€]{0,80}",
        sizes in proptest::collection::vec(1usize..9, 1..5),
    ) {
        let mut bench = Bench::new(&[]);
        chunks(text.as_bytes(), &sizes).iter().for_each(|c| bench.push(Stream::Stdout, c));
        bench.end();
        prop_assert_eq!(bench.printed(Stream::Stdout), text.as_bytes());
        let lines: Vec<_> = bench.lines().into_iter().map(|(_, b, e)| (b, e)).collect();
        prop_assert_eq!(lines, of(text.as_bytes()));
    }

    #[test]
    fn parts_at_any_time_rebuild_the_bytes(
        text in "[ab\\r\\n€]{0,80}",
        sizes in proptest::collection::vec(1usize..9, 1..5),
    ) {
        let mut bench = Bench::new(&[]);
        for chunk in chunks(text.as_bytes(), &sizes) {
            bench.push(Stream::Stderr, chunk);
            bench.wait();
        }
        bench.end();
        prop_assert_eq!(bench.printed(Stream::Stderr), text.as_bytes());
    }

    #[test]
    fn no_chunking_lets_a_secret_through(
        text in "[ab \\n]{0,60}",
        secrets in proptest::collection::vec("[ab ]{2}[ab]{2,4}", 1..4),
        sizes in proptest::collection::vec(1usize..9, 1..5),
        pauses in proptest::bool::ANY,
    ) {
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let mut bench = Bench::new(&secrets);
        for chunk in chunks(text.as_bytes(), &sizes) {
            bench.push(Stream::Stdout, chunk);
            if pauses {
                bench.wait();
            }
        }
        bench.end();
        let masker = Masker::new(secrets.iter().map(|s| (*s).to_owned()));
        let printed = String::from_utf8(bench.printed(Stream::Stdout)).unwrap();
        prop_assert_eq!(&printed, &masker.mask_text(&text));
        for secret in secrets {
            prop_assert!(!printed.contains(secret.trim_end()), "{} in {}", secret, printed);
        }
    }
}

/// The long form of the bound on memory and the floor on speed is the benchmark's.
#[test]
#[ignore = "long: 200 MiB without a newline"]
fn two_hundred_mebibytes_without_a_newline() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, "before\n");
    let mut bytes = 0;
    for _ in 0..200 {
        bench.push(Stream::Stdout, vec![b'z'; 1 << 20]);
        bytes += bench.out.drain(..).map(|b| b.bytes().len()).sum::<usize>();
    }
    bench.push(Stream::Stdout, "\nafter\n");
    assert_eq!(bench.printed_after(), b"after");
    bytes += bench.out.iter().map(|b| b.bytes().len()).sum::<usize>();
    assert_eq!(bytes, 7 + (200 << 20) + 1 + 6);
}

impl Bench {
    fn printed_after(&self) -> Vec<u8> {
        self.out
            .last()
            .and_then(|batch| batch.lines().next_back())
            .map(|l| l.bytes.to_vec())
            .unwrap_or_default()
    }
}

/// Texts with long lines, secrets and what is near to them, broken characters, and every kind of end.
fn long_texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (0..70_000usize).prop_map(|n| vec![b'x'; n]),
        (0..30_000usize).prop_map(|n| "€".repeat(n).into_bytes()),
        (0..4usize).prop_map(|n| vec![b'\r'; n]),
        (0..4usize).prop_map(|n| vec![0xe2; n]),
        prop_oneof![Just("S3cr3t-Value-42"), Just("S3cr3t-"), Just("Value-42"), Just("line one")]
            .prop_map(|text| text.as_bytes().to_vec()),
        prop_oneof![Just("line one line two"), Just("line one\r\nline two"), Just("\n"), Just("\r\n")]
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn long_lines_are_cut_at_the_same_places_in_any_chunking(
        text in long_texts(),
        sizes in proptest::collection::vec(1usize..40_000, 1..5),
        masked in proptest::bool::ANY,
    ) {
        let secrets: &[&str] = if masked { &["S3cr3t-Value-42", "line one\r\nline two"] } else { &[] };
        let run = |pieces: &[Vec<u8>]| {
            let mut bench = Bench::new(secrets);
            pieces.iter().for_each(|piece| bench.push(Stream::Stdout, piece));
            bench.end();
            bench
        };
        let (whole, pieces) = (run(std::slice::from_ref(&text)), run(&chunks(&text, &sizes)));
        prop_assert!(whole.lines() == pieces.lines());
        let masker = Masker::new(secrets.iter().map(|secret| (*secret).to_owned()));
        prop_assert!(whole.printed(Stream::Stdout) == masker.mask(&text).unwrap_or_else(|| text.clone()));
        for batch in whole.out.iter().chain(&pieces.out) {
            let (first, ends) = (batch.first(), batch.ends().into());
            let again = LineBatch::new(first, batch.time(), batch.stream(), batch.bytes().clone(), ends, batch.tail());
            prop_assert_eq!(again.unwrap().len(), batch.len());
            prop_assert!(batch.lines().all(|line| line.bytes.len() <= MAX_LINE_BYTES));
            prop_assert!(std::str::from_utf8(&text).is_err() || std::str::from_utf8(batch.bytes()).is_ok());
        }
    }
}

#[test]
fn one_push_is_one_batch_and_whole_lines_are_not_copied() {
    let mut bench = Bench::new(&["S3cr3t-Value-42"]);
    let bytes = Bytes::from("one\ntwo\r\nthree".to_owned());
    bench.capture.push(Stream::Stdout, bytes.clone(), bench.now, Timestamp::EPOCH, &mut bench.out);
    assert_eq!(bench.out.len(), 1);
    assert_eq!(bench.out[0].bytes().as_ptr(), bytes.as_ptr());
    bench.push(Stream::Stdout, "\nfour\nfive");
    assert_eq!(bench.out.len(), 2, "a short push is joined with what waits");
    assert_eq!(bench.out[1].bytes().as_ref(), b"three\nfour\n");
}

#[test]
fn what_is_larger_than_a_batch_becomes_several() {
    for line in [String::new(), "x".repeat(99), "y".repeat(MAX_LINE_BYTES - 1), "z".repeat(MAX_LINE_BYTES)] {
        let mut bench = Bench::new(&[]);
        let text = format!("{line}\r\n").repeat(400_000 / (line.len() + 2));
        bench.push(Stream::Stderr, &text);
        assert!(bench.out.iter().all(|batch| batch.bytes().len() <= MAX_BATCH_BYTES));
        assert!(bench.out.len() <= text.len().div_ceil(MAX_BATCH_BYTES - line.len() - 1));
        assert_eq!(bench.printed(Stream::Stderr), text.as_bytes());
        let count: usize = bench.out.iter().map(LineBatch::len).sum();
        assert_eq!(count, text.lines().count());
    }
}

#[test]
fn thousands_of_alternating_lines_keep_their_order_and_never_mix() {
    let mut bench = Bench::new(&[]);
    for n in 1..=5_000 {
        bench.push(Stream::Stdout, format!("o{n}\n"));
        bench.push(Stream::Stderr, format!("e{n}\n"));
    }
    let expected = (1..=5_000).flat_map(|n| [format!("o{n}"), format!("e{n}")]);
    assert!(bench.lines().into_iter().map(|(_, bytes, _)| String::from_utf8(bytes).unwrap()).eq(expected));
}

#[test]
fn one_stream_does_not_complete_a_secret_of_the_other() {
    let mut bench = Bench::new(&["S3cr3t-Value-42"]);
    bench.push(Stream::Stdout, "S3cr3t-");
    bench.push(Stream::Stderr, "Value-42\n");
    bench.push(Stream::Stdout, "Value-42\n");
    assert_eq!(bench.printed(Stream::Stderr), b"Value-42\n");
    assert_eq!(bench.printed(Stream::Stdout), b"***\n");
}

#[test]
fn a_key_printed_whole_or_by_an_unquoted_echo_is_masked_though_it_is_printed_slowly() {
    let key = "-----BEGIN-----\nAAAABBBB\nCCCCDDDD\n==\n-----END-----";
    for (text, expected) in [
        (format!("{key}\n"), "***\n***\n***\n==\n***\n"),
        (format!("{}\n", key.replace('\n', " ")), "***\n"),
        (format!("{}\r\n", key.replace('\n', "\r\n")), "***\r\n***\r\n***\r\n==\r\n***\r\n"),
    ] {
        let mut bench = Bench::new(&[key]);
        for piece in chunks(text.as_bytes(), &[5]) {
            bench.push(Stream::Stdout, piece);
            bench.wait();
        }
        assert_eq!(String::from_utf8(bench.printed(Stream::Stdout)).unwrap(), expected);
    }
}

#[test]
fn what_only_began_like_a_secret_goes_out_with_what_follows_or_at_the_end() {
    let mut bench = Bench::new(&["S3cr3t-Value-42"]);
    bench.push(Stream::Stdout, "prompt: S3cr");
    bench.wait();
    assert_eq!(bench.printed(Stream::Stdout), b"prompt: ", "only what may be a secret is held back");
    assert_eq!(bench.capture.due(), None, "nobody is woken for what must wait");
    bench.push(Stream::Stdout, "i");
    bench.wait();
    assert_eq!(bench.printed(Stream::Stdout), b"prompt: S3cri");
    bench.push(Stream::Stdout, "S3cr");
    bench.end();
    assert_eq!(bench.lines().last().unwrap().1, b"S3cr");
}

#[test]
fn debug_shows_nothing_of_what_waits() {
    let mut bench = Bench::new(&["S3cr3t-Value-42"]);
    bench.push(Stream::Stdout, "token S3cr3t-Value-42");
    let shown = format!("{:?}", bench.capture);
    assert!(!shown.contains("S3cr3t"), "{shown}");
}

#[test]
fn invalid_bytes_go_out_when_they_have_waited() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, [0xe2; 100]);
    bench.wait();
    assert_eq!(bench.printed(Stream::Stdout), [0xe2; 99], "only the last may begin a character");
}

#[test]
fn bytes_that_hold_a_cut_back_do_so_once() {
    for byte in [b'\r', 0xe2, 0xf0, 0x80] {
        for secrets in [&[][..], &["S3cr3t-Value-42"]] {
            let text = [&b"x"[..], &vec![byte; 3 * MAX_LINE_BYTES]].concat();
            for piece in [text.len(), 1000] {
                let mut bench = Bench::new(secrets);
                text.chunks(piece).for_each(|chunk| bench.push(Stream::Stdout, chunk));
                bench.end();
                assert_eq!(bench.printed(Stream::Stdout), text);
                let lengths: Vec<_> = bench.lines().iter().map(|(_, bytes, _)| bytes.len()).collect();
                assert_eq!(lengths, [MAX_LINE_BYTES, MAX_LINE_BYTES, MAX_LINE_BYTES, 1]);
            }
        }
    }
}

#[test]
fn a_read_that_ends_between_a_return_and_its_feed_changes_nothing() {
    for secrets in [&[][..], &["S3cr3t-Value-42"]] {
        for length in [0, 3, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1] {
            let mut bench = Bench::new(secrets);
            bench.push(Stream::Stdout, "x".repeat(length) + "\r");
            bench.push(Stream::Stdout, "\n");
            let lines: Vec<_> = bench.lines().into_iter().map(|(_, bytes, end)| (bytes, end)).collect();
            assert_eq!(lines, of(format!("{}\r\n", "x".repeat(length)).as_bytes()));
        }
    }
}

#[test]
fn a_line_waits_from_its_own_first_byte() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, "a");
    bench.now += PART_AFTER / 2;
    bench.push(Stream::Stdout, "b\nc");
    assert_eq!(bench.capture.due(), Some(bench.now + PART_AFTER));
    bench.push(Stream::Stderr, "later");
    bench.push(Stream::Stdout, "\n");
    assert_eq!(bench.capture.due(), Some(bench.now + PART_AFTER), "of the other stream");
    bench.push(Stream::Stderr, "\n");
    assert_eq!(bench.capture.due(), None);
}

#[test]
fn what_follows_a_part_of_a_long_line_waits_anew() {
    let mut bench = Bench::new(&[]);
    bench.push(Stream::Stdout, "x");
    bench.now += PART_AFTER / 2;
    bench.push(Stream::Stdout, vec![b'x'; 3 * MAX_LINE_BYTES + 9]);
    assert_eq!(bench.capture.due(), Some(bench.now + PART_AFTER));
}

#[test]
fn a_secret_of_any_length_is_masked() {
    let secret: String = (0..20_000).map(|n| format!("{n:x}é")).collect();
    for piece in [1000, 1 << 20] {
        let mut bench = Bench::new(&[&secret]);
        let text = format!("a {secret} b\n");
        text.as_bytes().chunks(piece).for_each(|chunk| bench.push(Stream::Stdout, chunk));
        let printed = String::from_utf8(bench.printed(Stream::Stdout)).unwrap();
        assert!(
            printed.len() < 100 && printed.starts_with("a ***") && printed.ends_with("*** b\n"),
            "{}",
            printed.len()
        );
    }
}

/// Prints lines a second, beside what BLAKE3 alone would do with their bytes; every line has to go through that.
#[test]
#[ignore = "long: measures, in release"]
fn lines_of_100_bytes_cost_at_most_five_digests() {
    const ROUNDS: u64 = 4;
    let line = format!("{}\n", "l".repeat(99));
    let whole = Bytes::from(line.repeat((64 << 20) / line.len()));
    let lines = ROUNDS * (whole.len() / line.len()) as u64;
    let rate = |start: std::time::Instant| lines / u64::try_from(start.elapsed().as_millis()).unwrap();
    let key: Vec<String> = (0..50).map(|n| format!("{n:02}key{n:059}")).collect();
    let start = std::time::Instant::now();
    for _ in 0..ROUNDS {
        whole.chunks(MAX_LINE_BYTES).fold(blake3::Hasher::new(), |mut hasher, piece| {
            hasher.update(piece);
            hasher
        });
    }
    let limit = rate(start);
    std::println!("BLAKE3 alone: {limit} lines/ms");
    for (name, secrets, size) in [
        ("64 KiB reads", &[][..], 64 << 10),
        ("1 MiB reads", &[], 1 << 20),
        ("64 KiB reads, two secrets", &["S3cr3t-Value-42", "another secret"], 64 << 10),
        ("64 KiB reads, a key", &[key.join("\n").as_str()], 64 << 10),
        ("a read a line", &[], 100),
    ] {
        let (mut bench, mut seal) = (Bench::new(secrets), SealBuilder::new());
        let start = std::time::Instant::now();
        for _ in 0..ROUNDS {
            let mut rest = whole.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(size.min(rest.len()));
                bench.capture.push(Stream::Stdout, piece, bench.now, Timestamp::EPOCH, &mut bench.out);
                bench.out.drain(..).for_each(|batch| seal.add(&batch));
            }
        }
        let ours = rate(start);
        std::println!("{name}: {ours} lines/ms");
        assert!(size == 100 || ours * 5 > limit, "{name}");
        assert_eq!(seal.counts().lines, lines);
    }
}
