//! A store that output goes to, with what stands in front of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{DEFAULT_SINK_DELAY, Result, SinkConfig, Store, StoreCapabilities};

use crate::connect::{ConnectedStore, connect_store};
use crate::place::Place;

#[cfg(feature = "file")]
use {
    crate::place::Scheme,
    pubsub_core::{Error, RefusedLines, name},
    pubsub_file::{FileRefusedLines, SpoolConfig, Spooled},
    std::path::PathBuf,
};

/// How long a sink gathers whose output is not to be seen while it is printed: to the end of any run.
const GATHERS: Duration = Duration::from_secs(365 * 86_400);

/// A store that output goes to: connected, perhaps behind a spool, and whether it must have everything.
#[derive(Clone)]
#[non_exhaustive]
pub struct PipelineStore {
    /// What it is called in accounts, logs, and beside the lines that it refused: its place, without a password.
    pub name: String,
    /// The store, or the spool in front of it.
    pub store: Arc<dyn Store>,
    /// What it can do.
    pub capabilities: StoreCapabilities,
    /// Whether an event is held until it has everything.
    pub required: bool,
    delay: Duration,
    #[cfg(feature = "file")]
    spool: Option<Arc<Spooled<Arc<dyn Store>>>>,
    #[cfg(feature = "file")]
    refused: Option<Arc<dyn RefusedLines>>,
}

impl std::fmt::Debug for PipelineStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineStore")
            .field("name", &self.name)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

impl PipelineStore {
    /// Connects the store at this place, behind a spool in a folder of its own below `spool` where there is one. Lines that
    /// it refuses for good are kept in the folder `refused`.
    ///
    /// # Errors
    /// As [`connect_store`]; [`Unsupported`](pubsub_core::ErrorKind::Unsupported) for a spool where the feature `file` is
    /// not compiled in, and in front of the memory of this process; otherwise as `Spooled::open_store`.
    pub async fn connect(
        place: &Place,
        required: bool,
        spool: Option<&Path>,
        refused: &Path,
    ) -> Result<Self> {
        let connected = connect_store(place).await?;
        Self::with(place.to_string(), connected, required, spool.map(|dir| (dir, place)), refused).await
    }

    /// One that is there already, of your own for example, without a spool; what it refuses for good is dropped, and told as
    /// holes.
    pub fn of(
        name: impl Into<String>,
        store: Arc<dyn Store>,
        capabilities: StoreCapabilities,
        required: bool,
    ) -> Self {
        Self {
            name: name.into(),
            store,
            capabilities,
            required,
            delay: DEFAULT_SINK_DELAY,
            #[cfg(feature = "file")]
            spool: None,
            #[cfg(feature = "file")]
            refused: None,
        }
    }

    #[cfg(feature = "file")]
    async fn with(
        name: String,
        connected: ConnectedStore,
        required: bool,
        spool: Option<(&Path, &Place)>,
        refused: &Path,
    ) -> Result<Self> {
        let refused: Arc<dyn RefusedLines> = Arc::new(FileRefusedLines::new(refused));
        let ConnectedStore { store, capabilities, delay } = connected;
        let Some((dir, place)) = spool else {
            return Ok(Self {
                name,
                store,
                capabilities,
                required,
                delay,
                spool: None,
                refused: Some(refused),
            });
        };
        let config = SpoolConfig::new(dir.join(spool_name(place)?));
        // The fan-out gathers before it, and it takes lines at once, whatever its store wants.
        let config = config.with_delay(delay.saturating_sub(DEFAULT_SINK_DELAY));
        let config = config.with_refused_lines(&name, Arc::clone(&refused));
        let spool = Arc::new(Spooled::open_store(store, config).await?);
        let store = Arc::clone(&spool) as Arc<dyn Store>;
        Ok(Self {
            name,
            store,
            capabilities,
            required,
            delay: DEFAULT_SINK_DELAY,
            spool: Some(spool),
            refused: Some(refused),
        })
    }

    #[cfg(not(feature = "file"))]
    async fn with(
        name: String,
        connected: ConnectedStore,
        required: bool,
        spool: Option<(&Path, &Place)>,
        _refused: &Path,
    ) -> Result<Self> {
        match spool {
            Some(_) => Err(crate::connect::missing("file")),
            None => {
                let ConnectedStore { store, capabilities, delay } = connected;
                Ok(Self { name, store, capabilities, required, delay })
            }
        }
    }

    /// With output that is gathered as far as it may: at most a batch is on its way while its run goes on.
    #[must_use]
    pub const fn gathering(mut self) -> Self {
        self.delay = GATHERS;
        self
    }

    /// It as a sink. One that is not required holds up nothing: what it cannot keep up with is told as a hole.
    #[must_use]
    pub fn sink(&self) -> SinkConfig {
        let store = Arc::clone(&self.store);
        let sink = if self.required {
            SinkConfig::required(&self.name, store)
        } else {
            SinkConfig::best_effort(&self.name, store)
        };
        let sink = sink.with_delay(self.delay);
        #[cfg(feature = "file")]
        if let Some(refused) = &self.refused {
            return sink.with_refused_lines(Arc::clone(refused));
        }
        sink
    }

    /// Its spool, where it has one.
    #[cfg(feature = "file")]
    #[must_use]
    pub const fn spool(&self) -> Option<&Arc<Spooled<Arc<dyn Store>>>> {
        self.spool.as_ref()
    }

    /// Brings what waits in its spool to the store, at most so long, and ends the spool; without one there is nothing to do.
    ///
    /// # Errors
    /// [`TimedOut`](pubsub_core::ErrorKind::TimedOut) where something is left, with how much.
    ///
    /// # Cancel safety
    /// Dropped, the spool goes on.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        #[cfg(feature = "file")]
        if let Some(spool) = &self.spool {
            return spool.close(limit).await.map_err(|e| e.with("store", &self.name));
        }
        let _ = limit;
        Ok(())
    }
}

/// How the spool of a store in a folder begins, and those of servers.
#[cfg(feature = "file")]
const FILE_SPOOL: &str = "file-";
#[cfg(feature = "file")]
const SERVER_SPOOLS: [&str; 4] = ["redis-", "elastic-", "mongo-", "bucket-"];

/// The store whose spool has this name among those of a folder; as the name stands where it is too long to say it, and `None`
/// for what is no spool's.
#[cfg(feature = "file")]
#[must_use]
pub fn spooled_store(spool: &str) -> Option<String> {
    let decoded = |encoded: &str| name::decode(encoded).unwrap_or_else(|| encoded.to_owned());
    if let Some(encoded) = spool.strip_prefix(FILE_SPOOL) {
        return Some(format!("file:{}", decoded(encoded)));
    }
    SERVER_SPOOLS.iter().find_map(|kind| spool.strip_prefix(kind)).map(decoded)
}

/// The name of a store's spool among those of a folder: of its place alone, so that what is left there goes to this store and
/// no other.
///
/// # Errors
/// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) for the memory of this process.
#[cfg(feature = "file")]
pub fn spool_name(place: &Place) -> Result<String> {
    let of_server =
        |kind: &str, address: &crate::Address| format!("{kind}-{}", name::encode(&address.to_string()));
    Ok(match place.scheme() {
        Scheme::File(folder) => {
            let folder: PathBuf = std::path::absolute(folder).map_err(|e| {
                Error::new(pubsub_core::ErrorKind::Unavailable, "find a folder").with_source(e)
            })?;
            format!("{FILE_SPOOL}{}", name::encode(&folder.display().to_string()))
        }
        // Without user and password: another user's is the same store.
        Scheme::Redis(address) => of_server("redis", address),
        Scheme::Elastic(address) => of_server("elastic", address),
        Scheme::Mongo(address) => of_server("mongo", address),
        Scheme::Bucket(address) => of_server("bucket", address),
        Scheme::Memory => return Err(Error::unsupported("no spool can stand in front of memory:")),
    })
}
