//! A connection for reads that wait, each of which can be ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Error, ErrorKind, Result};
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, ConnectionInfo, RedisResult, Value};
use tokio::time::{sleep, timeout};

use super::node::Node;
use crate::error::failed;

/// First and longest pause before a read is told to end once more.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// A connection of its own for one read at a time.
pub(crate) struct Waiter {
    connection: MultiplexedConnection,
    ender: Ender,
}

/// Ends a read that waits. It is told to the server that the read waits at, by the connection for its commands: elsewhere
/// nobody knows of it.
#[derive(Clone)]
pub(crate) struct Ender {
    node: Arc<Node>,
    /// Where the node was when the connection was opened.
    info: Arc<ConnectionInfo>,
    /// What the server calls the connection.
    client: i64,
    limit: Duration,
}

impl Waiter {
    /// `limit` is how long an answer may take that comes at once.
    pub(super) async fn new(
        mut connection: MultiplexedConnection,
        (node, info): (Arc<Node>, Arc<ConnectionInfo>),
        limit: Duration,
    ) -> Result<Self> {
        let mut cmd = redis::cmd("CLIENT");
        cmd.arg("ID");
        let client = within(limit, connection.req_packed_command(&cmd), "connect").await?;
        let client = redis::from_redis_value(client).map_err(|error| failed("connect")(error.into()))?;
        Ok(Self { connection, ender: Ender { node, info, client, limit } })
    }

    /// Runs a command that may wait so long.
    ///
    /// # Errors
    /// Where the server could not be asked, says what is wrong, or is not the master any more: then its answer counts
    /// nowhere else.
    pub(crate) async fn ask(&mut self, cmd: &Cmd, wait: Duration, doing: &'static str) -> Result<Value> {
        let limit = wait + self.ender.limit;
        let answer = within(limit, self.connection.req_packed_command(cmd), doing).await?;
        self.ender.node.stands(&self.ender.info).await.map_err(failed(doing))?;
        Ok(answer)
    }

    /// What ends a read on this connection.
    pub(crate) fn ender(&self) -> Ender {
        self.ender.clone()
    }
}

impl Ender {
    /// Ends a read and waits for it: what it had by then is its answer.
    ///
    /// # Errors
    /// Those of the read; and where the server cannot be told, or does not answer in time. Then what the read gets is lost.
    pub(crate) async fn end<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let doing = "end a read that waits";
        let mut read = pin!(read);
        let ended = async {
            let mut pause = PAUSES.0;
            loop {
                tokio::select! {
                    biased;
                    answer = &mut read => return answer,
                    told = self.tell() => told.map_err(failed(doing))?,
                }
                // The read may reach its server after what is to end it, for they come on two connections.
                tokio::select! {
                    biased;
                    answer = &mut read => return answer,
                    () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                }
            }
        };
        timeout(self.limit, ended).await.map_err(|_| Error::new(ErrorKind::TimedOut, doing))?
    }

    async fn tell(&self) -> RedisResult<()> {
        // Another master would end a stranger's read.
        self.node.stands(&self.info).await?;
        let mut cmd = redis::cmd("CLIENT");
        cmd.arg("UNBLOCK").arg(self.client);
        self.node.command(&cmd).await?.extract_error().map(drop)
    }
}

async fn within(
    limit: Duration,
    asking: impl Future<Output = RedisResult<Value>>,
    doing: &'static str,
) -> Result<Value> {
    let answer = timeout(limit, asking).await.map_err(|_| Error::new(ErrorKind::TimedOut, doing))?;
    answer.and_then(Value::extract_error).map_err(failed(doing))
}
