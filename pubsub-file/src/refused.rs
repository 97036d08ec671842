//! Refused lines in a folder: one file for each run, one JSON document for each batch of lines.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use pubsub_core::{
    Error, ErrorKind, LineBatch, LineEnd, LineNumber, LineRange, Refused, RefusedLines, Result, RunId,
    RunKey, Stream, Timestamp, name,
};
use serde::{Deserialize, Serialize};

use crate::error::io_error;
use crate::files::{self, blocking};

/// How many bytes of refused lines a folder takes, unless told otherwise: 64 MiB.
pub const DEFAULT_REFUSED_BYTES: u64 = 64 << 20;

/// The version of an entry that this code writes.
const VERSION: u32 = 1;

/// Keeps lines that sinks refused in a folder: a file for each run, `<run>.jsonl`, with one JSON document for each batch, that
/// people can read.
///
/// What a call has kept survives the end of this process; several processes may use one folder. The folder is made when
/// the first line is refused.
///
/// ```
/// use pubsub_core::{
///     ActionId, EventId, LineBatch, LineEnd, LineNumber, Refused, RefusedLines, RunKey, Stage, Stream, Timestamp,
/// };
/// use pubsub_file::FileRefusedLines;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let kept = FileRefusedLines::new(folder.path().join("refused"));
/// let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::generate(), 1);
/// let now = Timestamp::now();
/// let lines = LineBatch::split(LineNumber::FIRST, now, Stream::Stdout, "odd\n".into(), LineEnd::None)?;
/// kept.keep(&[Refused::new("elastic", key.clone(), lines, "mapping")]).await?;
/// assert_eq!(kept.list(Some(&key.run_id), 10).await?[0].reason, "mapping");
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileRefusedLines {
    dir: PathBuf,
    max_bytes: u64,
}

impl FileRefusedLines {
    /// In this folder, at most [`DEFAULT_REFUSED_BYTES`].
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_bytes: DEFAULT_REFUSED_BYTES }
    }

    /// With another bound, over all runs.
    #[must_use]
    pub const fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    fn file(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{}.jsonl", name::encode(run.as_str())))
    }

    /// Held while something is written or removed, also by other processes. The system frees it where its holder dies.
    fn lock(&self) -> Result<File> {
        let lock = files::open_for_writing(&self.dir.join("lock"));
        let locked = lock.and_then(|file| file.lock().map(|()| file));
        locked.map_err(io_error("lock the folder of refused lines"))
    }

    fn write(&self, refused: &[Refused]) -> Result<()> {
        let doing = "keep refused lines";
        fs::create_dir_all(&self.dir).map_err(io_error(doing))?;
        let _lock = self.lock()?;
        let there = self.bytes()?;
        let has_room = |wanted: u64| {
            let full = || Error::new(ErrorKind::Full, doing).with("most bytes", self.max_bytes);
            if there.saturating_add(wanted) > self.max_bytes { Err(full()) } else { Ok(()) }
        };
        // At least so much: a full folder costs no more than this.
        has_room(refused.iter().map(|refused| refused.lines.bytes().len() as u64).sum())?;
        let mut documents: Vec<(&RunId, Vec<u8>)> = Vec::new();
        for refused in refused {
            let run = &refused.run.run_id;
            if documents.last().is_none_or(|(last, _)| *last != run) {
                documents.push((run, Vec::new()));
            }
            if let Some((_, bytes)) = documents.last_mut() {
                Entry::new(refused).encode(bytes)?;
            }
        }
        has_room(documents.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        documents.iter().try_for_each(|(run, bytes)| append(&self.file(run), bytes)).map_err(io_error(doing))
    }

    /// How many bytes its files have, of all processes.
    fn bytes(&self) -> Result<u64> {
        let sizes = files_in(&self.dir)?.into_iter().filter_map(|path| fs::symlink_metadata(path).ok());
        Ok(sizes.map(|meta| meta.len()).sum())
    }

    fn read(&self, run: Option<&RunId>) -> Result<Vec<Refused>> {
        let doing = "read refused lines";
        let files = match run {
            Some(run) => vec![self.file(run)],
            None => files_in(&self.dir)?,
        };
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for path in files {
            let bytes = files::read(&path).map_err(io_error(doing))?.unwrap_or_default();
            // What follows the last line feed was cut by a crash, and never acknowledged.
            for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
                match Entry::decode(line) {
                    Ok(refused) => {
                        let place = (refused.sink.clone(), refused.run.run_id.clone(), refused.lines.range());
                        if seen.insert(place) {
                            all.push(refused);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::TooNew => return Err(error),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), error = %error.chain(), "refused lines cannot be read");
                    }
                }
            }
        }
        all.sort_by_key(|refused| refused.time);
        Ok(all)
    }
}

/// The files of runs; none where there is no folder.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = "list refused lines";
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(doing))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error(doing))?.path();
        if path.extension().is_some_and(|end| end == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Appends whole documents, behind the last one that is whole.
fn append(path: &Path, documents: &[u8]) -> io::Result<()> {
    let file = files::open_for_writing(path)?;
    let mut end = file.metadata()?.len();
    let mut last = [b'\n'];
    if end > 0 {
        file.read_exact_at(&mut last, end - 1)?;
    }
    if last != *b"\n" {
        let bytes = files::read(path)?.unwrap_or_default();
        end = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at as u64 + 1);
        file.set_len(end)?;
    }
    let written = file.write_all_at(documents, end);
    if written.is_err() {
        // Half of it may be there; the first error is the one to tell.
        let _ = file.set_len(end);
    }
    written
}

/// Lines as they lie in the file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Entry {
    version: u32,
    refused_at: Timestamp,
    sink: String,
    #[serde(flatten)]
    run: RunKey,
    reason: String,
    #[serde(flatten)]
    range: LineRange,
    time: Timestamp,
    stream: Stream,
    /// How the last line ends.
    end: LineEnd,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    recovered: Option<bool>,
    /// As they were printed, ends included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    text: Option<String>,
    /// In place of the text where the bytes are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    hex: Option<String>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Entry {
    pub(crate) fn new(refused: &Refused) -> Self {
        let lines = &refused.lines;
        let text = std::str::from_utf8(lines.bytes()).ok().map(str::to_owned);
        let hex = text.is_none().then(|| lines.bytes().iter().map(|byte| format!("{byte:02x}")).collect());
        Self {
            version: VERSION,
            refused_at: refused.time,
            sink: refused.sink.clone(),
            run: refused.run.clone(),
            reason: refused.reason.clone(),
            range: lines.range(),
            time: lines.time(),
            stream: lines.stream(),
            end: lines.tail(),
            recovered: lines.is_recovered().then_some(true),
            text,
            hex,
        }
    }

    pub(crate) fn encode(&self, into: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(&mut *into, self)
            .map_err(|e| Error::new(ErrorKind::Internal, "keep refused lines").with_source(e))?;
        into.push(b'\n');
        Ok(())
    }

    pub(crate) fn decode(line: &[u8]) -> Result<Refused> {
        let doing = "read refused lines";
        let corrupt = |e: serde_json::Error| Error::new(ErrorKind::Corrupt, doing).with_source(e);
        let Versioned { version } = serde_json::from_slice(line).map_err(corrupt)?;
        if version > VERSION {
            let error = Error::new(ErrorKind::TooNew, doing).with("version", version);
            return Err(error.with("newest known", VERSION));
        }
        let entry: Self = serde_json::from_slice(line).map_err(corrupt)?;
        let bytes = match (entry.text, entry.hex) {
            (Some(text), _) => text.into_bytes(),
            (None, hex) => unhex(&hex.unwrap_or_default())
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, doing).with("first", entry.range.first))?,
        };
        let first: LineNumber = entry.range.first;
        let lines = LineBatch::split(first, entry.time, entry.stream, Bytes::from(bytes), entry.end)?;
        let mut refused = Refused::new(
            entry.sink,
            entry.run,
            lines.with_recovered(entry.recovered == Some(true)),
            entry.reason,
        );
        refused.time = entry.refused_at;
        Ok(refused)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[async_trait]
impl RefusedLines for FileRefusedLines {
    async fn keep(&self, refused: &[Refused]) -> Result<()> {
        let (this, refused) = (self.clone(), refused.to_vec());
        blocking(move || this.write(&refused)).await
    }

    async fn list(&self, run: Option<&RunId>, limit: usize) -> Result<Vec<Refused>> {
        let (this, run) = (self.clone(), run.cloned());
        blocking(move || {
            let mut all = this.read(run.as_ref())?;
            all.truncate(limit);
            Ok(all)
        })
        .await
    }

    async fn remove(&self, run: &RunId) -> Result<bool> {
        let (this, run) = (self.clone(), run.clone());
        blocking(move || {
            if !this.dir.exists() {
                return Ok(false);
            }
            let _lock = this.lock()?;
            match fs::remove_file(this.file(&run)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                removed => removed.map(|()| true).map_err(io_error("remove refused lines")),
            }
        })
        .await
    }
}
