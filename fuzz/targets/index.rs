//! The files of a run in a store, whatever is in them: lines are within bounds, and what is appended is there.
#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pubsub_core::{
    ActionId, Counts, ErrorKind, EventId, LineBatch, LineEnd, LineNumber, LineRange, Lines, OutputItem,
    RunKey, RunRecord, RunStatus, Stage, Stream, Timestamp,
};
use pubsub_file::fuzzing::{StoredRun, check_entries};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Bit 1: the index is made whole; 2: the run has ended; 4: its owner is lost; 8: there is no index; 16: no output.
    flags: u8,
    from: u64,
    count: u64,
    printed: u64,
    log: &'a [u8],
    index: Vec<[u8; 20]>,
}

struct Place {
    _folder: tempfile::TempDir,
    key: RunKey,
    run: StoredRun,
}

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let key =
        RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::new("e").unwrap(), 1);
    let run = StoredRun::make(folder.path(), &key).unwrap();
    Place { _folder: folder, key, run }
}

fuzz_target!(|input: Input<'_>| PLACE.with(|cell| look(cell.get_or_init(place), &input)));

fn look(place: &Place, input: &Input<'_>) {
    let has = |bit: u8| input.flags & bit != 0;
    let mut index = input.index.as_flattened().to_vec();
    if has(1) {
        check_entries(&mut index);
    }
    write(&place.run.index(), (!has(8)).then_some(&index));
    write(&place.run.log(), (!has(16)).then_some(input.log));
    let mut record = RunRecord::begun(place.key.clone(), "w");
    if has(4) {
        record.beat_at = Timestamp::EPOCH;
    }
    if has(2) {
        record.status = RunStatus::Completed;
        record.counts = Counts { lines: input.printed, ..Counts::default() };
    }
    let from = LineNumber::new(input.from).unwrap_or(LineNumber::FIRST);
    for lines in [
        Lines::ALL,
        Lines::From(from),
        Lines::Range(LineRange::new(from, from.plus(input.count))),
        Lines::Last(input.count),
    ] {
        items_are_in_order_and_of_the_output(place, input, &record, lines);
    }
    what_is_appended_is_there(place, &record);
}

fn write(path: &Path, bytes: Option<impl AsRef<[u8]>>) {
    let _ = fs::remove_file(path);
    if let Some(bytes) = bytes {
        fs::write(path, bytes).unwrap();
    }
}

fn items_are_in_order_and_of_the_output(place: &Place, input: &Input<'_>, record: &RunRecord, lines: Lines) {
    let (through, items) = match place.run.read(record.clone(), lines) {
        Ok(read) => read,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
            return;
        }
    };
    let mut before: Option<LineNumber> = None;
    for item in &items {
        let range = match item {
            OutputItem::Gap(gap) => gap.range,
            OutputItem::Lines(batch) => {
                assert!(is_in(batch.bytes(), input.log), "nobody printed {batch:?}");
                assert_eq!(batch.lines().count(), batch.len());
                batch.range()
            }
        };
        assert!(range.first <= range.last && range.last.get() <= through, "{range:?} of {through}");
        match before {
            Some(before) => assert_eq!(range.first, before.plus(1), "{items:?}"),
            None if lines == Lines::ALL => assert_eq!(range.first, LineNumber::FIRST),
            None => {}
        }
        if let Lines::Range(wanted) = lines {
            assert!(wanted.first <= range.first && range.last <= wanted.last);
        }
        before = Some(range.last);
    }
    if lines == Lines::ALL {
        assert_eq!(before.map_or(0, LineNumber::get), through);
    }
}

fn is_in(bytes: &Bytes, log: &[u8]) -> bool {
    log.windows(bytes.len()).any(|window| window == &**bytes)
}

/// A reader that knows all numbers up to one still takes what comes after it.
fn what_is_appended_is_there(place: &Place, record: &RunRecord) {
    let Ok((through, _)) = place.run.read(record.clone(), Lines::Last(0)) else { return };
    let Some(first) = through.checked_add(1).and_then(LineNumber::new) else { return };
    let time = Timestamp::from_micros(3);
    // The largest number is no line's.
    let Ok(batch) = LineBatch::split(first, time, Stream::Stdout, "news\n".into(), LineEnd::None) else {
        return;
    };
    // Where the index leads out of what a file can have, nothing is written.
    let Ok(appended) = place.run.append(std::slice::from_ref(&batch)) else { return };
    assert!(appended.refused.is_empty());
    let (_, items) = place.run.read(record.clone(), Lines::From(first)).unwrap();
    let given: Vec<_> = items.iter().collect();
    assert!(
        matches!(given.as_slice(), [OutputItem::Lines(given), ..] if *given == batch),
        "{given:?} {batch:?}"
    );
}
