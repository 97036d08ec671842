//! §4.7: one pattern language, decided by one engine, the same hits from every store.

use std::time::{Duration, Instant};

use futures::FutureExt as _;

use super::StoreFixture;
use super::sample::{SampleRun, batch, cannot_search, hits, lines, numbered, visible};
use crate::{
    ErrorKind, EventId, LineBatch, LineEnd, MAX_LINE_BYTES, Outcome, RunQuery, Search, Store,
    StoreCapabilities, Stream, Timestamp,
};

async fn numbers(store: &dyn Store, run: &SampleRun, search: &Search) -> Vec<u64> {
    let found = hits(store, &run.query(), search).await.unwrap();
    assert!(found.iter().all(|hit| *hit.run == *run.key()));
    found.iter().map(|hit| hit.line.number.get()).collect()
}

/// §4.7: the language is that of the `regex` crate, on each line alone, without its end.
pub async fn patterns_are_those_of_the_regex_crate(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let given = [
        lines(1, ["ERROR: code=42 at /a/b", "error: code=7", " WARN x", ""]),
        batch(5, Stream::Stderr, "at /a/b\r\nÜnï ERROR\n", LineEnd::None),
        batch(7, Stream::Stdout, &b"caf\xe9 error\n"[..], LineEnd::None),
    ];
    let run = SampleRun::written(&*store, &given).await;
    let table: [(&str, &[u64]); 15] = [
        ("^ERROR", &[1]),
        (r"code=\d+", &[1, 2]),
        ("b$", &[1, 5]),
        ("(?i)error", &[1, 2, 6, 7]),
        ("at /a", &[1, 5]),
        ("ERROR", &[1, 6]),
        ("error$", &[7]),
        ("^$", &[4]),
        ("^", &[1, 2, 3, 4, 5, 6, 7]),
        (r"\s$|\r|\n", &[]),
        (r"^\S+$", &[]),
        ("^.n. ", &[6]),
        ("x|=7", &[2, 3]),
        (r"\bWARN\b", &[3]),
        ("no such text", &[]),
    ];
    for (pattern, expected) in table {
        let found = numbers(&*store, &run, &Search::regex(pattern).unwrap()).await;
        assert_eq!(found, expected, "{pattern}");
    }
}

/// Lines with invalid bytes among lines that are text: a store may look at many at once.
fn with_invalid_bytes() -> Vec<LineBatch> {
    let raw: [&[u8]; 12] = [
        b"caf\xe9",                     // Latin-1 at the end
        b"\xfcber uns",                 // at the start
        b"\xff",                        // alone
        b"a \xe2\x82 b",                // a character cut after two of three bytes: one U+FFFD
        b"euro \xe2\x82",               // the same at the end of the line, where a line feed follows
        b"\x82\xac rest",               // the rest of a character: one for each byte
        b"nul\xc0\x80",                 // an overlong NUL
        b"\xed\xa0\x80 surrogate",      // a surrogate
        b"caf\xc3\xa9 \xe2\x82\xac ok", // valid, among these
        "caf\u{fffd}".as_bytes(),       // U+FFFD as it was printed
        b"cr\r\xe9",                    // a carriage return that ends no line
        b"end \xe9",                    // ended by CR LF
    ];
    let mut printed: Vec<u8> = raw.join(&b'\n');
    printed.extend_from_slice(b"\r\nvalid to the end\n");
    [
        numbered(1, 100),
        vec![batch(101, Stream::Stdout, printed, LineEnd::None)],
        numbered(114, 200),
        vec![batch(201, Stream::Stdout, &b"last caf\xe9"[..], LineEnd::None)],
    ]
    .concat()
}

/// §4.7: what is searched is a line's text: bytes that are no UTF-8 are U+FFFD, as they are shown.
pub async fn invalid_bytes_are_searched_as_they_are_shown(
    fixture: &dyn StoreFixture,
    can: StoreCapabilities,
) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let given = with_invalid_bytes();
    let run = SampleRun::written(&*store, &given).await;
    let of_lines = super::sample::lines_in(&given);
    let patterns = [
        "caf.",
        "caf.$",
        "^.$",
        "^..$",
        "^.ber",
        r"\x{fffd}",
        "\u{fffd}$",
        "^\u{fffd}",
        "a . b",
        "euro .$",
        "euro ..$",
        r"\bcaf\b",
        r"^caf\w$",
        r"^[^\x00-\x7f]",
        r"(?i)CAF\x{fffd}$",
        r"\r.$",
        "nul..$",
        "^.{3} s",
        "é €",
        "(?-u:caf)",
        r"^\pL+$",
        "^valid|^last",
        "^",
        "^$",
        "no such text",
    ];
    for pattern in patterns {
        // The `regex` crate on text is what decides.
        let regex = regex::Regex::new(pattern).unwrap();
        let fits = of_lines.iter().filter(|line| regex.is_match(&String::from_utf8_lossy(&line.bytes)));
        let expected: Vec<_> = fits.map(|line| line.number.get()).collect();
        let found = numbers(&*store, &run, &Search::regex(pattern).unwrap()).await;
        assert_eq!(found, expected, "{pattern}");
    }
    let texts: [(&str, &[u64]); 7] = [
        ("caf\u{fffd}", &[101, 110, 201]),
        ("caf", &[101, 109, 110, 201]),
        ("\u{fffd}\u{fffd} rest", &[106]),
        ("a \u{fffd} b", &[104]),
        ("€", &[109]),
        ("é", &[109]),
        ("valid to", &[113]),
    ];
    for (text, expected) in texts {
        assert_eq!(numbers(&*store, &run, &Search::literal(text).unwrap()).await, expected, "{text}");
    }
}

/// §4.7: where a pattern is refused, the error names what is wrong and the pattern.
pub async fn what_is_no_pattern_is_refused_by_name(_: &dyn StoreFixture, _: StoreCapabilities) {
    let long = "x".repeat(10 << 10);
    let table = [
        ("(", "language"),
        ("a**[", "language"),
        ("(?=x)", "language"),
        (r"(a)\1", "language"),
        // These could match bytes that are no text.
        (r"(?-u)\xff", "language"),
        (r"(?-u:\xe9)", "language"),
        ("(?-u:.)", "language"),
        // Nested repeats that are harmless to read and huge once compiled.
        ("(?:(?:a{1,100}){1,100}){1,100}", "1048576 bytes once compiled"),
        (&long, "at most 1000 bytes, this one 10240"),
    ];
    for (pattern, named) in table {
        let error = Search::regex(pattern).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let text = error.to_string();
        assert!(text.contains(named), "{text}");
        let shown = format!("{pattern:?}");
        assert!(text.contains(shown.get(..20).unwrap_or(&shown)) && text.len() < 300, "{text}");
    }
    let error = Search::literal(&long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("at most 1000 bytes, this one 10240"), "{error}");
}

/// §4.7: `^` and `$` are those of a line, a part of a long line being one; its end is not part of it.
pub async fn anchors_and_flags_see_one_line(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let mut long = "x".repeat(MAX_LINE_BYTES - 1);
    long.push('y');
    let given = [
        lines(1, ["one", "", "two words"]),
        batch(4, Stream::Stdout, "crlf\r\n\r\nin\rside\n", LineEnd::None),
        batch(7, Stream::Stdout, long, LineEnd::Part),
        batch(8, Stream::Stdout, "z rest\n", LineEnd::None),
        batch(9, Stream::Stdout, "open\r", LineEnd::None),
    ];
    let run = SampleRun::written(&*store, &given).await;
    let all: &[u64] = &[1, 2, 3, 4, 5, 6, 7, 8, 9];
    let table: [(&str, &[u64]); 26] = [
        ("", all),
        ("^", all),
        ("$", all),
        ("^$", &[2, 5]),
        (r"\A\z", &[2, 5]),
        (r"\n", &[]),
        (r"\r", &[6, 9]),
        (r"\r$", &[9]),
        ("(?m)^side", &[]),
        ("(?m)^words|^two", &[3]),
        ("(?Rm)^side$", &[6]),
        ("(?Rm)^$", &[2, 5, 9]),
        ("(?s).", &[1, 3, 4, 6, 7, 8, 9]),
        ("(?s)e.*two", &[]),
        (r"one\s*two", &[]),
        (r"[^a]\z", &[1, 3, 4, 6, 7, 8, 9]),
        ("f$", &[4]),
        (r"crlf\z", &[4]),
        ("^z", &[8]),
        ("y$", &[7]),
        ("yz|y z", &[]),
        (r"\bz\b", &[8]),
        (r"^\Bx|^\b{start}z", &[8]),
        ("(?x) o n e # a comment", &[1]),
        ("(?i)^ONE$", &[1]),
        ("(?:(?:e|o)*)*$", all),
    ];
    for (pattern, expected) in table {
        let found = numbers(&*store, &run, &Search::regex(pattern).unwrap()).await;
        assert_eq!(found, expected, "{pattern}");
    }
    assert_eq!(numbers(&*store, &run, &Search::literal("").unwrap()).await, all);
}

/// §4.7: in a plain text no character is special.
pub async fn a_plain_text_is_literal(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let given = [lines(1, ["why?", "wh", "*x", "x", "a.b [1] \\d $", "axb", "%_", "UPPER \"quoted\""])];
    let run = SampleRun::written(&*store, &given).await;
    let table: [(&str, &[u64]); 10] = [
        ("why?", &[1]),
        ("*x", &[3]),
        ("a.b", &[5]),
        ("[1]", &[5]),
        ("\\d $", &[5]),
        ("%", &[7]),
        ("_", &[7]),
        ("upper", &[]),
        ("\"quoted\"", &[8]),
        ("$gt", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(numbers(&*store, &run, &Search::literal(text).unwrap()).await, expected, "{text}");
    }
}

/// §4.7: a hit is the whole line as it was printed; parts and bytes that are no text can be told by it, and a match
/// across parts is not found.
pub async fn hits_carry_the_whole_line(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let mut long = "x".repeat(MAX_LINE_BYTES - 6);
    long.push_str("needle");
    let given = [
        batch(1, Stream::Stdout, long, LineEnd::Part),
        batch(2, Stream::Stdout, "s and a needle\r\n", LineEnd::None),
        batch(3, Stream::Stderr, &b"\xff needle\n"[..], LineEnd::None),
        batch(4, Stream::Stdout, "nee", LineEnd::Part),
        batch(5, Stream::Stdout, "dle", LineEnd::None),
    ];
    let run = SampleRun::written(&*store, &given).await;
    let found = hits(&*store, &run.query(), &Search::literal("needle").unwrap()).await.unwrap();
    let expected = super::sample::lines_in(&given[..3]);
    assert!(found.iter().map(|hit| &hit.line).eq(&expected), "{} hits", found.len());
    let flags: Vec<_> =
        found.iter().map(|hit| (hit.line.end == LineEnd::Part, hit.line.is_lossy())).collect();
    assert_eq!(flags, [(true, false), (false, false), (false, true)]);
}

/// §4.7: across runs, hits come by begin time, run id, number.
pub async fn hits_come_by_begin_time_run_and_number(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let action = EventId::generate().to_string();
    let begun = Timestamp::now();
    let mut expected = Vec::new();
    // Written neither in the order of their times nor of their ids; two begin in the same microsecond.
    for micros in [5, 1, 3, 3, 0, 4] {
        let mut run = SampleRun::of(&action, "build");
        run.record.started_at = begun.plus(Duration::from_micros(micros));
        run.begin(&*store).await;
        run.append(&*store, &[lines(1, ["hit", "miss", "hit"])]).await;
        run.finish(&*store).await;
        expected.extend([1, 3].map(|number| (run.record.started_at, run.id().clone(), number)));
    }
    expected.sort();
    let query = RunQuery::all().with_action(run_action(&action));
    let found = hits(&*store, &query, &Search::literal("hit").unwrap()).await.unwrap();
    let found: Vec<_> =
        found.into_iter().map(|hit| (hit.run.run_id.clone(), hit.line.number.get())).collect();
    let expected: Vec<_> = expected.into_iter().map(|(_, run, number)| (run, number)).collect();
    assert_eq!(found, expected);
}

fn run_action(action: &str) -> crate::ActionId {
    crate::ActionId::new(action).unwrap()
}

/// §4.7: a search asks the runs that fit its query and no others.
pub async fn only_runs_that_fit_are_searched(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let action = EventId::generate().to_string();
    let begun = Timestamp::now();
    let mut runs = Vec::new();
    for (n, stage) in ["build", "test", "build"].into_iter().enumerate() {
        let mut run = SampleRun::of(&action, stage);
        run.record.started_at = begun.plus(Duration::from_secs(n as u64));
        run.begin(&*store).await;
        run.append(&*store, &[lines(1, ["hit"])]).await;
        run.finish(&*store).await;
        runs.push(run);
    }
    SampleRun::written(&*store, &[lines(1, ["hit"])]).await;
    let of_action = RunQuery::all().with_action(run_action(&action));
    let table: [(RunQuery, &[usize]); 6] = [
        (of_action.clone(), &[0, 1, 2]),
        (of_action.clone().with_stage(runs[0].key().stage.clone()), &[0, 2]),
        (of_action.clone().with_event(runs[1].key().event_id.clone()), &[1]),
        (of_action.clone().with_limit(2), &[1, 2]),
        (of_action.clone().with_since(runs[1].record.started_at), &[1, 2]),
        (of_action.with_outcome(Outcome::Failed), &[]),
    ];
    for (query, expected) in table {
        let found = hits(&*store, &query, &Search::literal("hit").unwrap()).await.unwrap();
        let found: Vec<_> = found.iter().map(|hit| &hit.run.run_id).collect();
        assert_eq!(found, expected.iter().map(|n| runs[*n].id()).collect::<Vec<_>>(), "{query:?}");
    }
}

/// §4.7: what a running run has printed is found while it runs, also through another handle.
pub async fn a_running_run_is_searched(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let mut run = SampleRun::new();
    run.begin(&*store).await;
    for (first, last) in [(1, 5), (6, 9)] {
        run.append(&*store, &numbered(first, last)).await;
        visible(&store, run.id(), last).await;
        let other = fixture.reopen().await;
        let search = Search::regex(r"^line \d$").unwrap();
        super::until("the lines are found", || {
            async { numbers(&*other, &run, &search).await == (1..=last).collect::<Vec<_>>() }.boxed()
        })
        .await;
    }
}

/// §4.7: a search that takes too long ends in an error, never in a short list that looks whole.
pub async fn a_search_past_its_time_limit_is_an_error(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let run = SampleRun::written(&*store, &numbered(1, 5_000)).await;
    let search = Search::regex("line").unwrap().with_time_limit(Duration::ZERO);
    let error = hits(&*store, &run.query(), &search).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let text = error.to_string();
    assert!(text.contains("limit=0ns") && text.contains("pattern=\"line\""), "{text}");
    let search = search.with_time_limit(Duration::from_secs(60));
    assert_eq!(hits(&*store, &run.query(), &search).await.unwrap().len(), 5_000);
}

/// §4.7: a pattern that burns other engines ends quickly in ours.
pub async fn nested_repeats_end_quickly(fixture: &dyn StoreFixture, can: StoreCapabilities) {
    let store = fixture.store();
    if cannot_search(&*store, &can).await {
        return;
    }
    let line = format!("{}!", "a".repeat(40));
    let mut given = vec![lines(1, vec![line; 1_000])];
    given.push(lines(1_001, ["aaaa"]));
    let run = SampleRun::written(&*store, &given).await;
    let begun = Instant::now();
    assert_eq!(numbers(&*store, &run, &Search::regex("(a+)+$").unwrap()).await, [1_001]);
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}
