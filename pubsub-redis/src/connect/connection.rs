//! A handle that runs commands, over any deployment.

use std::sync::Arc;

use futures::FutureExt as _;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::cluster::Cluster;
use super::node::Node;

/// Runs commands, scripts and pipelines that answer at once.
///
/// It connects when it is first used, and again after a connection was lost; what is under way then fails. In a cluster
/// each command goes to the node of its first key, also those of one pipeline, and redirects are followed.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(node) => node.command(cmd).boxed(),
            Self::Cluster(cluster) => cluster.command(cmd).boxed(),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(node) => node.pipeline(pipeline, offset, count).boxed(),
            Self::Cluster(cluster) => cluster.pipeline(pipeline, offset, count).boxed(),
        }
    }

    fn get_db(&self) -> i64 {
        // Chosen by the address; nobody selects another.
        0
    }
}
