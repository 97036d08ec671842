//! A handle that runs commands, over any deployment.

use std::sync::Arc;

use futures::FutureExt as _;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

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

impl Connection {
    /// An answer to each command of a pipeline that is no transaction. In a cluster what one node does not answer is no
    /// failure of the others; those of one hash tag are done in their order.
    pub(crate) async fn each(&self, pipeline: &Pipeline) -> Vec<RedisResult<Value>> {
        match self {
            Self::One(node) => match node.pipeline(pipeline, 0, pipeline.len()).await {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                Err(error) => pipeline.cmd_iter().map(|_| Err(error.clone())).collect(),
            },
            Self::Cluster(cluster) => cluster.each(pipeline).await,
        }
    }
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
