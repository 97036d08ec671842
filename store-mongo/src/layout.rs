//! Which documents there are.
//!
//! - `runs`: one of each run. Other tools look at `_id` (the run's id), `action_id`, `stage`, `event_id`, `attempt`, `owner`,
//!   `command`, `status`, `outcome`, `code`, `started_at`, `finished_at`, and `metadata`: the user's texts by their
//!   [names](field), and `indexed_at`. For the store alone: `version` of this layout; `record`, the record as JSON, which
//!   decides; `writes`, which grows with each write of it; `began`, in microseconds since 1970; `made`, a name that no other run
//!   had, nor this one before it was removed and began again; `last_line`, the largest number that was stored; `through`, up to
//!   which every number has a line or is known to have none; `bytes` of the lines, ends included; `wake`, which tells who
//!   watches the action that changed; `removing`, where it is on its way out; `expires_at`, where it goes by itself.
//! - `lines`: one of each line. `_id` is `<run>.<made>.<number with 20 digits>`: it has the order of the numbers, so that a
//!   range is a seek in the one index that every collection has; the server refuses a number that it has; and lines of a run
//!   that was removed are never taken for those of one that began again. `action_id`, `stage`, `line_number`, `content` (the
//!   text without its end, U+FFFD where bytes are invalid), `timestamp` (in milliseconds) and `stream` are for other tools too;
//!   all lines of a run are `{_id: /^<run>\./}`. Where they differ from the usual there are `micros` (of the timestamp),
//!   `end` (`crlf`, `none`, `part`), `raw` (the bytes, where they are no UTF-8), `recovered`, and `expires_at`.
//! - `format`: one document, which says the version of this layout once its indexes are made.

use std::fmt::Write as _;

use pubsub_core::{LineNumber, RunId};

/// The version of this layout.
pub(crate) const FORMAT: i32 = 1;

/// How many digits a number has in an id.
const DIGITS: usize = 20;

/// The ids of the lines of a run, as long as it is the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// Up to the number.
    start: String,
}

impl Ids {
    pub(crate) fn of(run: &RunId, made: &str) -> Self {
        Self { start: format!("{run}.{made}.") }
    }

    /// Of the line with this number.
    pub(crate) fn line(&self, number: u64) -> String {
        format!("{}{number:0DIGITS$}", self.start)
    }

    /// The number of such an id; `None` for one that is none.
    pub(crate) fn number(&self, id: &str) -> Option<LineNumber> {
        let digits = id.strip_prefix(&self.start).filter(|digits| digits.len() == DIGITS)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        LineNumber::new(digits.parse().ok()?)
    }
}

/// The name of a field for one of the user's: itself, with what means something to MongoDB as `%` and two digits. No two are
/// the same, and none is `indexed_at`.
pub(crate) fn field(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    let mut field = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let is_ours = at == 0 && name == "indexed_at";
        if matches!(c, '.' | '$' | '%') || c.is_ascii_control() || is_ours {
            let _ = write!(field, "%{:02x}", u32::from(c));
        } else {
            field.push(c);
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use pubsub_core::{EventId, LineNumber, RunId, Stage};

    use super::{Ids, field};

    fn run() -> RunId {
        RunId::derived(&EventId::new("e").unwrap(), &Stage::new("s").unwrap(), 1)
    }

    #[test]
    fn fields_mean_nothing_to_the_server() {
        for (name, expected) in [
            ("branch", "branch"),
            ("a.b", "a%2eb"),
            ("$where", "%24where"),
            ("100%", "100%25"),
            ("", "%"),
            ("\0", "%00"),
            ("indexed_at", "%69ndexed_at"),
            ("Ünï", "Ünï"),
        ] {
            assert_eq!(field(name), expected);
        }
    }

    proptest! {
        #[test]
        fn no_two_names_are_one_field(a in "[a.$%i\\x00]{0,4}", b in "[a.$%2e4]{0,6}") {
            prop_assert!(a == b || field(&a) != field(&b));
        }

        #[test]
        fn ids_have_the_order_of_their_numbers_and_give_them_back(a in 1u64.., b in 1u64..) {
            let ids = Ids::of(&run(), "f00d");
            prop_assert_eq!(ids.line(a).cmp(&ids.line(b)), a.cmp(&b));
            prop_assert_eq!(ids.number(&ids.line(a)), LineNumber::new(a));
            prop_assert_eq!(Ids::of(&run(), "f00").number(&ids.line(a)), None);
        }
    }
}
