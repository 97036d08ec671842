//! What stops the work of a run, and how long its stores may take then.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use futures::future::Either;
use tokio::time::sleep;

use crate::{Cause, Error, ErrorKind, Result, Stop, StopState};

/// How long a store may take for what it lacks of a run that is cut.
const CUT_STORE_LIMIT: Duration = Duration::from_secs(5);

/// What stops work that may take only so long, and what is to be polled beside it, which never returns: it passes on what
/// stops the run.
pub(crate) fn within(limit: Option<Duration>, mut stop: Stop) -> (Stop, impl Future<Output = ()>) {
    let Some(limit) = limit else { return (stop, Either::Left(pending())) };
    let (stopper, limited) = Stop::pair();
    let passes_on = async move {
        tokio::select! {
            cause = stop.requested() => match stop.state() {
                StopState::Cut(_) => stopper.cut(cause),
                _ => stopper.stop(cause),
            },
            () = sleep(limit) => stopper.stop(Cause::WallTimeout),
        }
        stopper.cut(stop.cut().await);
        pending().await
    };
    (limited, Either::Right(passes_on))
}

pub(crate) async fn store_limit(stopped: impl Future<Output = Cause>, limit: Duration) {
    stopped.await;
    sleep(limit).await;
}

/// Returns when stores have had their time for what they lack of a run that is cut.
pub(crate) async fn after_a_cut(stop: &mut Stop) {
    store_limit(stop.cut(), CUT_STORE_LIMIT).await;
}

/// What a run needs of its stores, until it is too late: one that is in reach needs less.
pub(crate) async fn stores_may<T>(
    work: Pin<&mut impl Future<Output = Result<T>>>,
    too_late: impl Future<Output = ()>,
    why: &str,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        () = too_late => Err(Error::new(ErrorKind::Unavailable, why)),
    }
}

/// Returns only where it is asked to stop already.
pub(crate) async fn asked_before(stop: Stop) -> Cause {
    match stop.state() {
        StopState::Run => pending().await,
        StopState::Stop(cause) | StopState::Cut(cause) => cause,
    }
}
