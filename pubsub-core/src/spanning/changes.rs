//! The changes of several stores.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::{self, BoxStream};

use super::asked::{Asking, Store};
use crate::{ErrorKind, Result, RunQuery};

/// How long after a failure a store is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells of changes in any of the stores. One that cannot be watched now is watched once it can be; until then nobody
/// hears of its changes.
pub(super) async fn joined(asking: &Asking, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
    let calls = asking
        .stores()
        .iter()
        .map(async |store| (store, asking.ask(store, store.reader.changes(query)).await));
    let (mut watched, mut errors) = (Vec::new(), Vec::new());
    let mut answered = false;
    for (store, answer) in join_all(calls).await {
        let items = match answer {
            Ok(items) => {
                answered = true;
                Some(items)
            }
            Err(error) => {
                let kind = error.kind();
                errors.push(error);
                if kind == ErrorKind::Unsupported {
                    continue;
                }
                None
            }
        };
        let (asking, query) = (asking.clone(), query.clone());
        watched.push(Watched { asking, store: Arc::clone(store), query, items }.into_items());
    }
    if !answered {
        return Err(asking.none_answers(&errors));
    }
    Ok(stream::select_all(watched).boxed())
}

/// One store that is watched.
struct Watched {
    asking: Asking,
    store: Arc<Store>,
    query: RunQuery,
    /// `None` while it cannot be.
    items: Option<BoxStream<'static, Result<()>>>,
}

impl Watched {
    fn into_items(self) -> BoxStream<'static, Result<()>> {
        stream::unfold(self, |mut watched| async move { Some((Ok(watched.next().await?), watched)) }).boxed()
    }

    /// `None` once it is closed.
    async fn next(&mut self) -> Option<()> {
        loop {
            let Some(items) = &mut self.items else {
                tokio::time::sleep(PAUSE).await;
                let opened = self.store.reader.changes(&self.query);
                self.items = self.asking.ask(&self.store, opened).await.ok();
                continue;
            };
            match items.next().await? {
                Ok(()) => return Some(()),
                // More may follow; whoever looks meets the failure, and tells it.
                Err(error) => {
                    tracing::debug!(store = self.store.name, error = %error.chain(), "its changes fail");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
