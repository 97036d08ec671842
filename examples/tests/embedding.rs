//! The small programs that embed the library, and the parts of their own that they bring: each passes the whole suite.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[path = "../embedding/error_count.rs"]
mod error_count;
#[path = "../embedding/own_store.rs"]
mod own_store;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crash::{Place, example, nobody_is_left};
use serde_json::Value;

/// The example, asked by nothing but what is named.
fn embedding(name: &str) -> Command {
    let mut command = Command::new(example(name));
    command.env_clear().stdin(Stdio::null());
    command
}

/// What an example prints that ends well.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|told| String::from_utf8_lossy(told));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[test]
fn a_range_of_codes_is_an_escape_by_a_table_of_ones_own() {
    let told = [
        "ends-with-0: succeeded, the chain goes on",
        "ends-with-12: escaped, the chain goes on",
        "ends-with-20: failed, the chain stops",
    ];
    assert_eq!(printed(&mut embedding("exit-table")).lines().collect::<Vec<_>>(), told);
}

#[test]
fn a_rust_function_that_is_asked_to_stop_says_what_it_has() {
    let told = printed(&mut embedding("rust-handler"));
    let told = told.strip_prefix("Some(TimedOut): Some(\"saved after ").expect(&told);
    let (epochs, lines) = told.trim_end().split_once(" epochs\"), ").expect(told);
    assert_eq!(lines, format!("{epochs} lines"));
}

#[test]
fn a_sink_of_ones_own_counts_errors_in_front_of_the_store() {
    assert_eq!(printed(&mut embedding("custom-sink")), "action-123: 3 lines, 2 errors\n");
}

#[test]
fn every_run_of_a_store_is_copied_and_a_second_time_changes_nothing() {
    let place = Place::new();
    place.expect(0, &["stream", "action-1", "build", "--", "seq", "1", "2000"]);
    place.expect(3, &["stream", "--pass-code", "action-2", "test", "--", "sh", "-c", "echo failing; exit 3"]);
    let migrate =
        || printed(embedding("migrate").args(["file:.pipeline", "file:archive"]).current_dir(place.path()));
    assert_eq!(migrate(), "action-1 build: 2000 lines\naction-2 test: 1 lines\n2 runs, 2001 lines\n");
    migrate();
    let of = |store: &str| place.expect(0, &["--store", store, "--json", "list"]).documents();
    assert_eq!(of("file:archive"), of("file:.pipeline"));
    place.expect(0, &["--store", "file:archive", "verify", "action-1", "build"]);
    place.expect(0, &["--store", "file:archive", "verify", "action-2", "test"]);
    assert!(!embedding("migrate").output().unwrap().status.success(), "without two stores");
}

/// The status and the body of an answer.
fn asked(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_web_service_has_its_worker_with_it_and_ends_with_it() {
    let place = Place::of(example("axum-service"));
    let mut service = place.start(&[]);
    let told = service.line();
    let address = told.trim().strip_prefix("listening on ").expect(&told).to_owned();

    assert_eq!(asked(&address, "GET", "/build/action-1"), (200, "[]".to_owned()));
    assert_eq!(asked(&address, "POST", "/build/action-1").0, 200);
    assert_eq!(asked(&address, "POST", "/build/%00").0, 400, "that is no action");
    let runs = || -> Vec<Value> {
        let (code, body) = asked(&address, "GET", "/build/action-1");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let is_final = |runs: &[Value]| runs.iter().any(|run| run["final"] == true);
    let limit = std::time::Instant::now() + crash::LIMIT;
    let mut found = runs();
    while !is_final(&found) {
        assert!(std::time::Instant::now() < limit, "{found:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
        found = runs();
    }
    assert_eq!((found.len(), &found[0]["outcome"], &found[0]["lines"]), (1, &"succeeded".into(), &1.into()));

    service.signal("INT");
    assert_eq!(service.ended().code, 0);
    nobody_is_left(&place);
}

/// What the guide shows is what the suite runs on.
#[test]
fn the_guide_quotes_the_code_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let guide = std::fs::read_to_string(root.join("docs/backends.md")).unwrap();
    let code = [include_str!("../embedding/own_store.rs"), include_str!("embedding.rs")];
    let blocks: Vec<&str> =
        guide.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "{} blocks", blocks.len());
    for block in blocks {
        // `// …` stands for what is left out.
        for part in block.split("// …\n").map(str::trim).filter(|part| !part.is_empty()) {
            assert!(code.iter().any(|code| code.contains(part)), "the code is no longer so:\n{part}");
        }
    }
}

mod own_store_suite {
    use super::Arc;
    use super::own_store::{MAP_STORE, MapStore};
    use pubsub_core::conformance::store::StoreFixture;
    use pubsub_core::{Store, async_trait};

    struct Fixture(MapStore);

    #[async_trait]
    impl StoreFixture for Fixture {
        async fn new() -> Self {
            Self(MapStore::default())
        }

        fn store(&self) -> Arc<dyn Store> {
            Arc::new(self.0.clone())
        }

        async fn reopen(&self) -> Arc<dyn Store> {
            Arc::new(self.0.clone())
        }
    }

    pubsub_core::store_conformance!(Fixture, MAP_STORE);
    pubsub_core::store_stress!(Fixture, MAP_STORE, 1, 50);
}

mod custom_sink_suite {
    use super::error_count::ErrorCount;
    use super::{Arc, Mutex};
    use futures::stream::BoxStream;
    use pubsub_core::conformance::store::StoreFixture;
    use pubsub_core::{
        Appended, Hit, Keep, LineBatch, Lines, MEMORY_STORE, MemoryStore, Output, OutputReader, OutputSink,
        Result, Retention, RunId, RunKey, RunQuery, RunRecord, Search, Store, async_trait,
    };

    /// Writes through the sink, and reads the store itself.
    struct Both {
        sink: ErrorCount<MemoryStore>,
        store: MemoryStore,
    }

    #[async_trait]
    impl OutputSink for Both {
        async fn begin(&self, record: &RunRecord) -> Result<()> {
            self.sink.begin(record).await
        }

        async fn append(&self, run: &RunKey, batches: &[LineBatch]) -> Result<Appended> {
            self.sink.append(run, batches).await
        }

        async fn finish(&self, record: &RunRecord) -> Result<()> {
            self.sink.finish(record).await
        }
    }

    #[async_trait]
    impl OutputReader for Both {
        async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>> {
            self.store.runs(query).await
        }

        async fn lines(&self, run: &RunId, lines: Lines) -> Result<Output> {
            self.store.lines(run, lines).await
        }

        async fn search(&self, query: &RunQuery, search: &Search) -> Result<BoxStream<'static, Result<Hit>>> {
            self.store.search(query, search).await
        }

        async fn changes(&self, query: &RunQuery) -> Result<BoxStream<'static, Result<()>>> {
            self.store.changes(query).await
        }
    }

    #[async_trait]
    impl Retention for Both {
        async fn remove(&self, run: &RunId) -> Result<bool> {
            self.store.remove(run).await
        }

        async fn expire(&self, keep: &Keep) -> Result<u64> {
            self.store.expire(keep).await
        }
    }

    struct Fixture(MemoryStore);

    #[async_trait]
    impl StoreFixture for Fixture {
        async fn new() -> Self {
            Self(MemoryStore::new())
        }

        fn store(&self) -> Arc<dyn Store> {
            Arc::new(Both { sink: ErrorCount(self.0.clone(), Mutex::default()), store: self.0.clone() })
        }

        async fn reopen(&self) -> Arc<dyn Store> {
            self.store()
        }
    }

    pubsub_core::store_conformance!(Fixture, MEMORY_STORE);

    #[tokio::test]
    async fn an_error_that_comes_twice_is_one() {
        use pubsub_core::conformance::store::{SampleRun, lines};
        let sink = ErrorCount(MemoryStore::new(), Mutex::default());
        let run = SampleRun::new();
        run.begin(&sink).await;
        let printed = [lines(1, ["error: one", "no error: two", "error: three"])];
        for _ in 0..2 {
            sink.append(run.key(), &printed).await.unwrap();
        }
        assert_eq!(sink.of(run.id()), 2);
    }
}
