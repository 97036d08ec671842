//! A master, a replica, and three sentinels that watch them.

use std::fs;
use std::io;
use std::sync::Arc;

use super::options::RedisOptions;
use super::{Redis, ask, info};
use crate::engine::{Engine, until};
use crate::install::redis_server;
use crate::place::Place;
use crate::port;

/// The name of the master at the sentinels.
const NAME: &str = "main";

/// Servers that sentinels watch.
#[derive(Debug)]
pub struct RedisSentinel {
    sentinels: Vec<Sentinel>,
    servers: [Redis; 2],
}

#[derive(Debug)]
struct Sentinel {
    engine: Engine,
    port: u16,
}

impl Sentinel {
    fn ask(&self, words: &[&str]) -> io::Result<String> {
        ask(&["-p".to_owned(), self.port.to_string()], None, words)
    }
}

impl RedisSentinel {
    /// Starts all of them. A master counts as down after one second.
    ///
    /// # Errors
    /// Where one does not start, or the sentinels do not come to know all of them.
    pub fn start(options: &RedisOptions) -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), options)
    }

    /// The same, in this place.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Arc<Place>, options: &RedisOptions) -> io::Result<Self> {
        let master = Redis::start_in(place, "master", options)?;
        let of = format!("127.0.0.1 {}", master.port());
        let replica =
            Redis::start_in(place, "replica", &options.clone().with_setting("replicaof", of.clone()))?;
        until("replica", || replica.info("master_link_status").is_ok_and(|link| link == "up"))?;
        let mut watching = Self { sentinels: Vec::new(), servers: [master, replica] };
        for number in 0..3 {
            let sentinel = start_sentinel(place, number, &of, options)?;
            watching.sentinels.push(sentinel);
        }
        let knows_all = |sentinel: &Sentinel| {
            let known = sentinel.ask(&["INFO", "sentinel"]).unwrap_or_default();
            info(&known, "master0").ends_with("slaves=1,sentinels=3")
        };
        until("sentinels", || watching.sentinels.iter().all(knows_all))?;
        Ok(watching)
    }

    /// The two servers; the first one began as the master.
    #[must_use]
    pub const fn servers(&self) -> &[Redis; 2] {
        &self.servers
    }

    /// The two servers, to be killed and started again.
    pub const fn servers_mut(&mut self) -> &mut [Redis; 2] {
        &mut self.servers
    }

    /// The processes and folders of the sentinels.
    pub fn sentinels(&self) -> impl Iterator<Item = (u32, &std::path::Path)> {
        self.sentinels.iter().filter_map(|sentinel| Some((sentinel.engine.id()?, sentinel.engine.folder())))
    }

    /// Ends one of the sentinels.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn kill_sentinel(&mut self, number: usize) -> io::Result<()> {
        self.sentinels.get_mut(number).map_or(Ok(()), |sentinel| sentinel.engine.kill())
    }

    /// `redis+sentinel://…/main` with all sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let all: Vec<String> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
        format!("redis+sentinel://{}/{NAME}", all.join(","))
    }

    /// The name of the master at the sentinels.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        NAME
    }

    /// The number of the server that a sentinel names as the master.
    ///
    /// # Errors
    /// Where no sentinel answers.
    pub fn master(&self) -> io::Result<usize> {
        let found = self.sentinels.iter().find_map(|sentinel| self.named_by(sentinel));
        found.ok_or_else(|| io::Error::other("no sentinel names a master"))
    }

    fn named_by(&self, sentinel: &Sentinel) -> Option<usize> {
        let told = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).ok()?;
        let port: u16 = told.lines().nth(1)?.parse().ok()?;
        self.servers.iter().position(|server| server.port() == port)
    }

    /// A number that grows with each failover, as the sentinels have it.
    ///
    /// # Errors
    /// Where no sentinel answers.
    pub fn epoch(&self) -> io::Result<u64> {
        let told =
            self.sentinels.iter().filter_map(|sentinel| sentinel.ask(&["SENTINEL", "MASTER", NAME]).ok());
        let epoch = |told: String| {
            let mut lines = told.lines().skip_while(|line| *line != "config-epoch").skip(1);
            lines.next().and_then(|line| line.parse().ok())
        };
        told.filter_map(epoch).max().ok_or_else(|| io::Error::other("no sentinel knows a master"))
    }

    /// Waits until the sentinels name another master than this one.
    ///
    /// # Errors
    /// Where they do not.
    pub fn until_not(&self, number: usize) -> io::Result<()> {
        until("failover", || self.master().is_ok_and(|master| master != number))
    }

    /// Waits until all sentinels that run name another master than this one: they tell each other within 2 s.
    ///
    /// # Errors
    /// Where they do not.
    pub fn until_all_say_not(&self, number: usize) -> io::Result<()> {
        let names_another =
            |sentinel: &Sentinel| self.named_by(sentinel).is_some_and(|named| named != number);
        let running = || self.sentinels.iter().filter(|sentinel| sentinel.engine.id().is_some());
        until("all sentinels", || running().all(names_another))
    }

    /// Makes the other server the master, and waits until it is.
    ///
    /// # Errors
    /// What the sentinel answers.
    pub fn fail_over(&self) -> io::Result<()> {
        let before = self.master()?;
        let first = self.sentinels.first().ok_or_else(|| io::Error::other("there is no sentinel"))?;
        // Right after an election it refuses for a moment.
        until("failover", || first.ask(&["SENTINEL", "FAILOVER", NAME]).is_ok())?;
        self.until_not(before)
    }
}

fn start_sentinel(
    place: &Arc<Place>,
    number: usize,
    master: &str,
    options: &RedisOptions,
) -> io::Result<Sentinel> {
    let folder = place.inner(&format!("sentinel-{number}"))?;
    let port = port::free()?;
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} {master} 2\n\
         sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 3000\n",
        folder.display()
    );
    if let Some(password) = options.password() {
        text.push_str(&format!("sentinel auth-pass {NAME} {password}\n"));
    }
    // The sentinel writes into it what it learns.
    fs::write(folder.join("sentinel.conf"), text)?;
    let words = vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()];
    let engine = Engine::start(place, redis_server(options.version())?, words, folder)?;
    let mut sentinel = Sentinel { engine, port };
    let address = ["-p".to_owned(), port.to_string()];
    sentinel.engine.until("sentinel", || ask(&address, None, &["PING"]).is_ok_and(|a| a == "PONG"))?;
    Ok(sentinel)
}
