//! OpenSearch and Elasticsearch: one node.

mod install;

use std::fs;
use std::io::{self, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Data, Engine};
use crate::http_faults::{HttpAnswer, HttpRequest};
use crate::place::Place;
use crate::port;
pub use install::SearchEngine;

/// How long the node may take to answer whoever waits for it.
const ANSWER: Duration = Duration::from_secs(60);

/// How often another pair of ports is tried where one was taken meanwhile.
const PORTS: usize = 5;

/// One node of OpenSearch or Elasticsearch, without security. It ends when it is dropped.
#[derive(Debug)]
pub struct OpenSearch {
    engine: Engine,
    port: u16,
}

impl OpenSearch {
    /// Starts one, in a place of its own.
    ///
    /// # Errors
    /// Where the engine cannot be had, or does not start; with what it said.
    pub fn start(engine: SearchEngine) -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), "search", engine, &[])
    }

    /// Starts one in this place, in a folder of this name, with further settings, as `opensearch.yml` takes them.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(
        place: &Arc<Place>,
        name: &str,
        engine: SearchEngine,
        settings: &[(&str, &str)],
    ) -> io::Result<Self> {
        let (jdk, home) = engine.install()?;
        let mut last = None;
        for attempt in 0..PORTS {
            let folder = place.inner(&format!("{name}-{attempt}"))?;
            let (port, transport) = (port::free()?, port::free()?);
            let words = words(&home, &folder, (port, transport), settings);
            let mut node = Self { engine: Engine::start(place, jdk.java(), words, folder)?, port };
            match node.ready() {
                Ok(()) => return Ok(node),
                Err(error) if error.to_string().contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port is free")))
    }

    /// Waits until it answers, and has what it had.
    fn ready(&mut self) -> io::Result<()> {
        let (port, health) = (self.port, "/_cluster/health?wait_for_status=yellow&timeout=2s");
        self.engine.until("OpenSearch", || {
            ask_http(port, "GET", health, "").is_ok_and(|answer| answer.status() == 200)
        })
    }

    /// What it answers to a request.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn ask(&self, method: &str, target: &str, body: &str) -> io::Result<HttpAnswer> {
        ask_http(self.port, method, target, body)
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `http://…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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

    /// Starts it again at the same port, where it runs after killing it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn restart(&mut self, data: Data) -> io::Result<()> {
        self.engine.kill()?;
        if data == Data::Lost {
            fs::remove_dir_all(self.engine.folder().join("data"))?;
        }
        self.engine.spawn()?;
        self.ready()
    }
}

fn words(home: &Path, folder: &Path, ports: (u16, u16), settings: &[(&str, &str)]) -> Vec<String> {
    let path = |name: &str| -> PathBuf { home.join(name) };
    let own = ["-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
    let mut words: Vec<String> = own.map(str::to_owned).into();
    words.push(format!("-Des.modules={}", path("modules").display()));
    words.push("-cp".to_owned());
    words.push(format!("{}:{}", path("cls").display(), path("lib/*").display()));
    words.push("EsNode".to_owned());
    words.push(format!("path.home={}", folder.display()));
    words.push(format!("http.port={}", ports.0));
    words.push(format!("transport.port={}", ports.1));
    // A disk that is nearly full is none of the tests' business.
    words.push("cluster.routing.allocation.disk.threshold_enabled=false".to_owned());
    // What is not collected yet would count as load.
    words.push("indices.breaker.total.use_real_memory=false".to_owned());
    words.extend(settings.iter().map(|(name, value)| format!("{name}={value}")));
    words
}

/// What a server at this port of 127.0.0.1 answers to a request over plain HTTP.
///
/// # Errors
/// Where it does not answer.
pub fn ask_http(port: u16, method: &str, target: &str, body: &str) -> io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    HttpRequest::new(method, target)
        .with_header("content-type", "application/json")
        .with_body(body)
        .write(&mut stream)?;
    HttpAnswer::read(&mut BufReader::new(stream), method)
}
