//! A set of tasks: tokio's, and in a check threads of the schedule.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::run::is_checking;

/// As [`tokio::task::JoinSet`], but what a task returns is not told.
#[derive(Debug)]
pub struct JoinSet<T>(Inner<T>);

#[derive(Debug)]
enum Inner<T> {
    Plain(tokio::task::JoinSet<T>),
    Checked(Vec<shuttle::future::JoinHandle<T>>),
}

/// As [`tokio::task::AbortHandle`].
#[derive(Clone, Debug)]
pub struct AbortHandle(Handle);

#[derive(Clone, Debug)]
enum Handle {
    Plain(tokio::task::AbortHandle),
    Checked(shuttle::future::AbortHandle),
}

impl AbortHandle {
    /// As [`tokio::task::AbortHandle::abort`].
    pub fn abort(&self) {
        match &self.0 {
            Handle::Plain(plain) => plain.abort(),
            Handle::Checked(checked) => checked.abort(),
        }
    }
}

impl<T: Send + 'static> JoinSet<T> {
    /// As [`tokio::task::JoinSet::new`].
    #[must_use]
    pub fn new() -> Self {
        Self(if is_checking() {
            Inner::Checked(Vec::new())
        } else {
            Inner::Plain(tokio::task::JoinSet::new())
        })
    }

    /// As [`tokio::task::JoinSet::spawn_on`].
    pub fn spawn_on(
        &mut self,
        task: impl Future<Output = T> + Send + 'static,
        runtime: &tokio::runtime::Handle,
    ) -> AbortHandle {
        AbortHandle(match &mut self.0 {
            Inner::Plain(plain) => Handle::Plain(plain.spawn_on(task, runtime)),
            Inner::Checked(checked) => {
                let joined = shuttle::future::spawn(task);
                let handle = joined.abort_handle();
                checked.push(joined);
                Handle::Checked(handle)
            }
        })
    }

    /// As [`tokio::task::JoinSet::try_join_next`].
    pub fn try_join_next(&mut self) -> Option<()> {
        match &mut self.0 {
            Inner::Plain(plain) => plain.try_join_next().map(drop),
            Inner::Checked(checked) => {
                let ended = checked.iter().position(shuttle::future::JoinHandle::is_finished)?;
                drop(checked.swap_remove(ended));
                Some(())
            }
        }
    }

    /// As [`tokio::task::JoinSet::poll_join_next`].
    pub fn poll_join_next(&mut self, context: &mut Context<'_>) -> Poll<Option<()>> {
        match &mut self.0 {
            Inner::Plain(plain) => plain.poll_join_next(context).map(|joined| joined.map(drop)),
            Inner::Checked(checked) if checked.is_empty() => Poll::Ready(None),
            Inner::Checked(checked) => {
                let ended = checked.iter_mut().position(|one| Pin::new(one).poll(context).is_ready());
                ended.map_or(Poll::Pending, |ended| {
                    drop(checked.swap_remove(ended));
                    Poll::Ready(Some(()))
                })
            }
        }
    }

    /// As [`tokio::task::JoinSet::abort_all`].
    pub fn abort_all(&mut self) {
        match &mut self.0 {
            Inner::Plain(plain) => plain.abort_all(),
            Inner::Checked(checked) => checked.iter().for_each(shuttle::future::JoinHandle::abort),
        }
    }

    /// As [`tokio::task::JoinSet::len`].
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Plain(plain) => plain.len(),
            Inner::Checked(checked) => checked.len(),
        }
    }

    /// As [`tokio::task::JoinSet::is_empty`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Send + 'static> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}
