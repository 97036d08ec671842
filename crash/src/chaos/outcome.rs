//! What is there once all is over, and what has to hold of events and attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pubsub_pipeline::{
    BrokerAdmin as _, DeadLetters as _, Deliveries, EventId, GroupName, OutputReader as _, Pattern,
    RedisBroker, RedisStore, Role, RunQuery, RunRecord, Scope, Subscription,
};
use serde_json::Value;
use services::Redis;

use super::crew::{Sent, connect};
use super::trouble::Links;
use super::workers::{STAGE, Workers};
use super::{LEASE, PREFIX, in_ms};
use crate::checks::is_exhausted;
use crate::planned::Planned;
use crate::witness::{Said, concluded_in_any_order};
use crate::{Place, Witness};

/// What of all groups is pending, and is to come later, as the server itself has it: a line for each place.
const LEFT: &str = "
local left = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'stream' then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local of = {}
      for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
      if of.pending > 0 then
        for _, one in ipairs(redis.call('XPENDING', key, of.name, '-', '+', 3)) do
          left[#left + 1] = 'pending in ' .. key .. ' of ' .. of.name .. ': ' .. table.concat(one, ' ')
        end
      end
    end
  elseif kind == 'zset' and string.find(key, ':due:', 1, true) then
    left[#left + 1] = 'to come later in ' .. key .. ': ' .. redis.call('ZCARD', key)
  elseif kind == 'hash' and string.find(key, ':held:', 1, true) then
    left[#left + 1] = 'held in ' .. key .. ': ' .. redis.call('HLEN', key)
  end
end
return table.concat(left, '; ')";

/// What is left at this server; nothing where all is settled.
pub(super) fn left(server: &Redis) -> String {
    server.ask(&["EVAL", LEFT, "0", PREFIX]).unwrap_or_else(|error| error.to_string())
}

/// What is there once all is over.
pub(super) struct Outcome {
    pub(super) sent: Vec<Sent>,
    pub(super) witness: Witness,
    /// By event, in the order of their attempts.
    pub(super) runs: BTreeMap<EventId, Vec<RunRecord>>,
    pub(super) broker: RedisBroker,
    pub(super) store: RedisStore,
}

/// Whether no group of the broker has anything to do.
pub(super) async fn is_quiet(broker: &RedisBroker) -> bool {
    let groups = broker.groups(&Scope::default()).await;
    groups.is_ok_and(|groups| groups.iter().all(|group| group.depth.is_idle()))
}

/// A record as the program shows it.
pub(super) fn shown(run: &RunRecord) -> Value {
    serde_json::to_value(run).unwrap()
}

impl Outcome {
    /// Reads it at this address, which answers.
    pub(super) async fn read(place: &Place, url: &str, sent: Vec<Sent>) -> Self {
        let (broker, store) = connect(url).await;
        let mut runs = BTreeMap::<EventId, Vec<RunRecord>>::new();
        for run in store.runs(&RunQuery::all()).await.unwrap() {
            runs.entry(run.key.event_id.clone()).or_default().push(run);
        }
        for runs in runs.values_mut() {
            runs.sort_by_key(|run| run.key.attempt);
        }
        Self { sent, witness: Witness::read(place), runs, broker, store }
    }

    pub(super) fn planned(&self, event: &EventId) -> &Planned {
        let sent = self.sent.iter().find(|sent| sent.id == *event);
        &sent.unwrap_or_else(|| panic!("{event} was run, and nobody sent it")).planned
    }

    /// What counts as published has run.
    pub(super) fn none_is_lost(&self, counts: impl Fn(&Sent) -> bool) {
        let lost: Vec<_> =
            self.sent.iter().filter(|sent| counts(sent) && !self.runs.contains_key(&sent.id)).collect();
        assert!(lost.is_empty(), "told as published and never run: {lost:?}");
    }

    /// Every event of these has one final run, its last, which ended as planned.
    pub(super) fn each_is_concluded_once(&self, of: impl Fn(&EventId) -> bool) {
        for (event, runs) in self.runs.iter().filter(|(event, _)| of(event)) {
            let shown: Vec<Value> = runs.iter().map(shown).collect();
            let last = concluded_in_any_order(&self.witness, STAGE, event.as_str(), &shown);
            if is_exhausted(last) {
                assert!(runs.len() > 3, "given up before it crashed three times: {shown:#?}");
                continue;
            }
            assert_eq!(last["code"].as_u64(), Some(self.planned(event).code), "{last}");
            let ends = self.witness.attempts("end", STAGE, event.as_str());
            assert!(ends.contains(&last["attempt"].as_u64().unwrap()), "its command ended: {shown:#?}");
        }
    }

    /// The command of every event that counts came to its end at least once.
    pub(super) fn all_have_run(&self, counts: impl Fn(&Sent) -> bool) {
        let ended: BTreeSet<&str> = self.witness.all("end").map(|said| said.event.as_str()).collect();
        let lost: Vec<_> =
            self.sent.iter().filter(|sent| counts(sent) && !ended.contains(sent.id.as_str())).collect();
        assert!(lost.is_empty(), "told as published, and their commands never ended: {lost:?}");
    }

    /// From when to when commands ran at an event, in milliseconds since 1970.
    pub(super) fn life(&self, event: &EventId) -> Option<(u64, u64)> {
        let times = ["begin", "end"].into_iter().flat_map(|word| self.witness.all(word));
        let times = times.filter(|said| said.event == event.as_str()).filter_map(|said| said.at);
        times.fold(None, |life, at| {
            let (from, to) = life.unwrap_or((at, at));
            Some((from.min(at), to.max(at)))
        })
    }

    /// The events whose workers died or were cut off too often.
    fn exhausted(&self) -> Vec<&str> {
        let is_exhausted = |runs: &Vec<RunRecord>| runs.last().is_some_and(|run| is_exhausted(&shown(run)));
        self.runs.iter().filter(|(_, runs)| is_exhausted(runs)).map(|(event, _)| event.as_str()).collect()
    }

    /// No attempt began twice; none ran beside another, or was followed by another, but where that one had failed, its
    /// worker had been killed or cut off alone, or troubles had followed each other too fast to recover between them.
    pub(super) fn attempts_have_a_reason(&self, workers: &Workers<'_>, links: &Links) {
        self.witness.begins_each_once();
        for beside in self.witness.all("beside") {
            let at = beside.at.unwrap();
            let other = |attempt| attempt != beside.attempt;
            let others =
                self.witness.of_event(beside).filter(|said| said.word == "begin" && other(said.attempt));
            // Of two attempts the worker of the earlier one does not know yet.
            let is_known = |other: &Said| {
                let earlier = if other.attempt < beside.attempt { other } else { beside };
                let begun = other.at.unwrap().min(at);
                workers.was_alone(earlier.worker.unwrap(), at)
                    || links.followed_each_other(begun - in_ms(LEASE), at)
            };
            let others: Vec<&Said> = others.collect();
            assert!(
                others.iter().any(|other| is_known(other)),
                "side by side, and no worker was cut off alone: {beside:?} beside one of {others:?}"
            );
        }
        for again in self.witness.all("begin").filter(|said| said.attempt > 1) {
            let is_before = |said: &&Said| said.word == "begin" && said.attempt + 1 == again.attempt;
            let before: Vec<&Said> = self.witness.of_event(again).filter(is_before).collect();
            let failed = self.planned(&EventId::new(&again.event).unwrap()).code == 3;
            let has_ended =
                |said: &Said| self.witness.attempts("end", &said.stage, &said.event).contains(&said.attempt);
            let is_known = |said: &&Said| {
                let begun = said.at.unwrap();
                workers.was_hurt(said.worker.unwrap(), begun)
                    || links.followed_each_other(begun, again.at.unwrap())
                    || (failed && has_ended(said))
            };
            assert!(before.iter().all(is_known), "run again without a reason: {again:?} after {before:?}");
        }
    }

    /// Nothing is left in the groups, as broker and server say; and no dead letter but of what was given up.
    pub(super) async fn nothing_is_left(&self, server: &Redis) {
        assert!(is_quiet(&self.broker).await, "{:?}", self.broker.groups(&Scope::default()).await);
        assert_eq!(left(server), "", "left at the server");
        let letters = self.broker.list(None, 1000).await.unwrap();
        let exhausted = self.exhausted();
        let others: Vec<_> = letters.iter().filter(|letter| !exhausted.contains(&&*letter.id)).collect();
        assert!(others.is_empty(), "dead letters: {others:?}");
    }

    /// Every event is at the broker once, and one that is, is told as completed once.
    pub(super) async fn events_are_there_once(&self) {
        let (requested, completed) = self.all_events().await;
        for Sent { id, is_published, .. } in &self.sent {
            let times = requested.get(id).copied().unwrap_or(0);
            assert!(times < 2, "{id} was published {times} times");
            assert!(times == 1 || !is_published, "{id} was told as published and is not there");
        }
        for event in self.runs.keys() {
            assert_eq!(completed.get(event), Some(&1), "how often the end of {event} was told");
        }
        assert_eq!(completed.len(), self.runs.len(), "{completed:?}");
    }

    /// How often each event is there, and how often the end of the work at it.
    async fn all_events(&self) -> (BTreeMap<EventId, u64>, BTreeMap<EventId, u64>) {
        let patterns: [Pattern; 2] =
            ["requested", "completed"].map(|what| format!("{STAGE}-{what}:*").parse().unwrap());
        let group = GroupName::new("probe").unwrap();
        let subscription = Subscription::for_group(group, patterns).unwrap().with_prefetch(100);
        let mut deliveries = Deliveries::open(&self.broker, subscription).await.unwrap();
        let (mut requested, mut completed) = (BTreeMap::new(), BTreeMap::new());
        loop {
            let Ok(next) = tokio::time::timeout(Duration::from_millis(500), deliveries.next()).await else {
                if is_quiet(&self.broker).await {
                    deliveries.close().await;
                    return (requested, completed);
                }
                continue;
            };
            let delivery = next.unwrap().unwrap();
            let event = delivery.event();
            match &event.origin {
                Some(origin) if origin.role == Role::Outcome => {
                    *completed.entry(origin.cause.clone()).or_default() += 1;
                }
                _ => *requested.entry(event.id.clone()).or_default() += 1,
            }
            delivery.ack().await.unwrap();
        }
    }
}
