//! Folders among several stores: as one store, with the same answers, and each made from each.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use async_trait::async_trait;
use pubsub_core::conformance::answers::{LINES, same_answers};
use pubsub_core::conformance::fan_out::goes_into_all_and_from_each_to_each;
use pubsub_core::conformance::store::{SampleRun, Share, Spanned, StoreFixture, lines};
use pubsub_core::{MemoryStore, OutputSink as _, Spanning, Store, verify};
use pubsub_file::{FileStore, FileStoreConfig};
use tempfile::TempDir;

async fn opened(folder: &TempDir) -> Arc<dyn Store> {
    Arc::new(FileStore::connect(FileStoreConfig::new(folder.path())).await.unwrap())
}

/// Two folders that each have everything; one of them may be down at each call.
struct Two<const IN_TURN: bool>([TempDir; 2], Spanned);

async fn spanned(folders: &[TempDir; 2], in_turn: bool) -> Spanned {
    let share = if in_turn { Share::InTurn } else { Share::Same };
    Spanned::new(opened(&folders[0]).await, opened(&folders[1]).await, share)
}

#[async_trait]
impl<const IN_TURN: bool> StoreFixture for Two<IN_TURN> {
    async fn new() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let both = spanned(&folders, IN_TURN).await;
        Self(folders, both)
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.1.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        if IN_TURN {
            // A run that is begun is in both for every handle.
            return self.store();
        }
        Arc::new(spanned(&self.0, IN_TURN).await)
    }
}

mod both_have_all {
    use super::Two;
    use pubsub_file::FILE_STORE;

    pubsub_core::store_conformance!(Two<false>, FILE_STORE);
}

mod one_is_down_in_turn {
    use super::Two;
    use pubsub_file::FILE_STORE;

    pubsub_core::store_conformance!(Two<true>, FILE_STORE);
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

#[tokio::test]
async fn the_answers_over_200_000_lines_are_those_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    same_answers(&[("file", opened(&folder).await)], LINES).await;
}

#[tokio::test]
async fn one_run_goes_into_all_stores_and_from_each_to_each() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let stores =
        [("file", opened(&folders[0]).await), ("another", opened(&folders[1]).await), ("memory", memory())];
    goes_into_all_and_from_each_to_each(&stores, 5_000).await;
}

#[tokio::test]
async fn a_folder_as_the_archive_fills_what_the_near_store_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let (near, archive) = (MemoryStore::new(), opened(&folder).await);
    let mut run = SampleRun::new();
    run.begin(&near).await;
    run.begin(&*archive).await;
    run.append(&*archive, &[lines(1, ["a", "b", "c"])]).await;
    run.print(&[lines(4, ["d", "e"])]);
    near.append(run.key(), &[lines(3, ["c", "d", "e"])]).await.unwrap();
    run.complete();
    near.finish(&run.record).await.unwrap();
    archive.finish(&run.record).await.unwrap();
    let both = Spanning::new("near", Arc::new(near)).with("archive", Arc::new(archive));
    assert!(verify(&both, run.id()).await.unwrap().agrees());
}
