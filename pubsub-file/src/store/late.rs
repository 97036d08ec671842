//! Lines that come after a run was sealed without them.
//!
//! The output is in number order, so what belongs before its last line cannot be appended to it: such lines wait beside
//! it, in frames, and are merged at the next end of the run. The merged output and its index lie in a folder of their own
//! until both are whole; then the output is moved first and the index after it. Where only the index is left there, a
//! killed process did the first of the two, and that index is the output's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pubsub_core::{
    Durability, Error, ErrorKind, LineBatch, LineRange, Lines, MAX_BATCH_BYTES, OutputItem, Result, RunRecord,
};

use super::layout::RunFolder;
use super::pinned::Pinned;
use super::read::Reader;
use super::writer::{PIECE_BYTES, Writer};
use crate::error::io_error;
use crate::files::{
    self, make_folder, open_for_reading, open_for_writing, read_at, sync_folder, unless_gone,
};
use crate::frame::{Frame, HEAD_BYTES, decode, encode};

/// Most bytes that are read at once: several frames.
const READ_BYTES: usize = 4 * (MAX_BATCH_BYTES + HEAD_BYTES);

/// Where late lines lie.
#[derive(Clone, Copy, Debug)]
struct Place {
    range: LineRange,
    offset: u64,
    bytes: usize,
}

fn file_of(folder: &RunFolder) -> PathBuf {
    folder.path().join("late")
}

fn merged(folder: &RunFolder) -> RunFolder {
    folder.below("merged")
}

/// Whether there are lines to be merged.
pub(super) fn has(folder: &RunFolder) -> bool {
    fs::symlink_metadata(file_of(folder)).is_ok_and(|meta| meta.len() > 0)
}

/// Keeps lines until they are merged; whoever calls has the run's lock. `known` is how many bytes of the file are known to
/// be whole frames: what a crash left behind them was never acknowledged.
pub(super) fn keep(
    folder: &RunFolder,
    batches: &[LineBatch],
    known: &mut u64,
    durability: Durability,
) -> io::Result<()> {
    let file = open_for_writing(&file_of(folder))?;
    if file.metadata()?.len() != *known {
        *known = places(&file)?.last().map_or(0, |place| place.offset + place.bytes as u64);
        file.set_len(*known)?;
    }
    let mut frames = Vec::new();
    batches.iter().for_each(|batch| encode(batch, &mut frames));
    file.write_all_at(&frames, *known)?;
    if durability == Durability::PowerLoss {
        file.sync_data()?;
    }
    *known += frames.len() as u64;
    Ok(())
}

/// What lies in the file, up to the first frame that is not whole.
fn places(file: &File) -> io::Result<Vec<Place>> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let read = read_at(file, at, READ_BYTES)?;
        let mut within = 0;
        while let Frame::Batch(batch, bytes) = decode(&read.slice(within..)) {
            found.push(Place { range: batch.range(), offset: at + within as u64, bytes });
            within += bytes;
        }
        if within == 0 {
            return Ok(found);
        }
        at += within as u64;
    }
}

/// Writes the output anew with the late lines in their places; whoever calls has the run's lock, and opens the files again.
///
/// In memory are some megabytes of lines, and where each late batch lies.
pub(super) fn merge(folder: &RunFolder, record: &RunRecord) -> Result<()> {
    let doing = "merge lines into the output of a run";
    let late = open_for_reading(&file_of(folder)).map_err(io_error(doing))?;
    let mut places = places(&late).map_err(io_error(doing))?;
    places.sort_by_key(|place| place.range.first);
    let new = merged(folder);
    clear(&new).map_err(io_error(doing))?;
    make_folder(new.path())?;
    let mut writer = Merging { writer: Writer::open(new.clone())?, ready: Vec::new(), bytes: 0 };
    let gone = || Error::new(ErrorKind::NotFound, doing).with("run", &record.key.run_id);
    let pinned = Pinned::new(folder)?.ok_or_else(gone)?;
    let mut reader = Reader::open(&pinned, record.clone(), Lines::ALL)?;
    let mut places = places.as_slice();
    while let Some(items) = reader.step()? {
        for item in items {
            let gap = match item {
                OutputItem::Lines(batch) => {
                    writer.add(batch)?;
                    continue;
                }
                OutputItem::Gap(gap) => gap.range,
            };
            let passed = places.iter().take_while(|place| place.range.last < gap.first).count();
            places = places.get(passed..).unwrap_or_default();
            for place in places.iter().take_while(|place| place.range.first <= gap.last) {
                let frame = read_at(&late, place.offset, place.bytes).map_err(io_error(doing))?;
                if let Frame::Batch(batch, _) = decode(&frame)
                    && let Some(part) = batch.slice(gap)
                {
                    writer.add(part)?;
                }
            }
        }
    }
    writer.flush()?;
    put_in_place(folder, &new).map_err(io_error(doing))
}

/// Writes in pieces of about a megabyte.
struct Merging {
    writer: Writer,
    ready: Vec<LineBatch>,
    bytes: usize,
}

impl Merging {
    fn add(&mut self, batch: LineBatch) -> Result<()> {
        self.bytes += batch.bytes().len();
        self.ready.push(batch);
        if self.bytes < PIECE_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        // Put on the disk as a whole, when all is there.
        self.writer.append(&self.ready, Durability::ProcessCrash)?;
        self.ready.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Puts the merged files in place of the others.
fn put_in_place(folder: &RunFolder, new: &RunFolder) -> io::Result<()> {
    // Always on the disk first: these lines may be in no other store by now.
    for path in [new.log(), new.index()] {
        File::open(path)?.sync_all()?;
    }
    sync_folder(new.path())?;
    fs::rename(new.log(), folder.log())?;
    finish(folder)?;
    sync_folder(folder.path())?;
    fs::remove_file(file_of(folder))
}

/// Does the second half of a move whose first half was done.
pub(super) fn finish(folder: &RunFolder) -> io::Result<()> {
    let new = merged(folder);
    if !is_half_moved(&new) {
        return Ok(());
    }
    // Another process may do it meanwhile.
    unless_gone(fs::rename(new.index(), folder.index()))?;
    unless_gone(fs::remove_dir(new.path()))
}

/// Deletes a merge that was not finished: its index first, for an index alone is one that is to be moved.
fn clear(new: &RunFolder) -> io::Result<()> {
    // Where that fails, the output beside it stays as well.
    unless_gone(fs::remove_file(new.index()).and_then(|()| sync_folder(new.path())))?;
    unless_gone(fs::remove_dir_all(new.path()))
}

fn is_half_moved(new: &RunFolder) -> bool {
    // In this order: the index is there before the output goes.
    new.index().exists() && !new.log().exists()
}

/// The index that belongs to the output as it lies there now.
pub(super) fn index_of(folder: &RunFolder) -> PathBuf {
    let new = merged(folder);
    if is_half_moved(&new) { new.index() } else { folder.index() }
}

/// Whether this is still the file with that name, or there is none.
pub(super) fn is_still(path: &Path, file: Option<&File>) -> bool {
    match file {
        Some(file) => files::is_still(path, file).unwrap_or(false),
        None => fs::symlink_metadata(path).is_err(),
    }
}
