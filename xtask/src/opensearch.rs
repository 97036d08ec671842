//! The tests that need OpenSearch, and the server that they need.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use services::{OpenSearch, Place, SearchEngine};

use crate::run::{Done, of_server};

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

/// The tests that are marked `needs OpenSearch`, with a server of this engine.
pub(crate) fn test(engine: SearchEngine) -> Done {
    with_opensearch(engine, |servers| of_server("store-elastic", "opensearch", &[], servers))
}

/// The one that the environment names, or OpenSearch 2.19.
pub(crate) fn of_environment() -> Done {
    test(SearchEngine::of_environment().map_err(|e| e.to_string())?)
}
