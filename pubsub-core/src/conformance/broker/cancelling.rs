//! §4.2, §4.3: cancel is a mark at the broker; it covers every event whose chain began before it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::BrokerFixture;
use super::sample::{
    LONG, Member, assert_came_after, assert_kind, conclusion, counts, event, go, named, on, publish, short,
};
use crate::{
    ActionId, Begin, BrokerCapabilities, Deliveries, ErrorKind, EventId, LeaseState, Origin, Position,
    PublisherExt as _, Renewal, Role, Stage, Timestamp,
};

const HOUR: Duration = Duration::from_secs(3600);

fn action(id: &str) -> ActionId {
    ActionId::new(id).unwrap()
}

/// Where the broker cannot cancel it says so.
async fn is_unsupported(fixture: &dyn BrokerFixture) {
    assert_kind(fixture.broker().cancel(&action("a")).await, ErrorKind::Unsupported);
}

/// §4.3: a cancel covers what runs, waits, is delayed and is to be tried again, and all of it comes at once.
pub async fn a_cancel_covers_what_runs_waits_and_is_put_off(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "running"), named("t", "a", "failed"), named("t", "a", "waiting")])
        .await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let running = member.next().await;
    assert_eq!(go(member.begin(&running).await.unwrap()), (1, 0, 0));
    let failed = member.next().await;
    assert_eq!(go(member.begin(&failed).await.unwrap()), (1, 0, 0));
    let mut covered = vec!["waiting"];
    if can.delay.is_yes() {
        member.retry(&failed, HOUR).await;
        let later = Timestamp::now().plus(HOUR);
        publish(&*broker, &[named("t", "a", "delayed").with_deliver_at(later)]).await;
        covered.extend(["delayed", "failed"]);
    } else {
        member.ack(&failed).await;
    }
    fixture.another().await.cancel(&action("a")).await.unwrap();
    assert_eq!(member.renew(&running).await, Renewal::Cancelled);
    let Begin::Cancelled(numbers) = member.begin(&running).await.unwrap() else { panic!("not cancelled") };
    assert_eq!(counts(numbers), (1, 0, 0), "the attempt that runs is the one to conclude");
    member.conclude(&running, conclusion(&running.event, "s", 1)).await.unwrap();
    member.ack(&running).await;
    let mut seen = Vec::new();
    for _ in &covered {
        let leased = member.next().await;
        let Begin::Cancelled(numbers) = member.begin(&leased).await.unwrap() else { panic!("not cancelled") };
        member.conclude(&leased, conclusion(&leased.event, "s", numbers.attempt)).await.unwrap();
        member.ack(&leased).await;
        seen.push(leased.event.id.as_str().to_owned());
    }
    seen.sort();
    covered.sort_unstable();
    assert_eq!(seen, covered);
    member.nothing().await;
}

/// §4.3: what is published after it is not covered, and what was concluded before stays so.
pub async fn a_cancel_does_not_cover_what_comes_after(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let before = member.next().await;
    go(member.begin(&before).await.unwrap());
    let end = conclusion(&before.event, "s", 1);
    member.conclude(&before, end.clone()).await.unwrap();
    broker.cancel(&action("a")).await.unwrap();
    publish(&*broker, &[event("t", "a")]).await;
    assert_eq!(member.begin(&before).await.unwrap(), Begin::Concluded(Box::new(end)));
    let after = member.next().await;
    go(member.begin(&after).await.unwrap());
    assert_eq!(member.renew(&after).await, Renewal::Held);
    broker.cancel(&action("a")).await.unwrap();
    assert_eq!(member.renew(&after).await, Renewal::Cancelled, "a second cancel reaches further");
}

/// §4.3: an event that was made out of one from before the cancel is covered, whenever it is published.
pub async fn a_cancel_covers_the_whole_chain(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    let before = broker.publish_one(named("t", "a", "root")).await.unwrap().position;
    broker.cancel(&action("a")).await.unwrap();
    let after = broker.publish_one(named("t", "a", "later root")).await.unwrap().position;
    let link = |id: &str, root: &str, position: &Position| {
        let mut event = named("next", "a", id);
        event.origin = Some(Origin {
            role: Role::Next,
            stage: Stage::new("s").unwrap(),
            cause: EventId::new(root).unwrap(),
            root: EventId::new(root).unwrap(),
            root_position: position.clone(),
            links: 1,
        });
        event
    };
    publish(&*broker, &[link("covered", "root", &before), link("free", "later root", &after)]).await;
    let mut member = Member::join(&*broker, on("s2", &["next:a"])).await;
    let covered = member.next().await;
    assert_eq!(covered.event.id.as_str(), "covered");
    assert!(matches!(member.begin(&covered).await.unwrap(), Begin::Cancelled(_)));
    let free = member.next().await;
    go(member.begin(&free).await.unwrap());
}

/// §4.3: a marked event wakes those that run, through other handles too, and long before a third of the lease.
pub async fn a_cancel_is_told_at_once(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a"), event("t", "b")]).await;
    let mut deliveries = Deliveries::open(&*broker, on("s", &["t:*"]).with_prefetch(2)).await.unwrap();
    let mut running = Vec::new();
    for _ in 0..2 {
        let delivery = timeout(LONG, deliveries.next()).await.unwrap().unwrap().unwrap();
        go(delivery.begin().await.unwrap());
        running.push(delivery);
    }
    let began = Instant::now();
    other.cancel(&action("a")).await.unwrap();
    running.sort_by_key(|delivery| delivery.event().action_id.clone());
    let mut state = running[0].state();
    let told = timeout(LONG, state.wait_for(|state| *state == LeaseState::Cancelled)).await;
    told.expect("nobody is told of the cancel").unwrap();
    assert_came_after(began, Duration::ZERO);
    assert_eq!(*running[1].state().borrow(), LeaseState::Held);
}

/// §4.3: a cancel is one of an action: not of a look-alike, nor of one that comes later under another name.
pub async fn a_cancel_is_one_of_its_action_alone(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    let ids = ["A", "aa", "a*", "*", "a:b", "b"];
    for id in ids {
        publish(&*broker, &[event("t", id)]).await;
    }
    let mut member = Member::join(&*broker, on("s", &["t:*"]).with_prefetch(10)).await;
    for cancelled in ["a", "*"] {
        broker.cancel(&action(cancelled)).await.unwrap();
    }
    publish(&*broker, &[event("t", "a")]).await;
    let mut expected: Vec<&str> = ids.into_iter().chain(["a"]).collect();
    let mut seen = Vec::new();
    for _ in &expected {
        let leased = member.next().await;
        let answer = member.begin(&leased).await.unwrap();
        let id = leased.event.action_id.as_str().to_owned();
        assert_eq!(matches!(answer, Begin::Cancelled(_)), id == "*", "{id}: {answer:?}");
        seen.push(id);
    }
    seen.sort();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

/// §4.3: what a dead worker had begun is cancelled for whoever takes it over.
pub async fn what_was_cancelled_and_left_is_cancelled_for_the_next(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.cancel.is_yes() {
        return is_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut dead = Member::join(&*broker, short("s", &["t:a"])).await;
    let left = dead.next().await;
    go(dead.begin(&left).await.unwrap());
    broker.cancel(&action("a")).await.unwrap();
    let mut next = Member::join(&*fixture.another().await, short("s", &["t:a"])).await;
    let taken = next.next().await;
    let Begin::Cancelled(numbers) = next.begin(&taken).await.unwrap() else { panic!("not cancelled") };
    assert_eq!(counts(numbers), (2, 0, 1));
    next.conclude(&taken, conclusion(&taken.event, "s", 2)).await.unwrap();
    next.ack(&taken).await;
}
