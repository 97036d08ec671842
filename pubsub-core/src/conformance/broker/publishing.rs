//! §4.2: a publish that returned `Ok` is there; an id published twice is one event.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::BrokerFixture;
use super::sample::{LONG, Member, assert_came_after, assert_kind, event, named, on, publish};
use crate::{
    BrokerCapabilities, ErrorKind, Event, EventId, Novelty, Origin, Position, Publisher as _,
    PublisherExt as _, Role, Stage, StartAt, Timestamp,
};

/// An event with something in each place.
fn full() -> Event {
    let payload =
        r#"{ "n": 1.0, "e":1e2, "dup":1, "dup":2, "u":"\u00e9é\u0000🦀", "nested":[null,true,{}] }"#;
    let mut event = named("build-requested", "action-123", "chosen")
        .with_payload(payload.parse().unwrap())
        .with_header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .with_header("note", "two\nlines, \"quoted\", é, 🦀");
    event.source = "/somewhere/else?x=1".to_owned();
    event.time = Timestamp::from_micros(1_700_000_000_123_456);
    event.origin = Some(Origin {
        role: Role::Next,
        stage: Stage::new("test: it").unwrap(),
        cause: EventId::new("cause/1").unwrap(),
        root: EventId::new("root").unwrap(),
        root_position: Position::new("17"),
        links: 3,
    });
    event
}

/// §4.2: an event comes as it was published, its payload byte by byte.
pub async fn an_event_reads_back_exactly(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[full(), event("build-requested", "action-123")]).await;
    let mut member = Member::join(&*broker, on("s", &["build-*:*"])).await;
    let got = member.next().await;
    assert_eq!(got.event, full());
    assert_eq!(got.event.payload.as_str(), full().payload.as_str());
    assert_eq!(member.next().await.event.payload.as_str(), "null");
}

/// §4.2: what was published is there for whoever opens the broker later, and stands where the answer said.
pub async fn what_was_published_is_there_through_another_handle(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let publisher = fixture.another().await;
    let one = publisher.publish_one(named("t", "a", "1")).await.unwrap();
    let two = publisher.publish_one(named("t", "a", "2")).await.unwrap();
    assert_ne!(one.position, two.position);
    publisher.close().await.unwrap();
    drop(publisher);
    let broker = fixture.another().await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    for published in [&one, &two] {
        let got = member.next().await;
        assert_eq!(got.position, published.position);
        member.ack(&got).await;
    }
    let mut rest =
        Member::join(&*broker, on("other", &["t:a"]).with_start(StartAt::After(one.position))).await;
    assert_eq!(rest.take().await, "2");
    rest.nothing().await;
}

/// §4.2: publishing an id that the caller chose again is one event, also once it was settled, through any handle.
pub async fn an_id_published_twice_is_one_event(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let first = broker.publish_one(named("t", "a", "chosen")).await.unwrap();
    assert_eq!(first.novelty, Novelty::New);
    let again = other.publish_one(named("t", "a", "chosen")).await.unwrap();
    assert_eq!((again.novelty, &again.position), (Novelty::Duplicate, &first.position));
    assert_eq!(member.take().await, "chosen");
    let later = broker.publish_one(named("t", "a", "chosen")).await.unwrap();
    assert_eq!((later.novelty, later.position), (Novelty::Duplicate, first.position));
    member.nothing().await;
    let answers = broker.publish(vec![named("t", "a", "x"), named("t", "a", "x")]).await;
    let novelties: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().novelty).collect();
    assert_eq!(novelties, [Novelty::New, Novelty::Duplicate]);
    assert_eq!(member.take().await, "x");
    member.nothing().await;
}

/// §4.2: the same holds for those who publish it at the same moment.
pub async fn an_id_published_twice_at_once_is_one_event(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let handles = join_all((0..4).map(|_| fixture.another())).await;
    let mut member = Member::join(&*fixture.broker(), on("s", &["t:a"]).with_prefetch(50)).await;
    for round in 0..10 {
        let id = format!("{round}");
        let answers = join_all(handles.iter().map(|handle| handle.publish_one(named("t", "a", &id)))).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|answer| answer.novelty == Novelty::New).count(), 1);
        assert!(answers.iter().all(|answer| answer.position == answers[0].position));
    }
    let mut taken = member.take_many(10).await;
    taken.sort();
    assert_eq!(taken, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    member.nothing().await;
}

/// §4.2, §4.12: a publish answers for each event: one too large is refused with the limit, the others are there.
pub async fn a_batch_is_answered_event_by_event(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.broker();
    assert!(broker.publish(Vec::new()).await.is_empty());
    let text = "x".repeat(can.max_event_bytes);
    let large = named("t", "a", "large").with_payload(format!("\"{text}\"").parse().unwrap());
    let answers = broker.publish(vec![named("t", "a", "1"), large, named("t", "a", "2")]).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let error = answers.into_iter().nth(1).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains(&can.max_event_bytes.to_string()), "names the limit: {error}");
    let mut member = Member::join(&*broker, on("s", &["t:*"]).with_prefetch(5)).await;
    assert_eq!(member.take_many(2).await, ["1", "2"]);
    member.nothing().await;
}

/// §4.2: what is just within the limit is taken and comes whole.
pub async fn an_event_of_the_largest_size_is_taken(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.broker();
    let text = "x".repeat(can.max_event_bytes - 64 * 1024);
    let large = named("t", "a", "large").with_payload(format!("\"{text}\"").parse().unwrap());
    publish(&*broker, std::slice::from_ref(&large)).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    assert!(member.next().await.event == large, "the payload differs");
}

/// §4.2: a member that waits gets what is published later, through whichever handle, soon.
pub async fn what_is_published_meanwhile_wakes_a_waiting_member(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    for (id, publisher) in [("here", &broker), ("there", &other)] {
        member.nothing().await;
        let (new, began) = ([named("t", "a", id)], Instant::now());
        let (taken, ()) = tokio::join!(member.take(), publish(&**publisher, &new));
        assert_eq!(taken, id);
        assert_came_after(began, Duration::ZERO);
    }
}

/// §4.2: streams end on close, which refuses what comes after and leaves other handles open.
pub async fn a_closed_handle_refuses_and_its_streams_end(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.another().await, fixture.another().await);
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let (closed, ()) = tokio::join!(broker.close(), member.end());
    closed.unwrap();
    assert_kind(broker.publish_one(event("t", "a")).await, ErrorKind::Closed);
    let refused = tokio::time::timeout(LONG, broker.subscribe(on("s", &["t:a"]))).await.unwrap();
    assert_kind(refused, ErrorKind::Closed);
    publish(&*other, &[named("t", "a", "1")]).await;
    assert_eq!(Member::join(&*other, on("s", &["t:a"])).await.take().await, "1");
}
