//! MongoDB's wire protocol: one server.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Data, Engine};
use crate::install::mongo_server;
use crate::place::Place;
use crate::port;

/// The folder with its data, in its own.
const DATA: &str = "data";

/// How often another port is tried where one was taken meanwhile.
const PORTS: usize = 5;

/// `{hello: 1, $db: "admin"}` as a message of its own: `OP_MSG` of the MongoDB wire protocol.
const HELLO: &[u8] = b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x1f\0\0\0\x10hello\0\x01\0\0\0\
\x02$db\0\x06\0\0\0admin\0\0";

/// What a server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MongoKind {
    /// The one member of a replica set, so that changes can be watched.
    #[default]
    ReplicaSet,
    /// A server of its own, which has no change streams.
    Standalone,
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct MongoOptions {
    kind: MongoKind,
}

impl MongoOptions {
    /// One member of a replica set, open to everybody on this machine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of this kind.
    #[must_use]
    pub const fn with_kind(mut self, kind: MongoKind) -> Self {
        self.kind = kind;
        self
    }

    fn words(&self, port: u16) -> Vec<String> {
        let mut words = vec!["--host", "127.0.0.1", "--storage-path", DATA, "--enable-test-commands"];
        // What holds its memory down: as it comes, its cache may take a gigabyte.
        words.extend(["--cache-size", "128M", "--log-level", "WARNING"]);
        if self.kind == MongoKind::Standalone {
            words.push("--standalone");
        }
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        words.extend(["--port".to_owned(), port.to_string()]);
        words
    }
}

/// One server that speaks MongoDB's protocol. It ends when it is dropped.
#[derive(Debug)]
pub struct Mongo {
    engine: Engine,
    port: u16,
}

impl Mongo {
    /// Starts one, in a place of its own.
    ///
    /// # Errors
    /// Where there is no such server, or it does not start; with what it said.
    pub fn start(options: &MongoOptions) -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), "mongo", options)
    }

    /// Starts one in this place, in a folder of this name.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Arc<Place>, name: &str, options: &MongoOptions) -> io::Result<Self> {
        let program = mongo_server()?;
        let mut last = None;
        for attempt in 0..PORTS {
            let folder = place.inner(&format!("{name}-{attempt}"))?;
            match Self::start_at(place, &program, folder, options) {
                Ok(mongo) => return Ok(mongo),
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
        options: &MongoOptions,
    ) -> io::Result<Self> {
        let port = port::free()?;
        let engine = Engine::start(place, program.to_owned(), options.words(port), folder)?;
        let mut mongo = Self { engine, port };
        mongo.ready()?;
        Ok(mongo)
    }

    /// Waits until it answers.
    fn ready(&mut self) -> io::Result<()> {
        let port = self.port;
        self.engine.until("MongoDB's server", || answers(port).is_ok())
    }

    /// `mongodb://…`, for a driver that asks this server alone.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
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

    /// Starts it again at the same port, from now on open to its users alone: it had to be open so that there are some.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn close_to_strangers(&mut self) -> io::Result<()> {
        self.engine.add_word("--auth");
        self.engine.stop()?;
        self.restart(Data::Kept)
    }

    /// Starts it again at the same port, where it runs after killing it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn restart(&mut self, data: Data) -> io::Result<()> {
        self.engine.kill()?;
        if data == Data::Lost {
            // What is not there needs no removing.
            let _ = fs::remove_dir_all(self.engine.folder().join(DATA));
        }
        self.engine.spawn()?;
        self.ready()
    }
}

/// Asks who it is; any answer will do.
fn answers(port: u16) -> io::Result<()> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(HELLO)?;
    stream.read_exact(&mut [0; 16])
}
