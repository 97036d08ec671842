//! §4.2: dead letters keep the bytes, the reason and the counts; they can be listed and replayed.

use tokio::time::sleep;

use super::BrokerFixture;
use super::sample::{LONG, LOOK_AGAIN, Member, assert_kind, event, go, group_of, named, on, publish};
use crate::{
    Broker, BrokerCapabilities, DeadLetter, ErrorKind, Event, GroupName, PublisherExt as _, Settlement,
    Timestamp,
};

/// Where there are no dead letters, what has to do with them says so.
pub(super) async fn are_unsupported(fixture: &dyn BrokerFixture) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    let settlement = Settlement::DeadLetter { reason: "no good".to_owned() };
    assert_kind(member.settle(&leased, settlement).await, ErrorKind::Unsupported);
    assert_kind(broker.list(None, 10).await, ErrorKind::Unsupported);
    assert_kind(broker.replay("x", None).await, ErrorKind::Unsupported);
}

async fn listed(broker: &dyn Broker) -> Vec<DeadLetter> {
    broker.list(None, 100).await.unwrap()
}

/// §4.2: a dead letter is listed, oldest first, with all that is known.
pub async fn a_dead_letter_keeps_the_bytes_the_reason_and_the_counts(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    let before = Timestamp::now();
    let first = named("t", "a", "first").with_payload(r#"{"n": 1.0}"#.parse().unwrap());
    publish(&*broker, &[first.clone(), named("t", "a", "second")]).await;
    let subscription = on("s", &["t:*"]);
    let mut member = Member::join(&*broker, subscription.clone()).await;
    let leased = member.next().await;
    go(member.begin(&leased).await.unwrap());
    member.bury(&leased, "no good: é\n2nd line").await;
    let leased = member.next().await;
    member.bury(&leased, "worse").await;
    for broker in [broker, fixture.another().await] {
        let letters = listed(&*broker).await;
        assert_eq!(letters.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["first", "second"]);
        let letter = &letters[0];
        assert_eq!(letter.group, Some(group_of(&subscription)));
        assert_eq!(letter.action_id, Some(first.action_id.clone()));
        assert_eq!(letter.reason, "no good: é\n2nd line");
        assert_eq!((letter.attempts, letter.crashes), (1, 0));
        assert_eq!(Event::from_cloud_event(&letter.bytes).unwrap(), first);
        assert!(letter.time >= before && letter.time <= Timestamp::now());
        assert_eq!(letters[1].attempts, 0);
        assert_eq!(broker.list(None, 1).await.unwrap(), letters[..1]);
        assert_eq!(broker.list(Some(&group_of(&subscription)), 10).await.unwrap(), letters);
        let nobody = GroupName::new("nobody").unwrap();
        assert!(broker.list(Some(&nobody), 10).await.unwrap().is_empty());
    }
}

/// §4.2: never again, and for its group alone.
pub async fn a_dead_letter_is_never_delivered_again(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let mut other = Member::join(&*broker, on("other", &["t:a"])).await;
    let leased = member.next().await;
    member.bury(&leased, "no good").await;
    member.nothing().await;
    drop(member);
    Member::join(&*fixture.another().await, on("s", &["t:a"])).await.nothing().await;
    assert_eq!(other.take().await, "1");
    let again = broker.publish_one(named("t", "a", "1")).await.unwrap();
    assert_eq!(again.novelty, crate::Novelty::Duplicate);
    other.nothing().await;
}

/// §4.2: a replay is a new event, with a new id and `replay_of`, for that group alone; the letter is gone.
pub async fn a_replay_is_a_new_event_for_its_group_alone(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    let first = named("t", "a", "1").with_header("k", "v").with_payload("[1]".parse().unwrap());
    publish(&*broker, std::slice::from_ref(&first)).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let mut other = Member::join(&*broker, on("s", &["t:*"])).await;
    let leased = member.next().await;
    go(member.begin(&leased).await.unwrap());
    member.bury(&leased, "no good").await;
    assert_eq!(other.take().await, "1");
    let id = fixture.another().await.replay("1", None).await.unwrap();
    assert_ne!(id, first.id);
    assert!(listed(&*broker).await.is_empty());
    let mut late = Member::join(&*broker, on("late", &["t:a"])).await;
    assert_eq!(late.take().await, "1");
    let again = member.next().await;
    let mut expected = Event { id, replay_of: Some(first.id.clone()), ..first };
    expected.time = again.event.time;
    assert_eq!(again.event, expected);
    assert_eq!(go(member.begin(&again).await.unwrap()), (1, 0, 0), "its counts begin anew");
    member.ack(&again).await;
    for member in [&mut member, &mut other, &mut late] {
        member.nothing().await;
    }
}

/// §4.12: what is not there cannot be replayed, nor can anything be replayed twice.
pub async fn a_replay_of_what_is_not_there_is_refused(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    assert_kind(broker.replay("nothing", None).await, ErrorKind::NotFound);
    publish(&*broker, &[named("t", "a", "1")]).await;
    let subscription = on("s", &["t:a"]);
    let mut member = Member::join(&*broker, subscription.clone()).await;
    let leased = member.next().await;
    assert_kind(broker.replay("1", None).await, ErrorKind::NotFound);
    member.bury(&leased, "no good").await;
    let nobody = GroupName::new("nobody").unwrap();
    assert_kind(broker.replay("1", Some(&nobody)).await, ErrorKind::NotFound);
    broker.replay("1", Some(&group_of(&subscription))).await.unwrap();
    assert_kind(broker.replay("1", None).await, ErrorKind::NotFound);
}

/// §4.12: an event that is the dead letter of several groups is replayed for the one that is named.
pub async fn a_dead_letter_of_several_groups_is_replayed_by_name(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1")]).await;
    let subscriptions = [on("s", &["t:a"]), on("other", &["t:a"])];
    let mut members = Vec::new();
    for subscription in &subscriptions {
        let mut member = Member::join(&*broker, subscription.clone()).await;
        let leased = member.next().await;
        member.bury(&leased, "no good").await;
        members.push(member);
    }
    assert_kind(broker.replay("1", None).await, ErrorKind::Conflict);
    broker.replay("1", Some(&group_of(&subscriptions[1]))).await.unwrap();
    members[1].next().await;
    members[0].nothing().await;
    let left = listed(&*broker).await;
    assert_eq!(left.iter().map(|l| l.group.clone()).collect::<Vec<_>>(), [Some(group_of(&subscriptions[0]))]);
    broker.replay("1", None).await.unwrap();
    members[0].next().await;
}

/// §4.2: what cannot be decoded goes to the dead letters, with its bytes, and stops nobody.
pub async fn what_cannot_be_decoded_becomes_one_and_stops_nobody(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    let broker = fixture.broker();
    let mut wild = Member::join(&*broker, on("s", &["?:*"]).with_prefetch(4)).await;
    let mut literal = Member::join(&*broker, on("s", &["t:a"])).await;
    let bad: [&[u8]; 3] = [b"not json \xff\0", br#"{"specversion":"1.0","id":"x"}"#, b""];
    publish(&*broker, &[named("t", "a", "1")]).await;
    for (index, bytes) in bad.into_iter().enumerate() {
        fixture.inject(bytes).await;
        publish(&*broker, &[named("t", "a", &format!("good {index}"))]).await;
    }
    for member in [&mut wild, &mut literal] {
        assert_eq!(member.take_many(4).await, ["1", "good 0", "good 1", "good 2"]);
        member.nothing().await;
    }
    if !can.dead_letters.is_yes() {
        return;
    }
    let all = async {
        loop {
            let letters = listed(&*broker).await;
            if letters.len() >= bad.len() {
                return letters;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    let letters = tokio::time::timeout(LONG, all).await.expect("each becomes a dead letter");
    let kept: Vec<&[u8]> = letters.iter().map(|letter| letter.bytes.as_slice()).collect();
    assert_eq!(kept, bad, "each once, with its bytes");
    for letter in &letters {
        assert!(letter.group.is_none() && !letter.reason.is_empty(), "{letter:?}");
        assert_kind(broker.replay(&letter.id, None).await, ErrorKind::Invalid);
    }
    assert_eq!(listed(&*broker).await.len(), bad.len(), "a refused replay loses nothing");
}
