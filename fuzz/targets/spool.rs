//! The segments of a spool over kills and damage: what was acknowledged comes once and in order, and nothing else comes.
#![no_main]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pubsub_core::{LineBatch, LineEnd, LineNumber, Stream, Timestamp};
use pubsub_file::fuzzing::Segments;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Append {
        bytes: &'a [u8],
        times: u8,
        lines: u8,
    },
    Take {
        most: u16,
    },
    /// The process dies, and may have left bytes of an append that it never acknowledged.
    Die {
        torn: &'a [u8],
    },
    /// Somebody changes bytes of a segment.
    Damage {
        last: bool,
        at: u16,
        flip: u8,
    },
    /// Somebody cuts a segment.
    Cut {
        last: bool,
        at: u16,
    },
    /// Somebody writes over the cursor.
    Cursor {
        bytes: &'a [u8],
    },
}

/// Most steps of one life: each costs calls of the system.
const MOST_STEPS: usize = 24;

fuzz_target!(|steps: Vec<Step<'_>>| {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut life =
        Life { log: open(&run), next: 1, appended: Vec::new(), taken: Vec::new(), whole: true, again: false };
    steps.into_iter().take(MOST_STEPS).for_each(|step| life.step(&run, step));
    life.log = None;
    life.log = open(&run);
    life.take_all();
});

fn open(run: &Path) -> Option<Segments> {
    Some(Segments::open(run).unwrap().expect("nobody else has it"))
}

struct Life {
    log: Option<Segments>,
    next: u64,
    appended: Vec<LineBatch>,
    taken: Vec<LineBatch>,
    /// Nobody damaged anything.
    whole: bool,
    /// The cursor was changed, so lines may come again.
    again: bool,
}

impl Life {
    fn log(&mut self) -> &mut Segments {
        self.log.as_mut().unwrap()
    }

    fn step(&mut self, run: &Path, step: Step<'_>) {
        match step {
            Step::Append { bytes, times, lines } => {
                let batches: Vec<LineBatch> =
                    (0..lines % 4).filter_map(|_| self.batch(bytes, times)).collect();
                self.log().append(&batches).unwrap();
                self.appended.extend(batches);
            }
            Step::Take { most } => {
                // At least one frame has to fit.
                let most = usize::from(most) + 70_000;
                let taken = self.log().take(most).unwrap();
                self.took(taken);
            }
            Step::Die { torn } => {
                self.log = None;
                // As much as a whole frame might be one.
                if let Some(file) = Segments::file(run, true) {
                    let file = OpenOptions::new().write(true).open(file).unwrap();
                    file.write_all_at(torn, file.metadata().unwrap().len()).unwrap();
                    self.whole &= torn.len() < 12;
                }
                self.log = open(run);
            }
            Step::Damage { last, at, flip } => self.hurt(run, last, |bytes| {
                let at = usize::from(at) % bytes.len().max(1);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= flip);
            }),
            Step::Cut { last, at } => self.hurt(run, last, |bytes| bytes.truncate(usize::from(at))),
            Step::Cursor { bytes } => {
                self.log = None;
                fs::write(run.join("shipped.json"), bytes).unwrap();
                (self.whole, self.again) = (false, true);
                self.log = open(run);
            }
        }
    }

    fn batch(&mut self, bytes: &[u8], times: u8) -> Option<LineBatch> {
        let bytes = bytes.repeat(usize::from(times) % 64);
        let (first, time) = (LineNumber::new(self.next)?, Timestamp::from_micros(9));
        let batch = LineBatch::split(first, time, Stream::Stdout, bytes.into(), LineEnd::Part).ok()?;
        self.next = batch.last().get() + 1;
        Some(batch)
    }

    fn hurt(&mut self, run: &Path, last: bool, how: impl FnOnce(&mut Vec<u8>)) {
        self.log = None;
        if let Some(file) = Segments::file(run, last) {
            let mut bytes = fs::read(&file).unwrap();
            how(&mut bytes);
            fs::write(file, bytes).unwrap();
            self.whole = false;
        }
        self.log = open(run);
    }

    fn took(&mut self, taken: Option<(Vec<LineBatch>, bool)>) -> bool {
        let Some((batches, damaged)) = taken else { return false };
        assert!(!(damaged && self.whole), "what is whole is called damaged");
        self.taken.extend(batches);
        true
    }

    fn take_all(&mut self) {
        let mut turns = 0;
        loop {
            let taken = self.log().take(1 << 20).unwrap();
            if !self.took(taken) {
                break;
            }
            turns += 1;
            assert!(turns < 10_000, "there is no end");
        }
        assert!(self.log().is_read() || !self.whole);
        if self.whole {
            assert!(self.taken == self.appended, "{:?}\n{:?}", self.taken, self.appended);
        }
        for batch in &self.taken {
            assert!(self.appended.contains(batch), "nobody appended {batch:?}");
        }
        if !self.again {
            assert!(self.taken.is_sorted_by(|a, b| a.last() < b.first()), "out of order, or twice");
        }
    }
}
