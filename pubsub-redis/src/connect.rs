//! Connections: one for commands that answer at once, and one for each read that waits.
//!
//! Neither can be reached from outside, so no clone of a handle gets a read that waits in front of a command.

mod address;
mod check;
mod cluster;
mod connection;
mod most;
mod node;
mod open;
mod sentinel;
mod slots;
mod waiter;

use std::sync::Arc;

use pubsub_core::Result;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{Client, ConnectionInfo, RedisResult};
use tokio::sync::OnceCell;

use crate::config::RedisConfig;
use crate::denied::with_user;
use crate::error::failed;
use address::{Places, places};
use cluster::Cluster;
pub(crate) use connection::Connection;
pub(crate) use most::{Most, TooLong};
use node::{Limits, Node, Place};
use sentinel::Sentinels;
pub(crate) use slots::{Goes, goes};
pub(crate) use waiter::Waiter;

/// Opens connections to one deployment.
#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RedisConfig,
    /// As whom, where that is said.
    user: Option<String>,
    commands: Connection,
    checked: OnceCell<Most>,
}

impl Link {
    /// Reaches nothing yet.
    pub(crate) fn new(config: RedisConfig) -> Result<Self> {
        config.check()?;
        let limits = Limits { connect: config.connect_limit(), answer: config.answer_limit() };
        let node = |place| Connection::One(Arc::new(Node::new(place, limits)));
        let places = places(&config)?;
        let user = places.user().map(str::to_owned);
        let commands = match places {
            Places::Server(info) => node(Place::At(Box::new(info))),
            Places::Sentinels { addresses, master, servers } => {
                node(Place::Master(Arc::new(Sentinels::new(addresses, master, servers))))
            }
            Places::Cluster { seeds, servers } => {
                Connection::Cluster(Arc::new(Cluster::new(&seeds, servers, limits)))
            }
        };
        Ok(Self(Arc::new(Inner { config, user, commands, checked: OnceCell::new() })))
    }

    pub(crate) fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    /// As whom the servers are asked, where that is said.
    pub(crate) fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    /// For commands that answer at once. All handles share their connections.
    pub(crate) fn commands(&self) -> Connection {
        self.0.commands.clone()
    }

    /// Whether keys of several hash tags may be at several servers: no command names keys of two, a read that waits needs a
    /// connection for each, and the commands of a pipeline are done in order within one tag alone.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.commands, Connection::Cluster(_))
    }

    /// Refuses a server that is too old, and warns of one that may lose what it stores; once for all clones. Broker and
    /// store call it before they first use the server, for connecting reaches nothing. Answers how much all servers take.
    pub(crate) async fn check(&self) -> Result<Most> {
        if let Some(most) = self.0.checked.get() {
            return Ok(*most);
        }
        // On the heap: it happens once, and is a part of every call's future.
        let checking = || check::check(&self.0.commands, self.config().deployment());
        let checked = Box::pin(self.0.checked.get_or_try_init(checking)).await.copied();
        checked.map_err(|error| with_user(error, self.user()))
    }

    /// A connection for one read that waits at this key, as long as it wants; who uses it says how long. Once it fails, a
    /// new one is asked for: the key may be served elsewhere by then.
    pub(crate) async fn waiting(&self, key: &[u8]) -> Result<MultiplexedConnection> {
        let info = self.serving(Some(key)).await.map_err(failed("connect"))?;
        open::open(&info, self.config().connect_limit(), None).await.map_err(failed("connect"))
    }

    /// As [`waiting`](Self::waiting), for reads that can be ended.
    pub(crate) async fn waiter(&self, key: &[u8]) -> Result<Waiter> {
        let opened = async {
            let node = self.node(Some(key)).await?;
            let info = node.info().await?;
            let connection = open::open(&info, self.config().connect_limit(), None).await?;
            Ok((connection, (node, info)))
        };
        let (connection, at) = opened.await.map_err(failed("connect"))?;
        Waiter::new(connection, at, self.config().answer_limit()).await
    }

    /// A connection for what is published on channels.
    pub(crate) async fn listening(&self) -> Result<PubSub> {
        let listening = async {
            let info = self.serving(None).await?;
            let client = Client::open(info.as_ref().clone())?;
            let opening = client.get_async_pubsub();
            let limit = self.config().connect_limit();
            match tokio::time::timeout(limit, opening).await {
                Ok(Ok(listening)) => Ok(listening),
                Ok(Err(error)) => Err(open::explained(&info, error).await),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        };
        listening.await.map_err(failed("connect"))
    }

    /// Where a key is served, or commands without one.
    async fn serving(&self, key: Option<&[u8]>) -> RedisResult<Arc<ConnectionInfo>> {
        self.node(key).await?.info().await
    }

    /// The server of a key, or one that takes commands without one.
    async fn node(&self, key: Option<&[u8]>) -> RedisResult<Arc<Node>> {
        match (&self.0.commands, key) {
            (Connection::One(node), _) => Ok(Arc::clone(node)),
            (Connection::Cluster(cluster), Some(key)) => cluster.found(key).await,
            (Connection::Cluster(cluster), None) => cluster.any().await,
        }
    }
}

#[cfg(test)]
mod deployments_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
