//! What the server says of each item of a bulk.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use pubsub_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::error::{Complaint, Named};

/// The server's answer to a bulk whose items are all of one kind.
#[derive(Debug, Deserialize)]
pub(crate) struct Bulk {
    errors: bool,
    items: Vec<Done>,
}

#[derive(Debug, Deserialize)]
struct Done {
    #[serde(alias = "delete")]
    create: Item,
}

#[derive(Debug, Deserialize)]
struct Item {
    status: u16,
    #[serde(default)]
    error: Option<Named>,
}

/// What becomes of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there, by this request or an earlier one.
    Done,
    /// The same may be taken later.
    Again(Complaint),
    /// Nothing is taken until somebody makes room: no matter of this item.
    Shut(Complaint),
    /// It will never be taken.
    Refused(Complaint),
}

impl Bulk {
    /// How many items were answered.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The status of each item, in their order.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = u16> {
        self.items.iter().map(|done| done.create.status)
    }

    /// One for each item, in their order; nothing where all are done.
    pub(crate) fn fates(&self) -> Vec<Fate> {
        if !self.errors {
            return Vec::new();
        }
        self.items.iter().map(|done| fate(&done.create)).collect()
    }
}

/// Compresses items as they come, so that they are nowhere as a whole: the fastest way, for a server unpacks all alike.
pub(crate) struct Packer(GzEncoder<Vec<u8>>);

impl Packer {
    pub(crate) fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    pub(crate) fn add(&mut self, items: &[u8]) -> Result<()> {
        self.0.write_all(items).map_err(cannot)
    }

    pub(crate) fn finish(self) -> Result<Bytes> {
        Ok(self.0.finish().map_err(cannot)?.into())
    }
}

fn cannot(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "compress a request").with_source(error)
}

/// The same of all of them.
pub(crate) fn packed(items: &[u8]) -> Result<Bytes> {
    let mut packer = Packer::new();
    packer.add(items)?;
    packer.finish()
}

fn fate(item: &Item) -> Fate {
    // The id is ours, and so is what has it.
    if matches!(item.status, 200..=299 | 409) {
        return Fate::Done;
    }
    let complaint = Complaint::of_item(item.status, &item.error.clone().unwrap_or_default());
    match complaint.kind() {
        ErrorKind::Full => Fate::Shut(complaint),
        ErrorKind::Unavailable | ErrorKind::TimedOut => Fate::Again(complaint),
        _ => Fate::Refused(complaint),
    }
}

#[cfg(test)]
mod tests {
    use super::{Bulk, Fate};

    #[test]
    fn each_item_is_judged_by_itself() {
        let item = |status: u16, name: &str| {
            format!(
                r#"{{"create":{{"_id":"x","status":{status},"error":{{"type":"{name}","reason":"why"}}}}}}"#
            )
        };
        for (status, name, expected) in [
            (409, "version_conflict_engine_exception", "done"),
            (429, "es_rejected_execution_exception", "again"),
            (429, "circuit_breaking_exception", "again"),
            (503, "unavailable_shards_exception", "again"),
            (500, "it", "again"),
            (429, "cluster_block_exception", "shut"),
            (403, "cluster_block_exception", "shut"),
            (400, "mapper_parsing_exception", "refused"),
            (400, "document_parsing_exception", "refused"),
            (400, "strict_dynamic_mapping_exception", "refused"),
            (400, "illegal_argument_exception", "refused"),
            (400, "index_closed_exception", "refused"),
            (403, "security_exception", "refused"),
            (404, "index_not_found_exception", "refused"),
        ] {
            let body = format!(
                r#"{{"took":1,"errors":true,"items":[{{"create":{{"status":201}}}},{}]}}"#,
                item(status, name)
            );
            let bulk: Bulk = serde_json::from_str(&body).unwrap();
            let fates = bulk.fates();
            assert_eq!((bulk.len(), &fates[0]), (2, &Fate::Done));
            let (told, text) = match &fates[1] {
                Fate::Done => ("done", String::new()),
                Fate::Again(complaint) => ("again", complaint.text()),
                Fate::Shut(complaint) => ("shut", complaint.text()),
                Fate::Refused(complaint) => ("refused", complaint.text()),
            };
            assert_eq!(told, expected, "{status} {name}");
            assert!(told == "done" || text == format!("{name}: why"), "{text}");
        }
    }

    #[test]
    fn where_nothing_failed_no_item_is_looked_at() {
        let bulk: Bulk =
            serde_json::from_str(r#"{"errors":false,"items":[{"create":{"status":201}}]}"#).unwrap();
        assert_eq!((bulk.len(), bulk.fates()), (1, Vec::new()));
    }
}
