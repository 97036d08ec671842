//! How OpenSearch and Elasticsearch are had: their jars from Maven Central, and a small program that starts one node.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::{cache, installed};

/// The variable that names another engine than the default: `opensearch-3.9`, for instance.
const ENGINE: &str = "PIPELINE_SEARCH_ENGINE";

/// Which engine. Those of Elasticsearch 8 and later are for tests alone: their licence lets nobody ship them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchEngine {
    /// OpenSearch 2.19, unless another is named.
    OpenSearch2,
    /// OpenSearch 3.9.
    OpenSearch3,
    /// Elasticsearch 7.10.
    Elasticsearch7,
    /// Elasticsearch 8.19.
    Elasticsearch8,
    /// Elasticsearch 9.1.
    Elasticsearch9,
}

/// What an engine is made of.
struct Recipe {
    name: &'static str,
    /// The version as Maven knows it, and the property of the project that has it.
    version: &'static str,
    property: &'static str,
    /// The versions of a JDK that it runs on.
    jdk: (u32, u32),
    project: &'static str,
    node: &'static str,
    /// What stands in for modules that Maven Central lacks, where it has modules.
    extras: Option<&'static str>,
}

macro_rules! recipe {
    ($folder:literal, $file:literal) => {
        include_str!(concat!($folder, "/", $file))
    };
}

impl SearchEngine {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::OpenSearch2,
        Self::OpenSearch3,
        Self::Elasticsearch7,
        Self::Elasticsearch8,
        Self::Elasticsearch9,
    ];

    /// The one that `PIPELINE_SEARCH_ENGINE` names; OpenSearch 2.19 where it names none.
    ///
    /// # Errors
    /// Where it names none that is known; with those that are.
    pub fn of_environment() -> io::Result<Self> {
        let Ok(name) = env::var(ENGINE) else { return Ok(Self::OpenSearch2) };
        Self::ALL.into_iter().find(|engine| engine.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            io::Error::other(format!("{ENGINE} takes {known}"))
        })
    }

    /// Its name: `opensearch-2.19`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.recipe().name
    }

    const fn recipe(self) -> Recipe {
        match self {
            Self::OpenSearch2 => Recipe {
                name: "opensearch-2.19",
                version: "2.19.6",
                property: "os.version",
                jdk: (11, 21),
                project: recipe!("opensearch-2", "pom.xml"),
                node: recipe!("opensearch-2", "EsNode.java"),
                extras: None,
            },
            Self::OpenSearch3 => Recipe {
                name: "opensearch-3.9",
                version: "3.9.0",
                property: "os.version",
                jdk: (21, u32::MAX),
                project: recipe!("opensearch-3", "pom.xml"),
                node: recipe!("opensearch-3", "EsNode.java"),
                extras: None,
            },
            Self::Elasticsearch7 => Recipe {
                name: "elasticsearch-7.10",
                version: "7.10.2",
                property: "es.version",
                jdk: (11, 21),
                project: recipe!("elasticsearch-7", "pom.xml"),
                node: recipe!("elasticsearch-7", "EsNode.java"),
                extras: None,
            },
            Self::Elasticsearch8 => Recipe {
                name: "elasticsearch-8.19",
                version: "8.19.0",
                property: "es.version",
                jdk: (17, u32::MAX),
                project: recipe!("elasticsearch-8", "pom.xml"),
                node: recipe!("elasticsearch-8", "EsNode.java"),
                extras: Some(recipe!("elasticsearch-8", "EsExtras.java")),
            },
            Self::Elasticsearch9 => Recipe {
                name: "elasticsearch-9.1",
                version: "9.1.0",
                jdk: (21, u32::MAX),
                ..Self::Elasticsearch8.recipe()
            },
        }
    }

    /// The JDK and the folder that it runs from; the folder is filled once and kept in the cache.
    pub(super) fn install(self) -> io::Result<(Jdk, PathBuf)> {
        let recipe = self.recipe();
        let cannot = |why: String| {
            io::Error::new(io::ErrorKind::NotFound, format!("{} cannot be had: {why}", recipe.name))
        };
        let jdk = Jdk::between(recipe.jdk).map_err(|e| cannot(e.to_string()))?;
        let cache = cache()?;
        let folder = cache.join(recipe.name).join(recipe.version);
        if folder.is_dir() {
            return Ok((jdk, folder));
        }
        installed("mvn", &["maven"])?;
        fs::create_dir_all(cache.join(recipe.name))?;
        let making = tempfile::Builder::new().prefix("making-").tempdir_in(cache.join(recipe.name))?;
        recipe.fill(&jdk, making.path(), &cache.join("maven")).map_err(|e| cannot(e.to_string()))?;
        match fs::rename(making.path(), &folder) {
            // Another process was faster.
            Err(_) if folder.is_dir() => {}
            done => done?,
        }
        Ok((jdk, folder))
    }
}

impl Recipe {
    /// Fills an empty folder: `lib` with the jars, `modules` where it has some, `cls` with what starts the node.
    fn fill(&self, jdk: &Jdk, folder: &Path, repository: &Path) -> io::Result<()> {
        fs::write(folder.join("pom.xml"), self.project)?;
        fs::write(folder.join("EsNode.java"), self.node)?;
        let version = format!("-D{}={}", self.property, self.version);
        let repository = format!("-Dmaven.repo.local={}", repository.display());
        let copy = |words: &[&str]| {
            let mut maven = Command::new("mvn");
            maven.args(["-q", "-B", &version, &repository, "dependency:copy-dependencies"]);
            maven.args(["-DincludeScope=runtime"]).args(words).env("JAVA_HOME", &jdk.home);
            said(maven.current_dir(folder))
        };
        let Some(extras) = self.extras else {
            copy(&["-DoutputDirectory=lib"])?;
            return jdk.compile(folder, "EsNode.java", "cls");
        };
        // These load what serves HTTP as a module, from a folder of its own.
        copy(&[
            "-DoutputDirectory=lib",
            "-DexcludeGroupIds=io.netty",
            "-DexcludeArtifactIds=transport-netty4",
        ])?;
        copy(&[
            "-DoutputDirectory=modules/transport-netty4",
            "-DincludeGroupIds=org.elasticsearch.plugin,io.netty",
            "-DexcludeArtifactIds=elasticsearch-plugin-api,elasticsearch-plugin-analysis-api",
        ])?;
        fs::write(folder.join("EsExtras.java"), extras)?;
        jdk.compile(folder, "EsExtras.java", "extras")?;
        fs::create_dir_all(folder.join("modules/es-extras"))?;
        let words = ["cf", "modules/es-extras/es-extras.jar", "-C", "extras", "."];
        said(Command::new(jdk.home.join("bin/jar")).args(words).current_dir(folder))?;
        for (module, class) in [
            ("transport-netty4", "org.elasticsearch.transport.netty4.Netty4Plugin"),
            ("es-extras", "EsExtras"),
        ] {
            let version = self.version;
            let text = format!(
                "name={module}\ndescription={module}\nversion={version}\nelasticsearch.version={version}\n\
                 java.version=17\nclassname={class}\n"
            );
            fs::write(folder.join("modules").join(module).join("plugin-descriptor.properties"), text)?;
        }
        jdk.compile(folder, "EsNode.java", "cls")
    }
}

/// A JDK that is installed.
#[derive(Debug)]
pub(super) struct Jdk {
    home: PathBuf,
}

impl Jdk {
    /// One of these versions; Debian's, where it is of them, is installed where there is none.
    fn between((least, most): (u32, u32)) -> io::Result<Self> {
        let find =
            || Self::all().into_iter().find(|jdk| jdk.version().is_some_and(|v| v >= least && v <= most));
        if let Some(jdk) = find() {
            return Ok(jdk);
        }
        installed("javac", &["openjdk-17-jdk-headless"])?;
        find().ok_or_else(|| io::Error::other(format!("it needs a JDK of version {least} or newer")))
    }

    /// That of `JAVA_HOME` first, then what is installed as Debian does it.
    fn all() -> Vec<Self> {
        let named = env::var_os("JAVA_HOME").map(PathBuf::from);
        let found = fs::read_dir("/usr/lib/jvm").into_iter().flatten();
        let mut homes: Vec<PathBuf> = found.filter_map(|entry| Some(entry.ok()?.path())).collect();
        homes.sort_unstable();
        let homes = named.into_iter().chain(homes);
        homes.filter(|home| home.join("bin/javac").is_file()).map(|home| Self { home }).collect()
    }

    fn version(&self) -> Option<u32> {
        let told = Command::new(self.home.join("bin/javac")).arg("-version").output().ok()?;
        let told = String::from_utf8(told.stdout).ok()?;
        told.strip_prefix("javac ")?.split(['.', '\n']).next()?.parse().ok()
    }

    pub(super) fn java(&self) -> PathBuf {
        self.home.join("bin/java")
    }

    fn compile(&self, folder: &Path, source: &str, into: &str) -> io::Result<()> {
        let mut javac = Command::new(self.home.join("bin/javac"));
        said(javac.args(["-nowarn", "-cp", "lib/*", "-d", into, source]).current_dir(folder))
    }
}

/// Runs it to its end; where it fails, the last that it said.
fn said(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(
        said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it failed").to_owned(),
    ))
}
