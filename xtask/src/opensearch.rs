//! The tests that need OpenSearch, and the server that they need.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use services::{OpenSearch, Place, SearchEngine};

use crate::run::{Done, cargo};

/// The variable that tests read.
const VARIABLE: &str = "PIPELINE_TEST_OPENSEARCH";

/// A server for as long as the value lives, unless its place is kept.
pub(crate) struct Search(OpenSearch);

impl Search {
    pub(crate) fn start(place: &Arc<Place>, engine: SearchEngine) -> io::Result<Self> {
        // Each test has indices of its own, more than a node is meant for.
        let settings = [("cluster.max_shards_per_node", "20000")];
        OpenSearch::start_in(place, "search", engine, &settings).map(Self)
    }

    pub(crate) fn variable(&self) -> (String, String) {
        (VARIABLE.to_owned(), self.0.url())
    }

    /// Its process and its folder.
    pub(crate) fn process(&self) -> Option<(u32, PathBuf)> {
        Some((self.0.id()?, self.0.folder().to_owned()))
    }
}

/// Runs this with a server of this engine; those that tests start by themselves are of it too.
pub(crate) fn with_opensearch(engine: SearchEngine, run: impl FnOnce(&[(&str, &str)]) -> Done) -> Done {
    println!("tests with {}", engine.name());
    let place = Arc::new(Place::new().map_err(|e| e.to_string())?);
    let search = Search::start(&place, engine).map_err(|e| e.to_string())?;
    let (name, url) = search.variable();
    run(&[(&name, &url), ("PIPELINE_SEARCH_ENGINE", engine.name())])
}

/// The tests that are marked `needs OpenSearch`, with a server of this engine. Long ones among them are in modules `long`.
pub(crate) fn test(engine: SearchEngine) -> Done {
    let words =
        ["test", "--locked", "-p", "store-elastic", "--no-fail-fast", "--lib", "--tests", "--", "--ignored"];
    let of_services = ["test", "--locked", "-p", "services", "--test", "opensearch", "--", "--ignored"];
    let of_examples = ["--locked", "-p", "pubsub-pipeline-examples"];
    with_opensearch(engine, |server| {
        let tests = cargo(&[&words[..], &["--skip", "long::"]].concat(), server);
        cargo(&[&["build"], &of_examples[..], &["--example", "elastic-search"]].concat(), &[])?;
        let example = [&["test"], &of_examples[..], &["--test", "elastic", "--", "--ignored"]].concat();
        tests.and(cargo(&of_services, server)).and(cargo(&example, server))
    })
}

/// The one that the environment names, or OpenSearch 2.19.
pub(crate) fn of_environment() -> Done {
    test(SearchEngine::of_environment().map_err(|e| e.to_string())?)
}
