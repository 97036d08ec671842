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
        let is = read()?;
        let (before, _, after) = apart(&is, place)?;
        let Place { begin, end } = place;
        let wanted = format!("{before}{begin}\n{text}\n{end}{after}");
        Ok(Self { is, wanted })
    }

    /// What stands there.
    pub(crate) fn text(place: Place) -> Result<String, String> {
        Ok(apart(&read()?, place)?.1.to_owned())
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

fn read() -> Result<String, String> {
    let path = root().join("README.md");
    fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// What stands before a place, in it, and behind it.
fn apart(text: &str, Place { begin, end }: Place) -> Result<(&str, &str, &str), String> {
    let missing = || format!("README.md has no place for what stands between {begin:?} and {end:?}");
    let (before, rest) = text.split_once(begin).ok_or_else(missing)?;
    let (inside, after) = rest.split_once(end).ok_or_else(missing)?;
    Ok((before, inside, after))
}
