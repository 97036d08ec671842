//! What is written into the README.

use std::fs;

use crate::run::{Done, root};

/// Where something stands in the README: on lines of its own between these two.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

/// The README as it is and as it is to be.
pub(crate) struct Readme {
    is: String,
    wanted: String,
}

impl Readme {
    /// With this text in its place.
    pub(crate) fn with(place: Place, text: &str) -> Result<Self, String> {
        let Place { begin, end } = place;
        let path = root().join("README.md");
        let is = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let missing = || format!("README.md has no place for what stands between {begin:?} and {end:?}");
        let (before, rest) = is.split_once(begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(end).ok_or_else(missing)?;
        let wanted = format!("{before}{begin}\n{text}\n{end}{after}");
        Ok(Self { is, wanted })
    }

    pub(crate) fn is_as_wanted(&self) -> bool {
        self.is == self.wanted
    }

    pub(crate) fn write(self) -> Done {
        if self.is_as_wanted() {
            return Ok(());
        }
        fs::write(root().join("README.md"), self.wanted).map_err(|e| e.to_string())
    }
}
