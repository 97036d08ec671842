//! §4.2: a broker can say how much of an action, or of a group, is waiting, delayed and leased.

use std::time::Duration;

use tokio::time::sleep;

use super::BrokerFixture;
use super::sample::{LONG, LOOK_AGAIN, Member, depth, event, group_of, named, on, publish};
use crate::{ActionId, Broker, BrokerCapabilities, GroupName, Scope, Timestamp};

const HOUR: Duration = Duration::from_secs(3600);

fn of_action(action: &str) -> Scope {
    Scope { action: Some(ActionId::new(action).unwrap()), group: None }
}

/// §4.2: what a group has to do is counted, of the events that match alone.
pub async fn waiting_delayed_and_leased_are_counted_of_matching_events(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    for n in 0..6 {
        publish(&*broker, &[event("t", "a"), event("t", ["a", "b"][n % 2]), event("u", "a")]).await;
    }
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let everything = Scope::default();
    assert_eq!(depth(&*other, &everything).await, (9, 0, 0));
    let (one, two) = (member.next().await, member.next().await);
    assert_eq!(depth(&*other, &everything).await, (7, 0, 2));
    member.ack(&one).await;
    assert_eq!(depth(&*other, &everything).await, (7, 0, 1));
    let mut delayed = 0;
    if can.delay.is_yes() {
        member.retry(&two, HOUR).await;
        publish(&*broker, &[event("t", "a").with_deliver_at(Timestamp::now().plus(HOUR))]).await;
        delayed = 2;
    } else {
        member.ack(&two).await;
    }
    assert_eq!(depth(&*other, &everything).await, (7, delayed, 0));
    member.take_many(7).await;
    assert_eq!(depth(&*other, &everything).await, (0, delayed, 0));
    let idle = other.groups(&everything).await.unwrap()[0].depth.is_idle();
    assert_eq!(idle, delayed == 0);
}

/// §4.2: asked for an action, only its events are counted, in the groups whose patterns can match it.
pub async fn an_action_is_counted_in_the_groups_that_can_match_it(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a"), event("t", "a"), event("t", "a")]).await;
    let subscriptions = [on("s", &["t:a"]), on("s", &["t:*"]), on("s", &["t:?", "u:zzz"]), on("s", &["u:a"])];
    let mut members = Vec::new();
    for subscription in &subscriptions {
        members.push(Member::join(&*broker, subscription.clone()).await);
    }
    let held = members[1].next().await;
    publish(&*broker, &[event("t", "b"), event("t", "b"), event("t", "ab")]).await;
    let counted = |scope: Scope| {
        let broker = fixture.broker();
        async move { counts_by_name(&*broker, &scope).await }
    };
    let named = |index: usize| group_of(&subscriptions[index]);
    assert_eq!(
        counted(of_action("a")).await,
        sorted(vec![(named(0), 3, 0), (named(1), 2, 1), (named(2), 3, 0), (named(3), 0, 0)])
    );
    assert_eq!(counted(of_action("b")).await, sorted(vec![(named(1), 2, 0), (named(2), 2, 0)]));
    assert_eq!(
        counted(of_action("zzz")).await,
        sorted(vec![(named(1), 0, 0), (named(2), 0, 0)]),
        "what can match and has nothing"
    );
    let only = Scope { action: Some(ActionId::new("ab").unwrap()), group: Some(named(1)) };
    assert_eq!(counted(only).await, [(named(1), 1, 0)]);
    let unknown = Scope { action: None, group: Some(GroupName::new("nobody").unwrap()) };
    assert!(counted(unknown).await.is_empty());
    members[1].ack(&held).await;
}

async fn counts_by_name(broker: &dyn Broker, scope: &Scope) -> Vec<(GroupName, u64, u64)> {
    let groups = broker.groups(scope).await.unwrap();
    sorted(groups.into_iter().map(|group| (group.name, group.depth.waiting, group.depth.leased)).collect())
}

fn sorted(mut counts: Vec<(GroupName, u64, u64)>) -> Vec<(GroupName, u64, u64)> {
    counts.sort();
    counts
}

/// §4.2: groups without members can be told from those with some.
pub async fn members_are_counted(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let members = |expected: u64| {
        let broker = fixture.broker();
        let all = async move {
            while broker.groups(&Scope::default()).await.unwrap()[0].members != expected {
                sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(LONG, all)
    };
    let mut one = Member::join(&*broker, on("s", &["t:a"])).await;
    members(1).await.expect("one member");
    let two = Member::join(&*other, on("s", &["t:a"])).await;
    members(2).await.expect("two members");
    publish(&*broker, &[named("t", "a", "1")]).await;
    assert_eq!(one.take().await, "1");
    drop(two);
    members(1).await.expect("one has left");
    drop(one);
    members(0).await.expect("both have left");
}
