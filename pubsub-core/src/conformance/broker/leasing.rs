//! §4.2: a lease is kept while its delivery lives, lost only to another holder, and never taken back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::BrokerFixture;
use super::sample::{
    LONG, Member, assert_came_after, assert_kind, conclusion, event, go, lease, named, on, paced, publish,
    short, short_lease,
};
use crate::{BrokerCapabilities, Deliveries, Delivery, ErrorKind, LeaseId, LeaseState, Renewal, Settlement};

/// Long enough that a busy machine renews it in time.
fn kept_lease() -> Duration {
    paced(Duration::from_secs(1))
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    timeout(LONG, deliveries.next()).await.expect("no delivery comes").unwrap().unwrap()
}

/// §4.2: a lease is renewed as long as its delivery is alive, so that long work is never started twice.
pub async fn a_lease_is_kept_while_its_delivery_lives(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let kept = on("s", &["t:a"]).with_lease(kept_lease()).unwrap();
    let mut deliveries = Deliveries::open(&*broker, kept.clone()).await.unwrap();
    let delivery = next(&mut deliveries).await;
    let mut rival = Member::join(&*other, kept).await;
    let until = Instant::now() + 2 * kept_lease();
    while Instant::now() < until {
        rival.nothing().await;
    }
    assert_eq!(*delivery.state().borrow(), LeaseState::Held);
    go(delivery.begin().await.unwrap());
    delivery.ack().await.unwrap();
    rival.nothing().await;
}

/// §4.2, §4.12: what was taken in advance and waits for its subscriber is renewed too.
pub async fn what_was_taken_in_advance_is_kept_as_well(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    for n in 0..5 {
        publish(&*broker, &[named("t", "a", &n.to_string())]).await;
    }
    let kept = on("s", &["t:a"]).with_lease(kept_lease()).unwrap();
    let mut deliveries = Deliveries::open(&*broker, kept.clone().with_prefetch(5)).await.unwrap();
    let first = next(&mut deliveries).await;
    let mut rival = Member::join(&*other, kept).await;
    let until = Instant::now() + 2 * kept_lease();
    while Instant::now() < until {
        rival.nothing().await;
    }
    first.ack().await.unwrap();
    for n in 1..5 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.event().id.as_str(), n.to_string());
        delivery.ack().await.unwrap();
    }
    rival.nothing().await;
}

/// §4.2: a dropped delivery comes back.
pub async fn a_dropped_delivery_comes_back_at_once(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1")]).await;
    let mut deliveries = Deliveries::open(&*broker, on("s", &["t:a"])).await.unwrap();
    for _ in 0..3 {
        let delivery = next(&mut deliveries).await;
        go(delivery.begin().await.unwrap());
        drop(delivery);
        let mut rival = Member::join(&*broker, on("s", &["t:a"])).await;
        let again = rival.next().await;
        assert_eq!(again.event.id.as_str(), "1");
        assert!(matches!(go(rival.begin(&again).await.unwrap()), (_, 0, 0)), "given back is not counted");
        rival.release(&again, Duration::ZERO).await;
    }
    deliveries.close().await;
}

/// §4.2: a killed worker's event is taken by another within a lease and one poll, by another lease.
pub async fn what_a_dead_member_held_comes_back_after_its_lease(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[named("t", "a", "1")]).await;
    let mut dead = Member::join(&*broker, short("s", &["t:a"])).await;
    let before = Instant::now();
    let held = dead.next().await;
    go(dead.begin(&held).await.unwrap());
    let mut next = Member::join(&*other, short("s", &["t:a"])).await;
    let taken = next.next().await;
    assert_eq!(taken.event.id, held.event.id);
    assert!(lease(&taken).count > lease(&held).count, "each lease of an entry has a greater count");
    assert_ne!(lease(&taken).owner, lease(&held).owner);
    assert_came_after(before, short_lease());
}

/// §4.2: what was begun and left in silence comes back each in its own time, so that what kills workers rarely shares one
/// again.
pub async fn what_was_held_in_a_crash_comes_back_apart(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    const MANY: usize = 8;
    let (broker, other) = (fixture.broker(), fixture.another().await);
    // A machine that is busy for a moment may hide it; not each time.
    for round in 0..5 {
        let (stage, action) = (format!("s{round}"), format!("a{round}"));
        let of_round = short(&stage, &[&format!("t:{action}")]).with_prefetch(MANY);
        for _ in 0..MANY {
            publish(&*broker, &[event("t", &action)]).await;
        }
        let mut dead = Member::join(&*broker, of_round.clone()).await;
        for _ in 0..MANY {
            let left = dead.next().await;
            go(dead.begin(&left).await.unwrap());
        }
        let mut next = Member::join(&*other, of_round).await;
        let mut came = Vec::new();
        for _ in 0..MANY {
            let leased = next.next().await;
            came.push(Instant::now());
            next.ack(&leased).await;
        }
        if came[MANY - 1] - came[0] >= short_lease() / 20 {
            return;
        }
    }
    panic!("they come back at the same moment");
}

/// §4.2: a lease that expired and nobody took is renewed, so that commands run on through a broker's restart.
pub async fn a_lease_that_expired_and_nobody_took_is_renewed(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, short("s", &["t:a"])).await;
    let held = member.next().await;
    go(member.begin(&held).await.unwrap());
    sleep_until(Instant::now() + 2 * short_lease()).await;
    assert_eq!(member.renew(&held).await, Renewal::Held);
    let mut rival = Member::join(&*other, short("s", &["t:a"])).await;
    rival.nothing().await;
    assert_eq!(member.renew(&held).await, Renewal::Held, "it is the holder's for a whole lease again");
    member.conclude(&held, conclusion(&held.event, "s", 1)).await.unwrap();
    member.ack(&held).await;
}

/// §4.2: a paused worker can neither take back nor settle what another holds now.
pub async fn a_former_holder_can_do_nothing(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let mut former = Member::join(&*broker, short("s", &["t:a"])).await;
    let lost = former.next().await;
    go(former.begin(&lost).await.unwrap());
    let mut holder = Member::join(&*other, short("s", &["t:a"])).await;
    let held = holder.next().await;
    assert_eq!(holder.renew(&held).await, Renewal::Held);
    assert_eq!(go(holder.begin(&held).await.unwrap()), (2, 0, 1));
    for settlement in [
        Settlement::Ack,
        Settlement::Retry { after: Duration::ZERO },
        Settlement::Release { after: Duration::ZERO },
        Settlement::DeadLetter { reason: "late".to_owned() },
    ] {
        assert_kind(former.settle(&lost, settlement).await, ErrorKind::LeaseLost);
    }
    assert_eq!(former.renew(&lost).await, Renewal::Lost);
    assert_kind(former.begin(&lost).await, ErrorKind::LeaseLost);
    assert_kind(former.conclude(&lost, conclusion(&lost.event, "s", 1)).await, ErrorKind::LeaseLost);
    assert_eq!(holder.renew(&held).await, Renewal::Held);
    holder.conclude(&held, conclusion(&held.event, "s", 2)).await.unwrap();
    assert_kind(former.conclude(&lost, conclusion(&lost.event, "s", 1)).await, ErrorKind::LeaseLost);
    holder.ack(&held).await;
    assert_kind(former.settle(&lost, Settlement::Ack).await, ErrorKind::LeaseLost);
    assert_eq!(former.renew(&lost).await, Renewal::Lost, "what is settled is gone");
}

/// §4.12: a renewal answers for each lease, in their order.
pub async fn each_lease_asked_for_is_answered(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.broker();
    for action in ["a", "b", "c", "d"] {
        publish(&*broker, &[event("t", action)]).await;
    }
    let mut member = Member::join(&*broker, on("s", &["t:*"]).with_prefetch(4)).await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(member.next().await);
    }
    member.ack(&taken[1]).await;
    if can.cancel.is_yes() {
        broker.cancel(&taken[2].event.action_id).await.unwrap();
    }
    let third = if can.cancel.is_yes() { Renewal::Cancelled } else { Renewal::Held };
    let mut leases: Vec<LeaseId> = taken.iter().map(|leased| lease(leased).clone()).collect();
    let never = LeaseId { count: leases[3].count + 1, ..leases[3].clone() };
    let another = LeaseId { owner: Arc::from("somebody else"), ..leases[3].clone() };
    leases.extend([never, another]);
    assert_eq!(
        member.renew_all(&leases).await.unwrap(),
        [Renewal::Held, Renewal::Lost, third, Renewal::Held, Renewal::Lost, Renewal::Lost]
    );
    assert!(member.renew_all(&[]).await.unwrap().is_empty());
}

/// §4.12: waiting for the next event can be given up at any moment.
pub async fn a_dropped_wait_loses_nothing(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(3)).await;
    let mut seen = Vec::new();
    for n in 0..20 {
        let id = n.to_string();
        for _ in 0..n % 4 {
            if let Some(leased) = member.poll_once().await {
                seen.push(leased);
            }
        }
        publish(&*broker, &[named("t", "a", &id)]).await;
        if let Some(leased) = member.poll_once().await {
            seen.push(leased);
        }
    }
    while seen.len() < 20 {
        seen.push(member.next().await);
    }
    let ids: Vec<_> = seen.iter().map(|leased| leased.event.id.as_str().to_owned()).collect();
    assert_eq!(ids, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    for leased in &seen {
        member.ack(leased).await;
    }
    member.nothing().await;
}

/// §4.2: what was taken and not handed out is given back when the stream is dropped, without waiting for a lease.
pub async fn what_was_taken_in_advance_is_given_back_when_the_stream_goes(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    for n in 0..5 {
        publish(&*broker, &[named("t", "a", &n.to_string())]).await;
    }
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(5)).await;
    assert_eq!(member.take().await, "0");
    drop(member);
    let mut deliveries = Deliveries::open(&*other, on("s", &["t:a"]).with_prefetch(5)).await.unwrap();
    next(&mut deliveries).await.ack().await.unwrap();
    deliveries.close().await;
    let mut last = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(last.take_many(3).await, ["2", "3", "4"]);
}
