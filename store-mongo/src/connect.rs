//! The deployment: how it is reached, and what is made there once.

use std::sync::OnceLock;
use std::time::Duration;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, IndexOptions, ReadConcern, ReadPreference, ReturnDocument,
    SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};
use pubsub_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use crate::config::{Acknowledge, Journal, MongoStoreConfig, ReadLevel};
use crate::error::failed;
use crate::layout::FORMAT;

/// The collections of a store, opened when they are first used.
#[derive(Debug)]
pub(crate) struct Link {
    config: MongoStoreConfig,
    /// Making a client reaches nothing, unless its hosts have to be asked of DNS.
    database: OnceCell<Database>,
    /// Set once the server was asked for the format. Who asks at the same time asks the same: it is not waited for.
    known: OnceLock<()>,
}

/// Both collections.
#[derive(Clone, Debug)]
pub(crate) struct Collections {
    pub(crate) runs: Collection<RawDocumentBuf>,
    pub(crate) lines: Collection<RawDocumentBuf>,
}

impl Link {
    pub(crate) fn new(config: MongoStoreConfig) -> Self {
        Self { config, database: OnceCell::new(), known: OnceLock::new() }
    }

    pub(crate) const fn config(&self) -> &MongoStoreConfig {
        &self.config
    }

    /// The collections, of a format that this code knows, and with their indexes.
    pub(crate) async fn collections(&self, doing: &'static str) -> Result<Collections> {
        let database = self.database.get_or_try_init(|| self.open(doing)).await?;
        if self.known.get().is_none() {
            self.prepare(doing, database).await?;
            // Another may have been faster.
            let _ = self.known.set(());
        }
        let of = |name| database.collection(&self.config.collection(name));
        Ok(Collections { runs: of("runs"), lines: of("lines") })
    }

    /// What the server answers within the limit.
    pub(crate) async fn answer<T>(
        &self,
        doing: &'static str,
        asking: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T> {
        self.answer_within(self.config.answer_limit(), doing, asking).await
    }

    /// The same with a limit of its own.
    pub(crate) async fn answer_within<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        asking: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, asking.into_future()).await {
            Ok(answer) => answer.map_err(failed(doing)),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, doing).with("answer_limit", format!("{limit:?}"))),
        }
    }

    async fn open(&self, doing: &'static str) -> Result<Database> {
        let parsing = ClientOptions::parse(self.config.url());
        let mut options = self.answer_within(self.config.connect_limit(), doing, parsing).await?;
        if let (Some(credential), Some(password)) = (&mut options.credential, self.config.password()) {
            credential.password = Some(password.to_owned());
        }
        options.app_name.get_or_insert_with(|| "pubsub-pipeline".to_owned());
        options.connect_timeout.get_or_insert(self.config.connect_limit());
        options.server_selection_timeout.get_or_insert(self.config.connect_limit());
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.write_concern = Some(self.write_concern(options.write_concern.take()));
        options.read_concern = Some(self.read_concern(options.read_concern.take()));
        let name = self.config.database(options.default_database.as_deref()).to_owned();
        Ok(Client::with_options(options).map_err(failed(doing))?.database(&name))
    }

    fn write_concern(&self, of_url: Option<WriteConcern>) -> WriteConcern {
        let mut concern = of_url.unwrap_or_default();
        match self.config.acknowledge() {
            Some(Acknowledge::Majority) => concern.w = Some(Acknowledgment::Majority),
            Some(Acknowledge::Nodes(nodes)) => concern.w = Some(Acknowledgment::Nodes(nodes)),
            None => drop(concern.w.get_or_insert(Acknowledgment::Majority)),
        }
        match self.config.journal() {
            Some(Journal::Synced) => concern.journal = Some(true),
            Some(Journal::AsDeployed) => concern.journal = None,
            None => drop(concern.journal.get_or_insert(true)),
        }
        // Without it, a write waits for servers that are away as long as they are.
        concern.w_timeout.get_or_insert(self.config.answer_limit());
        concern
    }

    fn read_concern(&self, of_url: Option<ReadConcern>) -> ReadConcern {
        match self.config.read_level() {
            Some(ReadLevel::Local) => ReadConcern::local(),
            Some(ReadLevel::Majority) => ReadConcern::majority(),
            Some(ReadLevel::Linearizable) => ReadConcern::linearizable(),
            None => of_url.unwrap_or_else(ReadConcern::majority),
        }
    }

    /// Looks at the format; where there is none yet, makes the indexes and then says which it is. So who only reads needs no
    /// right to make any.
    async fn prepare(&self, doing: &'static str, database: &Database) -> Result<()> {
        let formats: Collection<Document> = database.collection(&self.config.collection("format"));
        let wanted = doc! { "_id": "store" };
        let found = self.answer(doing, formats.find_one(wanted.clone())).await?;
        let keeps = self.config.keep().is_some();
        if let Some(format) = &found {
            check_format(doing, format)?;
            if !keeps || format.get_bool("expires").unwrap_or(false) {
                return Ok(());
            }
        }
        self.make_indexes(doing, database, keeps).await?;
        let mut says = doc! { "$setOnInsert": { "version": FORMAT } };
        if keeps {
            says.insert("$set", doc! { "expires": true });
        }
        let says = formats.find_one_and_update(wanted, says).upsert(true);
        let said = self.answer(doing, says.return_document(ReturnDocument::After)).await?;
        said.map_or(Ok(()), |format| check_format(doing, &format))
    }

    async fn make_indexes(&self, doing: &'static str, database: &Database, keeps: bool) -> Result<()> {
        let index = |keys| IndexModel::builder().keys(keys).build();
        let mut of_runs = vec![
            index(doc! { "began": -1, "_id": -1 }),
            index(doc! { "action_id": 1, "stage": 1, "began": -1, "_id": -1 }),
            index(doc! { "event_id": 1, "began": -1, "_id": -1 }),
            index(doc! { "outcome": 1, "began": -1, "_id": -1 }),
            index(doc! { "metadata.$**": 1 }),
        ];
        // Of those that have it alone: few, and for a moment.
        let sparse = IndexOptions::builder().sparse(true).build();
        of_runs.push(IndexModel::builder().keys(doc! { "removing": 1 }).options(sparse).build());
        let expires = || {
            let at_once = IndexOptions::builder().expire_after(Duration::ZERO).build();
            IndexModel::builder().keys(doc! { "expires_at": 1 }).options(at_once).build()
        };
        if keeps {
            of_runs.push(expires());
            let lines: Collection<Document> = database.collection(&self.config.collection("lines"));
            self.answer(doing, lines.create_index(expires())).await?;
        }
        let runs: Collection<Document> = database.collection(&self.config.collection("runs"));
        self.answer(doing, runs.create_indexes(of_runs)).await?;
        Ok(())
    }
}

fn check_format(doing: &'static str, format: &Document) -> Result<()> {
    let version = match format.get("version") {
        Some(version) => version.as_i32().map(i64::from).or_else(|| version.as_i64()),
        None => None,
    };
    match version {
        Some(version) if version <= i64::from(FORMAT) => Ok(()),
        Some(version) => {
            Err(Error::new(ErrorKind::TooNew, doing).with("version", version).with("newest known", FORMAT))
        }
        None => Err(Error::new(ErrorKind::Corrupt, "the store does not say its format")),
    }
}
