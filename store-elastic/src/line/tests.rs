use proptest::prelude::{any, prop_assert_eq, proptest};
use pubsub_core::{ActionId, EventId, Line, Stage};
use serde_json::Value;

use super::*;

fn key() -> RunKey {
    let id = |text| ActionId::new(text).unwrap();
    RunKey::new(id("a \"quoted\" \\ é"), Stage::new("s").unwrap(), EventId::new("e").unwrap(), 1)
}

fn hit(document: &Value) -> LineHit {
    serde_json::from_value(json!({"_source": document, "sort": [document["line_number"]]})).unwrap()
}

/// The documents of a body, each second line of it.
fn hits(body: &[u8]) -> Vec<LineHit> {
    let lines = body.split(|byte| *byte == b'\n').skip(1).step_by(2);
    lines.map(|line| hit(&serde_json::from_slice(line).unwrap())).collect()
}

fn lines_of(pieces: &[Piece]) -> Vec<Line> {
    let lines = pieces.iter().filter_map(|piece| match piece {
        Piece::Lines(batch) => Some(batch.lines().collect::<Vec<_>>()),
        Piece::Damaged(_) => None,
    });
    lines.flatten().collect()
}

fn encoded(batches: &[LineBatch]) -> (Vec<u8>, Vec<usize>) {
    let (mut body, mut ends) = (Vec::new(), Vec::new());
    let encoder = Encoder::new(&key(), "0123456789abcdef");
    batches.iter().for_each(|batch| encoder.add(batch, &mut body, &mut ends).unwrap());
    (body, ends)
}

proptest! {
    #[test]
    fn lines_are_read_as_what_was_written(
        given in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..40), any::<bool>(), any::<bool>()), 1..9),
    ) {
        let mut first = LineNumber::FIRST;
        let mut batches = Vec::new();
        for (bytes, is_error, recovered) in given {
            let stream = if is_error { Stream::Stderr } else { Stream::Stdout };
            let time = Timestamp::from_micros(1_764_045_141_500_001);
            let batch = LineBatch::split(first, time, stream, bytes.into(), LineEnd::Part).unwrap();
            first = batch.last().plus(1);
            batches.push(batch.with_recovered(recovered));
        }
        let (body, ends) = encoded(&batches);
        let expected: Vec<Line> = batches.iter().flat_map(|batch| batch.lines().collect::<Vec<_>>()).collect();
        prop_assert_eq!(lines_of(&joined(&hits(&body))), expected);
        prop_assert_eq!(ends.last().copied(), Some(body.len()));
        prop_assert_eq!(ends.len() as u64, first.before());
    }
}

#[test]
fn a_document_is_what_other_tools_expect() {
    let time = Timestamp::from_micros(1_764_045_141_500_001);
    let bytes = Bytes::from_static(b"plain\ncaf\xe9\r\n");
    let batch = LineBatch::split(LineNumber::FIRST, time, Stream::Stdout, bytes, LineEnd::None).unwrap();
    let (body, ends) = encoded(&[batch]);
    let run = key().run_id;
    let item = |from: usize, to: usize| {
        let mut parts = body[from..to].split(|byte| *byte == b'\n');
        [(); 2].map(|()| serde_json::from_slice::<Value>(parts.next().unwrap()).unwrap())
    };
    let [action, document] = item(0, ends[0]);
    assert_eq!(action, json!({"create": {"_id": format!("{run}-0123456789abcdef-1")}}));
    let mut expected = json!({
        "@timestamp": "2025-11-25T04:32:21.500001Z", "message": "plain", "action_id": "a \"quoted\" \\ é", "stage": "s",
        "run_id": run, "made": "0123456789abcdef", "line_number": 1, "stream": "stdout",
    });
    assert_eq!(document, expected);
    let [_, document] = item(ends[0], ends[1]);
    for (name, value) in [
        ("message", json!("caf\u{fffd}")),
        ("line_number", json!(2)),
        ("end", json!("crlf")),
        ("raw", json!("Y2Fm6Q==")),
    ] {
        expected[name] = value;
    }
    assert_eq!(document, expected);
}

#[test]
fn documents_that_are_no_lines_are_damaged() {
    let line = |number: u64, message: &str| json!({"@timestamp": "2025-11-25T08:32:21.500001Z", "line_number": number, "stream": "stdout", "message": message});
    let mut no_base64 = line(4, "x");
    no_base64["raw"] = json!("?");
    let given =
        [line(1, "a"), line(2, "a\nb"), json!({"line_number": 3}), no_base64, line(5, &"x".repeat(70_000))];
    let pieces = joined(&given.map(|document| hit(&document)));
    let at = |n| LineNumber::new(n).unwrap();
    assert!(matches!(&pieces[0], Piece::Lines(batch) if batch.len() == 1));
    let damaged: Vec<Piece> = (2..=5).map(|n| Piece::Damaged(LineRange::new(at(n), at(n)))).collect();
    assert_eq!(pieces[1..], damaged);
}
