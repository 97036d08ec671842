//! A cluster: which node serves which slot, and redirects.
//!
//! The driver's own connection to a cluster repeats a pipeline as a whole where one command of it is redirected, and by
//! itself what was under way when a connection was lost; either way an event would be published twice. Here only the
//! commands that a node refused are asked again, and what was under way fails, as with one server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_ok};
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::time::Instant;

use super::address::Servers;
use super::node::{Limits, Node, Place};
use super::slots::{Goes, SLOTS, goes, slot, slots, waits_for_replicas};

/// Most redirects of one command, and those of them that are followed at once.
const REDIRECTS: usize = 8;
const AT_ONCE: usize = 2;

/// Shortest time between two looks at which node serves what.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before a command is asked again whose keys are being moved.
const MOVING: Duration = Duration::from_millis(50);

type Address = (String, u16);

/// The nodes of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    seeds: Vec<Arc<Node>>,
    servers: Servers,
    limits: Limits,
    map: Mutex<Map>,
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Map {
    nodes: HashMap<Address, Arc<Node>>,
    /// For each slot its node; empty until the first look.
    slots: Vec<Option<Arc<Node>>>,
    seen: Option<Instant>,
    /// A node said or did what does not fit.
    is_doubtful: bool,
}

/// What an answer asks for.
enum Next {
    Done,
    At(Arc<Node>),
    Asking(Arc<Node>),
    Again,
}

impl Cluster {
    pub(crate) fn new(seeds: &[ConnectionInfo], servers: Servers, limits: Limits) -> Self {
        let node = |info: &ConnectionInfo| Arc::new(Node::new(Place::At(Box::new(info.clone())), limits));
        Self {
            seeds: seeds.iter().map(node).collect(),
            servers,
            limits,
            map: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        match goes(command) {
            Goes::To(slot) => Ok(self.at_slot(slot, command, self.deadline()).await?.1),
            Goes::Anywhere => self.judged(self.any().await?.command(command).await),
            Goes::Everywhere => {
                let mut answers = Vec::new();
                for node in self.masters().await? {
                    answers.push(self.judged(node.command(command).await)?);
                }
                let refused = answers.iter().position(|answer| matches!(answer, Value::ServerError(_)));
                Ok(answers.into_iter().nth(refused.unwrap_or(0)).unwrap_or(Value::Nil))
            }
        }
    }

    /// As [`each`](Self::each), of which the first failure is that of all. A transaction is one node's.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        if pipeline.is_transaction() {
            let slot = slots(pipeline).into_iter().flatten().next().unwrap_or(0);
            let node = self.serving(slot).await?;
            return self.judged_all(node.pipeline(pipeline, offset, count).await);
        }
        self.each(pipeline).await.into_iter().collect()
    }

    /// An answer to each command. The commands may go to several nodes, at the same time; those of one slot are done in
    /// their order, and what one node does not answer is no failure of the others.
    pub(crate) async fn each(&self, pipeline: &Pipeline) -> Vec<RedisResult<Value>> {
        let slots = slots(pipeline);
        let parts = match self.parts(&slots).await {
            Ok(parts) => parts,
            Err(error) => return slots.iter().map(|_| Err(error.clone())).collect(),
        };
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let asked = parts.iter().map(|(node, indices)| {
            let own = indices.iter().filter_map(|index| commands.get(*index));
            let own = own.fold(Pipeline::with_capacity(indices.len()), |mut own, command| {
                own.add_command((*command).clone());
                own
            });
            async move { self.judged_all(node.pipeline(&own, 0, own.len()).await) }
        });
        let mut all: Vec<RedisResult<Value>> = slots.iter().map(|_| Ok(Value::Nil)).collect();
        for (answers, (_, indices)) in join_all(asked).await.into_iter().zip(&parts) {
            let mut answers = answers.map(Vec::into_iter);
            for index in indices {
                let answer = answers.as_mut().map(|answers| answers.next().unwrap_or(Value::Nil));
                if let Some(place) = all.get_mut(*index) {
                    *place = answer.map_err(|error| error.clone());
                }
            }
        }
        self.redirected(&commands, &slots, &mut all).await;
        all
    }

    /// Which commands go to which node.
    async fn parts(&self, slots: &[Option<u16>]) -> RedisResult<Vec<(Arc<Node>, Vec<usize>)>> {
        let mut parts: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        let anywhere = fastrand::u16(..SLOTS);
        for (index, slot) in slots.iter().enumerate() {
            let node = self.serving(slot.unwrap_or(anywhere)).await?;
            match parts.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &node)) {
                Some((_, indices)) => indices.push(index),
                None => parts.push((node, vec![index])),
            }
        }
        Ok(parts)
    }

    /// Asks those again that a node refused because their slot is elsewhere, one by one in their order; what waits for their
    /// replicas does so where they were done.
    async fn redirected(&self, commands: &[&Cmd], slots: &[Option<u16>], answers: &mut [RedisResult<Value>]) {
        let deadline = self.deadline();
        let mut elsewhere: Vec<(u16, Arc<Node>)> = Vec::new();
        for ((answer, command), slot) in answers.iter_mut().zip(commands).zip(slots) {
            let Some(slot) = slot else { continue };
            if let Ok(Value::ServerError(error)) = &*answer
                && matches!(
                    error.kind(),
                    Some(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain)
                )
            {
                *answer = self.at_slot(*slot, command, deadline).await.map(|(node, asked)| {
                    elsewhere.push((*slot, node));
                    asked
                });
            } else if waits_for_replicas(command)
                && let Some((_, node)) = elsewhere.iter().rev().find(|(of, _)| of == slot)
            {
                *answer = self.judged(node.command(command).await);
            }
        }
    }

    /// Up to when a command is asked again whose keys are being moved: a script that names keys which are not there is
    /// refused by both nodes until its slot has moved as a whole.
    fn deadline(&self) -> Instant {
        Instant::now() + self.limits.answer
    }

    /// The answer, and the node that gave it.
    async fn at_slot(&self, slot: u16, command: &Cmd, deadline: Instant) -> RedisResult<(Arc<Node>, Value)> {
        let mut node = self.serving(slot).await?;
        let (mut is_asking, mut redirects) = (false, 0);
        loop {
            let answer = if is_asking {
                let mut pipeline = Pipeline::with_capacity(2);
                pipeline.cmd("ASKING").add_command(command.clone());
                let answers = self.judged_all(node.pipeline(&pipeline, 0, 2).await)?;
                answers.into_iter().nth(1).unwrap_or(Value::Nil)
            } else {
                self.judged(node.command(command).await)?
            };
            match self.next(&answer) {
                Next::Done => return Ok((node, answer)),
                Next::At(other) => (node, is_asking, redirects) = (other, false, redirects + 1),
                Next::Asking(other) => (node, is_asking, redirects) = (other, true, redirects + 1),
                Next::Again if Instant::now() >= deadline => return Ok((node, answer)),
                Next::Again => pause().await,
            }
            if redirects > REDIRECTS {
                let text = "the nodes of the cluster send a command on and on";
                return Err((ErrorKind::ClusterConnectionNotFound, text).into());
            }
            if redirects > AT_ONCE {
                // Two nodes that both take the other for the one that serves the slot, for a moment.
                pause().await;
            }
        }
    }

    fn next(&self, answer: &Value) -> Next {
        let Value::ServerError(error) = answer else { return Next::Done };
        let kind = error.kind();
        let place = RedisError::from(error.clone());
        let place = place.redirect_node().and_then(|(address, slot)| {
            let (host, port) = address.rsplit_once(':')?;
            // A node that does not know its own name sends to another port of the same host.
            Some((host.to_owned(), port.parse().ok()?, slot)).filter(|(host, ..)| !host.is_empty())
        });
        match (kind, place) {
            (Some(ServerErrorKind::Moved), Some((host, port, slot))) => {
                Next::At(self.moved(host, port, slot))
            }
            (Some(ServerErrorKind::Ask), Some((host, port, _))) => {
                Next::Asking(self.lock().node((host, port), self))
            }
            (Some(ServerErrorKind::TryAgain), _) => Next::Again,
            (Some(ServerErrorKind::Moved | ServerErrorKind::Ask), None) => {
                self.lock().is_doubtful = true;
                Next::Again
            }
            _ => Next::Done,
        }
    }

    fn moved(&self, host: String, port: u16, slot: u16) -> Arc<Node> {
        let mut map = self.lock();
        let node = map.node((host, port), self);
        if let Some(place) = map.slots.get_mut(usize::from(slot)) {
            *place = Some(Arc::clone(&node));
        }
        map.is_doubtful = true;
        node
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        // What a panic leaves behind is whole, or doubtful at worst.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure may be a failover: who serves what is looked at again.
    fn judged(&self, answer: RedisResult<Value>) -> RedisResult<Value> {
        if answer.as_ref().map_or(true, is_doubtful) {
            self.lock().is_doubtful = true;
        }
        answer
    }

    fn judged_all(&self, answers: RedisResult<Vec<Value>>) -> RedisResult<Vec<Value>> {
        if answers.as_ref().map_or(true, |answers| answers.iter().any(is_doubtful)) {
            self.lock().is_doubtful = true;
        }
        answers
    }

    /// The node that serves a slot.
    pub(crate) async fn serving(&self, slot: u16) -> RedisResult<Arc<Node>> {
        self.look().await?;
        let found = self.lock().slots.get(usize::from(slot)).cloned().flatten();
        found.ok_or_else(|| {
            self.lock().is_doubtful = true;
            (ErrorKind::ClusterConnectionNotFound, "no node of the cluster serves the slot").into()
        })
    }

    /// The node that has this key now, by its own word: what is known may be old, and a read that waits hears of no move
    /// before it waits.
    pub(crate) async fn found(&self, key: &[u8]) -> RedisResult<Arc<Node>> {
        Ok(self.at_slot(slot(key), redis::cmd("EXISTS").arg(key), self.deadline()).await?.0)
    }

    /// One that answered the last look.
    pub(crate) async fn any(&self) -> RedisResult<Arc<Node>> {
        self.serving(fastrand::u16(..SLOTS)).await
    }

    /// The nodes that serve slots.
    pub(crate) async fn masters(&self) -> RedisResult<Vec<Arc<Node>>> {
        self.look().await?;
        let map = self.lock();
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for node in map.slots.iter().flatten() {
            if !masters.iter().any(|known| Arc::ptr_eq(known, node)) {
                masters.push(Arc::clone(node));
            }
        }
        Ok(masters)
    }

    /// Asks the nodes who serves what, where that is not known or in doubt.
    async fn look(&self) -> RedisResult<()> {
        if self.lock().is_good() {
            return Ok(());
        }
        let _one = self.looking.lock().await;
        if self.lock().is_good() {
            return Ok(());
        }
        let known: Vec<Arc<Node>> = self.lock().nodes.values().cloned().collect();
        let asked = known.iter().chain(&self.seeds).map(|node| self.told(node).boxed());
        match select_ok(asked).await {
            Ok((ranges, _)) => {
                self.lock().enter(ranges, self);
                Ok(())
            }
            // What was known may still be right.
            Err(error) if self.lock().slots.is_empty() => Err(error),
            Err(_) => {
                self.lock().seen = Some(Instant::now());
                Ok(())
            }
        }
    }

    async fn told(&self, node: &Node) -> RedisResult<Vec<(u16, u16, Address)>> {
        let answer = node.command(redis::cmd("CLUSTER").arg("SLOTS")).await?.extract_error()?;
        let info = node.info().await?;
        let ranges: Vec<Vec<Value>> = redis::from_redis_value(answer)?;
        let ranges: Vec<_> = ranges.iter().filter_map(|range| read(range, info.addr())).collect();
        if ranges.is_empty() {
            return Err(
                (ErrorKind::ClusterConnectionNotFound, "a node of the cluster knows of no slots").into()
            );
        }
        Ok(ranges)
    }
}

impl Map {
    fn is_good(&self) -> bool {
        let is_recent = self.seen.is_some_and(|seen| seen.elapsed() < PAUSE);
        !self.slots.is_empty() && (is_recent || !self.is_doubtful)
    }

    fn node(&mut self, address: Address, cluster: &Cluster) -> Arc<Node> {
        let info = cluster.servers.at(&address.0, address.1);
        let new = || Arc::new(Node::new(Place::At(Box::new(info)), cluster.limits));
        Arc::clone(self.nodes.entry(address).or_insert_with(new))
    }

    fn enter(&mut self, ranges: Vec<(u16, u16, Address)>, cluster: &Cluster) {
        let mut slots = vec![None; usize::from(SLOTS)];
        for (from, to, address) in &ranges {
            let node = self.node(address.clone(), cluster);
            if let Some(own) = slots.get_mut(usize::from(*from)..=usize::from(*to)) {
                own.fill(Some(node));
            }
        }
        // Those that left would be asked for ever.
        self.nodes.retain(|address, _| ranges.iter().any(|(.., serving)| serving == address));
        self.slots = slots;
        self.seen = Some(Instant::now());
        self.is_doubtful = false;
    }
}

async fn pause() {
    tokio::time::sleep(MOVING.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
}

/// One range of CLUSTER SLOTS: first slot, last slot, its master, its replicas.
fn read(range: &[Value], told_by: &ConnectionAddr) -> Option<(u16, u16, Address)> {
    let number = |value: &Value| redis::from_redis_value_ref::<u16>(value).ok();
    let [from, to, Value::Array(master), ..] = range else { return None };
    let [host, port, ..] = master.as_slice() else { return None };
    let named = redis::from_redis_value_ref::<Option<String>>(host).ok().flatten();
    let host = named.filter(|host| !host.is_empty() && host != "?").or_else(|| match told_by {
        // It does not know how it is called from here.
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    })?;
    Some((number(from)?, number(to)?, (host, number(port)?)))
}

/// Whether the answer says that who serves what has changed, or is about to.
fn is_doubtful(value: &Value) -> bool {
    use ServerErrorKind::{ClusterDown, MasterDown, Moved, ReadOnly};
    matches!(value, Value::ServerError(error)
        if matches!(error.kind(), Some(ClusterDown | MasterDown | Moved | ReadOnly)))
}
