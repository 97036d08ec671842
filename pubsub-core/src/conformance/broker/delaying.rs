//! §4.2: delivery can be delayed at publish, durably.

use std::time::Duration;

use tokio::time::Instant;

use super::BrokerFixture;
use super::sample::{Member, assert_came_after, assert_kind, depth, named, on, publish, soon};
use crate::{BrokerCapabilities, ErrorKind, PublisherExt as _, Scope, Timestamp};

/// §4.2: an event is not delivered before its time; what is published after it passes it.
pub async fn a_delayed_event_waits_for_its_time(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.another().await;
    let (began, delay) = (Instant::now(), 2 * soon());
    let due = Timestamp::now().plus(delay);
    let late = named("t", "a", "late").with_deliver_at(due);
    if !can.delay.is_yes() {
        assert_kind(broker.publish_one(late).await, ErrorKind::Unsupported);
        return;
    }
    // Longer than any rule takes.
    let later = named("t", "a", "later").with_deliver_at(Timestamp::now().plus(Duration::from_secs(3600)));
    publish(&*broker, &[later, late, named("t", "a", "now")]).await;
    broker.close().await.unwrap();
    drop(broker);
    let broker = fixture.another().await;
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(2)).await;
    let mut came = vec![member.take().await];
    // Where this took so long that its time has come, it may be the first.
    assert!(came == ["now"] || Timestamp::now() >= due, "it came before its time");
    came.push(member.take().await);
    came.sort();
    assert_eq!(came, ["late", "now"]);
    assert!(Timestamp::now() >= due, "it came before its time");
    assert_came_after(began, delay);
    assert_eq!(depth(&*broker, &Scope::default()).await, (0, 1, 0));
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
