//! Redis: one server. More of them together are in the modules below.

pub(crate) mod cluster;
pub(crate) mod options;
pub(crate) mod sentinel;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::certificates::Certificates;
use crate::engine::{Data, Engine, until};
use crate::install::redis_server;
use crate::place::Place;
use crate::port;
use options::RedisOptions;

/// The name of a server's Unix socket, and of its ACL file.
const SOCKET: &str = "socket";
const USERS: &str = "users.acl";

/// How often another port is tried where one was taken meanwhile.
const PORTS: usize = 5;

/// One Redis server. It ends when it is dropped.
#[derive(Debug)]
pub struct Redis {
    engine: Engine,
    port: u16,
    password: Option<String>,
    certificates: Option<Certificates>,
}

impl Redis {
    /// Starts one, in a place of its own.
    ///
    /// # Errors
    /// Where there is no such server, or it does not start; with what it said.
    pub fn start(options: &RedisOptions) -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), "redis", options)
    }

    /// Starts one in this place, in a folder of this name.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Arc<Place>, name: &str, options: &RedisOptions) -> io::Result<Self> {
        let program = redis_server(options.version())?;
        let mut last = None;
        for attempt in 0..PORTS {
            let folder = place.inner(&format!("{name}-{attempt}"))?;
            match Self::start_at(place, &program, folder, options) {
                Ok(redis) => return Ok(redis),
                Err(error) if error.to_string().contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port is free")))
    }

    fn start_at(
        place: &Arc<Place>,
        program: &Path,
        folder: PathBuf,
        options: &RedisOptions,
    ) -> io::Result<Self> {
        let port = port::free()?;
        if let Some(users) = options.acl() {
            fs::write(folder.join(USERS), users)?;
        }
        let words = options.words(port, &folder);
        let engine = Engine::start(place, program.to_owned(), words, folder)?;
        let mut redis = Self {
            engine,
            port,
            password: options.password().map(str::to_owned),
            certificates: options.tls().cloned(),
        };
        redis.ready()?;
        Ok(redis)
    }

    /// Waits until it answers.
    fn ready(&mut self) -> io::Result<()> {
        let (socket, password) = (self.socket(), self.password.clone());
        let own = ["-s".to_owned(), socket.display().to_string()];
        self.engine
            .until("redis-server", || ask(&own, password.as_deref(), &["PING"]).is_ok_and(|a| a == "PONG"))
    }

    /// What it answers to a command, as `redis-cli` prints it; asked by its Unix socket.
    ///
    /// # Errors
    /// What it answers with an error, or that it does not answer.
    pub fn ask(&self, words: &[&str]) -> io::Result<String> {
        ask(&["-s".to_owned(), self.socket().display().to_string()], self.password.as_deref(), words)
    }

    /// The field of `INFO`; empty where there is none.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn info(&self, field: &str) -> io::Result<String> {
        Ok(info(&self.ask(&["INFO"])?, field).to_owned())
    }

    /// Waits until its replicas have all that it has now.
    ///
    /// # Errors
    /// Where it has none, or they do not get there.
    pub fn replicated(&self) -> io::Result<()> {
        let now: u64 = self.info("master_repl_offset")?.parse().map_err(io::Error::other)?;
        let offset =
            |line: &str| line.split(',').find_map(|part| part.strip_prefix("offset=")?.parse::<u64>().ok());
        until("replicas", || {
            let told = self.ask(&["INFO", "replication"]).unwrap_or_default();
            let replicas: Vec<&str> = told.lines().filter(|line| line.contains("offset=")).collect();
            !replicas.is_empty() && replicas.iter().all(|line| offset(line).is_some_and(|has| has >= now))
        })
    }

    /// `redis://…`, or `rediss://…` where it takes TLS alone; without the password.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port, with or without TLS.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.engine.folder().join(SOCKET)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.engine.folder()
    }

    /// Its process, where it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.engine.id()
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        self.engine.kill()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn stop(&mut self) -> io::Result<()> {
        self.engine.stop()
    }

    /// Lets it sleep: its connections stay, and nothing is answered.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.engine.pause()
    }

    /// Wakes it.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn go_on(&self) -> io::Result<()> {
        self.engine.go_on()
    }

    /// Starts it again at the same port, where it runs after killing it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn restart(&mut self, data: Data) -> io::Result<()> {
        self.engine.kill()?;
        if data == Data::Lost {
            for name in ["appendonlydir", "appendonly.aof", "dump.rdb"] {
                let path = self.engine.folder().join(name);
                // What is not there needs no removing.
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
        // A socket that nobody listens at.
        let _ = fs::remove_file(self.socket());
        self.engine.spawn()?;
        self.ready()
    }
}

/// What a server answers to a command, as `redis-cli` prints it.
fn ask(address: &[String], password: Option<&str>, words: &[&str]) -> io::Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(address).args(["-e", "--no-auth-warning"]).args(words);
    if let Some(password) = password {
        command.env("REDISCLI_AUTH", password);
    }
    let output = command.output()?;
    let [said, complained] =
        [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told).trim().to_owned());
    if output.status.success() { Ok(said) } else { Err(io::Error::other(format!("{said}{complained}"))) }
}

/// The field in a text of `INFO`.
fn info<'a>(text: &'a str, field: &str) -> &'a str {
    let of = |line: &'a str| line.trim_end().split_once(':').filter(|(name, _)| *name == field);
    text.lines().find_map(of).map_or("", |(_, value)| value)
}

/// A password as it stands in a URL.
#[must_use]
pub fn encoded(password: &str) -> String {
    let mut text = String::new();
    for byte in password.bytes() {
        if byte.is_ascii_alphanumeric() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
