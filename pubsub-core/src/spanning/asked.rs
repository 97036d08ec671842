//! The stores that are asked together, and which of them do not answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Error, ErrorKind, OutputReader, Result};

/// How long one of several stores may take for an answer, unless told otherwise.
pub const DEFAULT_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Of the limit, what a store has that ran into it: so a command that asks three times does not wait three times.
const SHARE_OF_SLOW: u32 = 10;

/// A store that did not answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unanswered {
    /// Its name.
    pub store: String,
    /// Why.
    pub error: Arc<Error>,
}

/// What a store answers, or why it does not.
pub(super) type Answer<T> = std::result::Result<T, Arc<Error>>;

/// One of the stores.
pub(super) struct Store {
    place: usize,
    pub(super) name: String,
    pub(super) reader: Arc<dyn OutputReader>,
    /// While it does not answer.
    outage: Mutex<Option<Outage>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outage {
    Failing,
    /// It ran into our limit.
    Slow,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Store {
    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stores, and who has not answered one handle's questions.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    stores: Vec<Arc<Store>>,
    pub(super) limit: Duration,
    unanswered: Arc<Mutex<BTreeMap<usize, Unanswered>>>,
}

impl Default for Asking {
    fn default() -> Self {
        Self { stores: Vec::new(), limit: DEFAULT_ANSWER_LIMIT, unanswered: Arc::default() }
    }
}

impl Asking {
    pub(super) fn add(&mut self, name: String, reader: Arc<dyn OutputReader>) {
        let place = self.stores.len();
        self.stores.push(Arc::new(Store { place, name, reader, outage: Mutex::new(None) }));
    }

    pub(super) fn stores(&self) -> &[Arc<Store>] {
        &self.stores
    }

    /// The same stores, of which nobody was asked yet.
    pub(super) fn anew(&self) -> Self {
        Self { unanswered: Arc::default(), ..self.clone() }
    }

    pub(super) fn unanswered(&self) -> Vec<Unanswered> {
        self.noted().values().cloned().collect()
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<usize, Unanswered>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a store answers within the limit; every error is no answer.
    pub(super) async fn ask<T>(&self, store: &Store, call: impl Future<Output = Result<T>>) -> Answer<T> {
        self.ask_within(self.limit, store, call).await
    }

    pub(super) async fn ask_within<T>(
        &self,
        limit: Duration,
        store: &Store,
        call: impl Future<Output = Result<T>>,
    ) -> Answer<T> {
        let slow = *store.outage() == Some(Outage::Slow);
        let limit = if slow { limit / SHARE_OF_SLOW } else { limit };
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => {
                self.answers(store);
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(store, error, Outage::Failing)),
            Err(_) => {
                let error = Error::new(ErrorKind::TimedOut, "a store did not answer in time");
                Err(self.failed(store, error.with("limit", format!("{limit:?}")), Outage::Slow))
            }
        }
    }

    fn answers(&self, store: &Store) {
        if store.outage().take().is_some() {
            tracing::info!(store = store.name, "a store answers again");
        }
    }

    fn failed(&self, store: &Store, error: Error, outage: Outage) -> Arc<Error> {
        let error = Arc::new(error);
        // What it declares it cannot do is no outage.
        if error.kind() != ErrorKind::Unsupported && store.outage().replace(outage).is_none() {
            tracing::warn!(
                store = store.name,
                error = %error.chain(),
                "a store does not answer: the others do, and what it alone has is missing"
            );
        }
        let told = || Unanswered { store: store.name.clone(), error: Arc::clone(&error) };
        self.noted().entry(store.place).or_insert_with(told);
        error
    }

    /// The answers that there are.
    pub(super) fn answered<T>(&self, answers: Vec<Answer<T>>) -> Result<Vec<T>> {
        let (mut answered, mut errors) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(answer) => answered.push(answer),
                Err(error) => errors.push(error),
            }
        }
        if answered.is_empty() { Err(self.none_answers(&errors)) } else { Ok(answered) }
    }

    /// Where no store answers: of the kind of one that may answer later, where there is one.
    pub(super) fn none_answers(&self, errors: &[Arc<Error>]) -> Error {
        let told = errors.iter().find(|error| error.is_retryable()).or(errors.first());
        let names: Vec<_> = self.stores.iter().map(|store| store.name.as_str()).collect();
        let kind = told.map_or(ErrorKind::Unavailable, |told| told.kind());
        let error = Error::new(kind, "no store answers").with("stores", names.join(", "));
        match told {
            None => error,
            Some(told) => error.with_source(Arc::clone(told)),
        }
    }
}
