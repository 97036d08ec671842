//! The store in a folder passes the whole suite.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use pubsub_core::Store;
use pubsub_core::conformance::store::StoreFixture;
use pubsub_file::{FILE_STORE, FileStore, FileStoreConfig};

struct InFolder {
    folder: tempfile::TempDir,
    store: FileStore,
}

#[async_trait::async_trait]
impl StoreFixture for InFolder {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::connect(FileStoreConfig::new(folder.path())).await.unwrap();
        Self { folder, store }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        Arc::new(FileStore::connect(FileStoreConfig::new(self.folder.path())).await.unwrap())
    }
}

pubsub_core::store_conformance!(InFolder, FILE_STORE);
pubsub_core::store_stress!(InFolder, FILE_STORE, 2, 10);
