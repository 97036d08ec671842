//! Who looks at broker and witness while nothing is in the way.

use std::time::Duration;

use pubsub_pipeline::{BrokerAdmin as _, EventId, PublisherExt as _, RedisBroker, Scope};
use tokio::runtime::Runtime;

use super::crew::{Ledger, Sent, connect, event};
use super::outcome::is_quiet;
use super::workers::STAGE;
use super::{LIMIT, WORKERS, until, until_or};
use crate::planned::Planned;
use crate::witness::Said;
use crate::{Place, Witness};

/// A broker at an address without a proxy.
pub(super) struct Onlooker {
    runtime: Runtime,
    broker: RedisBroker,
}

impl Onlooker {
    pub(super) fn at(url: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (broker, _) = runtime.block_on(connect(url));
        Self { runtime, broker }
    }

    /// Waits until no group has anything to do.
    pub(super) fn until_all_is_settled(&self, server: impl Fn() -> String) {
        let is_quiet = || self.runtime.block_on(is_quiet(&self.broker));
        until_or("every event is settled", LIMIT, is_quiet, || self.state(server));
    }

    /// What groups have to do, as broker and server say.
    fn state(&self, server: impl Fn() -> String) -> String {
        let groups = self.runtime.block_on(self.broker.groups(&Scope::default()));
        let groups: Vec<_> =
            groups.iter().flatten().map(|group| (&group.name, group.members, group.depth)).collect();
        format!("{groups:?}; {}", server())
    }

    pub(super) fn until_all_are_members(&self) {
        let groups = || self.runtime.block_on(self.broker.groups(&Scope::default())).unwrap_or_default();
        let all = |members: u64| members >= WORKERS as u64;
        until("all workers are members of their group", LIMIT, || {
            groups().iter().any(|group| all(group.members))
        });
    }

    /// Publishes an event of this plan under its own id.
    pub(super) fn publish(&self, planned: Planned) -> Sent {
        let planned_id = planned.id.clone();
        self.try_publish(planned).unwrap_or_else(|| panic!("{planned_id} is not published"))
    }

    /// What is published now is answered and run within this time, whatever became of all else.
    pub(super) fn until_a_sign_has_run(
        &self,
        (place, ledger, number): (&Place, &Ledger, usize),
        limit: Duration,
        server: impl Fn() -> String,
    ) {
        let (action, id) = (format!("sign-{number}"), format!("sign-{number}.3.00.0"));
        let planned = Planned { action, id, lines: 3, code: 0 };
        let mut sent = None;
        until("a publish after that is answered", limit, || {
            sent = self.try_publish(planned.clone());
            sent.is_some()
        });
        let sent = Sent { calm: ledger.calm(), ..sent.unwrap() };
        ledger.enter(sent.clone());
        let has_ended = || !Witness::read(place).attempts("end", STAGE, sent.id.as_str()).is_empty();
        let what = format!("an event that is published after that ({}) has run", sent.id);
        until_or(&what, limit, has_ended, || self.state(server));
    }

    /// Publishes, where it is answered.
    fn try_publish(&self, planned: Planned) -> Option<Sent> {
        let id = EventId::new(&planned.id).unwrap();
        let event = event(Some(id.clone()), &planned);
        self.runtime.block_on(self.broker.publish_one(event)).ok()?;
        Some(Sent { id, planned, is_published: true, calm: Some(0) })
    }
}

/// What this attempt said when it began.
pub(super) fn begun(place: &Place, event: &EventId, attempt: u64) -> Option<Said> {
    let fits = |said: &&Said| said.stage == STAGE && said.event == event.as_str() && said.attempt == attempt;
    Witness::read(place).all("begin").find(fits).cloned()
}
