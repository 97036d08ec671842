//! The rules that stand in the files of a suite.

use std::collections::BTreeSet;

/// Each as `module::rule`.
pub(crate) fn written(suite: &str) -> BTreeSet<String> {
    let folder = format!("{}/src/conformance/{suite}", env!("CARGO_MANIFEST_DIR"));
    let mut written = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let rules = text.lines().filter_map(|line| line.strip_prefix("pub async fn "));
        let rules = rules.map(|line| line.split(['(', '<']).next().unwrap());
        written.extend(rules.filter(|_| module != "sample").map(|rule| format!("{module}::{rule}")));
    }
    written
}
