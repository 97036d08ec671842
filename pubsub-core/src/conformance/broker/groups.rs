//! §4.2: a group is durable, shared by its members, and what it was made as.

use std::time::Duration;

use tokio::time::sleep;

use super::BrokerFixture;
use super::sample::{LONG, LOOK_AGAIN, Member, assert_kind, depth, group_of, named, on, publish};
use crate::{BrokerCapabilities, ErrorKind, Event, Order, PublisherExt as _, Scope, StartAt};

fn ten() -> Vec<Event> {
    (0..10).map(|n| named("t", "a", &n.to_string())).collect()
}

fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// §4.2: each event goes to one member of a group, and to each group.
pub async fn each_event_goes_to_one_member_of_each_group(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &ten()).await;
    let mut one = Member::join(&*broker, on("s", &["t:a"])).await;
    let mut two = Member::join(&*other, on("s", &["t:a"])).await;
    let mut all = Member::join(&*other, on("other", &["t:*"])).await;
    let mut shared = Vec::new();
    for _ in 0..5 {
        let (first, second) = (one.next().await, two.next().await);
        one.ack(&first).await;
        two.ack(&second).await;
        shared.extend([first, second].map(|leased| leased.event.id.as_str().to_owned()));
    }
    shared.sort();
    assert_eq!(shared, ids(0..10));
    assert_eq!(all.take_many(10).await, ids(0..10));
    for member in [&mut one, &mut two, &mut all] {
        member.nothing().await;
    }
}

/// §4.2: a member that names other patterns, another lease or another stage is refused, with both in the error.
pub async fn a_group_is_what_it_was_made_as(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let made = on("s", &["t:a", "t:b"]);
    let name = group_of(&made);
    assert_eq!(name.as_str(), "s@t:a,t:b", "the default name is the stage and the patterns");
    let _member = Member::join(&*broker, made.clone()).await;
    let others = [
        (on("s", &["t:a", "t:c"]), "t:b", "t:c"),
        (on("s", &["t:c"]), "t:b", "t:c"),
        (on("other", &["t:a", "t:b"]), "s", "other"),
        (made.clone().with_lease(Duration::from_millis(300)).unwrap(), "30s", "300ms"),
    ];
    for (another, standing, asked) in others {
        let refused = other.subscribe(another.with_group_name(name.clone())).await;
        let error = assert_kind(refused, ErrorKind::Conflict).to_string();
        assert!(error.contains(standing) && error.contains(asked), "{standing}, {asked}: {error}");
    }
    let _same = Member::join(&*other, on("s", &["t:b", "t:a", "t:b"])).await;
    let groups = broker.groups(&Scope::default()).await.unwrap();
    assert_eq!(groups.len(), 1, "a refused member makes no group");
    assert_eq!((&groups[0].name, groups[0].patterns.as_slice()), (&name, made.patterns()));
    assert_eq!(groups[0].lease, made.group().unwrap().lease);
    assert_eq!(groups[0].stage, made.group().unwrap().stage);
}

/// §4.2: a new group starts at the earliest event kept, or at the latest, or after a position.
pub async fn a_new_group_starts_where_it_asks_to(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &ten()).await;
    let fifth = broker.publish_one(named("t", "a", "4")).await.unwrap().position;
    let mut earliest = Member::join(&*broker, on("earliest", &["t:a"])).await;
    let mut latest = Member::join(&*broker, on("latest", &["t:a"]).with_start(StartAt::Latest)).await;
    let mut wild =
        Member::join(&*broker, on("wild", &["*:*"]).with_start(StartAt::After(fifth.clone()))).await;
    let mut after = Member::join(&*broker, on("after", &["t:a"]).with_start(StartAt::After(fifth))).await;
    publish(&*broker, &[named("t", "a", "10")]).await;
    assert_eq!(earliest.take_many(11).await, ids(0..11));
    assert_eq!(latest.take_many(1).await, ids(10..11));
    assert_eq!(after.take_many(6).await, ids(5..11));
    assert_eq!(wild.take_many(6).await, ids(5..11));
}

/// §4.2: to a group that is there already, where to start says nothing.
pub async fn the_start_counts_only_when_the_group_is_made(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &ten()).await;
    let mut first = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(first.take_many(3).await, ids(0..3));
    let mut second = Member::join(&*broker, on("s", &["t:a"]).with_start(StartAt::Latest)).await;
    assert_eq!(second.take_many(7).await, ids(3..10));
}

/// §4.2: a group goes on where it was, whoever its members are, and gets what was published while it had none.
pub async fn a_group_outlives_its_members(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.another().await;
    publish(&*broker, &ten()[..5]).await;
    let mut first = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(first.take_many(3).await, ids(0..3));
    drop(first);
    broker.close().await.unwrap();
    drop(broker);
    let broker = fixture.another().await;
    publish(&*broker, &ten()[5..]).await;
    let mut second = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(second.take_many(7).await, ids(3..10));
    second.nothing().await;
}

/// §4.12: a group without members can be removed, with what it had not settled; one of the same name is a new one.
pub async fn a_removed_group_is_gone_and_one_with_members_stays(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &ten()).await;
    let name = group_of(&on("s", &["t:a"]));
    assert!(!broker.remove_group(&name).await.unwrap());
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(member.take_many(4).await, ids(0..4));
    assert_kind(broker.remove_group(&name).await, ErrorKind::Conflict);
    assert_eq!(member.take().await, "4");
    drop(member);
    // A member leaves in its own time.
    let removed = async {
        while broker.remove_group(&name).await.is_err() {
            sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(LONG, removed).await.expect("a dropped member leaves its group");
    assert!(broker.groups(&Scope::default()).await.unwrap().is_empty());
    let mut anew = Member::join(&*broker, on("s", &["t:a"])).await;
    assert_eq!(anew.take_many(10).await, ids(0..10));
}

/// §4.2: events of one action reach a group in publish order; across members where the broker declares it.
pub async fn events_of_an_action_come_in_publish_order(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let events: Vec<Event> = (0..60).map(|n| named("t", ["a", "b"][n % 2], &format!("{n:02}"))).collect();
    for answer in broker.publish(events.clone()).await {
        answer.unwrap();
    }
    let mut alone = Member::join(&*broker, on("alone", &["t:*"]).with_prefetch(7)).await;
    let taken = alone.take_many(60).await;
    let mut members = Vec::new();
    for broker in [&broker, &other] {
        members.push(Member::join(&**broker, on("shared", &["t:*"])).await);
    }
    let mut shared: Vec<(usize, String)> = Vec::new();
    for n in 0..60 {
        let member = [0, 1, 1, 0, 1][n % 5];
        shared.push((member, members[member].take().await));
    }
    let is_sorted = |ids: Vec<&String>| ids.is_sorted();
    for parity in [0, 1] {
        let of_action = |id: &&String| id.parse::<usize>().unwrap() % 2 == parity;
        assert!(is_sorted(taken.iter().filter(of_action).collect()), "{taken:?}");
        for member in [0, 1] {
            let of_member = shared.iter().filter(|(by, _)| *by == member).map(|(_, id)| id);
            assert!(is_sorted(of_member.filter(of_action).collect()), "{shared:?}");
        }
        if can.order == Order::Group {
            assert!(is_sorted(shared.iter().map(|(_, id)| id).filter(of_action).collect()), "{shared:?}");
        }
    }
}

/// §4.12: a member leases at most what it asked to take at once; the rest is there for others.
pub async fn what_is_taken_is_at_most_the_prefetch(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &ten()).await;
    let mut first = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(4)).await;
    let mut second = Member::join(&*broker, on("s", &["t:a"])).await;
    let one = first.next().await;
    // Where much of others lies between, one look may bring less.
    let (waiting, delayed, leased) = depth(&*broker, &Scope::default()).await;
    assert!(
        (1..=4).contains(&leased) && (waiting + leased, delayed) == (10, 0),
        "{waiting} {delayed} {leased}"
    );
    let leased = u32::try_from(leased).unwrap();
    let taken = second.take_many(10 - leased as usize).await;
    assert_eq!(taken, ids(leased..10));
    second.nothing().await;
    first.ack(&one).await;
    assert_eq!(first.take_many(leased as usize - 1).await, ids(1..leased));
}

/// §4.2: the usual group is for one action among many: it gets that action's events, old and new, and only those.
pub async fn a_group_for_one_action_finds_its_events_among_many(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    let events: Vec<Event> = (0..2000).map(|n| named("t", &format!("a{}", n / 2), &n.to_string())).collect();
    for answer in broker.publish(events).await {
        answer.unwrap();
    }
    for action in [999, 0, 500, 123] {
        let mut member = Member::join(&*broker, on("s", &[&format!("t:a{action}")]).with_prefetch(5)).await;
        assert_eq!(member.take_many(2).await, ids(action * 2..action * 2 + 2));
        let late = format!("late-{action}");
        publish(&*broker, &[named("t", &format!("a{action}"), &late)]).await;
        assert_eq!(member.take().await, late);
        member.nothing().await;
    }
    let mut two = Member::join(&*broker, on("s", &["t:a7", "t:a8"]).with_prefetch(5)).await;
    let mut taken = two.take_many(4).await;
    taken.sort();
    assert_eq!(taken, ids(14..18));
    two.nothing().await;
}
