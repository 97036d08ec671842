//! The facade re-exports by name, so somebody has to see that no name is forgotten.

use std::collections::BTreeSet;
use std::fs;

use crate::run::{Done, root};

pub(crate) fn check() -> Done {
    let core = exported("pubsub-core/src/lib.rs")?;
    let facade = exported("src/lib.rs")?;
    let missing: Vec<&str> = core.difference(&facade).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the facade does not re-export: {}", missing.join(", ")))
}

/// The names in the `pub use` lines of a file.
fn exported(file: &str) -> Result<BTreeSet<String>, String> {
    let text = fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"))?;
    let lists = text.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
    let names = lists.flat_map(|list| {
        let names = list.rsplit("::").next().unwrap_or(list);
        names.trim_matches(['{', '}', '\n', ' ']).split(',').map(|name| name.trim().to_owned())
    });
    Ok(names.filter(|name| !name.is_empty()).collect())
}
