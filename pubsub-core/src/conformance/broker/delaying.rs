//! §4.2: delivery can be delayed at publish, durably.

use std::time::Duration;

use super::BrokerFixture;
use super::sample::{Member, assert_kind, depth, named, on, publish};
use crate::{BrokerCapabilities, ErrorKind, PublisherExt as _, Scope, Timestamp};

/// §4.2: an event is not delivered before its time; what is published after it passes it.
pub async fn a_delayed_event_waits_for_its_time(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.another().await;
    let due = Timestamp::now().plus(Duration::from_secs(2));
    let late = named("t", "a", "late").with_deliver_at(due);
    if !can.delay.is_yes() {
        assert_kind(broker.publish_one(late).await, ErrorKind::Unsupported);
        return;
    }
    publish(&*broker, &[late, named("t", "a", "now")]).await;
    broker.close().await.unwrap();
    drop(broker);
    let broker = fixture.another().await;
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(2)).await;
    assert_eq!(member.take().await, "now");
    if Timestamp::now() < due {
        assert_eq!(depth(&*broker, &Scope::default()).await, (0, 1, 0));
    }
    assert_eq!(member.take().await, "late");
    let now = Timestamp::now();
    assert!(now >= due, "it came before its time");
    assert!(now < due.plus(Duration::from_secs(3)), "it came at {now}, due {due}");
    member.nothing().await;
}

/// §4.2: a time that is past is now.
pub async fn a_time_that_has_passed_delays_nothing(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.broker();
    if !can.delay.is_yes() {
        return;
    }
    let past = named("t", "a", "1").with_deliver_at(Timestamp::from_micros(1));
    publish(&*broker, &[past.clone(), named("t", "a", "2")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let first = member.next().await;
    assert_eq!(first.event, past);
    member.ack(&first).await;
    assert_eq!(member.take().await, "2");
}
