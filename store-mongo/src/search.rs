//! Searches runs: the server passes over lines that cannot match, and core's engine decides on the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use pubsub_core::{Error, ErrorKind, Hit, Result, RunKey, RunQuery, Search};
use tokio::time::{Instant, timeout_at};

use crate::line::Piece;
use crate::narrow::needed;
use crate::read::Cursor;
use crate::run::Stored;
use crate::store::Inner;

/// The hits of the runs that fit, by time begun, run and number; an error is the last item.
pub(crate) async fn hits(
    inner: Arc<Inner>,
    query: &RunQuery,
    search: &Search,
) -> Result<BoxStream<'static, Result<Hit>>> {
    let deadline = Instant::now() + search.time_limit();
    let none = BTreeMap::new();
    let found = timeout_at(deadline, inner.matching(query, &none)).await;
    // The newest comes first there, and is popped last here.
    let runs = found.map_err(|_| search.timed_out())??;
    // A part of a line's text, as it is stored. In the server's language as in ours, what is escaped is plain.
    let narrowed = needed(search)
        .map_or_else(Document::new, |text| doc! { "content": { "$regex": regex_syntax::escape(&text) } });
    let searching = Searching { inner, runs, current: None, narrowed, search: search.clone(), deadline };
    let pages = stream::try_unfold(searching, |mut searching| async move {
        Ok::<_, Error>(searching.next().await?.map(|hits| (hits, searching)))
    });
    Ok(pages.map_ok(|hits| stream::iter(hits.into_iter().map(Ok))).try_flatten().boxed())
}

struct Searching {
    inner: Arc<Inner>,
    /// The next one last.
    runs: Vec<Stored>,
    current: Option<(Arc<RunKey>, Cursor)>,
    narrowed: Document,
    search: Search,
    deadline: Instant,
}

impl Searching {
    /// The hits of the next lines that have some; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Hit>>> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.search.timed_out());
            }
            let Some((run, cursor)) = &mut self.current else {
                let Some(stored) = self.runs.pop() else { return Ok(None) };
                let (ids, last) = (stored.ids(), stored.end());
                let cursor = Cursor::new(&self.inner, ids, 1, last, self.narrowed.clone());
                self.current = Some((Arc::new(stored.record.key), cursor));
                continue;
            };
            let run = Arc::clone(run);
            let pieces = match timeout_at(self.deadline, cursor.pieces(Some(left))).await {
                Ok(Err(error)) if error.kind() != ErrorKind::TimedOut => return Err(error),
                Ok(Ok(pieces)) => pieces,
                Ok(Err(_)) | Err(_) => return Err(self.search.timed_out()),
            };
            let Some(pieces) = pieces else {
                self.current = None;
                continue;
            };
            let search = self.search.clone();
            // Many long lines may take a while, and others use this thread.
            let found = tokio::task::spawn_blocking(move || matches(&search, &run, pieces));
            let hits = found.await.map_err(|_| Error::new(ErrorKind::Internal, "a search panicked"))?;
            if !hits.is_empty() {
                return Ok(Some(hits));
            }
        }
    }
}

fn matches(search: &Search, run: &Arc<RunKey>, pieces: Vec<Piece>) -> Vec<Hit> {
    let mut hits = Vec::new();
    for piece in pieces {
        let Piece::Lines(batch) = piece else { continue };
        let mut found = Vec::new();
        batch.for_each(|number, _, content| found.extend(search.is_match(content).then_some(number)));
        let lines = found.into_iter().filter_map(|number| batch.get(number));
        hits.extend(lines.map(|line| Hit { run: Arc::clone(run), line }));
    }
    hits
}
