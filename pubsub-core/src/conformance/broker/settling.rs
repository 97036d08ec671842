//! §4.2: settled by value, once.

use std::time::Duration;

use tokio::time::Instant;

use super::BrokerFixture;
use super::sample::{
    Member, assert_came_after, assert_kind, depth, event, go, lease, named, on, publish, soon,
};
use crate::{BrokerCapabilities, ErrorKind, LeaseId, Scope, Settlement};

/// §4.2: what was acknowledged is over, for every member, through every handle.
pub async fn what_is_acknowledged_never_comes_back(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.another().await;
    publish(&*broker, &[named("t", "a", "1"), named("t", "a", "2"), named("t", "a", "3")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(member.take_many(2).await, ["1", "2"]);
    drop(member);
    broker.close().await.unwrap();
    let mut later = Member::join(&*fixture.another().await, on("s", &["t:a"]).with_prefetch(3)).await;
    assert_eq!(later.take().await, "3");
    later.nothing().await;
}

/// §4.2: settling again what is settled is refused or as if it was not done.
pub async fn settling_again_changes_nothing(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    member.ack(&leased).await;
    for settlement in [
        Settlement::Ack,
        Settlement::Retry { after: Duration::ZERO },
        Settlement::Release { after: Duration::ZERO },
        Settlement::DeadLetter { reason: "again".to_owned() },
    ] {
        if let Err(error) = member.settle(&leased, settlement).await {
            assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error}");
        }
    }
    member.nothing().await;
    assert_eq!(depth(&*broker, &Scope::default()).await, (0, 0, 0));
    assert!(
        broker.list(None, 10).await.map_or_else(|e| e.kind() == ErrorKind::Unsupported, |l| l.is_empty())
    );
}

/// §4.2: a retry is on its group's own due list: it holds no lease, other groups do not see it, others pass it.
pub async fn a_retry_comes_back_to_its_group_alone_after_its_time(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1"), named("t", "a", "2")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let mut other = Member::join(&*broker, on("other", &["t:*"])).await;
    let first = member.next().await;
    go(member.begin(&first).await.unwrap());
    if !can.delay.is_yes() {
        assert_kind(member.settle(&first, Settlement::Retry { after: soon() }).await, ErrorKind::Unsupported);
        return;
    }
    // Longer than any rule takes.
    member.retry(&first, Duration::from_secs(3600)).await;
    assert_eq!(other.take_many(2).await, ["1", "2"]);
    let second = member.next().await;
    assert_eq!(second.event.id.as_str(), "2", "what is to be tried again holds up nobody");
    let group = Scope { action: None, group: Some(super::sample::group_of(&on("s", &["t:a"]))) };
    assert_eq!(depth(&*broker, &group).await, (0, 1, 1));
    go(member.begin(&second).await.unwrap());
    let began = Instant::now();
    member.retry(&second, soon()).await;
    let again = member.next().await;
    assert_came_after(began, soon());
    assert_eq!(again.event, second.event);
    assert_eq!(lease(&second).count, 1, "the group has it for the first time");
    assert!(lease(&again).count > 1, "it had it before");
    assert_eq!(go(member.begin(&again).await.unwrap()), (2, 1, 0));
    member.ack(&again).await;
    member.nothing().await;
    other.nothing().await;
}

/// §4.2: what is given back comes again at once, or after the time that was named.
pub async fn a_release_comes_back_at_once_or_after_its_time(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1"), named("t", "a", "2")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let first = member.next().await;
    member.release(&first, Duration::ZERO).await;
    let again = member.next().await;
    assert_eq!(again.event.id.as_str(), "1", "what came back is older than what is new");
    if !can.delay.is_yes() {
        return;
    }
    let began = Instant::now();
    member.release(&again, soon()).await;
    let mut came = vec![member.next().await];
    assert!(came[0].event.id.as_str() == "2" || began.elapsed() >= soon(), "it came before its time");
    came.push(member.next().await);
    assert_came_after(began, soon());
    let again = came.iter().find(|leased| leased.event == first.event).expect("it comes back");
    assert!(lease(again).count > 1, "its group had it before");
    assert_eq!(go(member.begin(again).await.unwrap()), (1, 0, 0));
}

/// §4.12: each settlement has its own answer; what cannot be settled keeps nothing else from being.
pub async fn each_settlement_is_answered(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    for n in 0..4 {
        publish(&*broker, &[named("t", "a", &n.to_string())]).await;
    }
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(4)).await;
    let mut leases: Vec<LeaseId> = Vec::new();
    for _ in 0..4 {
        leases.push(lease(&member.next().await).clone());
    }
    let stale = LeaseId { count: leases[1].count + 7, ..leases[1].clone() };
    let answers = member
        .settle_all(vec![
            (leases[0].clone(), Settlement::Ack),
            (stale, Settlement::Ack),
            (leases[2].clone(), Settlement::Release { after: Duration::ZERO }),
            (leases[3].clone(), Settlement::Ack),
        ])
        .await;
    let kinds: Vec<Option<ErrorKind>> =
        answers.into_iter().map(|answer| answer.err().map(|error| error.kind())).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::LeaseLost), None, None]);
    assert!(member.settle_all(Vec::new()).await.is_empty());
    assert_eq!(member.take().await, "2");
    member.nothing().await;
    assert_eq!(depth(&*broker, &Scope::default()).await, (0, 0, 1), "what was not settled is still held");
}

/// §4.2: what is to be tried again, or was given back for a while, waits at the broker: neither the member nor its handle
/// has to live on for it.
pub async fn what_is_put_off_outlives_its_member_and_its_handle(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.delay.is_yes() {
        return;
    }
    // Long enough to be looked at by another handle before it is over.
    let (broker, wait) = (fixture.another().await, 2 * soon());
    publish(&*broker, &[named("t", "a", "failed"), named("t", "a", "released")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let (failed, began) = (member.next().await, Instant::now());
    go(member.begin(&failed).await.unwrap());
    member.retry(&failed, wait).await;
    let released = member.next().await;
    go(member.begin(&released).await.unwrap());
    member.release(&released, wait).await;
    drop(member);
    broker.close().await.unwrap();
    drop(broker);
    let broker = fixture.another().await;
    let mut next = Member::join(&*broker, on("s", &["t:a"])).await;
    let left = depth(&*broker, &Scope::default()).await;
    // Where this took long, their time has come.
    assert!(left == (0, 2, 0) || began.elapsed() >= wait, "{left:?}");
    for _ in 0..2 {
        let again = next.next().await;
        assert_came_after(began, wait);
        let counted = u32::from(again.event.id == failed.event.id);
        assert_eq!(go(next.begin(&again).await.unwrap()), (2, counted, 0));
        next.ack(&again).await;
    }
    next.nothing().await;
}
