//! The version of what lies in a folder: the file `format.json` says it for all files there, but those that say their own.

use std::path::Path;

use pubsub_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::error::folder_error;
use crate::files::{self, Sync};

const FILE: &str = "format.json";

#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
}

/// Whether a folder says its version. What is newer than `newest` is refused by name, before anything there is touched.
pub(crate) fn is_versioned(folder: &Path, newest: u32) -> Result<bool> {
    let doing = "read the version of a folder";
    let found = files::read(&folder.join(FILE)).map_err(folder_error(doing, folder))?;
    let Some(bytes) = found else { return Ok(false) };
    let format: Format = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(ErrorKind::Corrupt, doing).with("folder", folder.display()).with_source(e))?;
    if format.version > newest {
        return Err(Error::new(ErrorKind::TooNew, "a newer version of this program wrote the folder")
            .with("folder", folder.display())
            .with("version", format.version)
            .with("newest known", newest));
    }
    Ok(true)
}

/// Writes the version into a folder that does not say one.
pub(crate) fn make_versioned(folder: &Path, version: u32, sync: Sync) -> Result<()> {
    if is_versioned(folder, version)? {
        return Ok(());
    }
    let doing = "write the version of a folder";
    let json = serde_json::to_vec(&Format { version })
        .map_err(|e| Error::new(ErrorKind::Internal, doing).with_source(e))?;
    files::replace(&folder.join(FILE), &[&json[..], b"\n"].concat(), sync)
        .map_err(folder_error(doing, folder))
}
