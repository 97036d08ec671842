//! Takes secrets out of what is stored.

use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};

/// Shortest secret that is masked, in bytes: anything shorter would be found everywhere.
pub const MIN_SECRET_BYTES: usize = 4;

/// Longest secret, in bytes; of a longer one its lines are masked where they are short enough.
pub const MAX_SECRET_BYTES: usize = 16 * 1024;

/// What stands in a secret's place.
pub const MASKED: &str = "***";

/// Replaces secrets by `***`: each line of a secret on its own, and a secret of several lines also with spaces in place
/// of its line breaks, as an unquoted `echo` prints it.
///
/// So nothing that is looked for holds a line break, and a line can be masked once it is whole.
///
/// ```
/// use pubsub_core::Masker;
/// let masker = Masker::new(["S3cr3t-Value-42".to_owned(), "abc".to_owned()]);
/// assert_eq!(masker.mask_text("token=S3cr3t-Value-42"), "token=***");
/// assert!(masker.warnings().iter().any(|warning| warning.contains("secret 2")));
/// ```
#[derive(Clone, Default)]
pub struct Masker {
    engine: Option<AhoCorasick>,
    /// Sorted, each once; what the engine looks for.
    forms: Vec<Vec<u8>>,
    longest: usize,
    warnings: Vec<String>,
}

impl Masker {
    /// Masks these secrets. Values under [`MIN_SECRET_BYTES`] are left alone, with a warning.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut forms = Vec::new();
        let mut warnings = Vec::new();
        for (index, secret) in secrets.into_iter().enumerate() {
            let number = index + 1;
            let lines: Vec<&str> =
                secret.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
            let whole = lines.join(" ");
            for form in lines.iter().copied().chain((lines.len() > 1).then_some(whole.as_str())) {
                if form.len() < MIN_SECRET_BYTES {
                    warnings
                        .push(format!("secret {number}: fewer than {MIN_SECRET_BYTES} bytes are left alone"));
                } else if form.len() > MAX_SECRET_BYTES {
                    warnings
                        .push(format!("secret {number}: more than {MAX_SECRET_BYTES} bytes are left alone"));
                } else {
                    forms.push(form.as_bytes().to_vec());
                }
            }
        }
        forms.sort();
        forms.dedup();
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let engine = if forms.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms);
            // Only a machine without memory for the automaton gets here; then nothing may go out unmasked.
            built.inspect_err(|e| warnings.push(format!("the secrets cannot be masked: {e}"))).ok()
        };
        Self { engine, forms, longest, warnings }
    }

    /// The text without secrets.
    #[must_use]
    pub fn mask_text(&self, text: &str) -> String {
        match self.mask(text.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => text.to_owned(),
        }
    }

    /// What was left alone, and why; never the secret itself.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The length of the longest text that is looked for.
    pub(crate) const fn longest(&self) -> usize {
        self.longest
    }

    /// The bytes without secrets; `None` where they hold none.
    pub(crate) fn mask(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let engine = self.engine.as_ref()?;
        let mut found = engine.find_iter(bytes).peekable();
        found.peek()?;
        let mut masked = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for secret in found {
            masked.extend_from_slice(bytes.get(from..secret.start()).unwrap_or_default());
            masked.extend_from_slice(MASKED.as_bytes());
            from = secret.end();
        }
        masked.extend_from_slice(bytes.get(from..).unwrap_or_default());
        Some(masked)
    }

    /// The last place at or before `at` that is inside no secret of `bytes`.
    pub(crate) fn outside(&self, bytes: &[u8], at: usize) -> usize {
        let Some(engine) = &self.engine else { return at };
        engine
            .find_iter(bytes)
            .take_while(|secret| secret.start() < at)
            .find(|secret| secret.end() > at)
            .map_or(at, |secret| secret.start())
    }

    /// Where a secret may begin that is not whole yet at the end of `bytes`; their length where none does.
    pub(crate) fn open_from(&self, bytes: &[u8]) -> usize {
        let Some(engine) = &self.engine else { return bytes.len() };
        let mut open = self.next_open(bytes, 0);
        for secret in engine.find_iter(bytes) {
            if open <= secret.start() {
                break;
            }
            if open < secret.end() {
                open = self.next_open(bytes, secret.end());
            }
        }
        open
    }

    /// The first place from `from` on whose rest of `bytes` begins a longer secret.
    fn next_open(&self, bytes: &[u8], from: usize) -> usize {
        let earliest = bytes.len().saturating_sub(self.longest.saturating_sub(1)).max(from);
        (earliest..bytes.len())
            .find(|at| bytes.get(*at..).is_some_and(|rest| self.begins_secret(rest)))
            .unwrap_or(bytes.len())
    }

    /// Whether a longer secret begins with `rest`: it would stand right after `rest` in the sorted list.
    fn begins_secret(&self, rest: &[u8]) -> bool {
        let after = self.forms.partition_point(|form| form.as_slice() <= rest);
        self.forms.get(after).is_some_and(|form| form.starts_with(rest))
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masker({} texts)", self.forms.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Masker;

    fn masker(secrets: &[&str]) -> Masker {
        Masker::new(secrets.iter().map(|secret| (*secret).to_owned()))
    }

    #[test]
    fn each_line_of_a_key_and_the_key_on_one_line_are_masked() {
        let key = "-----BEGIN-----\r\nAAAABBBB\nCCCCDDDD\n-----END-----\n";
        let masker = masker(&[key]);
        assert_eq!(masker.mask_text(key), "***\r\n***\n***\n***\n");
        assert_eq!(masker.mask_text("x -----BEGIN----- AAAABBBB CCCCDDDD -----END----- y"), "x *** y");
        assert_eq!(masker.mask_text("only CCCCDDDD"), "only ***");
        assert!(!format!("{masker:?}").contains("AAAA"));
    }

    #[test]
    fn the_longest_secret_wins_and_short_ones_are_left_alone_with_a_warning() {
        let masker = masker(&["pass", "password", "abc"]);
        assert_eq!(masker.mask_text("password pass abc"), "*** *** abc");
        assert_eq!(masker.warnings().len(), 1);
    }

    #[test]
    fn what_may_become_a_secret_is_told() {
        let masker = masker(&["secret", "secretariat"]);
        assert_eq!(masker.open_from(b"a sec"), 2);
        assert_eq!(masker.open_from(b"a secret"), 2, "it may become the longer one");
        assert_eq!(masker.open_from(b"a secretx"), 9);
        assert_eq!(masker.outside(b"a secretx", 5), 2);
        assert_eq!(masker.outside(b"a secretx", 8), 8);
    }
}
