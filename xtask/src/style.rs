//! Guards over the shape of the sources.

use std::fs;
use std::path::{Path, PathBuf};

use crate::published::PUBLISHED;
use crate::run::{Done, root};

/// Most lines of a file, its tests not counted.
const MAX_LINES: usize = 400;

pub(crate) fn check() -> Done {
    let mut wrong = Vec::new();
    for library in &PUBLISHED {
        for file in sources(&root().join(library.folder).join("src"))? {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let lines = code.lines().count();
            if lines > MAX_LINES {
                wrong.push(format!("{name}: {lines} lines without its tests, at most {MAX_LINES}"));
            }
            let printed = code.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && ["println!", "eprintln!", "print!", "eprint!"].iter().any(|p| line.contains(p))
            });
            if printed {
                wrong.push(format!("{name}: a library prints nothing, it traces"));
            }
            if text.contains("#[allow(") {
                wrong.push(format!("{name}: use #[expect(..., reason = ...)] in place of #[allow]"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !is_test(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Tests in a file of their own: `tests.rs`, `<what>_tests.rs`.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    name == "tests" || name.ends_with("_tests")
}
