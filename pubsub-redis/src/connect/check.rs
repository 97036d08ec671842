//! What a server must be, and what it should be.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use pubsub_core::{Error, ErrorKind, Result};
use redis::{RedisResult, Value};

use super::connection::Connection;
use super::most::Most;
use super::node::Node;
use crate::config::Deployment;
use crate::error::failed;

/// The oldest version whose commands are used.
const OLDEST: (u32, u32) = (7, 0);

/// Most warnings that are remembered.
const MAX_SAID: usize = 1000;

/// Refuses a server that is too old; warns of one that may lose what is stored in it. Answers how much each takes.
pub(crate) async fn check(connection: &Connection, deployment: &Deployment) -> Result<Most> {
    match connection {
        Connection::One(node) => check_node(node, deployment).await,
        Connection::Cluster(cluster) => {
            let mut most: Option<Most> = None;
            for node in cluster.masters().await.map_err(failed("connect"))? {
                let takes = check_node(&node, deployment).await?;
                most = Some(most.map_or(takes, |most| most.or(takes)));
            }
            Ok(most.unwrap_or_default())
        }
    }
}

async fn check_node(node: &Node, deployment: &Deployment) -> Result<Most> {
    let info = match ask(node, &["INFO"]).await.map_err(failed("connect")) {
        Ok(info) => text(info),
        // A user who must not ask may be right all the same.
        Err(error) if error.kind() == ErrorKind::Refused && !is_unauthenticated(&error) => {
            tracing::info!(%error, "the version of the Redis server is not known, for INFO is not permitted");
            return Ok(Most::of(&settings(node).await));
        }
        Err(error) => return Err(error),
    };
    let seen = Seen::read(&info);
    if let Some(text) = seen.contradicts(deployment) {
        return Err(Error::invalid(text).with("setting", "deployment"));
    }
    if seen.is_too_old() {
        let text = format!("Redis {} is too old: it takes 7.0 or later, or Valkey", seen.version);
        return Err(Error::unsupported(text));
    }
    let settings = settings(node).await;
    let snapshots = settings.iter().find(|(name, _)| name == "save").map(|(_, value)| value.as_str());
    for warning in seen.warnings(snapshots) {
        if is_news(&seen.server, &warning) {
            tracing::warn!(server = %seen.server, "{warning}");
        }
    }
    Ok(Most::of(&settings))
}

/// Those settings of a server that count here. Managed servers often refuse to tell; then there is nothing to say.
async fn settings(node: &Node) -> Vec<(String, String)> {
    let [bulk, buffer] = Most::SETTINGS;
    ask(node, &["CONFIG", "GET", "save", bulk, buffer]).await.map(pairs).unwrap_or_default()
}

/// Whether this process was not warned of this yet: broker and store are often at the same server, and each looks.
fn is_news(server: &str, warning: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() >= MAX_SAID {
        said.clear();
    }
    // One that does not say which it is cannot be known again.
    server.is_empty() || said.insert(format!("{server} {warning}"))
}

async fn ask(node: &Node, words: &[&str]) -> RedisResult<Value> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    node.command(&command).await?.extract_error()
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).unwrap_or_default()
}

fn pairs(value: Value) -> Vec<(String, String)> {
    redis::from_redis_value(value).unwrap_or_default()
}

/// Whether it was refused for want of a password, and not of a permission.
fn is_unauthenticated(error: &Error) -> bool {
    use std::error::Error as _;
    let driver = error.source().and_then(|source| source.downcast_ref::<redis::RedisError>());
    driver.is_some_and(|driver| {
        driver.code() == Some("NOAUTH") || driver.kind() == redis::ErrorKind::AuthenticationFailed
    })
}

/// What INFO tells.
#[derive(Debug, Default)]
struct Seen {
    version: String,
    server: String,
    mode: String,
    max_memory: String,
    policy: String,
    appends: String,
}

impl Seen {
    fn read(info: &str) -> Self {
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().to_owned()
        };
        Self {
            version: field("redis_version"),
            server: field("run_id"),
            // Valkey's name for it is the second.
            mode: field("redis_mode") + &field("server_mode"),
            max_memory: field("maxmemory"),
            policy: field("maxmemory_policy"),
            appends: field("aof_enabled"),
        }
    }

    /// One that does not tell its version is believed.
    fn is_too_old(&self) -> bool {
        let mut numbers = self.version.split('.').map_while(|number| number.parse::<u32>().ok());
        matches!((numbers.next(), numbers.next()), (Some(major), minor) if (major, minor.unwrap_or(0)) < OLDEST)
    }

    /// What is wrong where it is another kind of deployment than was configured.
    fn contradicts(&self, deployment: &Deployment) -> Option<&'static str> {
        match (self.mode.as_str(), deployment) {
            ("cluster", Deployment::Standalone) => Some(
                "the Redis server is a node of a cluster, which takes Deployment::Cluster or redis+cluster://",
            ),
            ("sentinel", _) => Some(
                "this is a sentinel and no server, which takes Deployment::Sentinel or redis+sentinel://",
            ),
            _ => None,
        }
    }

    /// `snapshots` is the setting `save`, where it is known.
    fn warnings(&self, snapshots: Option<&str>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.policy.is_empty() && self.policy != "noeviction" {
            let when = match self.max_memory.as_str() {
                "0" | "" => "once a maxmemory is set",
                _ => "when its memory is full",
            };
            warnings.push(format!(
                "the Redis server drops keys {when}, and events and output with them: maxmemory-policy is {}, and \
                 should be noeviction",
                self.policy
            ));
        }
        if self.appends == "0" && snapshots == Some("") {
            warnings.push(
                "the Redis server keeps nothing over a restart: neither appendonly nor save is set"
                    .to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_older_than_seven_is_too_old() {
        for (version, expected) in [
            ("6.2.14", true),
            ("2.8", true),
            ("7.0.0", false),
            ("7.0.15", false),
            ("8.2.3", false),
            ("7", false),
            ("6", true),
            ("255.255.255", false),
            ("", false),
            ("unknown", false),
        ] {
            let seen = Seen::read(&format!("# Server\r\nredis_version:{version}\r\n"));
            assert_eq!(seen.is_too_old(), expected, "{version}");
        }
    }

    #[test]
    fn another_kind_of_deployment_is_told() {
        let sentinel = Deployment::Sentinel { master: "main".to_owned() };
        for (mode, deployment, expected) in [
            ("redis_mode:standalone", &Deployment::Standalone, false),
            ("redis_mode:standalone", &sentinel, false),
            ("redis_mode:cluster", &Deployment::Cluster, false),
            ("redis_mode:cluster", &Deployment::Standalone, true),
            ("server_mode:cluster", &Deployment::Standalone, true),
            ("redis_mode:sentinel", &Deployment::Standalone, true),
        ] {
            let seen = Seen::read(mode);
            assert_eq!(seen.contradicts(deployment).is_some(), expected, "{mode}");
        }
    }

    #[test]
    fn what_may_be_lost_is_warned_of() {
        for (info, save, expected) in [
            ("maxmemory_policy:noeviction\r\naof_enabled:1\r\n", Some(""), 0),
            ("maxmemory_policy:noeviction\r\naof_enabled:0\r\n", Some("3600 1"), 0),
            ("maxmemory_policy:noeviction\r\naof_enabled:0\r\n", None, 0),
            ("maxmemory_policy:noeviction\r\naof_enabled:0\r\n", Some(""), 1),
            ("maxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n", None, 1),
            ("maxmemory:0\r\nmaxmemory_policy:volatile-ttl\r\naof_enabled:0\r\n", Some(""), 2),
            ("", None, 0),
        ] {
            assert_eq!(Seen::read(info).warnings(save).len(), expected, "{info}");
        }
    }
}
