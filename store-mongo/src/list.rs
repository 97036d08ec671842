//! Which runs there are.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc, serialize_to_bson};
use pubsub_core::{Error, ErrorKind, Result, RunQuery, RunRecord};

use crate::batch::documents;
use crate::layout::field;
use crate::run::{Found, Stored, found};
use crate::store::Inner;

/// How many records the server gives at once.
const BATCH: usize = 200;

const DOING: &str = "list runs";

/// What the documents of the runs that fit have.
fn wanted(query: &RunQuery) -> Result<Document> {
    let mut wanted = doc! { "removing": { "$exists": false } };
    // Each value is a text of its own type: nothing that a caller gives is taken for an operator.
    for (name, value) in [
        ("_id", query.run.as_ref().map(|run| run.as_str())),
        ("action_id", query.action.as_ref().map(|action| action.as_str())),
        ("stage", query.stage.as_ref().map(|stage| stage.as_str())),
        ("event_id", query.event.as_ref().map(|event| event.as_str())),
    ] {
        if let Some(value) = value {
            wanted.insert(name, value);
        }
    }
    if let Some(outcome) = query.outcome {
        let outcome = serialize_to_bson(&outcome)
            .map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e.to_string()))?;
        wanted.insert("outcome", outcome);
    }
    let mut began = Document::new();
    began.extend(query.since.map(|since| ("$gte".to_owned(), since.as_micros().into())));
    began.extend(query.until.map(|until| ("$lt".to_owned(), until.as_micros().into())));
    if !began.is_empty() {
        wanted.insert("began", began);
    }
    Ok(wanted)
}

impl Inner {
    /// The runs that fit, newest first, as they are stored.
    pub(crate) async fn matching(
        &self,
        query: &RunQuery,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<Stored>> {
        let limit = query.limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut wanted = wanted(query)?;
        wanted.extend(metadata.iter().map(|(name, text)| (format!("metadata.{}", field(name)), text.into())));
        let runs = self.link.collections(DOING).await?.runs;
        let batch = u32::try_from(limit.clamp(1, BATCH)).unwrap_or(u32::MAX);
        let asked = runs.find(wanted).sort(doc! { "began": -1, "_id": -1 }).batch_size(batch).batch();
        let mut given = self.link.answer(DOING, asked).await?;
        let mut fitting = Vec::new();
        while let Some(batch) = self.link.batch(DOING, &mut given).await? {
            for document in documents(DOING, &batch)? {
                match found(document) {
                    Ok(Found::Run(stored)) if query.matches(&stored.record) => fitting.push(*stored),
                    Ok(_) => {}
                    // One that cannot be read must not hide all others; asked for by its id, it is an error.
                    Err(error) if query.run.is_none() => self.pass_over(document.get_str("_id").ok(), &error),
                    Err(error) => return Err(error),
                }
                if fitting.len() >= limit {
                    return Ok(fitting);
                }
            }
        }
        Ok(fitting)
    }

    pub(crate) async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
        let found = self.matching(query, &BTreeMap::new()).await?;
        Ok(found.into_iter().map(|stored| stored.record).collect())
    }

    pub(crate) fn pass_over(&self, run: Option<&str>, error: &Error) {
        if let Some(times) = self.unreadable.happened(1) {
            tracing::warn!(run, error = error.chain(), times, "the record of a run cannot be read");
        }
    }
}
