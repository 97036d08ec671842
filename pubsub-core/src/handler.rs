//! What does the work: a command or Rust code.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{Cause, Event, Exit, RunKey, RunOutput};

/// Does the work of one attempt.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Works until it is done or [`Stop`] asks it to end, and says how it ended. Output goes to
    /// [`RunContext::output`] while it works.
    ///
    /// # Cancel safety
    /// The future is dropped where a stop is not followed in time; what it holds must clean up by being dropped.
    async fn run(&self, context: RunContext) -> Finished;

    /// What is run, for the record; empty for Rust code.
    fn command(&self) -> Vec<String>;
}

/// What a handler works with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunContext {
    /// The event.
    pub event: Arc<Event>,
    /// The run.
    pub key: RunKey,
    /// Where output goes.
    pub output: RunOutput,
    /// Says when to stop.
    pub stop: Stop,
}

impl RunContext {
    /// A context; workers and tests make it.
    #[must_use]
    pub fn new(event: Arc<Event>, key: RunKey, output: RunOutput, stop: Stop) -> Self {
        Self { event, key, output, stop }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// Values for the next stage.
    pub values: BTreeMap<String, String>,
}

impl From<Exit> for Finished {
    fn from(exit: Exit) -> Self {
        Self { exit, values: BTreeMap::new() }
    }
}

impl From<()> for Finished {
    fn from((): ()) -> Self {
        Exit::code(0).into()
    }
}

/// Exit code 0, with values for the next stage.
impl From<BTreeMap<String, String>> for Finished {
    fn from(values: BTreeMap<String, String>) -> Self {
        Self { exit: Exit::code(0), values }
    }
}

/// `Ok` is what its value says; `Err` is exit code 1, with the error and its causes as the detail.
impl<T: Into<Self>, E: Into<Box<dyn std::error::Error + Send + Sync>>> From<Result<T, E>> for Finished {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(done) => done.into(),
            Err(error) => Exit::code(1).with_detail(chain(&*error.into())).into(),
        }
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A handler made of an async closure by [`handler_fn`].
pub struct HandlerFn<F>(F);

/// Makes a handler of an async closure that answers how it [`Finished`]: an [`Exit`], the values for the next stage, or
/// a `Result`, turned by `into()`. So `?` works in a function of its own: its `Ok` is exit code 0, its `Err` is code 1
/// with the error and its causes as the detail.
///
/// ```
/// use pubsub_core::{Exit, Finished, RunContext, handler_fn};
///
/// async fn build(context: RunContext) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let wanted: u32 = context.event.payload.parse_as()?;
///     context.output.line(format!("building number {wanted}")).await?;
///     Ok(())
/// }
///
/// let _with_errors = handler_fn(|context| async move { build(context).await.into() });
/// let _with_codes = handler_fn(|_| async { Exit::code(42).into() });
///
/// let failed: Finished = Err::<(), _>(std::io::Error::other("no disk")).into();
/// assert_eq!((failed.exit.code, failed.exit.detail.as_deref()), (Some(1), Some("no disk")));
/// assert_eq!(Finished::from(Ok::<_, std::io::Error>(())).exit, Exit::code(0));
/// ```
pub fn handler_fn<F, Fut>(run: F) -> HandlerFn<F>
where
    F: Fn(RunContext) -> Fut + Send + Sync,
    Fut: Future<Output = Finished> + Send,
{
    HandlerFn(run)
}

impl<F> std::fmt::Debug for HandlerFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandlerFn")
    }
}

#[async_trait]
impl<F, Fut> Handler for HandlerFn<F>
where
    F: Fn(RunContext) -> Fut + Send + Sync,
    Fut: Future<Output = Finished> + Send,
{
    async fn run(&self, context: RunContext) -> Finished {
        (self.0)(context).await
    }

    fn command(&self) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl<T: Handler + ?Sized> Handler for Arc<T> {
    async fn run(&self, context: RunContext) -> Finished {
        (**self).run(context).await
    }

    fn command(&self) -> Vec<String> {
        (**self).command()
    }
}

/// How far a run is to be stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopState {
    /// Go on.
    #[default]
    Run,
    /// Stop, with a grace.
    Stop(Cause),
    /// Stop now.
    Cut(Cause),
}

/// Tells a handler when to stop; the first cause stands, and a cut follows a stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<StopState>);

/// The side that asks for the stop.
#[derive(Debug)]
pub struct Stopper(watch::Sender<StopState>);

impl Stop {
    /// A pair.
    #[must_use]
    pub fn pair() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(StopState::Run);
        (Stopper(sender), Self(receiver))
    }

    /// One that nobody asks for: for work that ends by itself.
    #[must_use]
    pub fn never() -> Self {
        Self::pair().1
    }

    /// How far it is asked to stop now.
    #[must_use]
    pub fn state(&self) -> StopState {
        *self.0.borrow()
    }

    /// Waits until it is asked to stop, and says why. Never returns where nobody can ask any more.
    pub async fn requested(&mut self) -> Cause {
        match self.0.wait_for(|state| *state != StopState::Run).await.map(|state| *state) {
            Ok(StopState::Stop(cause) | StopState::Cut(cause)) => cause,
            _ => std::future::pending().await,
        }
    }

    /// Waits until it is asked to stop now.
    pub async fn cut(&mut self) -> Cause {
        match self.0.wait_for(|state| matches!(state, StopState::Cut(_))).await.map(|state| *state) {
            Ok(StopState::Cut(cause)) => cause,
            _ => std::future::pending().await,
        }
    }
}

impl Stopper {
    /// Asks to stop with a grace.
    pub fn stop(&self, cause: Cause) {
        self.0.send_if_modified(|state| {
            let fresh = *state == StopState::Run;
            if fresh {
                *state = StopState::Stop(cause);
            }
            fresh
        });
    }

    /// Asks to stop now. The cause of an earlier stop stands.
    pub fn cut(&self, cause: Cause) {
        self.0.send_if_modified(|state| {
            let next = match *state {
                StopState::Run => StopState::Cut(cause),
                StopState::Stop(first) => StopState::Cut(first),
                StopState::Cut(_) => return false,
            };
            *state = next;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Finished;
    use crate::{Error, ErrorKind, Exit};
    use std::collections::BTreeMap;

    #[test]
    fn a_result_is_an_exit_and_an_error_is_told_with_its_causes() {
        let values = BTreeMap::from([("image".to_owned(), "app:7".to_owned())]);
        let done: Finished = Ok::<_, Error>(values.clone()).into();
        assert_eq!(done, Finished { exit: Exit::code(0), values });
        let escaped: Finished = Ok::<_, Error>(Exit::code(42)).into();
        assert_eq!(escaped.exit, Exit::code(42));
        let cause = std::io::Error::other("no disk");
        let error = Error::new(ErrorKind::Unavailable, "build").with_source(cause);
        let failed: Finished = Err::<(), _>(error).into();
        assert_eq!(failed.exit, Exit::code(1).with_detail("build: unavailable: no disk"));
        let boxed: Box<dyn std::error::Error + Send + Sync> = "plain".into();
        assert_eq!(Finished::from(Err::<(), _>(boxed)).exit.detail.as_deref(), Some("plain"));
    }
}
