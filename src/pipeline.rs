//! A pipeline, wired as its configuration says.

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{
    Broker, Error, Event, Execution, ExitTable, FanOut, Handler, OutputReader, Pattern, Published,
    PublisherExt as _, Result, SinkConfig, Spanning, Stage, Worker,
};

use crate::config::PipelineConfig;
use crate::connect::{check_broker, connect_broker};
use crate::store::PipelineStore;

/// A broker and stores, connected as one configuration says, and workers with its limits.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use pubsub_pipeline::{
///     ActionId, Command, Event, EventType, OutputReader, Pipeline, PipelineConfig, RunQuery, Stage, Stop,
/// };
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// // `Pipeline::from_env()` reads the environment, and `from_json` an `action_config` before that.
/// let config = PipelineConfig::from_json(r#"{"timeout": 600, "retry_policy": "none"}"#)?;
/// let pipeline = Pipeline::connect(config.with_dir(folder)).await?;
/// pipeline.publish(Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)).await?;
/// let build = Command::shell("echo building");
/// let worker = pipeline.worker(Stage::new("build")?, ["build-requested:*".parse()?], build)?;
/// worker.until_idle().run(Stop::never()).await?;
/// assert_eq!(pipeline.reader().runs(&RunQuery::all()).await?.len(), 1);
/// # Ok::<(), pubsub_pipeline::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Pipeline {
    config: PipelineConfig,
    broker: Arc<dyn Broker>,
    stores: Vec<PipelineStore>,
    asked: Arc<Spanning>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Connects what the environment says.
    ///
    /// # Errors
    /// As [`PipelineConfig::from_env`] and [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self> {
        Self::connect(PipelineConfig::from_env()?).await
    }

    /// Connects what this `action_config` says, and where it says nothing, the environment.
    ///
    /// # Errors
    /// As [`PipelineConfig::from_json`] and [`from_env`](Self::from_env).
    pub async fn from_json(action_config: &str) -> Result<Self> {
        Self::connect(PipelineConfig::from_json(action_config)?.over(PipelineConfig::from_env()?)).await
    }

    /// Connects what this configuration says. A store that is out of reach is no error here: what comes of it is said by
    /// each call, and a required one is waited for.
    ///
    /// # Errors
    /// [`Unsupported`](pubsub_core::ErrorKind::Unsupported) with the feature that is to be compiled in;
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) with what a URL or a name lacks; otherwise as
    /// [`connect_broker`] and [`connect_store`](crate::connect_store).
    pub async fn connect(config: PipelineConfig) -> Result<Self> {
        let (place, stores) = (config.broker()?, config.stores()?);
        check_broker(&place)?;
        let refused = config.dir().join("refused");
        let mut connected = Vec::with_capacity(stores.len());
        for place in &stores {
            // All of them are to have everything, unless one says otherwise.
            let required = place.required().unwrap_or(true);
            let store = PipelineStore::connect(place, required, config.spool(), &refused).await?;
            connected.push(if config.is_streaming() { store } else { store.gathering() });
        }
        Self::new(config, connect_broker(&place).await?, connected)
    }

    /// Wires a broker and stores that are there already, of your own for example; of the configuration, what it says of
    /// neither counts.
    ///
    /// # Errors
    /// [`Invalid`](pubsub_core::ErrorKind::Invalid) where none of the stores is required.
    pub fn new(config: PipelineConfig, broker: Arc<dyn Broker>, stores: Vec<PipelineStore>) -> Result<Self> {
        if !stores.iter().any(|store| store.required) {
            let told = "a pipeline takes at least one store that is to have all output: required=false is not for all";
            return Err(Error::invalid(told));
        }
        let asked = Arc::new(asked(&stores)?);
        Ok(Self { config, broker, stores, asked })
    }

    /// What it was wired by.
    #[must_use]
    pub const fn config(&self) -> &PipelineConfig {
        &self.config
    }

    /// The broker: whoever publishes, subscribes, cancels or asks how much there is to do.
    #[must_use]
    pub const fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// The stores, the nearest first.
    #[must_use]
    pub fn stores(&self) -> &[PipelineStore] {
        &self.stores
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// As [`Publisher::publish`](pubsub_core::Publisher::publish).
    pub async fn publish(&self, event: Event) -> Result<Published> {
        self.broker.publish_one(event).await
    }

    /// All stores as one that is asked: each line from the nearest that has it. One for each question tells apart which store
    /// did not answer it.
    #[must_use]
    pub fn reader(&self) -> Spanning {
        self.asked.question()
    }

    /// The stores as sinks of a [`FanOut`].
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkConfig> {
        self.stores.iter().map(PipelineStore::sink).collect()
    }

    /// How attempts are run: within the time limit, with the exit table.
    #[must_use]
    pub fn execution(&self) -> Execution {
        let table = ExitTable::new(self.config.escapes());
        let execution = Execution::new().with_classification(Arc::new(table));
        match self.config.timeout() {
            Some(limit) => execution.with_timeout(limit),
            None => execution,
        }
    }

    /// A worker of a stage, whose output goes to all stores, with the configuration's limit, retries and exit table. What
    /// else a [`Worker`] takes can be said of it.
    ///
    /// # Errors
    /// As [`Worker::new`].
    pub fn worker(
        &self,
        stage: Stage,
        patterns: impl IntoIterator<Item = Pattern>,
        handler: impl Handler + 'static,
    ) -> Result<Worker> {
        let fan_out = FanOut::new(self.sinks());
        let worker = Worker::new(Arc::clone(&self.broker), fan_out, handler, stage, patterns)?;
        Ok(worker.with_retry(self.config.retry()).with_execution(self.execution()))
    }

    /// Brings what waits in the spool to the stores, at most so long, and ends the spool; without one there is nothing to do.
    /// What is left waits in its folder for the next one.
    ///
    /// # Errors
    /// [`TimedOut`](pubsub_core::ErrorKind::TimedOut) where something is left, with the store and how much.
    ///
    /// # Cancel safety
    /// Dropped, the spool goes on.
    pub async fn close(&self, limit: Duration) -> Result<()> {
        let closed = futures::future::join_all(self.stores.iter().map(|store| store.close(limit))).await;
        closed.into_iter().collect()
    }
}

/// The stores as one that is asked.
fn asked(stores: &[PipelineStore]) -> Result<Spanning> {
    let reader = |store: &PipelineStore| {
        let reader: Arc<dyn OutputReader> = Arc::clone(&store.store) as Arc<dyn OutputReader>;
        (store.name.clone(), reader)
    };
    let mut stores = stores.iter().map(reader);
    let (name, nearest) =
        stores.next().ok_or_else(|| Error::invalid("a pipeline takes at least one store"))?;
    Ok(stores.fold(Spanning::new(name, nearest), |all, (name, reader)| all.with(name, reader)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pubsub_core::{
        ActionId, Event, EventType, Exit, Lines, MEMORY_STORE, MemoryBroker, MemoryStore, Outcome,
        OutputReader as _, RunContext, RunQuery, Stage, Stop, handler_fn,
    };

    use super::Pipeline;
    use crate::{PipelineConfig, PipelineStore};

    #[tokio::test]
    async fn a_broker_and_stores_of_ones_own_are_wired_as_well() {
        let store = MemoryStore::new();
        let of = |required| PipelineStore::of("mine", Arc::new(store.clone()), MEMORY_STORE, required);
        let broker = Arc::new(MemoryBroker::new());
        let config = || PipelineConfig::default().with_escapes(false);
        for stores in [vec![], vec![of(false)]] {
            let refused = Pipeline::new(config(), broker.clone(), stores).unwrap_err();
            assert!(refused.to_string().contains("at least one store"), "{refused}");
        }
        let pipeline = Pipeline::new(config(), broker, vec![of(true)]).unwrap();
        let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
        pipeline.publish(event).await.unwrap();
        let handler = handler_fn(|context: RunContext| async move {
            let _ = context.output.line("printed").await;
            Exit::code(42).into()
        });
        let worker = pipeline.worker(Stage::new("s").unwrap(), ["t:*".parse().unwrap()], handler).unwrap();
        let worker = worker.with_retry(pubsub_core::RetryPolicy::none());
        worker.until_idle().run(Stop::never()).await.unwrap();
        let run = pipeline.reader().runs(&RunQuery::all()).await.unwrap().remove(0);
        assert_eq!((run.outcome, run.counts.lines), (Some(Outcome::Failed), 1), "escapes are none");
        assert!(store.lines(&run.key.run_id, Lines::ALL).await.is_ok());
        pipeline.close(std::time::Duration::ZERO).await.unwrap();
    }
}
