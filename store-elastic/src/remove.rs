//! Removes a run: its record, then its lines.

use pubsub_core::{ErrorKind, Result, RunId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bulk::{Bulk, Fate, packed};
use crate::connect::Request;
use crate::numbers::{MOST_HITS, searched};
use crate::store::Inner;

const DOING: &str = "remove a run";

/// How many documents are removed at once.
const PAGE: usize = MOST_HITS / 2;

#[derive(Debug, Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Debug, Deserialize)]
struct Hits {
    hits: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "_index")]
    index: String,
    #[serde(rename = "_id")]
    id: String,
    /// The place that the next page comes after.
    sort: Value,
}

impl Inner {
    /// Without its record a run is gone for every reader; what an earlier call left of its lines goes as well.
    pub(crate) async fn remove(&self, run: &RunId) -> Result<bool> {
        let index = match self.stored(DOING, run).await {
            Ok(stored) => stored.map(|stored| stored.index),
            // It goes as well; where its lines are, it does not say.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooNew) => None,
            Err(error) => return Err(error),
        };
        let was_there = self.remove_record(run).await?;
        let index = index.unwrap_or_else(|| self.layout.all_lines());
        self.remove_lines(&index, run).await?;
        Ok(was_there)
    }

    async fn remove_record(&self, run: &RunId) -> Result<bool> {
        loop {
            let path = format!("{}/_doc/{run}", self.layout.runs());
            let answer = self.link.send(DOING, Request::delete(path).with("refresh", true)).await?;
            match answer.status {
                404 => return Ok(false),
                // Somebody wrote it meanwhile.
                409 => {}
                _ if answer.is_success() => return Ok(true),
                _ => return Err(answer.complaint().failed(DOING)),
            }
        }
    }

    /// Removes the lines of a run, but for those of one that began under its id since. Not by a query of the server's: not
    /// all of them have that.
    pub(crate) async fn remove_lines(&self, index: &str, run: &RunId) -> Result<()> {
        let since = self.stored(DOING, run).await?;
        self.refresh(index).await?;
        let mut query = json!({"bool": {"filter": [{"term": {"run_id": run}}]}});
        if let Some(stored) = since {
            query = json!({"bool": {"filter": [query], "must_not": [{"term": {"made": stored.made}}]}});
        }
        let mut after: Option<Value> = None;
        loop {
            let mut body = json!({
                "query": query, "size": PAGE, "_source": false, "track_total_hits": false,
                // Together unique: no line is passed over.
                "sort": [{"line_number": "asc"}, {"made": "asc"}],
            });
            if let (Some(after), Some(body)) = (&after, body.as_object_mut()) {
                body.insert("search_after".to_owned(), after.clone());
            }
            let found: Found = self.link.ask(DOING, searched(index, body)).await?;
            let hits = found.hits.hits;
            if hits.is_empty() {
                return Ok(());
            }
            self.delete(&hits).await?;
            after = hits.into_iter().next_back().map(|hit| hit.sort);
        }
    }

    async fn delete(&self, documents: &[Named]) -> Result<()> {
        let item = |Named { index, id, .. }: &Named| json!({"delete": {"_index": index, "_id": id}});
        let items: String = documents.iter().map(|document| format!("{}\n", item(document))).collect();
        let body = packed(items.as_bytes())?;
        let bulk: Bulk = self.link.ask(DOING, Request::post("_bulk").lines(body)).await?;
        for fate in bulk.fates() {
            match fate {
                Fate::Done => {}
                // It was removed meanwhile.
                Fate::Refused(complaint) if complaint.status == 404 => {}
                Fate::Again(complaint) | Fate::Shut(complaint) | Fate::Refused(complaint) => {
                    return Err(complaint.failed(DOING));
                }
            }
        }
        Ok(())
    }
}
