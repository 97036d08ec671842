//! Where things are kept: the broker and the stores that the command line names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pubsub_pipeline::{
    ActionId, Broker, Error, ErrorKind, FanOut, FileRefusedLines, Lines, Output, OutputReader,
    PipelineConfig, PipelineStore, Place, RunQuery, RunRecord, RunStatus, Scheme, Stage, Store, bring_tails,
    connect_broker, connect_store, current_run, spool_name, spooled_store,
};
use tokio::task::JoinSet;

use crate::args::{Chosen, Global};
use crate::codes::{Done, Failure, not_there};
use crate::runs::{LATE, sinks};
use crate::screen::Screen;
use crate::values::{NOT_OUTLIVING, is_outliving};

/// What the global options, the configuration and the environment name, not yet connected: each subcommand connects what it
/// needs.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// What is not a place, as time limit and retries.
    pub(crate) config: PipelineConfig,
    broker: Place,
    stores: Vec<Place>,
    /// Whether all stores are to have everything that do not say otherwise, or the first alone.
    all_required: bool,
}

impl Places {
    pub(crate) fn new(global: &Global) -> Done<Self> {
        let mut config = global.config.clone().unwrap_or_default().over(PipelineConfig::from_env()?);
        if let Some(dir) = &global.dir {
            config = config.with_dir(dir);
        }
        if let Some(spool) = &global.spool {
            config = config.with_spool(spool);
        }
        let broker = global.broker.clone().map_or_else(|| config.broker(), Ok)?;
        let all_required = global.store.is_empty();
        let stores = if all_required { config.stores()? } else { global.store.clone() };
        if !stores.iter().chain([&broker]).all(is_outliving) {
            return Err(Error::invalid(NOT_OUTLIVING).into());
        }
        Ok(Self { config, broker, stores, all_required })
    }

    /// The broker of a subcommand that only asks: it must be there, and a folder that is misspelt is not made.
    pub(crate) async fn existing_broker(&self) -> Done<Arc<dyn Broker>> {
        exists(&self.broker)?;
        self.broker().await
    }

    /// The store of a subcommand that is about one: the first, and it must be there.
    pub(crate) async fn first_store(&self) -> Done<Arc<dyn Store>> {
        let first = self.asked().first();
        existing(first.ok_or_else(|| Error::new(ErrorKind::Internal, "no store is named"))?).await
    }

    /// The places of the stores that questions go to, the nearest first.
    pub(crate) fn asked(&self) -> &[Place] {
        &self.stores
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
        match self.config.spool() {
            Some(folder) if folder.exists() => Ok(()),
            _ => self.stores.iter().take(1).try_for_each(exists),
        }
    }

    pub(crate) async fn broker(&self) -> Done<Arc<dyn Broker>> {
        Ok(connect_broker(&self.broker).await?)
    }

    /// Every store; the first is required always.
    pub(crate) async fn stores(&self) -> Done<Vec<PipelineStore>> {
        let mut stores = Vec::with_capacity(self.stores.len());
        for (index, place) in self.stores.iter().enumerate() {
            let required = place.required().unwrap_or(index == 0 || self.all_required);
            if index == 0 && !required {
                return Err(Error::invalid("the first store is required: name another one first").into());
            }
            let spool = self.config.spool();
            let store = PipelineStore::connect(place, required, spool, &self.refused()).await?;
            stores.push(if self.config.is_streaming() { store } else { store.gathering() });
        }
        Ok(stores)
    }

    fn refused(&self) -> PathBuf {
        self.config.dir().join("refused")
    }

    /// Where the lines are kept that stores refuse for good: made by the first of them.
    pub(crate) fn refused_lines(&self) -> FileRefusedLines {
        FileRefusedLines::new(self.refused())
    }

    /// The folder for what is held back of outputs over their limit: one of the first store's own, since that says what
    /// became of their runs. `None` where no place has one on the disk.
    pub(crate) fn held_back(&self) -> Option<PathBuf> {
        self.held_back_of(self.config.spool())
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
    pub(crate) fn bring_tails(&self, stores: &[PipelineStore]) -> JoinSet<()> {
        let places: Vec<PathBuf> = self.all_held_back().into_iter().filter(|dir| dir.exists()).collect();
        let mut task = JoinSet::new();
        if let (false, Some(first)) = (places.is_empty(), stores.first()) {
            let (reader, fan_out) = (Arc::clone(&first.store), FanOut::new(sinks(stores)));
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

    /// Every spool in the folder of `--spool`, whichever stores are named now: its store and its folder.
    pub(crate) fn spools(&self) -> Done<Vec<(String, PathBuf)>> {
        let Some(folder) = self.config.spool() else {
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
