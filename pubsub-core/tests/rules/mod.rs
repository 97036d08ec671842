//! The rules that stand in the files of a suite.

use std::collections::BTreeSet;

/// Each as `module::rule`. Its documentation has to begin with the section of the contract that it is from.
pub(crate) fn written(suite: &str) -> BTreeSet<String> {
    let folder = format!("{}/src/conformance/{suite}", env!("CARGO_MANIFEST_DIR"));
    let mut written = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        if module != "sample" && module != "mod" {
            for (before, _) in
                text.split("\npub async fn ").zip(1..text.matches("\npub async fn ").count() + 1)
            {
                let docs = before.rsplit("\n\n").next().unwrap();
                assert!(docs.trim_start().starts_with("/// §"), "{module}: a rule names its section: {docs}");
            }
        }
        let rules = text.lines().filter_map(|line| line.strip_prefix("pub async fn "));
        let rules = rules.map(|line| line.split(['(', '<']).next().unwrap());
        written.extend(rules.filter(|_| module != "sample").map(|rule| format!("{module}::{rule}")));
    }
    written
}
