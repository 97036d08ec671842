use std::collections::HashMap;
use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

use async_trait::async_trait;
use schedules::{Flaw, catches_flaw, check, drawn, dropped_somewhere, pause, spawn};

use super::{BROKEN, LONG, QUICK};
use crate::keeper::Keeper;
use crate::{
    ActionId, Begin, Claims, Conclusion, Delivery, Error, ErrorKind, Event, EventType, LeaseId, Leased,
    Leases, Position, Renewal, Result, Settlement,
};

/// A broker's side: what was settled, and how. What is settled already is another's.
#[derive(Default)]
struct Side(Plain<HashMap<LeaseId, Settlement>>);

impl Side {
    fn how(&self, lease: &LeaseId) -> Option<Settlement> {
        self.0.lock().unwrap().get(lease).cloned()
    }

    fn settle_one(&self, lease: LeaseId, how: Settlement) -> Result<()> {
        let mut settled = self.0.lock().unwrap();
        let first = settled.entry(lease).or_insert_with(|| how.clone());
        if *first == how { Ok(()) } else { Err(Error::new(ErrorKind::LeaseLost, "settled")) }
    }
}

#[async_trait]
impl Leases for Side {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        Ok(leases.iter().map(|_| Renewal::Held).collect())
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        pause().await;
        let answers = settlements.into_iter().map(|(lease, how)| self.settle_one(lease, how)).collect();
        pause().await;
        answers
    }

    async fn wake(&self) -> Result<()> {
        std::future::pending().await
    }
}

#[async_trait]
impl Claims for Side {
    async fn begin(&self, _lease: &LeaseId) -> Result<Begin> {
        Ok(Begin::Elsewhere)
    }

    async fn conclude(&self, _lease: &LeaseId, _conclusion: Conclusion) -> Result<()> {
        Ok(())
    }
}

fn leased(n: u64) -> Leased {
    let event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap());
    let lease = LeaseId { entry: Position::new(n.to_string()), owner: "me".into(), count: 1 };
    Leased { event, position: Position::new(n.to_string()), lease: Some(lease) }
}

fn watched(keeper: &Arc<Keeper>, leased: [Leased; 2]) -> Vec<Delivery> {
    keeper.watch(leased.iter().filter_map(|leased| leased.lease.clone()).collect());
    leased.into_iter().map(|leased| Delivery::new(leased, Arc::clone(keeper))).collect()
}

/// Acknowledges, drops, or begins to acknowledge and is dropped; each lease is settled in the end, and how it was meant.
async fn end(delivery: Delivery, side: Arc<Side>) -> LeaseId {
    let lease = delivery.lease().unwrap().clone();
    match drawn(3) {
        0 => {
            delivery.ack().await.unwrap();
            assert_eq!(side.how(&lease), Some(Settlement::Ack));
        }
        1 => drop(delivery),
        _ => {
            let _ = dropped_somewhere(4, delivery.ack()).await;
        }
    }
    lease
}

/// Several end their deliveries while the stream ends: everything is settled, and then the keeper ends, though no time
/// passes.
async fn what_is_dropped_is_given_back_and_the_keeper_ends() {
    let side = Arc::new(Side::default());
    let keeper = Arc::new(Keeper::new(Arc::clone(&side) as _, Arc::clone(&side) as _));
    let keeping = spawn(Arc::clone(&keeper).keep(Duration::from_secs(30)));
    let first = watched(&keeper, [leased(1), leased(2)]);
    let mut ends: Vec<_> =
        first.into_iter().map(|delivery| spawn(end(delivery, Arc::clone(&side)))).collect();
    pause().await;
    let mut second = watched(&keeper, [leased(3), leased(4)]);
    let never_handed_out = second.pop();
    ends.extend(second.into_iter().map(|delivery| spawn(end(delivery, Arc::clone(&side)))));
    let ending = Arc::clone(&keeper);
    let stream = spawn(async move {
        drop(never_handed_out);
        ending.stream_ended();
    });
    let mut leases = vec![leased(4).lease.unwrap()];
    for end in ends {
        leases.push(end.await.unwrap());
    }
    stream.await.unwrap();
    keeping.await.unwrap();
    for lease in leases {
        assert!(side.how(&lease).is_some(), "{lease:?} is left in silence");
    }
}

#[test]
fn every_lease_is_settled_or_given_back_and_then_the_keeper_ends() {
    check(QUICK, what_is_dropped_is_given_back_and_the_keeper_ends);
}

#[test]
#[ignore = "long: many schedules"]
fn leases_hold_under_many_schedules() {
    check(LONG, what_is_dropped_is_given_back_and_the_keeper_ends);
}

#[test]
fn a_word_of_what_was_dropped_that_gets_lost_is_caught() {
    catches_flaw(Flaw::ForgetfulNotify, BROKEN, what_is_dropped_is_given_back_and_the_keeper_ends);
}
