//! Searches runs: filters hold back most blocks, the engine of the family decides about the lines of the others.

use std::num::NonZero;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use pubsub_core::{Error, ErrorKind, Hit, LineNumber, LineRange, Result, RunId, RunKey, RunQuery, Search};
use tokio::time::{Instant, timeout_at};

use crate::blocks::{Fetched, fetch};
use crate::query::Wanted;
use crate::read::clipped;
use crate::scan::{Found, Scan};
use crate::segment::Block;
use crate::store::Inner;
use crate::view::{Look, View};

/// How often in a row a segment may turn out to be gone.
const LOOKS: u32 = 5;

const DOING: &str = "search";

/// The hits of the runs that fit, by time begun, run id and number; an error is the last item.
pub(crate) async fn hits(
    inner: Arc<Inner>,
    query: &RunQuery,
    search: &Search,
) -> Result<BoxStream<'static, Result<Hit>>> {
    let deadline = Instant::now() + search.time_limit();
    let mut runs = Vec::new();
    let listing = inner.visit(query, |stored| runs.push(stored.record.key.run_id));
    timeout_at(deadline, listing).await.map_err(|_| search.timed_out())??;
    let wanted = Arc::new(Wanted::of(search));
    let scan = Arc::new(Scan::new(search.clone()));
    let hunt = Hunt { inner, search: search.clone(), scan, wanted, deadline, runs, current: None };
    let steps = stream::try_unfold(hunt, |mut hunt| async move {
        Ok::<_, Error>(hunt.step().await?.map(|found| (found, hunt)))
    });
    Ok(steps.map_ok(|(run, found)| stream::iter(of_found(run, found).map(Ok))).try_flatten().boxed())
}

/// Hits are made when they are asked for: a block may have very many.
fn of_found(run: Arc<RunKey>, found: Vec<Found>) -> impl Iterator<Item = Hit> {
    found.into_iter().flat_map(move |Found { batch, numbers }| {
        let run = Arc::clone(&run);
        numbers.into_iter().filter_map(move |number| {
            let mut line = batch.get(number)?;
            // A hit that is kept must not keep a whole block.
            line.bytes = Bytes::copy_from_slice(&line.bytes);
            Some(Hit { run: Arc::clone(&run), line })
        })
    })
}

struct Hunt {
    inner: Arc<Inner>,
    search: Search,
    scan: Arc<Scan>,
    wanted: Arc<Wanted>,
    deadline: Instant,
    /// Newest first: the next one is the last.
    runs: Vec<RunId>,
    current: Option<OneRun>,
}

struct OneRun {
    key: Arc<RunKey>,
    view: View,
    /// Blocks in which something was looked for, and what was found.
    found: BoxStream<'static, Result<(LineRange, Vec<Found>)>>,
    next: LineNumber,
    looks: u32,
}

impl Hunt {
    /// What was found next; `None` at the end.
    async fn step(&mut self) -> Result<Option<(Arc<RunKey>, Vec<Found>)>> {
        loop {
            let late = self.search.timed_out();
            if Instant::now() >= self.deadline {
                return Err(late);
            }
            match timeout_at(self.deadline, self.look()).await.map_err(|_| late)?? {
                Some((_, found)) if found.is_empty() => {}
                Some(found) => return Ok(Some(found)),
                None if self.current.is_none() && self.runs.is_empty() => return Ok(None),
                None => {}
            }
        }
    }

    /// Looks on; `None` where a run is at its end, or has to be begun anew.
    async fn look(&mut self) -> Result<Option<(Arc<RunKey>, Vec<Found>)>> {
        if self.current.is_none() {
            let Some(run) = self.runs.pop() else { return Ok(None) };
            let Some(view) = self.inner.view(&run, Look::Named).await? else {
                return Ok(None);
            };
            self.current = Some(self.begin(view, LineNumber::FIRST, 0));
        }
        let Some(current) = &mut self.current else { return Ok(None) };
        match current.found.next().await {
            Some(Ok((range, found))) => {
                (current.next, current.looks) = (range.last.plus(1), 0);
                Ok(Some((Arc::clone(&current.key), found)))
            }
            Some(Err(error)) if error.kind() == ErrorKind::NotFound && current.looks < LOOKS => {
                let Some(OneRun { view, next, looks, .. }) = self.current.take() else { return Ok(None) };
                match self.inner.parts_again(&view).await {
                    Ok(parts) => self.current = Some(self.begin(View { parts, ..view }, next, looks + 1)),
                    // A run that was removed meanwhile has no further hits.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => {
                self.current = None;
                Ok(None)
            }
        }
    }

    fn begin(&self, view: View, next: LineNumber, looks: u32) -> OneRun {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let parts = clipped(&view.parts, LineRange::new(next, LineNumber::MAX));
        let fetched =
            fetch(Arc::clone(&self.inner), view.stored.folder(), parts, Arc::clone(&self.wanted), cores * 2);
        let scan = Arc::clone(&self.scan);
        let looked = fetched.map_ok(move |fetched| {
            let scan = Arc::clone(&scan);
            async move {
                let looked = tokio::task::spawn_blocking(move || look_into(&fetched, &scan));
                looked.await.map_err(|e| Error::new(ErrorKind::Internal, DOING).with_source(e))?
            }
        });
        let key = Arc::new(view.stored.record.key.clone());
        // One more, so that no core waits for whoever takes what was found.
        OneRun { key, view, found: looked.try_buffered(cores + 1).boxed(), next, looks }
    }
}

fn look_into(fetched: &Fetched, scan: &Scan) -> Result<(LineRange, Vec<Found>)> {
    let mut found = Vec::new();
    for (_, block) in fetched.blocks()? {
        // In lines that cannot be read nothing is found.
        if let Block::Lines(lines) = block {
            found.extend(scan.look_into(&lines, fetched.range));
        }
    }
    Ok((fetched.range, found))
}
