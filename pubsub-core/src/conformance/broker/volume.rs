//! §4.2: many at once lose nothing and repeat nothing.

use std::collections::BTreeMap;

use futures::future::join_all;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::BrokerFixture;
use super::sample::{LOOK_AGAIN, Member, depth, event, lease, named, on};
use crate::{BrokerCapabilities, Event, Publisher as _, Renewal, Scope, Settlement};

/// §4.2: each event to one member of a group, whoever publishes and takes at the same time.
pub async fn many_members_and_publishers_lose_and_repeat_nothing(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    const EACH: usize = 250;
    let seen: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let publish = |by: usize| {
        let handle = fixture.another();
        async move {
            let handle = handle.await;
            for part in 0..EACH / 10 {
                let events = (0..10).map(|n| named("t", &format!("a{n}"), &format!("{by}-{part}-{n}")));
                for answer in handle.publish(events.collect()).await {
                    answer.unwrap();
                }
            }
        }
    };
    let take = |prefetch: usize| {
        let (handle, seen) = (fixture.another(), &seen);
        async move {
            let handle = handle.await;
            let mut member = Member::join(&*handle, on("s", &["t:*"]).with_prefetch(prefetch)).await;
            loop {
                tokio::select! {
                    leased = member.next_whenever() => {
                        member.ack(&leased).await;
                        let mut seen = seen.lock().await;
                        *seen.entry(leased.event.id.as_str().to_owned()).or_default() += 1;
                    }
                    () = all_seen(seen, 4 * EACH) => return,
                }
            }
        }
    };
    tokio::join!(join_all((0..4).map(publish)), join_all([1, 1, 7, 50].map(take)));
    let seen = seen.into_inner();
    assert_eq!(seen.len(), 4 * EACH);
    assert!(seen.values().all(|times| *times == 1), "each once");
    assert_eq!(depth(&*fixture.broker(), &Scope::default()).await, (0, 0, 0));
}

async fn all_seen(seen: &Mutex<BTreeMap<String, usize>>, many: usize) {
    while seen.lock().await.len() < many {
        sleep(LOOK_AGAIN).await;
    }
}

/// §5: renewing and settling a thousand leases is one call each.
pub async fn leases_of_a_thousand_are_renewed_in_one_call(
    fixture: &dyn BrokerFixture,
    _: BrokerCapabilities,
) {
    let broker = fixture.broker();
    let events: Vec<Event> = (0..1000).map(|_| event("t", "a")).collect();
    for answer in broker.publish(events).await {
        answer.unwrap();
    }
    let mut member = Member::join(&*broker, on("s", &["t:a"]).with_prefetch(1000)).await;
    let mut leases = Vec::new();
    for _ in 0..1000 {
        leases.push(lease(&member.next().await).clone());
    }
    assert_eq!(member.renew_all(&leases).await.unwrap(), vec![Renewal::Held; 1000]);
    let settled = member.settle_all(leases.iter().map(|l| (l.clone(), Settlement::Ack)).collect()).await;
    assert!(settled.iter().all(Result::is_ok));
    assert_eq!(member.renew_all(&leases).await.unwrap(), vec![Renewal::Lost; 1000]);
    assert_eq!(depth(&*broker, &Scope::default()).await, (0, 0, 0));
}
