//! Who the master is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use super::address::Servers;
use super::open::open;

/// How long a master counts as the master without being named again: an answer that came later is believed once the
/// sentinels name its server still.
const CONFIRMED: Duration = Duration::from_secs(1);

/// How long one sentinel may take; and all of them, where an answer waits for their word.
const LIMIT: Duration = Duration::from_secs(2);

/// How long no answer waits for sentinels that did not answer.
const QUIET: Duration = Duration::from_secs(10);

/// Sentinels, asked one after the other until one answers.
#[derive(Debug)]
pub(crate) struct Sentinels {
    addresses: Vec<ConnectionInfo>,
    name: String,
    servers: Servers,
    /// The one that answered last.
    asked: tokio::sync::Mutex<Option<(usize, MultiplexedConnection)>>,
    named: Mutex<Named>,
}

#[derive(Debug, Default)]
struct Named {
    master: Option<(ConnectionAddr, Instant)>,
    quiet_until: Option<Instant>,
}

impl Named {
    fn is_confirmed(&self, info: &ConnectionInfo) -> bool {
        match &self.master {
            Some((addr, at)) if addr == info.addr() => {
                at.elapsed() < CONFIRMED || self.quiet_until.is_some_and(|until| Instant::now() < until)
            }
            _ => false,
        }
    }
}

impl Sentinels {
    pub(crate) fn new(addresses: Vec<ConnectionInfo>, name: String, servers: Servers) -> Self {
        Self { addresses, name, servers, asked: tokio::sync::Mutex::default(), named: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Named> {
        // Every change under the lock is one assignment, so what a panic leaves behind is whole.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks who it is.
    pub(crate) async fn master(&self) -> RedisResult<ConnectionInfo> {
        let mut asked = self.asked.lock().await;
        let mut last = None;
        let first = asked.as_ref().map_or(0, |(index, _)| *index);
        for index in (0..self.addresses.len()).map(|step| (first + step) % self.addresses.len()) {
            match self.ask(index, &mut asked).await {
                Ok(Some((host, port))) => {
                    let info = self.servers.at(&host, port);
                    let master = Some((info.addr().clone(), Instant::now()));
                    *self.lock() = Named { master, quiet_until: None };
                    return Ok(info);
                }
                Ok(None) => {
                    let text = format!("it is no master's name at the sentinels: {}", self.name);
                    last.get_or_insert_with(|| {
                        RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "with_deployment", text))
                    });
                }
                Err(error) => {
                    *asked = None;
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| (ErrorKind::EmptySentinelList, "there is no sentinel").into()))
    }

    async fn ask(
        &self,
        index: usize,
        asked: &mut Option<(usize, MultiplexedConnection)>,
    ) -> RedisResult<Option<(String, u16)>> {
        let mut connection = match asked.take() {
            Some((known, connection)) if known == index => connection,
            _ => match self.addresses.get(index) {
                Some(info) => open(info, LIMIT, Some(LIMIT)).await?,
                None => return Ok(None),
            },
        };
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let told = command.query_async(&mut connection).await?;
        *asked = Some((index, connection));
        Ok(told)
    }

    /// Whether an answer of this server is one of the master. Where no sentinel can be reached, it is believed: nobody
    /// made another one the master that we could hear of.
    pub(crate) async fn confirm(&self, info: &ConnectionInfo) -> bool {
        if self.lock().is_confirmed(info) {
            return true;
        }
        match timeout(LIMIT, self.master()).await {
            Ok(Ok(master)) => master.addr() == info.addr(),
            Ok(Err(error)) => self.unheard(&error.to_string()),
            Err(_) => self.unheard("none answered in time"),
        }
    }

    fn unheard(&self, why: &str) -> bool {
        let before = self.lock().quiet_until.replace(Instant::now() + QUIET);
        // One line for each time that they are away.
        if before.is_none() {
            tracing::warn!(why, "no sentinel says who the master of Redis is");
        }
        true
    }

    /// Whether another server was named since.
    pub(crate) fn is_other(&self, info: &ConnectionInfo) -> bool {
        matches!(&self.lock().master, Some((addr, _)) if addr != info.addr())
    }
}
