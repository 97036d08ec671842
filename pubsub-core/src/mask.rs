//! Takes secrets out of what is stored.

use std::fmt;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Shortest secret that is masked, in bytes: anything shorter would be found everywhere.
pub const MIN_SECRET_BYTES: usize = 4;

/// Most bytes that are looked for at once; of a longer text each piece of at most this size is masked on its own.
pub const MAX_SECRET_BYTES: usize = 16 * 1024;

/// What stands in a secret's place.
pub const MASKED: &str = "***";

/// Replaces secrets by `***`: each line of a secret on its own, and a secret of several lines also with spaces in place
/// of its line breaks, as an unquoted `echo` prints it.
///
/// So nothing that is looked for holds a line feed, and a line can be masked once it is whole. Where secrets overlap,
/// the leftmost one is taken, and of those that begin at one place the longest.
///
/// ```
/// use pubsub_core::Masker;
/// let masker = Masker::new(["S3cr3t-Value-42".to_owned(), "abc".to_owned()]);
/// assert_eq!(masker.mask_text("token=S3cr3t-Value-42"), "token=***");
/// assert_eq!(masker.warnings(), ["secret 2 has fewer than 4 bytes and is left alone"]);
/// ```
#[derive(Clone, Default)]
pub struct Masker {
    search: Search,
    /// Sorted, each once: what is looked for.
    forms: Vec<String>,
    longest: usize,
    warnings: Vec<String>,
}

#[derive(Clone, Default)]
enum Search {
    /// There are no secrets.
    #[default]
    Nothing,
    For(AhoCorasick),
    /// There are more secrets than can be looked for: nothing is shown.
    Everything,
}

impl Masker {
    /// Masks these secrets. Values and lines under [`MIN_SECRET_BYTES`] are left alone, with a warning.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut forms = Vec::new();
        let mut warnings = Vec::new();
        for (index, secret) in secrets.into_iter().enumerate() {
            let number = index + 1;
            let found = forms_of(&secret);
            if found.is_empty() {
                warnings.push(format!(
                    "secret {number} has fewer than {MIN_SECRET_BYTES} bytes and is left alone"
                ));
            } else if lines_of(&secret).any(|line| form_of_line(line).is_none()) {
                warnings.push(format!(
                    "secret {number} has lines of fewer than {MIN_SECRET_BYTES} bytes, which are left alone where they stand alone"
                ));
            }
            found.iter().for_each(|form| add_pieces(form, &mut forms));
        }
        forms.sort_unstable();
        forms.dedup();
        let longest = forms.iter().map(String::len).max().unwrap_or(0);
        // As fast as a table over all bytes, measured, and a thirtieth of its memory for long keys.
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&forms);
        let search = match built {
            _ if forms.is_empty() => Search::Nothing,
            Ok(engine) => Search::For(engine),
            Err(error) => {
                warnings.push(format!("the secrets cannot be looked for, so everything is masked: {error}"));
                Search::Everything
            }
        };
        Self { search, forms, longest, warnings }
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

    /// The bytes without secrets, never longer; `None` where they hold none.
    pub(crate) fn mask(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let engine = match &self.search {
            Search::Nothing => return None,
            Search::For(engine) => engine,
            Search::Everything => {
                let hidden = bytes.iter().map(|byte| if b"\r\n".contains(byte) { *byte } else { b'*' });
                return Some(hidden.collect());
            }
        };
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
        let Search::For(engine) = &self.search else { return at };
        engine
            .find_iter(bytes)
            .take_while(|secret| secret.start() < at)
            .find(|secret| secret.end() > at)
            .map_or(at, |secret| secret.start())
    }

    /// Where a secret may begin that is not whole yet at the end of `bytes`; their length where none does.
    pub(crate) fn open_from(&self, bytes: &[u8]) -> usize {
        let Search::For(engine) = &self.search else { return bytes.len() };
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
        let after = self.forms.partition_point(|form| form.as_bytes() <= rest);
        self.forms.get(after).is_some_and(|form| form.as_bytes().starts_with(rest))
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masker({} texts)", self.forms.len())
    }
}

/// The lines of a secret that have something in them.
fn lines_of(secret: &str) -> impl Iterator<Item = &str> {
    secret.split('\n').map(|line| line.trim_matches('\r')).filter(|line| !line.trim().is_empty())
}

/// What is looked for of a line: it may be printed without the blanks around it, where enough is left.
fn form_of_line(line: &str) -> Option<&str> {
    let bare = line.trim();
    [bare, line].into_iter().find(|form| !bare.is_empty() && form.len() >= MIN_SECRET_BYTES)
}

/// What is looked for: each line, and the whole on one line, both as they are and as the words that a shell makes of
/// them. A shell keeps carriage returns; others do not.
fn forms_of(secret: &str) -> Vec<String> {
    let lines = lines_of(secret).flat_map(|line| [line.to_owned(), words(line)]);
    let wholes = [secret, &secret.replace('\r', "")].map(|text| [text.replace('\n', " "), words(text)]);
    lines
        .chain(wholes.into_iter().flatten())
        .filter_map(|form| form_of_line(form.trim_matches('\r')).map(str::to_owned))
        .collect()
}

/// The words of a text, as an unquoted `echo` prints them.
fn words(text: &str) -> String {
    let words: Vec<&str> = text.split([' ', '\t', '\n']).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Adds a text in pieces of about one size, so that none is too short.
fn add_pieces(form: &str, forms: &mut Vec<String>) {
    let mut rest = form;
    while !rest.is_empty() {
        let size = rest.len().div_ceil(rest.len().div_ceil(MAX_SECRET_BYTES));
        let (piece, after) = rest.split_at(rest.floor_char_boundary(size));
        forms.push(piece.to_owned());
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SECRET_BYTES, Masker, Search, words};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

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

    #[test]
    fn a_key_is_masked_however_a_shell_prints_it() {
        let key = "{\r\n\t\"id\":  \"AAAA1\",\r\n\r\n  \"key\": \"BBBB2\"\r\n}\r\n";
        let masker = masker(&[key]);
        let echoed = words(key);
        for printed in [
            key.to_owned(),
            key.replace('\r', ""),
            key.replace('\n', " "),
            key.replace("\r\n", " "),
            words(&key.replace('\r', "")),
            echoed.replace('\r', ""),
            echoed,
            key.lines().map(str::trim).collect::<Vec<_>>().join("\n"),
        ] {
            let masked = masker.mask_text(&printed);
            assert!(!masked.contains("AAAA1") && !masked.contains("BBBB2"), "{printed:?} became {masked:?}");
            assert!(!masked.contains('"'), "{printed:?} became {masked:?}");
        }
        assert_eq!(masker.warnings().len(), 1, "of the braces, once");
    }

    #[test]
    fn blanks_around_a_secret_do_not_save_it() {
        assert_eq!(masker(&["  password\t\n"]).mask_text("a password b"), "a *** b");
        // Too short without its blanks.
        assert_eq!(masker(&[" ab "]).mask_text("cab ab cd"), "cab***cd");
        let blank = masker(&["", "      ", "\n\r\n"]);
        assert_eq!((blank.mask_text("       "), blank.warnings().len()), ("       ".to_owned(), 3));
    }

    #[test]
    fn a_long_secret_is_masked_in_pieces_and_none_is_short() {
        for length in [MAX_SECRET_BYTES, MAX_SECRET_BYTES + 1, 5 * MAX_SECRET_BYTES + 2] {
            let secret: String =
                (0..length).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
            let masker = masker(&[&secret]);
            assert!(masker.longest() <= MAX_SECRET_BYTES);
            assert!(masker.forms.iter().all(|form| form.len() >= MAX_SECRET_BYTES / 2));
            let masked = masker.mask_text(&format!("<{secret}>"));
            assert!(masked.trim_matches(['<', '>', '*']).is_empty(), "{} bytes left", masked.len());
        }
    }

    #[test]
    fn nothing_is_shown_where_the_secrets_cannot_be_looked_for() {
        let masker = Masker { search: Search::Everything, ..Masker::default() };
        assert_eq!(masker.mask_text("one\r\ntwo"), "***\r\n***");
    }

    proptest! {
        #[test]
        fn masked_text_holds_no_secret_and_nothing_else_changes(
            text in "[ab \\n]{0,60}",
            secrets in proptest::collection::vec("[ab]{4,7}", 0..4),
        ) {
            let texts: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let masked = masker(&texts).mask_text(&text);
            prop_assert!(masked.len() <= text.len());
            prop_assert!(texts.iter().all(|secret| !masked.contains(secret)));
            if texts.iter().all(|secret| !text.contains(secret)) {
                prop_assert_eq!(masked, text);
            }
        }
    }
}
