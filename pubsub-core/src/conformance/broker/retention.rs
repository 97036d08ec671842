//! §4.2: retention is by age and size; nothing unsettled of a live group is trimmed.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::dead_letters::are_unsupported;
use super::sample::{LONG, Member, assert_kind, conclusion, go, group_of, named, on, publish};
use super::{BrokerFixture, Limits};
use crate::{Broker, BrokerCapabilities, ErrorKind, Event, Novelty, PublisherExt as _, Scope, Timestamp};

/// How soon a rule publishes or asks again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// What rules wait for the end of.
const SHORT: Duration = Duration::from_millis(300);

fn large(id: &str, bytes: usize) -> Event {
    named("t", "a", id).with_payload(format!("\"{}\"", "x".repeat(bytes)).parse().unwrap())
}

async fn is_kept(broker: &dyn Broker, event: &Event) -> bool {
    broker.publish_one(event.clone()).await.unwrap().novelty == Novelty::Duplicate
}

/// Publishes it again and again, until the broker has forgotten it.
async fn until_forgotten(broker: &dyn Broker, event: &Event) {
    let looking = async {
        while is_kept(broker, event).await {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LONG, looking).await.expect("what is old goes");
}

async fn until_dropped(broker: &dyn Broker, gone: &Scope) {
    let looking = async {
        while !broker.groups(gone).await.unwrap().is_empty() {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LONG, looking).await.expect("a group without members goes");
}

/// §4.2: what every group has settled goes once it is old; what one has not stays as long as the group.
pub async fn what_every_group_has_settled_goes_once_it_is_old(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.limited(Limits { retention: SHORT, ..Limits::default() }).await;
    let (settled, waiting) = (named("t", "a", "settled"), named("t", "a", "waiting"));
    // Before the events, or they may be old and gone by then.
    let mut quick = Member::join(&*broker, on("quick", &["t:*"])).await;
    let mut slow = Member::join(&*broker, on("slow", &["t:a"])).await;
    publish(&*broker, &[settled.clone(), waiting.clone()]).await;
    quick.take_many(2).await;
    assert_eq!(slow.take().await, "settled");
    until_forgotten(&*broker, &settled).await;
    assert!(is_kept(&*broker, &waiting).await, "a live group has not settled it");
    assert_eq!(slow.take().await, "waiting");
}

/// §4.2: a claim is of its event, which is another one where somebody chooses the id again once the first is gone.
pub async fn an_id_chosen_again_once_its_event_is_gone_is_run_again(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.limited(Limits { retention: SHORT, ..Limits::default() }).await;
    let event = named("t", "a", "nightly");
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    publish(&*broker, std::slice::from_ref(&event)).await;
    for _ in 0..2 {
        let leased = member.next().await;
        assert_eq!(go(member.begin(&leased).await.unwrap()), (1, 0, 0));
        member.conclude(&leased, conclusion(&event, "s", 1)).await.unwrap();
        assert!(is_kept(&*broker, &event).await);
        member.ack(&leased).await;
        until_forgotten(&*broker, &event).await;
    }
}

/// §4.2: the age of a delayed event counts from when it is due.
pub async fn a_delayed_event_is_not_old_before_it_is_due(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.limited(Limits { retention: SHORT, ..Limits::default() }).await;
    let later = Timestamp::now().plus(Duration::from_secs(3600));
    let delayed = named("nobody", "asks", "delayed").with_deliver_at(later);
    let beside = named("nobody", "asks", "beside");
    publish(&*broker, &[delayed.clone(), beside.clone()]).await;
    until_forgotten(&*broker, &beside).await;
    assert!(is_kept(&*broker, &delayed).await, "its time has not come");
}

/// §4.2: trimming cannot touch what a member holds, what is to be tried again, and what was given back for a while, however
/// old it is.
pub async fn what_is_held_or_put_off_is_never_trimmed(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.delay.is_yes() {
        return;
    }
    let broker = fixture.limited(Limits { retention: SHORT, ..Limits::default() }).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(4)).await;
    let ids = ["held", "failed", "released", "settled"];
    let events = ids.map(|id| named("t", "a", id));
    publish(&*broker, &events).await;
    let held = member.next().await;
    let failed = member.next().await;
    member.retry(&failed, 4 * SHORT).await;
    let released = member.next().await;
    member.release(&released, 4 * SHORT).await;
    assert_eq!(member.take().await, "settled");
    until_forgotten(&*broker, &events[3]).await;
    for event in &events[..3] {
        assert!(is_kept(&*broker, event).await, "{} is not settled", event.id);
    }
    let mut came = vec![member.take().await, member.take().await, member.take().await];
    came.sort();
    // What was forgotten was published anew by looking.
    assert_eq!(came, ["failed", "released", "settled"]);
    assert_eq!(held.event, events[0]);
    member.ack(&held).await;
}

/// §4.2: at the limit a publish answers `Full` and names the group that holds it back, of which nothing goes.
pub async fn a_full_broker_names_the_group_that_holds_it_back(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.limited(Limits { bytes: Some(1 << 20), ..Limits::default() }).await;
    let subscription = on("slow", &["t:a"]);
    let name = group_of(&subscription);
    let mut slow = Member::join(&*broker, subscription).await;
    let mut quick = Member::join(&*broker, on("quick", &["t:*"])).await;
    let mut published = Vec::new();
    let refused = loop {
        assert!(published.len() < 100, "ten times the limit is kept");
        let id = published.len().to_string();
        match broker.publish_one(large(&id, 100_000)).await {
            Ok(_) => published.push(id),
            refused => break refused,
        }
        quick.take().await;
    };
    let error = assert_kind(refused, ErrorKind::Full).to_string();
    assert!(error.contains(name.as_str()), "{error}");
    assert!(is_kept(&*broker, &large("0", 100_000)).await, "what is there needs no room");
    assert_eq!(slow.take_many(published.len()).await, published, "nothing unsettled went");
    // What everybody has settled makes room, long before it is old.
    let publishing = async {
        while broker.publish_one(large("one more", 100_000)).await.is_err() {
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LONG, publishing).await.expect("there is room again");
    assert_eq!((slow.take().await, quick.take().await), ("one more".to_owned(), "one more".to_owned()));
}

/// §4.2: what is larger than all that may be kept is refused for good, and makes no room for itself.
pub async fn what_can_never_fit_is_refused_and_removes_nothing(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.limited(Limits { bytes: Some(1 << 20), ..Limits::default() }).await;
    let settled = named("t", "a", "settled");
    publish(&*broker, std::slice::from_ref(&settled)).await;
    assert_eq!(Member::join(&*broker, on("s", &["t:a"])).await.take().await, "settled");
    let error = assert_kind(broker.publish_one(large("large", 1 << 20)).await, ErrorKind::TooLarge);
    let numbers =
        error.to_string().split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).count();
    assert!(!error.is_retryable() && numbers >= 2, "it names both sizes: {error}");
    assert!(is_kept(&*broker, &settled).await);
}

/// §4.2: dead letters go by number, the oldest first.
pub async fn too_many_dead_letters_go_oldest_first(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.limited(Limits { dead_letters: 3, ..Limits::default() }).await;
    bury_six(&*broker).await;
    until_letters_are(&*broker, &["3", "4", "5"]).await;
}

/// §4.2: dead letters go by age.
pub async fn old_dead_letters_go(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    if !can.dead_letters.is_yes() {
        return are_unsupported(fixture).await;
    }
    let broker = fixture.limited(Limits { retention: SHORT, ..Limits::default() }).await;
    bury_six(&*broker).await;
    until_letters_are(&*broker, &[]).await;
}

async fn bury_six(broker: &dyn Broker) {
    let mut member = Member::join(broker, on("s", &["t:a"])).await;
    for id in 0..6 {
        publish(broker, &[named("t", "a", &id.to_string())]).await;
        let leased = member.next().await;
        member.bury(&leased, "no good").await;
    }
}

async fn until_letters_are(broker: &dyn Broker, wanted: &[&str]) {
    let looking = async {
        loop {
            let letters = broker.list(None, 10).await.unwrap();
            if letters.iter().map(|letter| letter.id.as_str()).eq(wanted.iter().copied()) {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(LONG, looking).await.expect("dead letters go");
}

/// §4.2: a group without members goes after its time, and holds nothing back any more; one with a member stays, however
/// long there was nothing to do.
pub async fn a_group_without_members_goes_and_one_with_an_idle_member_stays(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let limits = Limits { retention: SHORT, group_retention: SHORT, ..Limits::default() };
    let broker = fixture.limited(limits).await;
    let scope = |subscription: &crate::Subscription| Scope {
        group: Some(group_of(subscription)),
        ..Scope::default()
    };
    let (stays, goes) = (on("stays", &["t:b"]), on("goes", &["t:a"]));
    let mut idle = Member::join(&*broker, stays.clone()).await;
    let left = Member::join(&*broker, goes.clone()).await;
    let held = named("t", "a", "held");
    publish(&*broker, std::slice::from_ref(&held)).await;
    assert_eq!(broker.groups(&scope(&goes)).await.unwrap().len(), 1);
    drop(left);
    until_dropped(&*broker, &scope(&goes)).await;
    until_forgotten(&*broker, &held).await;
    assert_eq!(broker.groups(&scope(&stays)).await.unwrap().len(), 1, "it has a member");
    publish(&*broker, &[named("t", "b", "later")]).await;
    assert_eq!(idle.take().await, "later");
}
