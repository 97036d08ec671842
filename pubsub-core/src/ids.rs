//! Newtypes for identity: what an event, an action, a stage, a group and a run are called.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 255;

fn check(what: &str, text: &str) -> Result<()> {
    // Nearly every id is short and ASCII, and each event has a few: looked at without a branch for each byte.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..0x7f).contains(&byte));
    if is_plain && (1..=MAX_ID_BYTES).contains(&text.len()) {
        return Ok(());
    }
    let wrong = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > MAX_ID_BYTES {
        format!("has {} bytes", text.len())
    } else if let Some(control) = text.chars().find(|c| c.is_control()) {
        format!("has the control character U+{:04X}", u32::from(control))
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "the {what} {wrong}; it takes 1 to {MAX_ID_BYTES} bytes of UTF-8 without control characters"
    )))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes 1 to 255 bytes of UTF-8 without control characters.
            ///
            /// # Errors
            /// [`Invalid`](crate::ErrorKind::Invalid) says what is wrong with it.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                check($what, text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id!(
    /// What a chain of events is about, such as `action-123`.
    ActionId,
    "action id"
);
id!(
    /// What happened or is wanted, such as `build-requested`.
    EventType,
    "event type"
);
id!(
    /// What an event is called: unique, or chosen by the publisher so that publishing it twice is one event.
    EventId,
    "event id"
);
id!(
    /// The name of a piece of work of an action, such as `build`.
    Stage,
    "stage"
);
id!(
    /// The name of a durable subscription.
    GroupName,
    "group name"
);

impl EventId {
    /// A new id that sorts by the time it was made (UUID version 7, RFC 9562).
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// Whether it has the form of what [`generate`](Self::generate) makes. Such an id is unique by itself, so a broker need
    /// not look whether it has seen it; whoever chooses ids of this form says so too.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        const FORM: &[u8; 36] = b"xxxxxxxx-xxxx-7xxx-xxxx-xxxxxxxxxxxx";
        let fits = |(byte, form): (u8, &u8)| match form {
            b'x' => byte.is_ascii_digit() | (b'a'..=b'f').contains(&byte),
            form => byte == *form,
        };
        // Every event that is published is asked: looked at without a branch for each byte.
        self.0.len() == FORM.len() && self.0.bytes().zip(FORM).map(fits).fold(true, |all, fits| all & fits)
    }

    /// The id of an event that this library makes out of another: the same inputs give the same id, so that
    /// publishing it again is one event.
    #[must_use]
    pub fn derived(cause: &EventId, stage: &Stage, role: &str) -> Self {
        Self(hash(&[cause.as_str(), stage.as_str(), role]).into())
    }
}

/// A hash of a list of texts that no other list has: each is led by its length.
fn hash(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut hex = hasher.finalize().to_hex().to_string();
    hex.truncate(32);
    hex
}

/// The number of a begun try of a stage at an event: 1, 2, 3 …
pub type Attempt = u32;

/// The id of a run: derived from event, stage and attempt, so that whoever knows these knows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

impl RunId {
    /// The id of this attempt of this stage at this event.
    ///
    /// ```
    /// use pubsub_core::{EventId, RunId, Stage};
    /// let (event, stage) = (EventId::new("e-1")?, Stage::new("build")?);
    /// assert_eq!(RunId::derived(&event, &stage, 2), RunId::derived(&event, &stage, 2));
    /// assert!(RunId::derived(&event, &stage, 2).as_str().ends_with("-2"));
    /// # Ok::<(), pubsub_core::Error>(())
    /// ```
    #[must_use]
    pub fn derived(event: &EventId, stage: &Stage, attempt: Attempt) -> Self {
        let mut id = hash(&[event.as_str(), stage.as_str()]);
        id.push('-');
        id.push_str(&attempt.to_string());
        Self(id.into())
    }

    /// Takes what a derived id looks like: 32 hexadecimal digits, `-`, the attempt.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for anything else.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        let fits = text.split_once('-').is_some_and(|(hash, attempt)| {
            hash.len() == 32
                && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && attempt.parse::<Attempt>().is_ok_and(|n| n > 0 && n.to_string() == attempt)
        });
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(Error::invalid("a run id is 32 hexadecimal digits, a dash and the attempt").with("run", text))
        }
    }

    /// The id as text; safe in a file name, an object key, a Redis key and a URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for RunId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// The number of a line in its run: 1, 2, 3 … over both streams. It is the order, the document id and the
/// point to resume from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LineNumber(NonZeroU64);

impl LineNumber {
    /// 1.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The largest: the open end of a range.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// `None` for 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// As a plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The number this many lines later.
    #[must_use]
    pub const fn plus(self, lines: u64) -> Self {
        Self(self.0.saturating_add(lines))
    }

    /// The number before, 0 before the first.
    #[must_use]
    pub const fn before(self) -> u64 {
        self.0.get() - 1
    }
}

impl fmt::Display for LineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for LineNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{ActionId, EventId, RunId, Stage};

    #[test]
    fn ids_take_1_to_255_bytes_without_control_characters() {
        for good in ["a", "../../outside", "a:b", "a*[1]?", "Ünï", &"x".repeat(255)] {
            assert_eq!(ActionId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\0b", "a\nb", "a\u{85}b", &"x".repeat(256)] {
            let text = ActionId::new(bad).unwrap_err().to_string();
            assert!(text.contains("the action id") && text.contains("it takes 1 to 255 bytes"), "{text}");
        }
    }

    #[test]
    fn ids_read_from_json_are_checked_as_well() {
        assert!(serde_json::from_str::<ActionId>(r#""a b""#).is_ok());
        assert!(serde_json::from_str::<ActionId>(r#""a\u0000b""#).is_err());
        assert!(serde_json::from_str::<ActionId>(r#"{"$gt":""}"#).is_err());
    }

    #[test]
    fn generated_ids_are_known_by_their_form() {
        assert!(EventId::generate().is_generated());
        for chosen in ["a", "0af76519-16cd-43dd-8448-eb211c80319c", "0af76519-16cd-73dd-8448-eb211c80319C"] {
            assert!(!EventId::new(chosen).unwrap().is_generated(), "{chosen}");
        }
    }

    #[test]
    fn run_ids_differ_where_the_parts_are_only_cut_elsewhere() {
        let id = |e: &str, s: &str| RunId::derived(&EventId::new(e).unwrap(), &Stage::new(s).unwrap(), 1);
        assert_ne!(id("ab", "c"), id("a", "bc"));
        assert_eq!(RunId::new(id("ab", "c").as_str()).unwrap(), id("ab", "c"));
        for bad in ["", "x", "../../etc", &format!("{}-0", "a".repeat(32)), &format!("{}-01", "a".repeat(32))]
        {
            assert!(RunId::new(bad).is_err(), "{bad}");
        }
    }
}
