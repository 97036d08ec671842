//! The servers that tests need.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use services::{
    Certificates, Mongo, MongoKind, MongoOptions, Place, Redis, RedisCluster, RedisOptions, RedisSentinel,
    RedisVersion, S3, SearchEngine, encoded, end, is_running, redis_server,
};

use crate::opensearch::Search;
use crate::run::{Done, target_folder};

/// The password of the server that takes one: with what means something in a URL.
const PASSWORD: &str = "p#/@%41+=:x";

/// The variable that names the bucket of the tests.
const S3_VARIABLE: &str = "PIPELINE_TEST_S3";

/// All of them, for as long as the value lives, unless its place is kept.
pub(crate) struct Started {
    told: Told,
    // They end when they are dropped.
    _standalone: Redis,
    _tls: Option<Redis>,
    _cluster: RedisCluster,
    _sentinel: RedisSentinel,
}

/// What others have to know: the variables that tests read, and what runs.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    folder: PathBuf,
    variables: Vec<(String, String)>,
    processes: Vec<Process>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Process {
    id: u32,
    folder: PathBuf,
}

impl Started {
    /// Starts them, as servers of this version.
    pub(crate) fn start(place: &Arc<Place>, version: RedisVersion) -> io::Result<Self> {
        let open = RedisOptions::new().with_version(version);
        let certificates = Certificates::make(place.folder())?;
        let standalone = Redis::start_in(place, "standalone", &open)?;
        let closed = open.clone().with_password(PASSWORD).with_tls(&certificates);
        let tls = version.speaks_tls().then(|| Redis::start_in(place, "tls", &closed)).transpose()?;
        let cluster = RedisCluster::start_in(place, 0, &open)?;
        let sentinel = RedisSentinel::start_in(place, &open)?;
        let mut variables = vec![
            ("PIPELINE_TEST_REDIS", standalone.url()),
            ("PIPELINE_TEST_REDIS_CLUSTER", cluster.url()),
            ("PIPELINE_TEST_REDIS_SENTINEL", sentinel.url()),
        ];
        if let Some(tls) = &tls {
            let (word, at, ca) = (encoded(PASSWORD), tls.port(), certificates.authority());
            let url = format!("rediss://:{word}@127.0.0.1:{at}?ca={}", ca.display());
            variables.push(("PIPELINE_TEST_REDIS_TLS", url));
        }
        let servers = [&standalone].into_iter().chain(&tls).chain(cluster.nodes()).chain(sentinel.servers());
        let servers = servers.filter_map(|server| Some((server.id()?, server.folder())));
        let processes = servers.chain(sentinel.sentinels());
        let told = Told {
            folder: place.folder().to_owned(),
            variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            processes: processes.map(|(id, folder)| Process { id, folder: folder.to_owned() }).collect(),
        };
        Ok(Self { told, _standalone: standalone, _tls: tls, _cluster: cluster, _sentinel: sentinel })
    }

    /// What tests read.
    pub(crate) fn variables(&self) -> Vec<(&str, &str)> {
        self.told.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

impl Told {
    fn path() -> PathBuf {
        target_folder().join("services.json")
    }

    /// What was started last, where it was not taken down.
    fn read() -> Result<Option<Self>, String> {
        let path = Self::path();
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}: {e}", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn add<'a>(&mut self, variables: &[(&str, &str)], processes: impl IntoIterator<Item = (u32, &'a Path)>) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.variables.extend(variables.iter().map(own));
        let process = |(id, folder): (u32, &Path)| Process { id, folder: folder.to_owned() };
        self.processes.extend(processes.into_iter().map(process));
    }

    fn is_up(&self) -> bool {
        self.processes.iter().all(|process| is_running(process.id, &process.folder))
    }

    fn print(&self) {
        for (name, value) in &self.variables {
            println!("export {name}='{value}'");
        }
    }
}

/// Starts all, and prints the variables as a shell takes them: `eval "$(cargo xtask services up)"`.
pub(crate) fn up() -> Done {
    match Told::read()? {
        Some(told) if told.is_up() => {
            told.print();
            return Ok(());
        }
        Some(told) => remove(&told)?,
        None => {}
    }
    let place = Arc::new(Place::new().map_err(|e| e.to_string())?);
    let mut started = Started::start(&place, RedisVersion::Installed).map_err(|e| e.to_string())?;
    let engine = SearchEngine::of_environment().map_err(|e| e.to_string())?;
    let search = Search::start(&place, engine).map_err(|e| e.to_string())?;
    started.told.variables.push(search.variable());
    started.told.processes.extend(search.process().map(|(id, folder)| Process { id, folder }));
    let mongo = MongoServers::start(&place)?;
    started.told.add(&mongo.variables(), mongo.processes());
    let s3 = S3::start_in(&place, "s3").map_err(|e| e.to_string())?;
    started.told.add(&[(S3_VARIABLE, &s3.url())], s3.id().map(|id| (id, s3.folder())));
    let write = |path: &Path| {
        fs::create_dir_all(target_folder())?;
        fs::write(path, serde_json::to_vec_pretty(&started.told)?)
    };
    write(&Told::path()).map_err(|e| format!("{}: {e}", Told::path().display()))?;
    place.keep();
    started.told.print();
    Ok(())
}

/// Ends what was started, and removes its data.
pub(crate) fn down() -> Done {
    Told::read()?.map_or(Ok(()), |told| remove(&told))
}

/// Says what runs.
pub(crate) fn status() -> Done {
    let Some(told) = Told::read()? else {
        println!("nothing is up");
        return Ok(());
    };
    for process in &told.processes {
        let state = if is_running(process.id, &process.folder) { "runs" } else { "has ended" };
        println!("{:>8} {state:9} {}", process.id, process.folder.display());
    }
    told.print();
    if told.is_up() { Ok(()) } else { Err("some have ended; `services up` starts all anew".to_owned()) }
}

fn remove(told: &Told) -> Done {
    for process in &told.processes {
        end(process.id, &process.folder).map_err(|e| e.to_string())?;
    }
    match fs::remove_dir_all(&told.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", told.folder.display()));
        }
        _ => {}
    }
    fs::remove_file(Told::path()).map_err(|e| e.to_string())
}

/// Runs this with servers of this version; those that tests start by themselves are of it too.
pub(crate) fn with_redis(version: RedisVersion, run: impl FnOnce(&[(&str, &str)]) -> Done) -> Done {
    let program = redis_server(version).map_err(|e| e.to_string())?.display().to_string();
    println!("tests with {program}");
    let place = Arc::new(Place::new().map_err(|e| e.to_string())?);
    let started = Started::start(&place, version).map_err(|e| e.to_string())?;
    let mut variables = started.variables();
    variables.push(("PIPELINE_REDIS_SERVER", &program));
    run(&variables)
}

/// Servers that speak MongoDB's protocol: a member of a replica set, and one that is none.
struct MongoServers {
    set: Mongo,
    alone: Mongo,
    urls: [String; 2],
}

impl MongoServers {
    fn start(place: &Arc<Place>) -> Result<Self, String> {
        let start = |name, kind| {
            Mongo::start_in(place, name, &MongoOptions::new().with_kind(kind)).map_err(|e| e.to_string())
        };
        let (set, alone) = (start("set", MongoKind::ReplicaSet)?, start("alone", MongoKind::Standalone)?);
        let urls = [set.url(), alone.url()];
        Ok(Self { set, alone, urls })
    }

    /// What tests read.
    fn variables(&self) -> [(&str, &str); 2] {
        let [of_set, of_alone] = &self.urls;
        [("PIPELINE_TEST_MONGO", of_set), ("PIPELINE_TEST_MONGO_STANDALONE", of_alone)]
    }

    fn processes(&self) -> impl Iterator<Item = (u32, &Path)> {
        [&self.set, &self.alone].into_iter().filter_map(|server| Some((server.id()?, server.folder())))
    }
}

/// Runs this with them.
pub(crate) fn with_mongo(run: impl FnOnce(&[(&str, &str)]) -> Done) -> Done {
    let place = Arc::new(Place::new().map_err(|e| e.to_string())?);
    run(&MongoServers::start(&place)?.variables())
}

/// Runs this with a server that speaks S3.
pub(crate) fn with_s3(run: impl FnOnce(&[(&str, &str)]) -> Done) -> Done {
    let place = Arc::new(Place::new().map_err(|e| e.to_string())?);
    let server = S3::start_in(&place, "s3").map_err(|e| e.to_string())?;
    let url = server.url();
    run(&[(S3_VARIABLE, &url)])
}
