//! An output that tests see and hold up.

use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::watch;

use super::super::printed::Printed;
use crate::{Result, Stream};

#[derive(Debug)]
pub(super) struct Probe {
    stdout: watch::Sender<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    notes: Mutex<Vec<Told>>,
    open: watch::Sender<bool>,
}

/// A note, and how much of standard output came before it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) after: usize,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self {
            stdout: watch::Sender::default(),
            stderr: Mutex::default(),
            notes: Mutex::default(),
            open: watch::Sender::new(true),
        }
    }

    /// Whether writes are let through.
    pub(super) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(super) fn stdout(&self) -> String {
        String::from_utf8(self.stdout.borrow().clone()).unwrap()
    }

    pub(super) async fn printed(&self, text: &str) {
        let has = |all: &Vec<u8>| String::from_utf8_lossy(all).contains(text);
        self.stdout.subscribe().wait_for(has).await.unwrap();
    }

    /// Waits for so many lines, and gives all there are.
    pub(super) async fn printed_lines(&self, lines: usize) -> String {
        let has = |all: &Vec<u8>| memchr::memchr_iter(b'\n', all).count() >= lines;
        self.stdout.subscribe().wait_for(has).await.unwrap();
        self.stdout()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8(self.stderr.lock().unwrap().clone()).unwrap()
    }

    pub(super) fn notes(&self) -> Vec<Told> {
        self.notes.lock().unwrap().clone()
    }
}

impl Printed for Probe {
    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<()> {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        match stream {
            Stream::Stdout => self.stdout.send_modify(|all| all.extend_from_slice(&bytes)),
            Stream::Stderr => self.stderr.lock().unwrap().extend_from_slice(&bytes),
        }
        Ok(())
    }

    async fn end(&self, _stream: Stream) -> Result<()> {
        Ok(())
    }

    fn note(&self, kind: &str, text: &str) {
        let told = Told { kind: kind.into(), text: text.into(), after: self.stdout.borrow().len() };
        self.notes.lock().unwrap().push(told);
    }

    fn mask(&self, text: &str) -> String {
        text.replace("S3cr3t-Value-42", "***")
    }
}
