//! One server that commands go to, wherever it is by now.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::time::Instant;

use super::open::open;
use super::sentinel::Sentinels;
use crate::error::kind_of;

/// Pauses between tries to connect, each shortened by chance; the limit on connecting bounds all of them together.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// How long connecting and answering may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    At(Box<ConnectionInfo>),
    /// Where the sentinels say.
    Master(Arc<Sentinels>),
}

/// A connection that is shared by all who use it, and opened again after it was lost.
///
/// What is under way when it is lost fails: nobody knows whether it was done. What is called after that waits for the new
/// connection.
#[derive(Debug)]
pub(crate) struct Node {
    place: Place,
    limits: Limits,
    state: Mutex<State>,
}

type Opening = Shared<BoxFuture<'static, RedisResult<Opened>>>;

/// Which connection of a node it is.
type Number = u64;

#[derive(Clone)]
struct Opened {
    connection: MultiplexedConnection,
    info: Arc<ConnectionInfo>,
}

#[derive(Default)]
struct State {
    number: Number,
    held: Held,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Opening(Opening, Instant),
    Open(Opened),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(place: Place, limits: Limits) -> Self {
        Self { place, limits, state: Mutex::default() }
    }

    /// # Cancel safety
    /// What was dropped may be done.
    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let (number, mut opened) = self.opened().await?;
        let answer = opened.connection.send_packed_command(command).await;
        let is_gone = match &answer {
            Ok(value) => is_demoted(value),
            Err(error) => is_lost(error),
        };
        self.judged(number, &opened, is_gone).await?;
        answer
    }

    /// # Cancel safety
    /// What was dropped may be done, also in part.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let (number, mut opened) = self.opened().await?;
        let answers = opened.connection.send_packed_commands(pipeline, offset, count).await;
        let is_gone = match &answers {
            Ok(values) => values.iter().any(is_demoted),
            Err(error) => is_lost(error),
        };
        self.judged(number, &opened, is_gone).await?;
        answers
    }

    /// Where it is now, by which a connection of one's own can be opened.
    pub(crate) async fn info(&self) -> RedisResult<Arc<ConnectionInfo>> {
        if let Place::At(info) = &self.place {
            return Ok(Arc::new(info.as_ref().clone()));
        }
        let (number, opened) = self.opened().await?;
        self.judged(number, &opened, false).await?;
        Ok(opened.info)
    }

    /// Drops a connection that is of no use; fails where an answer from it must not be believed.
    async fn judged(&self, number: Number, opened: &Opened, is_gone: bool) -> RedisResult<()> {
        let is_gone = is_gone
            || match &self.place {
                Place::At(_) => false,
                // A master that was cut off takes writes until it hears that it is none, and loses them.
                Place::Master(sentinels) => !sentinels.confirm(&opened.info).await,
            };
        if !is_gone {
            return Ok(());
        }
        let mut state = self.lock();
        if state.number == number {
            state.held = Held::Nothing;
        }
        drop(state);
        self.refuse_replaced(&opened.info)
    }

    /// Fails where an answer from this server, on a connection of one's own, must not be believed.
    pub(crate) async fn stands(&self, info: &ConnectionInfo) -> RedisResult<()> {
        match &self.place {
            Place::Master(sentinels) if !sentinels.confirm(info).await => self.refuse_replaced(info),
            _ => Ok(()),
        }
    }

    fn refuse_replaced(&self, info: &ConnectionInfo) -> RedisResult<()> {
        match &self.place {
            Place::Master(sentinels) if sentinels.is_other(info) => {
                let text = format!("{} is no longer the master: what it answered is not kept", info.addr());
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, text).into())
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is one assignment, so what a panic leaves behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn opened(&self) -> RedisResult<(Number, Opened)> {
        let (number, opening) = {
            let mut state = self.lock();
            match &state.held {
                Held::Open(opened) => return Ok((state.number, opened.clone())),
                // One that is older was dropped by all who waited for it, and stands still.
                Held::Opening(opening, since) if since.elapsed() <= self.limits.connect => {
                    (state.number, opening.clone())
                }
                Held::Opening(..) | Held::Nothing => {
                    let opening = connect(self.place.clone(), self.limits).boxed().shared();
                    state.number = state.number.wrapping_add(1);
                    state.held = Held::Opening(opening.clone(), Instant::now());
                    (state.number, opening)
                }
            }
        };
        let result = opening.await;
        let mut state = self.lock();
        // The first of those who waited says so.
        if state.number == number && matches!(state.held, Held::Opening(..)) {
            state.held = result.as_ref().map_or(Held::Nothing, |opened| Held::Open(opened.clone()));
        }
        drop(state);
        Ok((number, result?))
    }
}

async fn connect(place: Place, limits: Limits) -> RedisResult<Opened> {
    let began = Instant::now();
    let mut pauses = PAUSES.into_iter();
    let mut before: Option<RedisError> = None;
    loop {
        let left = limits.connect.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        let limits = Limits { connect: left, ..limits };
        let error = match connect_once(&place, limits).await {
            Ok(opened) => return Ok(opened),
            // Of two failures the one that says more than that the time was over.
            Err(error) if error.is_timeout() => before.take().unwrap_or(error),
            Err(error) => error,
        };
        let pause = pauses.next().map(|pause| pause.mul_f64(0.5 + fastrand::f64() / 2.0));
        match pause {
            Some(pause) if kind_of(&error).is_retryable() && began.elapsed() + pause < limits.connect => {
                tokio::time::sleep(pause).await;
                before = Some(error);
            }
            _ => return Err(error),
        }
    }
}

async fn connect_once(place: &Place, limits: Limits) -> RedisResult<Opened> {
    let info = match place {
        Place::At(info) => Arc::new(info.as_ref().clone()),
        Place::Master(sentinels) => Arc::new(sentinels.master().await?),
    };
    let mut connection = open(&info, limits.connect, Some(limits.answer)).await?;
    if let Place::Master(_) = place {
        // For a moment the sentinels may name a server that was the master, or is not yet.
        let role = connection.send_packed_command(&redis::cmd("ROLE")).await?.extract_error()?;
        let role: Vec<Value> = redis::from_redis_value(role)?;
        let is_master = role.first().is_some_and(|role| {
            redis::from_redis_value_ref::<String>(role).is_ok_and(|role| role == "master")
        });
        if !is_master {
            let text = format!("{} is named as the master, but is none", info.addr());
            return Err(io::Error::new(io::ErrorKind::NotConnected, text).into());
        }
    }
    Ok(Opened { connection, info })
}

/// Whether the connection is of no more use. One that does not answer may be one that leads nowhere.
fn is_lost(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse) || error.is_unrecoverable_error()
}

/// Whether the server was made a replica.
fn is_demoted(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}
