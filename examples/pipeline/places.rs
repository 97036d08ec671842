//! Where things are kept: the broker and the stores that the command line names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pubsub_pipeline::{
    ActionId, Broker, ConnectedStore, DEFAULT_SINK_DELAY, Error, ErrorKind, FanOut, FileRefusedLines, Lines,
    Output, OutputReader, Place, RunQuery, RunRecord, RunStatus, Scheme, SpoolConfig, Spooled, Stage, Store,
    bring_tails, connect_broker, connect_store, current_run, name,
};
use tokio::task::JoinSet;

use crate::args::{Chosen, Global};
use crate::codes::{Done, Failure, not_there};
use crate::runs::{LATE, sinks};
use crate::screen::Screen;

/// What the global options name, not yet connected: each subcommand connects what it needs.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    broker: Place,
    stores: Vec<Place>,
    spool: Option<PathBuf>,
    dir: PathBuf,
}

/// A store that is written to.
pub(crate) struct Written {
    /// What it is called in accounts, logs, and beside the lines that it refused.
    pub(crate) name: String,
    pub(crate) connected: ConnectedStore,
    /// Whether it must have everything.
    pub(crate) required: bool,
    /// What stands in front of it.
    pub(crate) spool: Option<Arc<Spooled<Arc<dyn Store>>>>,
}

impl Places {
    pub(crate) fn new(global: &Global) -> Self {
        let folder = Place::folder(&global.dir);
        let stores = if global.store.is_empty() { vec![folder.clone()] } else { global.store.clone() };
        let (spool, dir) = (global.spool.clone(), global.dir.clone());
        Self { broker: global.broker.clone().unwrap_or(folder), stores, spool, dir }
    }

    /// The broker of a subcommand that only asks: it must be there, and a folder that is misspelt is not made.
    pub(crate) async fn existing_broker(&self) -> Done<Arc<dyn Broker>> {
        exists(&self.broker)?;
        self.broker().await
    }

    /// The store of a subcommand that only asks: the first, and it must be there.
    pub(crate) async fn existing_store(&self) -> Done<Arc<dyn Store>> {
        self.stores.iter().take(1).try_for_each(exists)?;
        self.store().await
    }

    /// Every store, by its place, without a spool, or why it cannot be asked.
    pub(crate) async fn each_existing(&self) -> Vec<(&Place, Done<Arc<dyn Store>>)> {
        let mut stores = Vec::with_capacity(self.stores.len());
        for place in &self.stores {
            stores.push((place, existing(place).await));
        }
        stores
    }

    /// Refuses places where nothing can be: no spool, and not the first store.
    pub(crate) fn has_runs(&self) -> Done<()> {
        match &self.spool {
            Some(folder) if folder.exists() => Ok(()),
            _ => self.stores.iter().take(1).try_for_each(exists),
        }
    }

    pub(crate) async fn broker(&self) -> Done<Arc<dyn Broker>> {
        Ok(connect_broker(&self.broker).await?)
    }

    /// Every store; the first is required always.
    pub(crate) async fn stores(&self) -> Done<Vec<Written>> {
        let mut stores = Vec::with_capacity(self.stores.len());
        for (index, place) in self.stores.iter().enumerate() {
            let required = place.required().unwrap_or(index == 0);
            if index == 0 && !required {
                return Err(Error::invalid("the first store is required: name another one first").into());
            }
            let mut connected = connect_store(place).await?;
            let name = place.to_string();
            let spool = match &self.spool {
                Some(folder) => {
                    let config = SpoolConfig::new(folder.join(spool_name(place)?));
                    // The fan-out gathers before it.
                    let config = config.with_delay(connected.delay.saturating_sub(DEFAULT_SINK_DELAY));
                    let config = config.with_refused_lines(&name, Arc::new(self.refused_lines()));
                    let spool = Arc::new(Spooled::open_store(Arc::clone(&connected.store), config).await?);
                    connected.store = Arc::clone(&spool) as Arc<dyn Store>;
                    Some(spool)
                }
                None => None,
            };
            stores.push(Written { name, connected, required, spool });
        }
        Ok(stores)
    }

    /// Where the lines are kept that stores refuse for good: made by the first of them.
    pub(crate) fn refused_lines(&self) -> FileRefusedLines {
        FileRefusedLines::new(self.dir.join("refused"))
    }

    /// The folder for what is held back of outputs over their limit: one of the first store's own, since that says what
    /// became of their runs. `None` where no place has one on the disk.
    pub(crate) fn held_back(&self) -> Option<PathBuf> {
        self.held_back_of(self.spool.as_deref())
    }

    fn held_back_of(&self, spool: Option<&Path>) -> Option<PathBuf> {
        let first = self.stores.first()?;
        match (spool, first.scheme()) {
            (Some(spool), _) => Some(spool.join("held-back").join(spool_name(first).ok()?)),
            (None, Scheme::File(folder)) => Some(folder.join("held-back")),
            _ => None,
        }
    }

    /// Every folder in which something may be held back, with a spool or without.
    pub(crate) fn all_held_back(&self) -> BTreeSet<PathBuf> {
        [self.held_back(), self.held_back_of(None)].into_iter().flatten().collect()
    }

    /// Brings to the stores what processes that died had held back, with a spool or without, in a task.
    pub(crate) fn bring_tails(&self, stores: &[Written]) -> JoinSet<()> {
        let places: Vec<PathBuf> = self.all_held_back().into_iter().filter(|dir| dir.exists()).collect();
        let mut task = JoinSet::new();
        if let (false, Some(first)) = (places.is_empty(), stores.first()) {
            let (reader, fan_out) = (Arc::clone(&first.connected.store), FanOut::new(sinks(self, stores)));
            task.spawn(async move {
                for dir in places {
                    if let Err(error) = bring_tails(dir, &*reader, &fan_out).await {
                        tracing::warn!(error = %error.chain(), "what processes that died had held back is left where it is");
                    }
                }
                // What is not required may still be on its way.
                if let Err(error) = fan_out.close(LATE).await {
                    tracing::debug!(error = %error.chain(), "not every store has what was held back");
                }
            });
        }
        task
    }

    /// The store that is asked: the first.
    pub(crate) async fn store(&self) -> Done<Arc<dyn Store>> {
        let place =
            self.stores.first().ok_or_else(|| Error::new(ErrorKind::Internal, "no store is named"))?;
        Ok(connect_store(place).await?.store)
    }

    /// Every spool in the folder of `--spool`, whichever stores are named now: its store and its folder.
    pub(crate) fn spools(&self) -> Done<Vec<(String, PathBuf)>> {
        let Some(folder) = &self.spool else {
            return Err(Error::invalid("--spool DIR says where the spool is").into());
        };
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(not_there(format!(
                    "there is no folder {}: nothing waits in it",
                    folder.display()
                )));
            }
            entries => entries?,
        };
        let mut spools = Vec::new();
        for entry in entries {
            let entry = entry?;
            let store = entry.file_name().to_str().and_then(spooled_store);
            spools.extend(store.map(|store| (store, entry.path())));
        }
        spools.sort();
        Ok(spools)
    }
}

/// How the spool of a store in a folder begins, and those of servers.
const FILE_SPOOL: &str = "file-";
const SERVER_SPOOLS: [&str; 4] = ["redis-", "elastic-", "mongo-", "bucket-"];

/// The store of a spool with this name; as the name stands where it is too long to say it.
fn spooled_store(spool: &str) -> Option<String> {
    let decoded = |encoded: &str| name::decode(encoded).unwrap_or_else(|| encoded.to_owned());
    if let Some(encoded) = spool.strip_prefix(FILE_SPOOL) {
        return Some(format!("file:{}", decoded(encoded)));
    }
    SERVER_SPOOLS.iter().find_map(|kind| spool.strip_prefix(kind)).map(decoded)
}

/// The folder of a store's spool: of its place alone, so that what is left there goes to this store and no other.
fn spool_name(place: &Place) -> Done<String> {
    Ok(match place.scheme() {
        Scheme::File(folder) => {
            format!("{FILE_SPOOL}{}", name::encode(&std::path::absolute(folder)?.display().to_string()))
        }
        // Without user and password: another user's is the same store.
        Scheme::Redis(address) => format!("redis-{}", name::encode(&address.to_string())),
        Scheme::Elastic(address) => format!("elastic-{}", name::encode(&address.to_string())),
        Scheme::Mongo(address) => format!("mongo-{}", name::encode(&address.to_string())),
        Scheme::Bucket(address) => format!("bucket-{}", name::encode(&address.to_string())),
        scheme => return Err(Error::unsupported(format!("no spool can stand in front of {scheme:?}")).into()),
    })
}

/// A store that is only read.
pub(crate) async fn existing(place: &Place) -> Done<Arc<dyn Store>> {
    exists(place)?;
    Ok(connect_store(place).await?.store)
}

fn exists(place: &Place) -> Done<()> {
    match place.scheme() {
        Scheme::File(folder) if !folder.exists() => Err(not_there(format!(
            "there is no folder {}: nothing was published or run here; --dir, --broker and --store name another",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// The run that is meant.
pub(crate) async fn chosen(store: &dyn OutputReader, chosen: &Chosen) -> Done<RunRecord> {
    let Chosen { action_id, stage, run } = chosen;
    let Some(run) = run else {
        return match current_run(store, action_id, stage).await? {
            Some(record) => Ok(record),
            None => Err(nothing(store, chosen).await?),
        };
    };
    let mut query = RunQuery::of(action_id.clone(), stage.clone());
    query.run = Some(run.clone());
    match store.runs(&query).await?.pop() {
        Some(record) => Ok(record),
        None => Err(not_there(format!(
            "stage {stage} of {action_id} has no run {run}; `pipeline get-status {action_id} {stage} --all` shows its runs"
        ))),
    }
}

/// A record as its store knows it now. The counts of a run that has no end are those of its last sign of life, while
/// the store knows how many lines it has; of what it cannot say, the record's own word stands.
pub(crate) async fn fresh(store: &dyn OutputReader, record: RunRecord) -> RunRecord {
    if record.status == RunStatus::Completed {
        return record;
    }
    match store.lines(&record.key.run_id, Lines::Last(1)).await {
        Ok(output) => seen(&output),
        Err(error) => {
            tracing::debug!(run = %record.key.run_id, error = %error.chain(), "its lines cannot be counted");
            record
        }
    }
}

/// The record of an answer, with the lines that are there.
pub(crate) fn seen(output: &Output) -> RunRecord {
    let mut record = output.record.clone();
    if record.status == RunStatus::Running {
        record.counts.lines = record.counts.lines.max(output.complete_through);
    }
    record
}

/// Whether there is any run of an action, or of one stage of it.
pub(crate) async fn has_run(
    store: &dyn OutputReader,
    action: &ActionId,
    stage: Option<&Stage>,
) -> Result<bool, Error> {
    let mut query = RunQuery::all().with_action(action.clone()).with_limit(1);
    query.stage = stage.cloned();
    Ok(!store.runs(&query).await?.is_empty())
}

/// Says that there is nothing yet: a name that is misspelt would be waited for in silence.
pub(crate) async fn waits(
    store: &dyn OutputReader,
    screen: &mut Screen,
    action: &ActionId,
    stage: Option<&Stage>,
) -> Done<()> {
    // A store that is out of reach is told by who waits for it.
    if has_run(store, action, stage).await.is_ok_and(|has| !has) {
        let what = stage.map(|stage| format!("stage {stage} of ")).unwrap_or_default();
        screen.notice(&format!("{what}{action} has no run yet; waiting for one"))?;
    }
    Ok(())
}

/// Says what there is where something is not.
pub(crate) async fn nothing(store: &dyn OutputReader, chosen: &Chosen) -> Done<Failure> {
    let Chosen { action_id, stage, .. } = chosen;
    let runs = store.runs(&RunQuery::all().with_action(action_id.clone()).with_limit(1000)).await?;
    let mut stages: Vec<&str> = runs.iter().map(|run| run.key.stage.as_str()).collect();
    stages.sort_unstable();
    stages.dedup();
    Ok(not_there(if stages.is_empty() {
        format!("{action_id} has no run here; `pipeline list` shows what has")
    } else {
        format!("stage {stage} of {action_id} has no run; it has runs of: {}", stages.join(", "))
    }))
}
