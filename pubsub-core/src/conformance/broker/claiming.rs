//! §4.2: the broker decides about work: claims, one for each event and stage, change with the lease.

use std::time::Duration;

use futures::future::join_all;

use super::BrokerFixture;
use super::sample::{Member, assert_kind, conclusion, counts, event, go, named, on, publish, short};
use crate::{
    Begin, BrokerCapabilities, CRASH_LIMIT, ErrorKind, GroupName, Novelty, PublisherExt as _, Settlement,
    Subscription,
};

/// §4.2: attempts only grow; a retry counts as a failure, silence as a crash, a release nowhere.
pub async fn attempts_grow_and_each_end_has_its_own_count(
    fixture: &dyn BrokerFixture,
    can: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, short("s", &["t:a"])).await;
    let never_begun = member.next().await;
    member.release(&never_begun, Duration::ZERO).await;
    let released = member.next().await;
    assert_eq!(go(member.begin(&released).await.unwrap()), (1, 0, 0));
    member.release(&released, Duration::ZERO).await;
    let left = member.next().await;
    assert_eq!(go(member.begin(&left).await.unwrap()), (2, 0, 0));
    let mut member = Member::join(&*other, short("s", &["t:a"])).await;
    let tried = member.next().await;
    assert_eq!(go(member.begin(&tried).await.unwrap()), (3, 0, 1));
    if !can.delay.is_yes() {
        return;
    }
    member.retry(&tried, Duration::ZERO).await;
    let tried = member.next().await;
    assert_eq!(go(member.begin(&tried).await.unwrap()), (4, 1, 1));
    member.retry(&tried, Duration::from_millis(50)).await;
    let never_begun = member.next().await;
    member.retry(&never_begun, Duration::ZERO).await;
    let last = member.next().await;
    assert_eq!(go(member.begin(&last).await.unwrap()), (5, 2, 1), "what never began did not fail");
    member.release(&last, Duration::from_millis(50)).await;
    let last = member.next().await;
    assert_eq!(go(member.begin(&last).await.unwrap()), (6, 2, 1));
}

/// §4.12: a call that was dropped is repeated: the same lease has the same attempt.
pub async fn beginning_again_with_the_same_lease_is_the_same_attempt(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    for _ in 0..3 {
        assert_eq!(go(member.begin(&leased).await.unwrap()), (1, 0, 0));
    }
    member.conclude(&leased, conclusion(&leased.event, "s", 1)).await.unwrap();
}

/// The same stage, by two groups of one event.
fn twins() -> [Subscription; 2] {
    let twin = |name: &str| on("s", &["t:a"]).with_group_name(GroupName::new(name).unwrap());
    [twin("one"), twin("two")]
}

/// §4.2: while one delivery of an event has a stage's work, another is told `elsewhere`, put off and comes back.
pub async fn one_delivery_at_a_time_has_the_work(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let [one, two] = twins();
    let mut first = Member::join(&*broker, one).await;
    let mut second = Member::join(&*other, two).await;
    let (has, waits) = (first.next().await, second.next().await);
    assert_eq!(go(first.begin(&has).await.unwrap()), (1, 0, 0));
    for _ in 0..2 {
        assert_eq!(second.begin(&waits).await.unwrap(), Begin::Elsewhere);
    }
    assert_kind(second.conclude(&waits, conclusion(&waits.event, "s", 1)).await, ErrorKind::LeaseLost);
    second.release(&waits, Duration::ZERO).await;
    let waits = second.next().await;
    assert_eq!(second.begin(&waits).await.unwrap(), Begin::Elsewhere);
    first.release(&has, Duration::ZERO).await;
    assert_eq!(go(second.begin(&waits).await.unwrap()), (2, 0, 0), "put off counts nowhere");
    let again = first.next().await;
    assert_eq!(first.begin(&again).await.unwrap(), Begin::Elsewhere);
    let end = conclusion(&waits.event, "s", 2);
    second.conclude(&waits, end.clone()).await.unwrap();
    assert_eq!(first.begin(&again).await.unwrap(), Begin::Concluded(Box::new(end)));
}

/// §4.2: `begin` is atomic: of many at the same moment one goes.
pub async fn of_many_that_begin_at_once_one_goes(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    for round in 0..5 {
        publish(&*fixture.broker(), &[named("t", "a", &round.to_string())]).await;
    }
    let mut members = Vec::new();
    for n in 0..8 {
        let name = GroupName::new(format!("g{n}")).unwrap();
        let handle = fixture.another().await;
        members.push(Member::join(&*handle, on("s", &["t:a"]).with_group_name(name)).await);
    }
    for _ in 0..5 {
        let taken = join_all(members.iter_mut().map(Member::next)).await;
        let begun = members.iter().zip(&taken).map(|(member, leased)| member.begin(leased));
        let begun: Vec<Begin> = join_all(begun).await.into_iter().map(Result::unwrap).collect();
        let goes = begun.iter().filter(|begin| matches!(begin, Begin::Go(_))).count();
        let elsewhere = begun.iter().filter(|begin| **begin == Begin::Elsewhere).count();
        assert_eq!((goes, elsewhere), (1, 7), "{begun:?}");
        for (member, leased) in members.iter().zip(&taken) {
            member.ack(leased).await;
        }
    }
}

/// §4.2: `conclude` is accepted from the lease's holder alone, whose attempt has begun; repeating it is harmless.
pub async fn only_the_holder_concludes_and_only_once(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    let end = |attempt| conclusion(&leased.event, "s", attempt);
    assert_kind(member.conclude(&leased, end(1)).await, ErrorKind::LeaseLost);
    go(member.begin(&leased).await.unwrap());
    let first = end(1);
    member.conclude(&leased, first.clone()).await.unwrap();
    member.conclude(&leased, first.clone()).await.unwrap();
    assert_kind(member.conclude(&leased, end(2)).await, ErrorKind::LeaseLost);
    assert_eq!(member.begin(&leased).await.unwrap(), Begin::Concluded(Box::new(first)));
    member.ack(&leased).await;
    assert_kind(member.begin(&leased).await, ErrorKind::LeaseLost);
}

/// §4.2: claims live as long as their event, so that a new group does not repeat old work.
pub async fn a_conclusion_reads_back_exactly_in_every_group(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a")]).await;
    let mut member = Member::join(&*broker, on("s", &["t:a"])).await;
    let leased = member.next().await;
    go(member.begin(&leased).await.unwrap());
    let mut end = conclusion(&leased.event, "s", 1);
    end.values.insert("version".to_owned(), "1.2\n\"é\"".to_owned());
    end.values.insert("empty".to_owned(), String::new());
    end.record.metadata.insert("k".to_owned(), "v".to_owned());
    end.record.owner = "host/1".to_owned();
    member.conclude(&leased, end.clone()).await.unwrap();
    member.ack(&leased).await;
    let mut late = Member::join(&*fixture.another().await, on("s", &["*:a"])).await;
    let again = late.next().await;
    assert_eq!(late.begin(&again).await.unwrap(), Begin::Concluded(Box::new(end)));
}

/// §4.3: whoever dies after the conclusion leaves a claim from which the next goes on, without another attempt.
pub async fn what_is_concluded_stays_so_after_a_crash(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    publish(&*broker, &[event("t", "a")]).await;
    let mut dead = Member::join(&*broker, short("s", &["t:a"])).await;
    let leased = dead.next().await;
    go(dead.begin(&leased).await.unwrap());
    let end = conclusion(&leased.event, "s", 1);
    dead.conclude(&leased, end.clone()).await.unwrap();
    let mut next = Member::join(&*other, short("s", &["t:a"])).await;
    let again = next.next().await;
    assert_eq!(next.begin(&again).await.unwrap(), Begin::Concluded(Box::new(end)));
    next.ack(&again).await;
    next.nothing().await;
}

/// §4.2: after so many crashes an event is exhausted; those behind it do not wait for it.
pub async fn an_event_that_kills_its_workers_is_exhausted(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "poison")]).await;
    for crash in 0..CRASH_LIMIT {
        let mut dead = Member::join(&*fixture.another().await, short("s", &["t:*"])).await;
        let leased = dead.next().await;
        assert_eq!(leased.event.id.as_str(), "poison");
        assert_eq!(go(dead.begin(&leased).await.unwrap()), (crash + 1, 0, crash));
        let good = format!("good {crash}");
        publish(&*broker, &[named("t", "b", &good)]).await;
        assert_eq!(dead.take().await, good);
    }
    let mut last = Member::join(&*broker, short("s", &["t:*"])).await;
    let leased = last.next().await;
    let Begin::Exhausted(numbers) = last.begin(&leased).await.unwrap() else { panic!("not exhausted") };
    assert_eq!(counts(numbers), (CRASH_LIMIT + 1, 0, CRASH_LIMIT));
    last.conclude(&leased, conclusion(&leased.event, "s", CRASH_LIMIT + 1)).await.unwrap();
    last.ack(&leased).await;
}

/// §4.2: the double that a repeated publish may leave under an id of the library is caught by the claim: it is put off while
/// the event is run elsewhere, and not run once it is concluded; each stage runs it once.
pub async fn a_double_of_an_event_is_run_once_in_each_stage(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let (broker, other) = (fixture.broker(), fixture.another().await);
    let event = event("t", "a");
    let mut copies = 0;
    for _ in 0..3 {
        let published = other.publish_one(event.clone()).await.unwrap();
        copies += usize::from(published.novelty == Novelty::New);
    }
    for stage in ["build", "deploy"] {
        let mut first = Member::join(&*broker, on(stage, &["t:a"]).with_prefetch(1)).await;
        let mut second = Member::join(&*other, on(stage, &["t:a"]).with_prefetch(1)).await;
        let has = first.next().await;
        assert_eq!(go(first.begin(&has).await.unwrap()), (1, 0, 0));
        if copies > 1 {
            let double = second.next().await;
            assert_eq!(double.event.id, event.id);
            assert_eq!(second.begin(&double).await.unwrap(), Begin::Elsewhere);
            second.release(&double, Duration::ZERO).await;
        }
        first.release(&has, Duration::ZERO).await;
        // Whichever of them comes goes on with the same claim.
        let has = first.next().await;
        assert_eq!(go(first.begin(&has).await.unwrap()), (2, 0, 0));
        let end = conclusion(&event, stage, 2);
        first.conclude(&has, end.clone()).await.unwrap();
        first.ack(&has).await;
        drop(first);
        for _ in 1..copies {
            let double = second.next().await;
            assert_eq!(second.begin(&double).await.unwrap(), Begin::Concluded(Box::new(end.clone())));
            second.ack(&double).await;
        }
        second.nothing().await;
    }
}

/// §4.2: claims are of an event and a stage.
pub async fn stages_have_claims_of_their_own(fixture: &dyn BrokerFixture, _: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[event("t", "a"), event("t", "a")]).await;
    for stage in ["build", "deploy"] {
        let mut member = Member::join(&*broker, on(stage, &["t:a"]).with_prefetch(2)).await;
        for _ in 0..2 {
            let leased = member.next().await;
            assert_eq!(go(member.begin(&leased).await.unwrap()), (1, 0, 0));
            member.conclude(&leased, conclusion(&leased.event, stage, 1)).await.unwrap();
            member.ack(&leased).await;
        }
    }
}

/// §4.2: a group without a stage has no claims.
pub async fn without_a_stage_nothing_can_be_claimed(fixture: &dyn BrokerFixture, can: BrokerCapabilities) {
    let broker = fixture.broker();
    publish(&*broker, &[named("t", "a", "1")]).await;
    let plain = Subscription::for_group(GroupName::new("plain").unwrap(), ["t:a".parse().unwrap()]).unwrap();
    let mut member = Member::join(&*broker, plain).await;
    let leased = member.next().await;
    assert_kind(member.begin(&leased).await, ErrorKind::Unsupported);
    assert_kind(member.conclude(&leased, conclusion(&leased.event, "s", 1)).await, ErrorKind::Unsupported);
    if can.delay.is_yes() {
        member.settle(&leased, Settlement::Retry { after: Duration::ZERO }).await.unwrap();
        assert_eq!(member.take().await, "1");
    } else {
        member.ack(&leased).await;
    }
}
