//! Which texts a line must hold to match a pattern: what an index over each three characters can look for.
//!
//! It only narrows: of what the index finds, the `regex` engine decides.

use pubsub_core::Search;
use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Value, json};

/// Most texts of which one must be there. Each letter without case doubles them.
const MOST_TEXTS: usize = 64;

/// Most characters of a class that are told apart.
const MOST_OF_CLASS: usize = 8;

/// Of longer texts the beginning is enough, in characters.
const MOST_CHARS: usize = 32;

/// How many trigrams are looked for at most: servers refuse queries of more than 1,024 parts.
const MOST_TRIGRAMS: usize = 400;

/// The shortest text that the index knows, in characters.
const LEAST_CHARS: usize = 3;

/// One of these texts must be there.
type OneOf = Vec<String>;

/// Conditions that every line that matches meets; none where nothing is known.
pub(crate) fn conditions(search: &Search) -> Vec<Value> {
    let alternatives = |texts: &OneOf| {
        let holds =
            |text: &String| json!({"match": {"message.trigrams": {"query": text, "operator": "and"}}});
        json!({"bool": {"should": texts.iter().map(holds).collect::<Vec<_>>(), "minimum_should_match": 1}})
    };
    required(search).iter().map(alternatives).collect()
}

/// Of each of these, one text must be there.
fn required(search: &Search) -> Vec<OneOf> {
    let mut all = match search.as_literal() {
        Some(text) => vec![vec![text.to_owned()]],
        // It was compiled from the same text.
        None => regex_syntax::parse(search.as_regex().as_str()).map(|hir| of(&hir)).unwrap_or_default(),
    };
    all.retain(|texts| texts.iter().all(|text| text.chars().count() >= LEAST_CHARS));
    all.iter_mut().for_each(shorten);
    // Few and long ones say most.
    let length = |texts: &OneOf| texts.iter().map(|text| text.chars().count()).min().unwrap_or(0);
    all.sort_by_key(|texts| (texts.len(), usize::MAX - length(texts)));
    let mut trigrams = 0;
    all.retain(|texts| {
        trigrams += texts.iter().map(|text| text.chars().count()).sum::<usize>();
        trigrams <= MOST_TRIGRAMS
    });
    all
}

/// The index knows no case, so texts that differ in it are one.
fn shorten(texts: &mut OneOf) {
    for text in texts.iter_mut() {
        *text = text.chars().take(MOST_CHARS).collect();
        // Of ASCII alone: what lower case is elsewhere, server and client may see differently.
        text.make_ascii_lowercase();
    }
    texts.sort_unstable();
    texts.dedup();
}

fn of(hir: &Hir) -> Vec<OneOf> {
    if let Some(texts) = exact(hir) {
        return vec![texts];
    }
    match hir.kind() {
        HirKind::Capture(capture) => of(&capture.sub),
        HirKind::Repetition(repeated) if repeated.min > 0 => of(&repeated.sub),
        HirKind::Concat(parts) => of_sequence(parts),
        HirKind::Alternation(branches) => of_branches(branches).map_or_else(Vec::new, |texts| vec![texts]),
        _ => Vec::new(),
    }
}

/// Neighbours that are exact are one text; what lies between is looked at by itself.
fn of_sequence(parts: &[Hir]) -> Vec<OneOf> {
    let mut all = Vec::new();
    let mut open: OneOf = vec![String::new()];
    for part in parts {
        match exact(part) {
            // What is looked at between two characters takes none.
            _ if matches!(part.kind(), HirKind::Look(_)) => {}
            Some(texts) => match product(&open, &texts) {
                Some(longer) => open = longer,
                None => all.push(std::mem::replace(&mut open, texts)),
            },
            None => {
                all.push(std::mem::replace(&mut open, vec![String::new()]));
                all.extend(of(part));
            }
        }
    }
    all.push(open);
    all
}

/// The best of each branch; `None` where one has none.
fn of_branches(branches: &[Hir]) -> Option<OneOf> {
    let mut texts = Vec::new();
    for branch in branches {
        let usable = |one: &OneOf| one.iter().all(|text| text.chars().count() >= LEAST_CHARS);
        let best = of(branch).into_iter().filter(usable).min_by_key(Vec::len)?;
        texts.extend(best);
    }
    (texts.len() <= MOST_TEXTS).then_some(texts)
}

/// All texts that this can be, where they are few.
fn exact(hir: &Hir) -> Option<OneOf> {
    match hir.kind() {
        HirKind::Empty => Some(vec![String::new()]),
        HirKind::Literal(literal) => Some(vec![std::str::from_utf8(&literal.0).ok()?.to_owned()]),
        HirKind::Class(Class::Unicode(class)) => {
            let few = class.iter().map(|range| range.len()).sum::<usize>() <= MOST_OF_CLASS;
            let texts = || class.iter().flat_map(|range| range.start()..=range.end()).map(String::from);
            few.then(|| unique(texts().collect())).filter(|texts| !texts.is_empty())
        }
        HirKind::Capture(capture) => exact(&capture.sub),
        HirKind::Concat(parts) => {
            parts.iter().try_fold(vec![String::new()], |texts, part| product(&texts, &exact(part)?))
        }
        HirKind::Alternation(branches) => {
            let all: Option<Vec<OneOf>> = branches.iter().map(exact).collect();
            all.map(|all| unique(all.concat())).filter(|texts| texts.len() <= MOST_TEXTS)
        }
        HirKind::Class(Class::Bytes(_)) | HirKind::Look(_) | HirKind::Repetition(_) => None,
    }
}

/// Without case, as the index sees them, they are fewer.
fn unique(mut texts: OneOf) -> OneOf {
    texts.iter_mut().for_each(|text| text.make_ascii_lowercase());
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// Each of the one followed by each of the other; `None` where these are too many.
fn product(front: &OneOf, back: &OneOf) -> Option<OneOf> {
    let texts = || front.iter().flat_map(|text| back.iter().map(move |more| format!("{text}{more}")));
    (front.len() * back.len() <= MOST_TEXTS).then(|| texts().collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::{any, prop_assert, proptest};
    use pubsub_core::Search;

    use super::{MOST_TRIGRAMS, required};

    fn of(pattern: &str) -> Vec<Vec<String>> {
        required(&Search::regex(pattern).unwrap())
    }

    #[test]
    fn texts_are_taken_from_patterns() {
        let table: [(&str, &[&[&str]]); 18] = [
            ("^ERROR", &[&["error"]]),
            (r"code=\d+$", &[&["code="]]),
            ("(?i)error", &[&["error"]]),
            ("warn|error", &[&["error", "warn"]]),
            ("wa|error", &[]),
            ("(wa|erro)r: x", &[&["error: x", "war: x"]]),
            ("timed? out", &[&["time"], &[" out"]]),
            ("(timed )?out of memory", &[&["out of memory"]]),
            ("(abc)+", &[&["abc"]]),
            ("(abc)*", &[]),
            (r"\bneedle\b", &[&["needle"]]),
            ("a.b", &[]),
            ("foo.*barbaz", &[&["barbaz"], &["foo"]]),
            ("[ab]cd", &[&["acd", "bcd"]]),
            ("", &[]),
            ("^$", &[]),
            (r"\d{3}", &[]),
            ("x", &[]),
        ];
        for (pattern, expected) in table {
            assert_eq!(of(pattern), expected, "{pattern}");
        }
        // The sign for Kelvin is a k without case.
        assert_eq!(of("(?i)kelvin"), [["kelvin", "\u{212a}elvin"]]);
        let literal = |text| required(&Search::literal(text).unwrap());
        assert_eq!(literal("a.*B"), [["a.*b"]]);
        assert!(literal("ab").is_empty());
        assert_eq!(literal(&"x".repeat(1_000)), [["x".repeat(32)]]);
    }

    #[test]
    fn what_is_looked_for_is_bounded() {
        for pattern in ["(?i)[a-h][a-h][a-h][a-h][a-h][a-h]", "(abcdefgh[xyz]){9}", &"(foo|bar)".repeat(50)] {
            let chars: usize = of(pattern).iter().flatten().map(|text| text.chars().count()).sum();
            assert!(chars <= MOST_TRIGRAMS, "{pattern}: {chars}");
        }
    }

    fn trigrams(text: &str) -> HashSet<Vec<char>> {
        let chars: Vec<char> = text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect();
        chars.windows(3).map(<[char]>::to_vec).collect()
    }

    /// As the index finds it.
    fn is_found(wanted: &[Vec<String>], line: &str) -> bool {
        let there = trigrams(line);
        wanted.iter().all(|texts| texts.iter().any(|text| trigrams(text).is_subset(&there)))
    }

    fn part() -> impl proptest::strategy::Strategy<Value = String> {
        proptest::sample::select(
            [
                "abc", "ab", "(?i:abc)", "(?i:sk)", ".", ".*", "[ab]", "[^a]", "(ab|bca)", "(a|b)?",
                "(abc)+", "(cab){2}", "^", "$", r"\b", r"\w", "c|a", "é", "É", "x{0}", "(?:)", "ba*c",
                "(ab?)*",
            ]
            .map(str::to_owned)
            .to_vec(),
        )
    }

    proptest! {
        #[test]
        fn every_line_that_matches_is_found(
            parts in proptest::collection::vec(part(), 1..6),
            lines in proptest::collection::vec("[abcABCskSKéÉ \u{212a}\u{17f}]{0,14}", 1..20),
            grouped in any::<bool>(),
        ) {
            let pattern = if grouped { format!("({})", parts.join(")(")) } else { parts.concat() };
            let search = Search::regex(&pattern).unwrap();
            let wanted = required(&search);
            for line in lines {
                prop_assert!(!search.is_match(line.as_bytes()) || is_found(&wanted, &line), "{} {} {:?}", pattern, line, wanted);
            }
        }
    }
}
