//! Log shippers that people would pick instead: rsyslog and syslog-ng of Debian, unpacked into the cache folder and not
//! installed, for the two exclude each other. For benchmarks alone.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::engine::Engine;
use crate::install::cache;
use crate::place::Place;
use crate::port;

/// Where it brings lines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ShipTo {
    /// An index at a port of 127.0.0.1.
    Search {
        /// The server's.
        port: u16,
        /// Its name.
        index: String,
    },
    /// A collection in the database `bench`.
    Mongo {
        /// The server's: what stands in `mongodb://`, up to the first slash.
        address: String,
        /// Its name.
        collection: String,
    },
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shipper {
    /// `omelasticsearch` and `ommongodb`.
    Rsyslog,
    /// `http()` as `elasticsearch-http()` has it, and `mongodb()`.
    SyslogNg,
}

/// One that runs, and takes lines at a port of 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct Shipping {
    _engine: Engine,
    port: u16,
}

impl Shipper {
    /// Starts it, in a place of its own.
    ///
    /// # Errors
    /// One line that says what cannot be had, or what it said.
    pub fn start(self, to: &ShipTo) -> io::Result<Shipping> {
        let root = self.unpacked()?;
        let place = Arc::new(Place::new()?);
        let folder = place.inner("shipper")?;
        let port = port::free()?;
        let text = match self {
            Self::Rsyslog => rsyslog(to, port, &folder),
            Self::SyslogNg => syslog_ng(to, port),
        };
        fs::write(folder.join("conf"), text)?;
        let machine = libraries(&root)?;
        let libraries =
            format!("{0}:{1}/lib/{2}:{1}/usr/lib/syslog-ng", machine.display(), root.display(), MACHINE);
        let program = match self {
            Self::Rsyslog => format!(
                "{}/usr/sbin/rsyslogd -n -f conf -i pid -M {}/rsyslog",
                root.display(),
                machine.display()
            ),
            Self::SyslogNg => format!(
                "{0}/usr/sbin/syslog-ng -F --no-caps -f conf -R {1}/persist -p {1}/pid -c {1}/control --module-path={0}/usr/lib/syslog-ng/{2}",
                root.display(),
                folder.display(),
                SYSLOG_NG
            ),
        };
        let words = ["-c".to_owned(), format!("LD_LIBRARY_PATH={libraries} exec {program}")];
        let mut engine = Engine::start(&place, PathBuf::from("/bin/sh"), words.into(), folder)?;
        engine.until(self.name(), || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Shipping { _engine: engine, port })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rsyslog => "rsyslog",
            Self::SyslogNg => "syslog-ng",
        }
    }

    const fn packages(self) -> [&'static str; 3] {
        match self {
            Self::Rsyslog => ["rsyslog", "rsyslog-elasticsearch", "rsyslog-mongodb"],
            Self::SyslogNg => ["syslog-ng-core", "syslog-ng-mod-http", "syslog-ng-mod-mongodb"],
        }
    }

    /// The folder that its packages, and those that they need and that are not installed, were unpacked into.
    fn unpacked(self) -> io::Result<PathBuf> {
        let cannot = |why: &str| {
            let text = format!("{} of Debian cannot be had: {why}", self.name());
            io::Error::new(io::ErrorKind::NotFound, text)
        };
        let folder = cache()?.join(self.name());
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(cache()?)?;
        let making = tempfile::Builder::new().prefix("making-").tempdir_in(cache()?)?;
        let (packed, root) = (making.path().join("packed"), making.path().join("root"));
        fs::create_dir_all(packed.join("partial"))?;
        let archives = format!("Dir::Cache::archives={}", packed.display());
        let options = ["-o", &archives, "-o", "APT::Sandbox::User=root", "--download-only"];
        let install =
            [&["install", "--yes", "--no-install-recommends"], &options[..], &self.packages()].concat();
        for words in [&["update", "--quiet"][..], &install] {
            // What fails is seen below.
            let _ = Command::new("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive").output();
        }
        let mut unpacked = 0;
        for entry in fs::read_dir(&packed)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "deb") {
                let done = Command::new("dpkg").arg("-x").arg(&path).arg(&root).output();
                unpacked += usize::from(done.is_ok_and(|done| done.status.success()));
            }
        }
        if unpacked < self.packages().len() {
            return Err(cannot("apt-get did not bring its packages"));
        }
        match fs::rename(&root, &folder) {
            // Another process was faster.
            Err(_) if folder.is_dir() => {}
            done => done?,
        }
        Ok(folder)
    }
}

impl Shipping {
    /// Gives it lines, each with its line feed; it may not have sent them yet.
    ///
    /// # Errors
    /// Where it does not take them.
    pub fn give(&self, lines: &[u8]) -> io::Result<()> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?.write_all(lines)
    }
}

/// How Debian names this machine's folder of libraries.
const MACHINE: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };

/// The version of Debian 12 has its modules in a folder of this name.
const SYSLOG_NG: &str = "3.38";

fn libraries(root: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(root.join("usr/lib").join(MACHINE))
}

/// Lines in one request, as many as ours has at most.
const LINES: usize = 4_096;

/// The fields that each document has beside its time and the line.
const FIELDS: [(&str, &str); 3] = [("action_id", "action-123"), ("stage", "build"), ("stream", "stdout")];

fn rsyslog(to: &ShipTo, port: u16, folder: &Path) -> String {
    let (time, line) = names(to);
    let fields = FIELDS
        .map(|(name, value)| format!("  constant(outname=\"{name}\" value=\"{value}\" format=\"jsonf\")\n"))
        .concat();
    let (module, action) = match to {
        ShipTo::Search { port, index } => (
            "omelasticsearch",
            format!(
                "server=\"127.0.0.1\" serverport=\"{port}\" searchIndex=\"{index}\" searchType=\"\" bulkmode=\"on\" maxbytes=\"4m\""
            ),
        ),
        ShipTo::Mongo { address, collection } => (
            "ommongodb",
            format!(
                "uristr=\"mongodb://{address}/?directConnection=true\" db=\"bench\" collection=\"{collection}\""
            ),
        ),
    };
    format!(
        "global(workDirectory=\"{folder}\" maxMessageSize=\"64k\")\n\
         module(load=\"imptcp\")\nmodule(load=\"{module}\")\n\
         template(name=\"document\" type=\"list\" option.jsonf=\"on\") {{\n\
         \x20 property(outname=\"{time}\" name=\"timegenerated\" dateFormat=\"rfc3339\" format=\"jsonf\")\n\
         {fields}\
         \x20 property(outname=\"{line}\" name=\"rawmsg\" format=\"jsonf\")\n}}\n\
         ruleset(name=\"lines\") {{\n\
         \x20 action(type=\"{module}\" template=\"document\" {action} queue.type=\"linkedlist\" queue.size=\"500000\" \
         queue.dequeuebatchsize=\"{LINES}\" queue.workerthreads=\"1\" action.resumeretrycount=\"-1\")\n}}\n\
         input(type=\"imptcp\" port=\"{port}\" address=\"127.0.0.1\" ruleset=\"lines\")\n",
        folder = folder.display()
    )
}

fn syslog_ng(to: &ShipTo, port: u16) -> String {
    let (time, line) = names(to);
    let destination = match to {
        ShipTo::Search { port, index } => {
            let fields = FIELDS.map(|(name, value)| format!("{name}=\"{value}\" ")).concat();
            format!(
                "http(url(\"http://127.0.0.1:{port}/{index}/_bulk\") method(\"POST\") \
                 headers(\"Content-Type: application/x-ndjson\") workers(1) batch-lines({LINES}) batch-bytes(4194304) \
                 batch-timeout(100) body-suffix(\"\\n\") delimiter(\"\\n\") body('{{\"index\":{{}}}}\n\
                 $(format-json --scope none {time}=\"$ISODATE\" {fields}{line}=\"$MSG\")'))"
            )
        }
        ShipTo::Mongo { address, collection } => {
            let fields = FIELDS.map(|(name, value)| format!("pair(\"{name}\" \"{value}\") ")).concat();
            format!(
                "mongodb(uri(\"mongodb://{address}/bench?directConnection=true\") collection(\"{collection}\") workers(1) \
                 value-pairs(pair(\"{time}\" datetime(\"$UNIXTIME\")) {fields}pair(\"{line}\" \"$MSG\")))"
            )
        }
    };
    format!(
        "@version: {SYSLOG_NG}\noptions {{ stats-level(0); keep-timestamp(no); }};\n\
         source lines {{ network(ip(\"127.0.0.1\") port({port}) transport(\"tcp\") flags(no-parse) \
         log-iw-size(500000) log-fetch-limit(10000)); }};\n\
         destination ships {{ {destination}; }};\n\
         log {{ source(lines); destination(ships); flags(flow-control); }};\n"
    )
}

/// What the fields of the time and of the line are called.
const fn names(to: &ShipTo) -> (&'static str, &'static str) {
    match to {
        ShipTo::Search { .. } => ("@timestamp", "message"),
        ShipTo::Mongo { .. } => ("timestamp", "content"),
    }
}
