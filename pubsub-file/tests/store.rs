//! The store in a folder passes the whole suite.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

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

mod crashes {
    use std::fs;
    use std::path::{Path, PathBuf};

    use futures::StreamExt as _;
    use pubsub_core::{
        ActionId, ErrorKind, EventId, LineBatch, LineEnd, LineNumber, Lines, OutputItem, OutputReader,
        OutputSink, RunKey, RunRecord, Stage, Stream, Timestamp,
    };
    use pubsub_file::{FileStore, FileStoreConfig};

    async fn open(folder: &Path) -> FileStore {
        FileStore::connect(FileStoreConfig::new(folder)).await.unwrap()
    }

    fn batch(first: u64, text: &str, tail: LineEnd) -> LineBatch {
        let first = LineNumber::new(first).unwrap();
        LineBatch::split(first, Timestamp::now(), Stream::Stdout, text.to_owned().into(), tail).unwrap()
    }

    fn record() -> RunRecord {
        let key = RunKey::new(ActionId::new("a").unwrap(), Stage::new("s").unwrap(), EventId::generate(), 1);
        RunRecord::begun(key, "w")
    }

    fn folder_of(root: &Path, record: &RunRecord) -> PathBuf {
        root.join("runs/a/s").join(record.key.run_id.as_str())
    }

    async fn texts(store: &FileStore, record: &RunRecord) -> Vec<(u64, String, bool)> {
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let items: Vec<_> = output.items.map(Result::unwrap).collect().await;
        let lines = items.iter().flat_map(|item| match item {
            OutputItem::Lines(batch) => batch.lines().collect::<Vec<_>>(),
            OutputItem::Gap(gap) => panic!("{gap:?}"),
        });
        lines.map(|l| (l.number.get(), l.text().into_owned(), l.recovered)).collect()
    }

    #[tokio::test]
    async fn the_output_is_a_plain_file_that_other_tools_read() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        let err = LineBatch::split(
            LineNumber::new(4).unwrap(),
            Timestamp::now(),
            Stream::Stderr,
            "ERR\n".into(),
            LineEnd::None,
        );
        let batches =
            [batch(1, "one\r\ntwo\n", LineEnd::None), batch(3, "half", LineEnd::Part), err.unwrap()];
        store.append(&record.key, &batches).await.unwrap();
        store.append(&record.key, &[batch(5, " rest\n", LineEnd::None)]).await.unwrap();
        let text = fs::read_to_string(folder_of(root.path(), &record).join("output.log")).unwrap();
        assert_eq!(text, "one\r\ntwo\nhalf\nERR\n rest\n");
    }

    #[tokio::test]
    async fn whatever_a_crash_leaves_of_an_append_the_acknowledged_lines_are_there() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\ntwo\n", LineEnd::None)]).await.unwrap();
        let folder = folder_of(root.path(), &record);
        let lengths =
            |folder: &Path| ["output.log", "index"].map(|f| fs::metadata(folder.join(f)).unwrap().len());
        let before = lengths(&folder);
        store.append(&record.key, &[batch(3, "three\nfour\n", LineEnd::None)]).await.unwrap();
        let after = lengths(&folder);
        let whole = ["output.log", "index"].map(|f| fs::read(folder.join(f)).unwrap());
        let cut = |file: usize, length: u64| {
            let name = ["output.log", "index"][file];
            fs::write(folder.join(name), &whole[file][..usize::try_from(length).unwrap()]).unwrap();
        };
        // Bytes come first and the index after them, so these are all the states a killed process leaves.
        let states = (before[0]..=after[0])
            .map(|log| (log, before[1]))
            .chain((before[1]..=after[1]).map(|i| (after[0], i)));
        for (log, index) in states {
            cut(0, log);
            cut(1, index);
            let store = open(root.path()).await;
            let seen = texts(&store, &record).await;
            let expected = if index == after[1] { 4 } else { 2 };
            assert_eq!(seen.len(), expected, "log {log}, index {index}");
            // The worker's successor, or its spool, sends the lines again.
            store.append(&record.key, &[batch(2, "two\nthree\nfour\nfive\n", LineEnd::None)]).await.unwrap();
            let seen: Vec<String> =
                texts(&store, &record).await.into_iter().map(|(_, text, _)| text).collect();
            assert_eq!(seen, ["one", "two", "three", "four", "five"], "log {log}, index {index}");
        }
    }

    #[tokio::test]
    async fn lines_behind_the_index_of_a_lost_run_are_found_and_flagged() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let mut record = record();
        record.beat_at = Timestamp::EPOCH;
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        let log = folder_of(root.path(), &record).join("output.log");
        let mut text = fs::read(&log).unwrap();
        text.extend_from_slice(b"two\nthr");
        fs::write(&log, text).unwrap();
        let seen = texts(&store, &record).await;
        assert_eq!(seen, [(1, "one".into(), false), (2, "two".into(), true), (3, "thr".into(), true)]);
        let told = store.lines(&record.key.run_id, Lines::Last(1)).await.unwrap().record;
        assert_eq!(told.notes.last().unwrap().kind, "repaired");
    }

    #[tokio::test]
    async fn output_that_somebody_cut_is_told_as_a_gap() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        let record = record();
        store.begin(&record).await.unwrap();
        store.append(&record.key, &[batch(1, "one\n", LineEnd::None)]).await.unwrap();
        store.append(&record.key, &[batch(2, "two\n", LineEnd::None)]).await.unwrap();
        fs::write(folder_of(root.path(), &record).join("output.log"), "on").unwrap();
        let output = store.lines(&record.key.run_id, Lines::ALL).await.unwrap();
        let items: Vec<_> = output.items.map(Result::unwrap).collect().await;
        assert!(
            items.iter().all(|item| matches!(item, OutputItem::Gap(gap) if gap.reason.contains("cut"))),
            "{items:?}"
        );
        assert_eq!(items.last().unwrap().range().last.get(), 2);
    }

    #[tokio::test]
    async fn a_planted_link_is_refused_and_nothing_behind_it_is_touched() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let store = open(root.path()).await;
        std::os::unix::fs::symlink(outside.path(), root.path().join("runs/a")).unwrap();
        let error = store.begin(&record()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_newer_layout_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("format.json"), r#"{"version":2}"#).unwrap();
        let error = FileStore::connect(FileStoreConfig::new(root.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.to_string().contains("version=2"), "{error}");
    }
}
