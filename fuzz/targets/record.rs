//! Records, claims and refused lines: any bytes are read or refused, and what is read is written as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pubsub_core::{Claim, ErrorKind, LineNumber, LineRange, MAX_HOLES, RECORD_VERSION, RunRecord, Timestamp};
use pubsub_file::fuzzing::{decode_refused, encode_refused};

fuzz_target!(|bytes: &[u8]| {
    match RunRecord::from_json(bytes) {
        Ok(record) => a_record_holds(&record),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew), "{error}"),
    }
    if let Ok(claim) = serde_json::from_slice::<Claim>(bytes) {
        let json = serde_json::to_string(&claim).unwrap();
        assert_eq!(serde_json::from_str::<Claim>(&json).unwrap(), claim);
    }
    if let Ok(refused) = decode_refused(bytes) {
        let line = encode_refused(&refused).unwrap();
        assert_eq!(decode_refused(&line).unwrap(), refused);
        assert_eq!(memchr_count(&line), 1, "one entry is one line");
    }
});

fn memchr_count(line: &[u8]) -> usize {
    line.iter().filter(|byte| **byte == b'\n').count()
}

fn a_record_holds(record: &RunRecord) {
    assert!(record.version <= RECORD_VERSION);
    let json = record.to_json().unwrap();
    assert_eq!(&RunRecord::from_json(&json).unwrap(), record);
    let mut newer = record.clone();
    newer.version = RECORD_VERSION + 1;
    let error = RunRecord::from_json(&newer.to_json().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains(&format!("version={}", newer.version)), "{error}");
    // What stores and readers do with it.
    assert!(record.followed_by(record).is_none());
    let _ = (record.judge(Timestamp::now()), record.last_number(), record.as_begun());
    let number = |n| LineNumber::new(n).unwrap();
    for range in [LineRange::new(number(1), LineNumber::MAX), LineRange::new(number(5), number(9))] {
        let mut next = range.first;
        for gap in record.missing(range) {
            assert!(gap.range.first == next && gap.range.last >= next && gap.range.last <= range.last);
            next = gap.range.last.plus(1);
        }
        assert!(next > range.last || range.last == LineNumber::MAX);
        let mut filled = record.clone();
        filled.fill(range);
        assert!(filled.holes.iter().all(|hole| hole.slice(range).is_none()), "{range:?} {:?}", filled.holes);
    }
    let mut holes = Vec::new();
    record.holes.iter().for_each(|hole| hole.clone().enter(&mut holes));
    assert!(holes.len() <= MAX_HOLES);
    assert!(holes.is_sorted_by_key(|hole| hole.range.first));
}
