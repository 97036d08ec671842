//! Connections: one for commands that answer at once, and one for each read that waits.
//!
//! Neither can be reached from outside, so no clone of a handle gets a read that waits in front of a command.

use std::time::Duration;

use pubsub_core::{Error, Result};
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _};

use crate::config::{Deployment, RedisConfig};
use crate::error::{failed, kind_of};

/// Longest pause between two tries to connect again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Opens connections to one deployment.
#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    config: RedisConfig,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Link {
    /// Reaches nothing yet.
    pub(crate) fn new(config: RedisConfig) -> Result<Self> {
        config.check()?;
        if *config.deployment() != Deployment::Standalone {
            return Err(Error::unsupported("connect to sentinels or a cluster"));
        }
        let url = config.urls().first().map(String::as_str).unwrap_or_default();
        // The driver's own text may repeat the URL, and with it a password.
        let malformed = |error: redis::RedisError| {
            Error::new(
                kind_of(&error),
                "this is no URL of a Redis server; it takes redis://[user[:password]@]host[:port][/db], \
                 rediss://… with TLS, or redis+unix:///path",
            )
        };
        let mut info = url.into_connection_info().map_err(malformed)?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = config.user() {
            settings = settings.set_username(user);
        }
        if let Some(password) = config.password() {
            settings = settings.set_password(password);
        }
        info = info.set_redis_settings(settings);
        let client = Client::open(info).map_err(malformed)?;
        Ok(Self { client, config })
    }

    pub(crate) const fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// A connection for commands that answer at once. It connects again by itself; what was under way fails.
    pub(crate) fn commands(&self) -> Result<ConnectionManager> {
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.config.connect_limit()))
            .set_response_timeout(Some(self.config.answer_limit()))
            .set_max_delay(MAX_PAUSE)
            .set_number_of_retries(3);
        ConnectionManager::new_lazy_with_config(self.client.clone(), settings).map_err(failed("connect"))
    }

    /// A connection for one read that waits, as long as it wants; who uses it says how long.
    pub(crate) async fn waiting(&self) -> Result<MultiplexedConnection> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_limit()))
            .set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&settings).await.map_err(failed("connect"))
    }

    /// A connection that hears what is told on channels.
    pub(crate) async fn listening(&self) -> Result<redis::aio::PubSub> {
        let connecting = tokio::time::timeout(self.config.connect_limit(), self.client.get_async_pubsub());
        let late = |_| Error::new(pubsub_core::ErrorKind::TimedOut, "connect");
        connecting.await.map_err(late)?.map_err(failed("connect"))
    }
}
