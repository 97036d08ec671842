//! Appends lines: inserts of bounded size, one after the other, each judged document by document; then the run is told once.

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::{ErrorKind as DriverKind, IndexedWriteError};
use pubsub_core::{
    Appended, Error, ErrorKind, Gap, LineBatch, LineNumber, LineRange, Result, RunId, RunKey, Timestamp,
};

use crate::connect::Collections;
use crate::error::{DUPLICATE_KEY, of_code, said};
use crate::layout::Ids;
use crate::line::{LineDocument, date_of, documents};
use crate::numbers::ranges_of;
use crate::run::{int, is_run, not_found, number, wake};
use crate::store::Inner;

/// About how many bytes of lines, and how many lines, one insert has: far below what a server takes in one message.
const INSERT_BYTES: usize = 4 << 20;
const INSERT_LINES: usize = 2_000;

/// The largest number that MongoDB has.
const MAX_NUMBER: u64 = i64::MAX.unsigned_abs();

/// How often lines are inserted anew where their run is removed and begins again each time.
const MAX_TRIES: usize = 5;

const DOING: &str = "append lines";

/// What became of the lines of inserts.
#[derive(Debug, Default)]
struct Inserted {
    /// They are there, in growing ranges.
    there: Vec<LineRange>,
    /// Bytes of those that were not there before.
    new_bytes: u64,
    /// Of those that were: their numbers and bytes.
    repeated: Vec<(LineNumber, u64)>,
    /// Their numbers, their bytes, and why.
    refused: Vec<(LineNumber, u64, String)>,
    again: Vec<LineNumber>,
    /// Why these are to be tried again.
    failure: Option<(ErrorKind, String)>,
}

impl Inner {
    pub(crate) async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
        let mut appended = Appended::all();
        // Also of no lines: it asks whether the run is there.
        if Parts::of(batches).next_part().is_empty() {
            let made = self.made(&run.run_id).await?;
            return made.map(|_| appended).ok_or_else(|| not_found(DOING, &run.run_id));
        }
        self.append_lines(run, batches).await?.tell(&mut appended);
        Ok(appended)
    }

    /// Inserts lines under the name that the run has, and tells it; where it has another by now, once more. Where an insert
    /// fails, the run is not told of those before it: their lines are found to be there when they come again.
    async fn append_lines(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Inserted> {
        let collections = self.link.collections(DOING).await?;
        for _ in 0..MAX_TRIES {
            let made = match self.known.get(&run.run_id) {
                Some(made) => made,
                None => self.made(&run.run_id).await?.ok_or_else(|| not_found(DOING, &run.run_id))?,
            };
            let ids = Ids::of(&run.run_id, &made);
            let (mut parts, mut inserted) = (Parts::of(batches), Inserted::default());
            loop {
                let part = parts.next_part();
                if part.is_empty() {
                    break;
                }
                inserted.add(self.insert(&collections, &ids, run, &part).await?);
            }
            if self.told(&collections, run, &made, &inserted).await? {
                return Ok(inserted);
            }
            // It was removed meanwhile, and so are these.
            self.known.forget(&run.run_id);
            self.remove_lines(&ids).await?;
        }
        Err(Error::new(ErrorKind::Unavailable, "the run is removed and begins again all the time")
            .with("run", &run.run_id))
    }

    /// The name under which a run was made.
    async fn made(&self, run: &RunId) -> Result<Option<String>> {
        let runs = self.link.collections(DOING).await?.runs;
        let asked = runs.find_one(doc! { "_id": run.as_str(), "removing": { "$exists": false } });
        let Some(found) = self.link.answer(DOING, asked.projection(doc! { "made": 1 })).await? else {
            return Ok(None);
        };
        let made = found.get_str("made").map_err(|_| {
            Error::new(ErrorKind::Corrupt, "the document of a run has no made").with("run", run)
        })?;
        self.known.is(run, made);
        Ok(Some(made.to_owned()))
    }

    async fn insert(
        &self,
        collections: &Collections,
        ids: &Ids,
        run: &RunKey,
        part: &[LineBatch],
    ) -> Result<Inserted> {
        let goes = self.link.config().keep().map(|keep| Timestamp::now().plus(keep));
        let expires_at: Option<DateTime> = goes.map(|time| date_of(time).0);
        let (mut lines, mut new, mut inserted) = (Vec::new(), Vec::new(), Inserted::default());
        for batch in part {
            documents(ids, run, batch, expires_at, |number, bytes, document| {
                if number.get() > MAX_NUMBER {
                    let reason = format!("this store numbers lines up to {MAX_NUMBER}");
                    inserted.refused.push((number, bytes, reason));
                } else {
                    lines.push((number, bytes));
                    new.push(document);
                }
            });
        }
        if new.is_empty() {
            return Ok(inserted);
        }
        let insert = collections.lines.clone_with_type::<LineDocument<'_>>();
        let answer = self.link.answer(DOING, async {
            Ok(match insert.insert_many(new).ordered(false).await {
                Ok(_) => Vec::new(),
                Err(error) => match *error.kind {
                    // Without one of a write concern it is about single documents alone.
                    DriverKind::InsertMany(ref failure) if failure.write_concern_error.is_none() => {
                        failure.write_errors.clone().unwrap_or_default()
                    }
                    _ => return Err(error),
                },
            })
        });
        inserted.judge(&lines, answer.await?)?;
        Ok(inserted)
    }

    /// Tells the run, and whoever watches it, of lines that are there; `false` where it is another by now, or none.
    async fn told(
        &self,
        collections: &Collections,
        run: &RunKey,
        made: &str,
        inserted: &Inserted,
    ) -> Result<bool> {
        let is_it = is_run(&run.run_id, made);
        let (Some(first), Some(last)) = (inserted.there.first(), inserted.there.last()) else {
            let found = self.link.answer(DOING, collections.runs.find_one(is_it)).await?;
            return Ok(found.is_some());
        };
        let change = |numbers: Document| {
            doc! {
                "$max": numbers,
                "$inc": { "bytes": int(inserted.new_bytes) },
                "$set": { "wake": wake(run.action_id.as_str()) },
            }
        };
        let last_line = int(last.last.get());
        let mut goes_on = is_it.clone();
        goes_on.insert("through", doc! { "$gte": int(first.first.before()) });
        let numbers = doc! { "through": int(first.last.get()), "last_line": last_line };
        let before = doc! { "last_line": 1 };
        let tell = collections.runs.find_one_and_update(goes_on, change(numbers));
        let mut told = self.link.answer(DOING, tell.projection(before.clone())).await?;
        let in_order = told.is_some() && inserted.there.len() == 1;
        if told.is_none() {
            let numbers = doc! { "last_line": last_line };
            let tell = collections.runs.find_one_and_update(is_it.clone(), change(numbers));
            told = self.link.answer(DOING, tell.projection(before)).await?;
        }
        let Some(told) = told else { return Ok(false) };
        let uncounted = inserted.uncounted(number(&told, "last_line"));
        if uncounted > 0 {
            let count = doc! { "$inc": { "bytes": int(uncounted) } };
            self.link.answer(DOING, collections.runs.update_one(is_it, count)).await?;
        }
        if !in_order || number(&told, "last_line") > last.last.get() {
            self.advance(&run.run_id).await?;
        }
        Ok(true)
    }
}

impl Inserted {
    /// Judges by what the server says of each document: its place and its code, never by what the driver counts as inserted.
    fn judge(&mut self, lines: &[(LineNumber, u64)], errors: Vec<IndexedWriteError>) -> Result<()> {
        let mut errors = errors;
        errors.sort_by_key(|error| error.index);
        let mut errors = errors.into_iter().peekable();
        let mut there = Vec::with_capacity(lines.len());
        for (at, (number, bytes)) in lines.iter().copied().enumerate() {
            match errors.next_if(|error| error.index == at) {
                None => {
                    there.push(number);
                    self.new_bytes = self.new_bytes.saturating_add(bytes);
                }
                Some(error) if is_own_id(&error) => {
                    there.push(number);
                    self.repeated.push((number, bytes));
                }
                Some(error) => self.refuse(number, bytes, &error),
            }
        }
        // A spool brings late lines in the call, and behind those that they come before.
        there.sort_unstable();
        there.dedup();
        self.there = ranges_of(there.into_iter());
        match self.failure.take() {
            // What befell all of them is an error of the call.
            Some((kind, why)) if self.again.len() == lines.len() => {
                Err(Error::new(kind, DOING).with_source(why))
            }
            _ => Ok(()),
        }
    }

    /// Takes in those of the next insert, which may come before these.
    fn add(&mut self, next: Self) {
        self.there.extend(next.there);
        self.there.sort_unstable_by_key(|range| range.first);
        self.there.dedup_by(|next, before| {
            let goes_on = next.first <= before.last.plus(1);
            if goes_on {
                before.last = before.last.max(next.last);
            }
            goes_on
        });
        self.new_bytes = self.new_bytes.saturating_add(next.new_bytes);
        self.repeated.extend(next.repeated);
        self.refused.extend(next.refused);
        self.again.extend(next.again);
    }

    fn refuse(&mut self, number: LineNumber, bytes: u64, error: &IndexedWriteError) {
        let why = said(error.code, error.code_name.as_deref(), &error.message);
        let kind = of_code(error.code);
        if kind.is_retryable() {
            self.again.push(number);
            self.failure = Some((kind, why));
        } else {
            self.refused.push((number, bytes, why));
        }
    }

    /// Bytes of repeated lines that nobody has counted: of an earlier call whose answer was lost after the insert.
    fn uncounted(&self, last_line: u64) -> u64 {
        self.repeated.iter().filter(|(number, _)| number.get() > last_line).map(|(_, bytes)| bytes).sum()
    }

    fn tell(self, appended: &mut Appended) {
        let mut refused: Vec<Gap> = Vec::new();
        for (number, bytes, reason) in self.refused {
            Gap { range: LineRange::new(number, number), bytes: Some(bytes), reason }.enter(&mut refused);
        }
        appended.refused.extend(refused);
        appended.again.extend(ranges_of(self.again.into_iter()));
    }
}

/// Whether the document was refused because its line is there already, and not for an index that somebody else made.
fn is_own_id(error: &IndexedWriteError) -> bool {
    error.code == DUPLICATE_KEY
        && (!error.message.contains("index: ") || error.message.contains("index: _id_"))
}

/// What is still to be appended.
struct Parts<'a> {
    batches: &'a [LineBatch],
    /// What is left of a batch that was cut.
    within: Option<LineBatch>,
}

impl<'a> Parts<'a> {
    const fn of(batches: &'a [LineBatch]) -> Self {
        Self { batches, within: None }
    }

    /// As much as one insert takes; nothing at the end.
    fn next_part(&mut self) -> Vec<LineBatch> {
        let (mut part, mut lines, mut bytes) = (Vec::new(), 0, 0);
        while lines < INSERT_LINES && bytes < INSERT_BYTES {
            let Some(batch) = self.within.take().or_else(|| self.take_batch()) else { break };
            let most = (INSERT_LINES - lines) as u64;
            let cut = LineRange::new(batch.first(), batch.first().plus(most - 1));
            self.within = batch.slice(LineRange::new(cut.last.plus(1), LineNumber::MAX));
            let Some(now) = batch.slice(cut) else { break };
            (lines, bytes) = (lines + now.len(), bytes + now.bytes().len());
            part.push(now);
        }
        part
    }

    fn take_batch(&mut self) -> Option<LineBatch> {
        let (first, rest) = self.batches.split_first()?;
        self.batches = rest;
        Some(first.clone())
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{deserialize_from_document, doc};
    use mongodb::error::IndexedWriteError;
    use pubsub_core::conformance::store::{at, lines};
    use pubsub_core::{Appended, ErrorKind, LineNumber, LineRange};

    use super::{INSERT_BYTES, INSERT_LINES, Inserted, Parts};

    fn error(index: i64, code: i32, message: &str) -> IndexedWriteError {
        deserialize_from_document(doc! { "index": index, "code": code, "errmsg": message }).unwrap()
    }

    fn ten() -> Vec<(LineNumber, u64)> {
        (1..=10).map(|n| (at(n), n)).collect()
    }

    const OWN: &str = "E11000 duplicate key error collection: p.lines index: _id_ dup key: { _id: \"x\" }";

    #[test]
    fn each_document_is_judged_by_its_place_and_its_code() {
        let other =
            "E11000 duplicate key error collection: p.lines index: content_1 dup key: { content: \"x\" }";
        let mut inserted = Inserted::default();
        // Not in their order, as a router of a sharded collection may give them.
        let errors = vec![
            error(9, 11000, OWN),
            error(2, 112, "write conflict"),
            error(4, 121, "Document failed validation"),
            error(5, 11000, other),
        ];
        inserted.judge(&ten(), errors).unwrap();
        assert_eq!(inserted.new_bytes, 1 + 2 + 4 + 7 + 8 + 9);
        assert_eq!((inserted.uncounted(9), inserted.uncounted(10)), (10, 0));
        let there: Vec<_> =
            inserted.there.iter().map(|range| (range.first.get(), range.last.get())).collect();
        assert_eq!(there, [(1, 2), (4, 4), (7, 10)]);
        let mut appended = Appended::all();
        inserted.tell(&mut appended);
        assert_eq!(appended.again, [LineRange::new(at(3), at(3))]);
        let refused: Vec<_> =
            appended.refused.iter().map(|gap| (gap.range.first.get(), gap.bytes, &*gap.reason)).collect();
        assert_eq!(refused[0], (5, Some(5), "Document failed validation (code 121)"));
        assert_eq!((refused[1].0, refused[1].1), (6, Some(6)));
    }

    #[test]
    fn lines_that_come_in_no_order_are_there_in_theirs() {
        let mut inserted = Inserted::default();
        let given: Vec<_> = [1, 4, 2, 3, 2, 9].into_iter().map(|n| (at(n), 1)).collect();
        inserted.judge(&given, vec![error(4, 11000, OWN)]).unwrap();
        assert_eq!(inserted.there, [LineRange::new(at(1), at(4)), LineRange::new(at(9), at(9))]);
        assert_eq!(inserted.new_bytes, 5);
    }

    #[test]
    fn what_several_inserts_brought_is_told_as_one() {
        let range = |first, last| LineRange::new(at(first), at(last));
        let of = |there: &[LineRange], new_bytes| Inserted {
            there: there.to_vec(),
            new_bytes,
            ..Inserted::default()
        };
        let mut inserted = of(&[range(5, 8), range(20, 21)], 6);
        inserted.add(of(&[range(9, 12)], 4));
        inserted.add(of(&[range(1, 2), range(11, 15)], 3));
        assert_eq!(inserted.there, [range(1, 2), range(5, 15), range(20, 21)]);
        assert_eq!(inserted.new_bytes, 13);
    }

    #[test]
    fn what_befell_all_documents_is_an_error_of_the_call() {
        let full = || (0..10).map(|index| error(index, 14031, "no space left")).collect();
        let answer = Inserted::default().judge(&ten(), full()).unwrap_err();
        assert_eq!(answer.kind(), ErrorKind::Full);
        assert!(answer.chain().contains("no space left (code 14031)"), "{}", answer.chain());
    }

    #[test]
    fn parts_are_bounded_and_have_each_line_once_in_order() {
        let long = "x".repeat(60_000);
        let mut batches =
            vec![lines(1, vec![""; 7_000]), lines(7_001, vec![""; 3_000]), lines(10_001, vec![""; 2_001])];
        batches.extend((12_002..12_202).map(|n| lines(n, [&long])));
        let (mut parts, mut next) = (Parts::of(&batches), 1);
        loop {
            let part = parts.next_part();
            if part.is_empty() {
                break;
            }
            let (count, bytes) = part
                .iter()
                .fold((0, 0), |(count, bytes), batch| (count + batch.len(), bytes + batch.bytes().len()));
            assert!(count <= INSERT_LINES && bytes < INSERT_BYTES + 70_000, "{count} lines, {bytes} bytes");
            for batch in part {
                assert_eq!(batch.first().get(), next);
                next = batch.last().get() + 1;
            }
        }
        assert_eq!(next, 12_202);
        assert!(Parts { batches: &[], within: None }.next_part().is_empty());
    }
}
