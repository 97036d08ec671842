//! §4.1: one grammar, one matcher, one table of cases that every broker is tested with.

use std::collections::BTreeSet;

use super::sample::{Member, event, on, publish};
use super::{BrokerFixture, named};
use crate::conformance::HOSTILE_IDS;
use crate::{ActionId, BrokerCapabilities, EventId, EventType, Origin, Pattern, Position, Role, Stage};

/// Events, each as type and action: what the patterns of [`CASES`] are tried on.
pub const EVENTS: [(&str, &str); 13] = [
    ("build-requested", "a[1]"),
    ("build-requested", "a1"),
    ("build-requested", "a*"),
    ("build-requested", "a?"),
    ("build-requested", "ab"),
    ("build-requested", "a:b"),
    ("build-requested", "A1"),
    ("build-requested", "aé"),
    ("build", "1"),
    ("build.x", "1"),
    ("buildXx", "1"),
    ("build\\", "a\\b"),
    ("b:c", "1"),
];

/// Patterns, each with the indices in [`EVENTS`] of those it matches.
pub const CASES: [(&str, &[usize]); 19] = [
    ("build-requested:*", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ("build-requested:a[1]", &[0]),
    ("build-requested:a?", &[1, 2, 3, 4, 7]),
    ("build-requested:a\\?", &[3]),
    ("build-requested:a\\*", &[2]),
    ("build-requested:a", &[]),
    ("build-requested:a1", &[1]),
    ("build-requested:a:b", &[5]),
    ("build-requested:*:*", &[5]),
    ("build-requested:**1*", &[0, 1, 6]),
    ("build:*", &[8]),
    ("build.x:1", &[9]),
    ("build?x:1", &[9, 10]),
    ("build*:1", &[8, 9, 10]),
    ("build\\\\:a\\\\b", &[11]),
    ("b\\:c:1", &[12]),
    ("b:c:1", &[]),
    ("*:1", &[8, 9, 10, 12]),
    ("?*:???", &[5, 11]),
];

fn all() -> Vec<crate::Event> {
    EVENTS
        .iter()
        .enumerate()
        .map(|(index, (event_type, action))| named(event_type, action, &format!("e{index}")))
        .collect()
}

/// §4.1: every broker gives the answers of one table.
pub async fn every_pattern_gives_the_answer_of_the_shared_table(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &all()).await;
    for (pattern, expected) in CASES {
        let mut member = Member::join(&*broker, on("s", &[pattern]).with_prefetch(20)).await;
        // Order holds within an action.
        let expected: BTreeSet<String> = expected.iter().map(|index| format!("e{index}")).collect();
        let taken = member.take_many(expected.len()).await;
        assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), expected, "{pattern}");
        member.nothing().await;
    }
}

/// §4.1: what two patterns of a subscription match is one delivery.
pub async fn two_patterns_that_match_are_one_delivery(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1"), named("t", "b", "2"), named("u", "a", "3")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:*", "t:a", "*:a", "?:a"])).await;
    let mut taken = member.take_many(3).await;
    taken.sort();
    assert_eq!(taken, ["1", "2", "3"]);
    member.nothing().await;
}

/// §4.1: whatever characters an id has, it can be subscribed to literally, and comes back as it was.
pub async fn every_id_can_be_subscribed_to_literally(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    let long = "é".repeat(127) + "x";
    let other = "é".repeat(127) + "y";
    let own = [
        "{a}",
        "a{b}:c",
        "*",
        "?",
        "\\",
        "\\*",
        "[a-z]",
        "^$",
        "%41",
        "'; DROP TABLE events; --",
        "\u{202e}rtl",
        "🦀",
        "A",
        "a",
        &long,
        &other,
    ];
    let ids: Vec<&str> = HOSTILE_IDS.into_iter().chain(own).collect();
    let events: Vec<_> = ids.iter().map(|id| event(id, id)).collect();
    publish(&*broker, &events).await;
    for event in &events {
        let literal = Pattern::literal(&event.event_type, &event.action_id);
        let mut member = Member::join(&*broker, on("s", &[literal.as_str()]).with_prefetch(2)).await;
        let got = member.next().await;
        assert_eq!(&got.event, event);
        member.ack(&got).await;
    }
    let mut rest = Member::join(&*broker, on("all", &["*:*"])).await;
    let seen: BTreeSet<String> = rest.take_many(ids.len()).await.into_iter().collect();
    assert_eq!(seen.len(), ids.len());
}

/// §4.3: a `*` for the type matches only events that the library did not make, unless a fixed part of the type is
/// written; a stage never receives its own outcome.
pub async fn what_the_library_made_reaches_only_who_names_its_type(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    let mut outcome = named("build-completed", "a", "outcome");
    outcome.origin = Some(Origin {
        role: Role::Outcome,
        stage: Stage::new("build").unwrap(),
        cause: EventId::new("first").unwrap(),
        root: EventId::new("first").unwrap(),
        root_position: Position::new("1"),
        links: 1,
    });
    let mut next = outcome.clone();
    next.id = EventId::new("next").unwrap();
    next.event_type = EventType::new("deploy-requested").unwrap();
    next.action_id = ActionId::new("a").unwrap();
    next.origin.as_mut().unwrap().role = Role::Next;
    publish(&*broker, &[outcome.clone(), next, named("plain", "a", "plain")]).await;
    let cases: [(&str, &str, &[&str]); 6] = [
        ("other", "*:a", &["plain"]),
        ("other", "?*:*", &["plain"]),
        ("other", "*-completed:*", &["outcome"]),
        ("other", "*-*:a", &["outcome", "next"]),
        ("build", "*-completed:a", &[]),
        ("build", "*-*:a", &["next"]),
    ];
    for (stage, pattern, expected) in cases {
        let mut member = Member::join(&*broker, on(stage, &[pattern])).await;
        let mut seen = Vec::new();
        for _ in expected {
            let got = member.next().await;
            if got.event.id == outcome.id {
                assert_eq!(got.event, outcome);
            }
            member.ack(&got).await;
            seen.push(got.event.id.as_str().to_owned());
        }
        assert_eq!(seen, expected, "{stage} at {pattern}");
        member.nothing().await;
    }
}
