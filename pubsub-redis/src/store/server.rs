//! The scripts of the store, and what they answer.

use std::sync::LazyLock;

use pubsub_core::{Error, ErrorKind, Result};
use redis::Value;

use super::layout::{FORMAT, RunKeys};
use crate::reply::items;
use crate::script::{Answer, Lazy, Request, Script};

pub(super) static APPEND: Lazy = LazyLock::new(|| Script::new(include_str!("append.lua")));
pub(super) static CLOCK: Lazy = LazyLock::new(|| Script::new(include_str!("clock.lua")));
pub(super) static NUMBERS: Lazy = LazyLock::new(|| Script::new(include_str!("numbers.lua")));
pub(super) static PUT: Lazy = LazyLock::new(|| Script::new(include_str!("put.lua")));
pub(super) static REMOVE: Lazy = LazyLock::new(|| Script::new(include_str!("remove.lua")));

/// What came back for each command, in order.
pub(super) type Answers = std::vec::IntoIter<Answer>;

/// A call of a script about one run; arguments follow.
pub(super) fn call(script: &'static Script, keys: &RunKeys) -> Request {
    script.call([&*keys.record, &*keys.lines, &*keys.late]).arg(FORMAT)
}

/// The next answer.
pub(super) fn taken(doing: &'static str, answers: &mut Answers) -> Result<Value> {
    answers.next().ok_or_else(|| strange(doing))?.get(doing)
}

/// The next answer as a list.
pub(super) fn list(doing: &'static str, answers: &mut Answers) -> Result<Vec<Value>> {
    items(taken(doing, answers)?)
}

/// Texts of a list; what is none is left out.
pub(super) fn texts(values: Vec<Value>) -> Vec<Vec<u8>> {
    let text = |value| if let Value::BulkString(text) = value { Some(text) } else { None };
    values.into_iter().filter_map(text).collect()
}

pub(super) fn strange(doing: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "the server answered something else than was asked").with("doing", doing)
}

/// What a script says of itself: its first word, and what comes after it.
pub(super) fn said(doing: &'static str, answer: Value) -> Result<(Said, Vec<Value>)> {
    let Value::Array(mut parts) = answer else { return Err(strange(doing)) };
    if parts.is_empty() {
        return Err(strange(doing));
    }
    let rest = parts.split_off(1);
    let said = match parts.pop() {
        Some(Value::BulkString(word)) => match word.as_slice() {
            b"done" => Said::Done,
            b"gone" => Said::Gone,
            b"other" => Said::Other,
            b"newer" => return Err(newer(doing, texts(rest).first().map(Vec::as_slice))),
            _ => return Err(strange(doing)),
        },
        _ => return Err(strange(doing)),
    };
    Ok((said, rest))
}

/// Of a run that a newer version wrote.
pub(super) fn newer(doing: &'static str, version: Option<&[u8]>) -> Error {
    let version = String::from_utf8_lossy(version.unwrap_or_default()).into_owned();
    Error::new(ErrorKind::TooNew, doing).with("version", version).with("newest known", FORMAT)
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done,
    /// The run is not there.
    Gone,
    /// Its record is another than was seen.
    Other,
}
