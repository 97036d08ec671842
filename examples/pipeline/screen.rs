//! Where results and everything else are printed.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::os::fd::AsFd as _;

use pubsub_pipeline::{Error, Gap, Hit, Line, LineBatch, LineEnd, RunRecord, Timestamp};
use serde::Serialize;

use crate::documents::{ErrorDocument, GapDocument, LineDocument, StatusDocument};
use crate::human;
use crate::terminal::neutralise;

const BUFFER_BYTES: usize = 64 * 1024;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people: lines as they were printed.
    Text,
    /// One document a line.
    Json,
}

/// Results go to standard output, everything else to standard error.
pub(crate) struct Screen {
    pub(crate) form: Form,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
    out: BufWriter<File>,
    scratch: Vec<u8>,
}

impl Screen {
    pub(crate) fn new(form: Form) -> io::Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self {
            form,
            terminal: out.is_terminal(),
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            scratch: Vec::new(),
        })
    }

    /// Lines exactly as they were printed; on a terminal without its control sequences.
    pub(crate) fn lines(&mut self, batch: &LineBatch) -> io::Result<()> {
        match self.form {
            Form::Json => batch.lines().try_for_each(|line| self.document(&LineDocument::new(&line, None))),
            Form::Text if self.terminal => {
                self.scratch.clear();
                neutralise(batch.bytes(), &mut self.scratch);
                self.out.write_all(&self.scratch)
            }
            Form::Text => self.out.write_all(batch.bytes()),
        }
    }

    /// As `grep -n` prints it: each hit on a line of its own.
    pub(crate) fn hit(&mut self, hit: &Hit) -> io::Result<()> {
        if self.form == Form::Json {
            return self.document(&LineDocument::new(&hit.line, Some(&hit.run.run_id)));
        }
        let Line { number, bytes, end, .. } = &hit.line;
        write!(self.out, "{number}:")?;
        if self.terminal {
            self.scratch.clear();
            neutralise(bytes, &mut self.scratch);
            self.out.write_all(&self.scratch)?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.write_all(if *end == LineEnd::CrLf { b"\r\n" } else { b"\n" })
    }

    /// One JSON document on a line of its own.
    pub(crate) fn document(&mut self, document: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, document)?;
        self.out.write_all(b"\n")
    }

    /// A text of ours for people, with its line end.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        if self.terminal { self.safe(text) } else { self.out.write_all(text.as_bytes()) }?;
        self.out.write_all(b"\n")
    }

    /// A piece without a line end, as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn safe(&mut self, text: &str) -> io::Result<()> {
        self.scratch.clear();
        neutralise(text.as_bytes(), &mut self.scratch);
        self.out.write_all(&self.scratch)
    }

    /// Lines that are missing, to standard error, in their place.
    pub(crate) fn gap(&mut self, gap: &Gap) -> io::Result<()> {
        self.flush()?;
        let (first, last) = (gap.range.first, gap.range.last);
        match self.form {
            Form::Json => aside_document(&GapDocument::new(gap)),
            Form::Text if first == last => aside(&format!("line {first} missing: {}", gap.reason)),
            Form::Text => aside(&format!("lines {first}-{last} missing: {}", gap.reason)),
        }
        Ok(())
    }

    /// Says beside the results how a run has ended.
    pub(crate) fn ended(&mut self, record: &RunRecord) -> io::Result<()> {
        self.flush()?;
        ended(self.form, record);
        Ok(())
    }

    /// Says something beside the results.
    pub(crate) fn notice(&mut self, text: &str) -> io::Result<()> {
        self.flush()?;
        match self.form {
            Form::Json => aside_document(&serde_json::json!({ "notice": text })),
            Form::Text => aside(text),
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How a run has ended, to standard error.
pub(crate) fn ended(form: Form, record: &RunRecord) {
    let now = Timestamp::now();
    match form {
        Form::Json => aside_document(&StatusDocument::new(record, now)),
        Form::Text => aside(&human::summary(record, now)),
    }
}

/// An error, to standard error.
pub(crate) fn error(form: Form, error: &Error) {
    match form {
        Form::Json => aside_document(&ErrorDocument::new(error)),
        Form::Text => aside(&error.chain()),
    }
}

/// Says something beside the results. Where nobody reads it, nothing is lost that matters.
pub(crate) fn aside(text: &str) {
    let mut line = b"pipeline: ".to_vec();
    neutralise(text.as_bytes(), &mut line);
    line.push(b'\n');
    let _ = io::stderr().write_all(&line);
}

/// A document beside the results.
pub(crate) fn aside_document(document: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(document) {
        line.push(b'\n');
        let _ = io::stderr().write_all(&line);
    }
}
