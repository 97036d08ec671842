//! How a Redis server is started.

use std::path::Path;

use crate::certificates::Certificates;
use crate::install::RedisVersion;

/// What a server keeps over a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// Each write, before it is answered.
    EachWrite,
}

/// How a Redis server is started. By default it is open, in memory, and listens on TCP and a Unix socket.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    version: RedisVersion,
    persistence: Persistence,
    password: Option<String>,
    users: Vec<String>,
    tls: Option<Certificates>,
    settings: Vec<(String, String)>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl RedisOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            version: RedisVersion::Installed,
            persistence: Persistence::None,
            password: None,
            users: Vec::new(),
            tls: None,
            settings: Vec::new(),
        }
    }

    /// Another server.
    #[must_use]
    pub const fn with_version(mut self, version: RedisVersion) -> Self {
        self.version = version;
        self
    }

    /// What it keeps.
    #[must_use]
    pub const fn with_persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// The password of the default user.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// One more user, as a line of an ACL file: `user ci on >secret ~pipeline:* &* +@all`.
    #[must_use]
    pub fn with_user(mut self, line: impl Into<String>) -> Self {
        self.users.push(line.into());
        self
    }

    /// Listens with TLS alone, and on its Unix socket.
    #[must_use]
    pub fn with_tls(mut self, certificates: &Certificates) -> Self {
        self.tls = Some(certificates.clone());
        self
    }

    /// Most bytes, and what it does then: `noeviction`, `allkeys-lru`, …
    #[must_use]
    pub fn with_max_memory(self, bytes: u64, policy: &str) -> Self {
        self.with_setting("maxmemory", bytes.to_string()).with_setting("maxmemory-policy", policy)
    }

    /// Any setting of `redis.conf`.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub(crate) const fn version(&self) -> RedisVersion {
        self.version
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) const fn tls(&self) -> Option<&Certificates> {
        self.tls.as_ref()
    }

    /// The text of the ACL file, where one is needed.
    pub(crate) fn acl(&self) -> Option<String> {
        if self.users.is_empty() && self.password.is_none() {
            return None;
        }
        let own = self.password.as_ref().map_or_else(|| "nopass".to_owned(), |word| format!(">{word}"));
        let mut lines = vec![format!("user default on {own} ~* &* +@all")];
        lines.extend(self.users.iter().cloned());
        Some(lines.join("\n") + "\n")
    }

    /// The words for the program: it listens at this port, and keeps everything in this folder.
    pub(crate) fn words(&self, port: u16, folder: &Path) -> Vec<String> {
        let port = port.to_string();
        let dir = folder.display().to_string();
        let mut words: Vec<(&str, String)> = vec![
            ("bind", "127.0.0.1".to_owned()),
            ("dir", dir.clone()),
            ("unixsocket", format!("{dir}/{}", super::SOCKET)),
            ("daemonize", "no".to_owned()),
            ("save", String::new()),
            // Without it a replica waits 5 s before it gets its data.
            ("repl-diskless-sync-delay", "0".to_owned()),
        ];
        if self.persistence == Persistence::EachWrite {
            words.extend([("appendonly", "yes".to_owned()), ("appendfsync", "always".to_owned())]);
        }
        if self.acl().is_some() {
            words.push(("aclfile", format!("{dir}/{}", super::USERS)));
        }
        // A master that asks for it is asked for by its replicas.
        words.extend(self.password.iter().map(|password| ("masterauth", password.clone())));
        match &self.tls {
            None => words.push(("port", port)),
            Some(certificates) => {
                let (certificate, key) = certificates.server();
                words.extend([
                    ("port", "0".to_owned()),
                    ("tls-port", port),
                    ("tls-cert-file", certificate.display().to_string()),
                    ("tls-key-file", key.display().to_string()),
                    ("tls-ca-cert-file", certificates.authority().display().to_string()),
                    ("tls-auth-clients", "optional".to_owned()),
                ]);
            }
        }
        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        words.into_iter().chain(own).flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}
