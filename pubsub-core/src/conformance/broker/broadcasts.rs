//! §2, §4.2: without a group each subscriber gets each event.

use futures::StreamExt as _;
use tokio::time::timeout;

use super::BrokerFixture;
use super::sample::{LONG, assert_kind, event, named, publish, soon};
use crate::{
    Broker, BrokerCapabilities, Deliveries, ErrorKind, Publisher as _, PublisherExt as _, StartAt,
    Subscription, Timestamp,
};

fn all() -> Subscription {
    Subscription::broadcast(["t:*".parse().unwrap()]).unwrap()
}

async fn listen(broker: &dyn Broker) -> Deliveries {
    Deliveries::open(broker, all()).await.unwrap()
}

async fn next(deliveries: &mut Deliveries) -> String {
    let next = timeout(LONG, deliveries.next()).await.expect("nothing is heard");
    next.unwrap().unwrap().event().id.as_str().to_owned()
}

async fn is_unsupported(fixture: &dyn BrokerFixture) {
    assert_kind(fixture.broker().subscribe(all()).await, ErrorKind::Unsupported);
}

/// §2: each subscriber gets each event that matches, those of an action in publish order, from its subscribing on, until it
/// closes.
pub async fn each_subscriber_gets_each_event_from_now_on(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.broadcast.is_yes() {
        return is_unsupported(fixture).await;
    }
    let (broker, other) = (fixture.another().await, fixture.another().await);
    publish(&*broker, &[named("t", "a", "before")]).await;
    let (mut one, mut two) = (listen(&*broker).await, listen(&*other).await);
    publish(&*broker, &[named("t", "a", "1"), named("u", "a", "other"), named("t", "b", "2")]).await;
    let mut three = listen(&*broker).await;
    broker.publish_one(named("t", "b", "2")).await.unwrap();
    publish(&*other, &[named("t", "a", "3")]).await;
    for listener in [&mut one, &mut two] {
        let heard = [next(listener).await, next(listener).await, next(listener).await];
        let place = |id: &str| heard.iter().position(|heard| heard == id);
        assert!(place("2").is_some() && place("1") < place("3"), "{heard:?}");
    }
    assert_eq!(next(&mut three).await, "3");
    broker.close().await.unwrap();
    assert!(timeout(LONG, one.next()).await.expect("the stream ends on close").is_none());
}

/// §4.3: subscribers without a group cannot have runs.
pub async fn a_broadcast_has_no_leases_and_no_runs(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.broadcast.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    let mut raw = broker.subscribe(all()).await.unwrap();
    let mut kept = listen(&*broker).await;
    publish(&*broker, &[event("t", "a")]).await;
    let leased = timeout(LONG, raw.entries.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(leased.lease, None);
    let delivery = timeout(LONG, kept.next()).await.unwrap().unwrap().unwrap();
    assert_kind(delivery.begin().await, ErrorKind::Unsupported);
    delivery.ack().await.unwrap();
}

/// §4.2: a subscription tells where to start.
pub async fn a_broadcast_starts_where_it_asks_to(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.broadcast.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1"), named("u", "a", "other")]).await;
    let second = broker.publish_one(named("t", "a", "2")).await.unwrap().position;
    publish(&*broker, &[named("t", "a", "3")]).await;
    for (start, expected) in [(StartAt::Earliest, vec!["1", "2", "3"]), (StartAt::After(second), vec!["3"])] {
        let subscription = all().with_start(start);
        if !can.broadcast_start.is_yes() {
            assert_kind(broker.subscribe(subscription).await, ErrorKind::Unsupported);
            continue;
        }
        let mut listener = Deliveries::open(&*broker, subscription).await.unwrap();
        let mut heard = Vec::new();
        for _ in &expected {
            heard.push(next(&mut listener).await);
        }
        assert_eq!(heard, expected);
    }
}

/// §4.2: an event that is delayed is heard at its time by those who listen then.
pub async fn a_delayed_event_is_broadcast_at_its_time(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.broadcast.is_yes() {
        return is_unsupported(fixture).await;
    }
    if !can.delay.is_yes() {
        return;
    }
    let broker = fixture.broker();
    let mut listener = listen(&*broker).await;
    let due = Timestamp::now().plus(2 * soon());
    publish(&*broker, &[named("t", "a", "late").with_deliver_at(due), named("t", "a", "now")]).await;
    assert_eq!(next(&mut listener).await, "now");
    assert_eq!(next(&mut listener).await, "late");
    assert!(Timestamp::now() >= due);
}
