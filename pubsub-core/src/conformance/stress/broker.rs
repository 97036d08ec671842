//! The rules of brokers, many at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::delayed::{Delayed, Pauses};
use super::room::Room;
use super::{Failures, Stress, run_rules};
use crate::conformance::broker::{BrokerFixture, Limits};
use crate::{Broker, BrokerCapabilities};

/// A rule of the suite.
pub type BrokerRule = for<'a> fn(&'a dyn BrokerFixture, BrokerCapabilities) -> BoxFuture<'a, ()>;

/// The rules that need a broker for themselves.
pub const BROKER_RULES_ALONE: [&str; 2] = [
    // Its ids leave no room for more.
    "every_id_can_be_subscribed_to_literally",
    // What cannot be decoded is nobody's.
    "what_cannot_be_decoded_becomes_one_and_stops_nobody",
];

/// A broker that rules share, each in a room of its own, or one of a rule's own.
struct Paused {
    fixture: Arc<dyn BrokerFixture>,
    /// A handle that no other rule has, since a rule may close it.
    own: Arc<dyn Broker>,
    room: Option<String>,
    pauses: Arc<Pauses>,
}

impl Paused {
    fn around(&self, broker: Arc<dyn Broker>) -> Arc<dyn Broker> {
        let broker = match &self.room {
            Some(name) => Arc::new(Room::new(broker, name)),
            None => broker,
        };
        Arc::new(Delayed::new(broker, Arc::clone(&self.pauses)))
    }
}

#[async_trait]
impl BrokerFixture for Paused {
    async fn new() -> Self {
        unreachable!("it is made around another")
    }

    fn broker(&self) -> Arc<dyn Broker> {
        self.around(Arc::clone(&self.own))
    }

    async fn another(&self) -> Arc<dyn Broker> {
        self.around(self.fixture.another().await)
    }

    async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
        // Nobody shares it.
        Arc::new(Delayed::new(self.fixture.limited(limits).await, Arc::clone(&self.pauses)))
    }

    async fn inject(&self, bytes: &[u8]) {
        self.fixture.inject(bytes).await;
    }
}

/// Runs the rules whose name is wanted, each so many times, on one broker, and answers which failed.
pub async fn stress_broker<F: BrokerFixture + 'static>(
    fixture: F,
    can: BrokerCapabilities,
    stress: Stress,
    wanted: fn(&str) -> bool,
) -> Failures {
    let shared: Arc<dyn BrokerFixture> = Arc::new(fixture);
    let rules: [(&'static str, BrokerRule); _] = crate::broker_rules! { [named_rules] broker };
    let run = |name, rule: BrokerRule, number, pauses| -> BoxFuture<'static, ()> {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            let alone = BROKER_RULES_ALONE.contains(&name);
            let fixture: Arc<dyn BrokerFixture> = if alone { Arc::new(F::new().await) } else { shared };
            let own = if alone { fixture.broker() } else { fixture.another().await };
            let room = (!alone).then(|| format!("~{number}"));
            rule(&Paused { fixture, own, room, pauses }, can).await;
        })
    };
    run_rules(stress, &rules, wanted, run).await
}
