//! What a line must have in it to match, so that the server need not send the others.

use pubsub_core::Search;
use regex_syntax::Parser;
use regex_syntax::hir::{Hir, HirKind};

/// Shorter texts are in most lines.
const SHORTEST: usize = 3;

/// A text that each line has which the search finds; `None` where there is none that helps.
pub(crate) fn needed(search: &Search) -> Option<String> {
    let text = match search.as_literal() {
        Some(text) => Some(text.to_owned()),
        None => Parser::new().parse(search.as_regex().as_str()).ok().and_then(|hir| longest(&hir)),
    };
    // An expression of the server ends at a NUL.
    text.filter(|text| text.len() >= SHORTEST && !text.contains('\0'))
}

/// The longest text that is in whatever this matches.
fn longest(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
        HirKind::Capture(capture) => longest(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => longest(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(longest).max_by_key(String::len),
        HirKind::Empty
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Alternation(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};
    use pubsub_core::Search;

    use super::needed;

    #[test]
    fn a_search_needs_the_longest_text_that_no_line_can_do_without() {
        for (pattern, expected) in [
            (r"^ERROR: code=\d+ at (/a/b)?$", Some("ERROR: code=")),
            (r"(error|warning) in file", Some(" in file")),
            (r"(?:linker)+ failed", Some(" failed")),
            (r"(?i)error", None),
            (r"error|warning", None),
            (r"(error)?", None),
            (r"\d\d", None),
            (r"ab", None),
            (r"a\x00bc", None),
            (r"why\?", Some("why?")),
            (r"(?m)^naïve$", Some("naïve")),
        ] {
            let search = Search::regex(pattern).unwrap();
            assert_eq!(needed(&search).as_deref(), expected, "{pattern}");
        }
        assert_eq!(needed(&Search::literal("*x?").unwrap()).as_deref(), Some("*x?"));
        assert_eq!(needed(&Search::literal("").unwrap()), None);
    }

    proptest! {
        #[test]
        fn whatever_matches_has_it(pattern in r"[abc.*+?|()^$]{1,12}", line in "[abc]{0,20}") {
            if let Ok(search) = Search::regex(&pattern)
                && let Some(text) = needed(&search)
                && search.is_match(line.as_bytes())
            {
                prop_assert!(line.contains(&text), "{pattern} needs {text} of {line}");
            }
        }
    }
}
