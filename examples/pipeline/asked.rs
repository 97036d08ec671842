//! The stores that questions go to: all that the command line names, as one.

use std::sync::Arc;

use futures::stream::BoxStream;
use pubsub_pipeline::{
    Error, ErrorKind, Hit, Lines, Output, OutputReader, Place, Result, RunId, RunQuery, RunRecord, Search,
    Spanning, Store, async_trait, connect_store,
};

use crate::codes::{Done, Failure};
use crate::places::Places;

impl Places {
    /// The stores of a subcommand that only asks: one of them must be there.
    pub(crate) async fn existing_reader(&self) -> Done<Arc<dyn OutputReader>> {
        as_one(self.each_existing().await)
    }

    /// The stores that are asked, also where nothing is there yet.
    pub(crate) async fn reader(&self) -> Done<Arc<dyn OutputReader>> {
        let mut stores = Vec::new();
        for place in self.asked() {
            let connected = connect_store(place).await;
            stores.push((place, connected.map(|connected| connected.store).map_err(Failure::from)));
        }
        as_one(stores)
    }
}

/// The others answer for one that cannot be asked, and the log says so. What is wrong on the command line is an error
/// always.
fn as_one(mut stores: Vec<(&Place, Done<Arc<dyn Store>>)>) -> Done<Arc<dyn OutputReader>> {
    let is_wrong = |store: &Done<Arc<dyn Store>>| {
        let kind = store.as_ref().err().and_then(Failure::kind);
        matches!(kind, Some(ErrorKind::Invalid | ErrorKind::Unsupported))
    };
    let none = stores.iter().all(|(_, store)| store.is_err());
    let told =
        stores.iter().position(|(_, store)| is_wrong(store)).or((none || stores.len() == 1).then_some(0));
    if let Some(told) = told.filter(|told| *told < stores.len()) {
        return stores.swap_remove(told).1.map(|store| Arc::new(store) as Arc<dyn OutputReader>);
    }
    let mut all: Option<Spanning> = None;
    for (place, store) in stores {
        let reader: Arc<dyn OutputReader> = match store {
            Ok(store) => Arc::new(store),
            Err(Failure::Error(error)) => Arc::new(NotThere(error)),
            Err(failure) => return Err(failure),
        };
        all = Some(match all {
            None => Spanning::new(place.to_string(), reader),
            Some(all) => all.with(place.to_string(), reader),
        });
    }
    let all = all.ok_or_else(|| Error::new(ErrorKind::Internal, "no store is named"))?;
    Ok(Arc::new(all))
}

/// A store that cannot be asked, and why.
struct NotThere(Error);

impl NotThere {
    fn error(&self) -> Error {
        match self.0.kind() {
            // Of a run this would say that it is not there.
            ErrorKind::NotFound => Error::new(ErrorKind::Unavailable, self.0.message()),
            _ => self.0.again(),
        }
    }
}

#[async_trait]
impl OutputReader for NotThere {
    async fn runs(&self, _: &RunQuery) -> Result<Vec<RunRecord>> {
        Err(self.error())
    }

    async fn lines(&self, _: &RunId, _: Lines) -> Result<Output> {
        Err(self.error())
    }

    async fn search(&self, _: &RunQuery, _: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
        Err(self.error())
    }

    async fn changes(&self, _: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
        Err(self.error())
    }
}
