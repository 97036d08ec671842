//! A cluster: nodes that share the slots, each with replicas or none.

use std::io;
use std::process::Command;
use std::sync::Arc;

use super::options::RedisOptions;
use super::{Redis, info};
use crate::engine::until;
use crate::place::Place;
use crate::port;

/// Nodes of one cluster.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts three masters, and for each this many replicas.
    ///
    /// # Errors
    /// Where a node does not start, or they do not become a cluster.
    pub fn start(replicas: usize, options: &RedisOptions) -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), replicas, options)
    }

    /// The same, in this place.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Arc<Place>, replicas: usize, options: &RedisOptions) -> io::Result<Self> {
        let mut nodes = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..3 * (1 + replicas) {
            let bus = port::free()?.to_string();
            let options = options
                .clone()
                .with_setting("cluster-enabled", "yes")
                .with_setting("cluster-node-timeout", "2000")
                .with_setting("cluster-port", bus.clone());
            let node = Redis::start_in(place, &format!("node-{number}"), &options)?;
            addresses.push(format!("127.0.0.1:{}@{bus}", node.port()));
            nodes.push(node);
        }
        let mut command = Command::new("redis-cli");
        command.args(["--no-auth-warning", "--cluster", "create"]).args(&addresses);
        command.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        if let Some(password) = options.password() {
            command.env("REDISCLI_AUTH", password);
        }
        let output = command.output()?;
        if !output.status.success() {
            let [said, complained] =
                [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
            return Err(io::Error::other(format!("no cluster: {said}{complained}")));
        }
        let cluster = Self { nodes };
        cluster.settled()?;
        Ok(cluster)
    }

    /// Waits until every running node says that all is well, and every replica has its master's data.
    ///
    /// # Errors
    /// Where that does not come.
    pub fn settled(&self) -> io::Result<()> {
        let is_well = |node: &Redis| {
            let state = node.ask(&["CLUSTER", "INFO"]).unwrap_or_default();
            let link = node.info("master_link_status").unwrap_or_else(|_| "down".to_owned());
            info(&state, "cluster_state") == "ok" && matches!(link.as_str(), "" | "up")
        };
        until("cluster", || self.nodes.iter().filter(|node| node.id().is_some()).all(is_well))
    }

    /// Its nodes; the first three began as masters.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Its nodes, to be killed and started again.
    pub fn nodes_mut(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }

    /// `redis+cluster://…` with all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The number of the running master that serves a slot, as the nodes see it.
    ///
    /// # Errors
    /// Where none does.
    pub fn serves(&self, slot: u16) -> io::Result<usize> {
        let at = |node: &Redis| {
            let seen = node.ask(&["CLUSTER", "NODES"]).unwrap_or_default();
            let own = seen.lines().find(|line| line.contains("myself")).unwrap_or_default().to_owned();
            own.contains("master") && own.split(' ').skip(8).any(|range| holds(range, slot))
        };
        let found = self.nodes.iter().position(|node| node.id().is_some() && at(node));
        found.ok_or_else(|| io::Error::other("no node serves the slot"))
    }

    /// Begins to move a slot: from now on a key that is not at its node is asked for at the other one.
    ///
    /// # Errors
    /// What a node answers.
    pub fn begin_move(&self, slot: u16, to: usize) -> io::Result<()> {
        let (from, to) = (self.node(self.serves(slot)?)?, self.node(to)?);
        let slot = slot.to_string();
        to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from.ask(&["CLUSTER", "MYID"])?])?;
        from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to.ask(&["CLUSTER", "MYID"])?])?;
        Ok(())
    }

    /// Moves the keys that the slot has now.
    ///
    /// # Errors
    /// What a node answers.
    pub fn move_keys(&self, slot: u16, to: usize) -> io::Result<()> {
        let (from, port) = (self.node(self.serves(slot)?)?, self.node(to)?.port().to_string());
        loop {
            let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"])?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.lines());
            from.ask(&words)?;
        }
    }

    /// Ends the move: the slot is the other node's.
    ///
    /// # Errors
    /// What a node answers.
    pub fn end_move(&self, slot: u16, to: usize) -> io::Result<()> {
        let (from, to) = (self.node(self.serves(slot)?)?, self.node(to)?);
        let (slot, id) = (slot.to_string(), to.ask(&["CLUSTER", "MYID"])?);
        // The new owner first: nobody is sent in a circle.
        for node in [to, from] {
            node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id])?;
        }
        Ok(())
    }

    fn node(&self, number: usize) -> io::Result<&Redis> {
        self.nodes.get(number).ok_or_else(|| io::Error::other("there is no such node"))
    }
}

/// Whether `0-5460` or `12` holds the slot.
fn holds(range: &str, slot: u16) -> bool {
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    matches!((from.parse::<u16>(), to.parse::<u16>()), (Ok(from), Ok(to)) if (from..=to).contains(&slot))
}
