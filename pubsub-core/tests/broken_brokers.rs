//! The broker suite catches brokers that break a promise: each of these breaks one, around a broker that keeps it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use pubsub_core::conformance::broker::{BrokerFixture, Limits};
use pubsub_core::conformance::stress::{BROKER_RULES_ALONE, Stress, stress_broker};
use pubsub_core::{
    ActionId, Begin, Broker, BrokerAdmin, BrokerCapabilities, Claims, Conclusion, DeadLetter, DeadLetters,
    Depth, ErrorKind, Event, EventId, GroupInfo, GroupName, LeaseId, Leases, MEMORY_BROKER, MemoryBroker,
    Novelty, Payload, Position, Published, Publisher, PublisherExt, Renewal, Result, Scope, Settlement,
    StartAt, Subscribed, Subscriber, Subscription, Support, Try,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaks {
    Nothing,
    LosesOnRetry,
    LosesOnRelease,
    DeliversTwice,
    BeginsTwice,
    LetsAFormerHolderConclude,
    LetsAFormerHolderSettle,
    Reorders,
    RenewsALostLease,
    LosesAnExpiredLease,
    ForgetsDedupe,
    CountsARelease,
    ForgetsFailures,
    ForgetsTheConclusion,
    ConcludesWithoutABegin,
    BeginsAnewWhenAskedAgain,
    NeverExhausts,
    LosesTheDelay,
    DropsHeaders,
    RewritesThePayload,
    StartsAtTheLatest,
    IgnoresTheStart,
    TakesOtherPatterns,
    TakesMoreThanAsked,
    SharesAGroupsRetries,
    LosesDeadLetters,
    CutsTheReason,
    ReplaysForEverybody,
    ReplaysUnderTheSameId,
    ForgetsToCancel,
    CancelsInSilence,
    CountsNothingAsWaiting,
    CountsNoMembers,
    DropsWhatCannotBeDecoded,
    RefusesTheWholeBatch,
    AnswersRenewalsInAnyOrder,
    TakesEventsAfterClose,
    ClaimsNoCancelAndCancels,
    ClaimsWithoutAStage,
    KeepsWhatIsOld,
    KeepsGroups,
    KeepsDeadLetters,
    NeverFull,
    NamesNobodyWhenFull,
    FullForWhatNeverFits,
    DropsIdleGroups,
    PutsOffInItsOwnMemory,
    TrimsWhatIsPutOff,
    BringsSuspectsBackTogether,
    RefusesHalfTheLimit,
    CountsEveryGroupForAnAction,
    CountsOneMember,
    KeepsWhatTheDeadHeld,
    ReplaysWhatIsNotThere,
    LeasesBroadcasts,
    IgnoresTheStartOfABroadcast,
}

/// Each with the rule that says what it breaks.
const CAUGHT_BY: [(Breaks, &str); 57] = [
    (Breaks::LosesOnRetry, "a_retry_comes_back_to_its_group_alone_after_its_time"),
    (Breaks::LosesOnRelease, "a_release_comes_back_at_once_or_after_its_time"),
    (Breaks::DeliversTwice, "each_event_goes_to_one_member_of_each_group"),
    (Breaks::BeginsTwice, "one_delivery_at_a_time_has_the_work"),
    (Breaks::LetsAFormerHolderConclude, "a_former_holder_can_do_nothing"),
    (Breaks::LetsAFormerHolderSettle, "a_former_holder_can_do_nothing"),
    (Breaks::Reorders, "events_of_an_action_come_in_publish_order"),
    (Breaks::RenewsALostLease, "a_former_holder_can_do_nothing"),
    (Breaks::LosesAnExpiredLease, "a_lease_that_expired_and_nobody_took_is_renewed"),
    (Breaks::ForgetsDedupe, "an_id_published_twice_is_one_event"),
    (Breaks::CountsARelease, "attempts_grow_and_each_end_has_its_own_count"),
    (Breaks::ForgetsFailures, "a_retry_comes_back_to_its_group_alone_after_its_time"),
    (Breaks::ForgetsTheConclusion, "what_is_concluded_stays_so_after_a_crash"),
    (Breaks::ConcludesWithoutABegin, "only_the_holder_concludes_and_only_once"),
    (Breaks::BeginsAnewWhenAskedAgain, "beginning_again_with_the_same_lease_is_the_same_attempt"),
    (Breaks::NeverExhausts, "an_event_that_kills_its_workers_is_exhausted"),
    (Breaks::LosesTheDelay, "a_delayed_event_waits_for_its_time"),
    (Breaks::DropsHeaders, "an_event_reads_back_exactly"),
    (Breaks::RewritesThePayload, "an_event_reads_back_exactly"),
    (Breaks::StartsAtTheLatest, "a_new_group_starts_where_it_asks_to"),
    (Breaks::IgnoresTheStart, "a_new_group_starts_where_it_asks_to"),
    (Breaks::TakesOtherPatterns, "a_group_is_what_it_was_made_as"),
    (Breaks::TakesMoreThanAsked, "what_is_taken_is_at_most_the_prefetch"),
    (Breaks::SharesAGroupsRetries, "a_retry_comes_back_to_its_group_alone_after_its_time"),
    (Breaks::LosesDeadLetters, "a_dead_letter_keeps_the_bytes_the_reason_and_the_counts"),
    (Breaks::CutsTheReason, "a_dead_letter_keeps_the_bytes_the_reason_and_the_counts"),
    (Breaks::ReplaysForEverybody, "a_replay_is_a_new_event_for_its_group_alone"),
    (Breaks::ReplaysUnderTheSameId, "a_replay_is_a_new_event_for_its_group_alone"),
    (Breaks::ForgetsToCancel, "a_cancel_covers_what_runs_waits_and_is_put_off"),
    (Breaks::CancelsInSilence, "a_cancel_is_told_at_once"),
    (Breaks::CountsNothingAsWaiting, "waiting_delayed_and_leased_are_counted_of_matching_events"),
    (Breaks::CountsNoMembers, "a_removed_group_is_gone_and_one_with_members_stays"),
    (Breaks::DropsWhatCannotBeDecoded, "what_cannot_be_decoded_becomes_one_and_stops_nobody"),
    (Breaks::RefusesTheWholeBatch, "a_batch_is_answered_event_by_event"),
    (Breaks::AnswersRenewalsInAnyOrder, "each_lease_asked_for_is_answered"),
    (Breaks::TakesEventsAfterClose, "a_closed_handle_refuses_and_its_streams_end"),
    (Breaks::ClaimsNoCancelAndCancels, "a_cancel_is_told_at_once"),
    (Breaks::ClaimsWithoutAStage, "without_a_stage_nothing_can_be_claimed"),
    (Breaks::KeepsWhatIsOld, "what_every_group_has_settled_goes_once_it_is_old"),
    (Breaks::LosesTheDelay, "a_delayed_event_is_not_old_before_it_is_due"),
    (Breaks::NeverFull, "a_full_broker_names_the_group_that_holds_it_back"),
    (Breaks::NamesNobodyWhenFull, "a_full_broker_names_the_group_that_holds_it_back"),
    (Breaks::FullForWhatNeverFits, "what_can_never_fit_is_refused_and_removes_nothing"),
    (Breaks::KeepsDeadLetters, "too_many_dead_letters_go_oldest_first"),
    (Breaks::KeepsWhatIsOld, "old_dead_letters_go"),
    (Breaks::KeepsGroups, "a_group_without_members_goes_and_one_with_an_idle_member_stays"),
    (Breaks::DropsIdleGroups, "a_group_without_members_goes_and_one_with_an_idle_member_stays"),
    (Breaks::PutsOffInItsOwnMemory, "what_is_put_off_outlives_its_member_and_its_handle"),
    (Breaks::TrimsWhatIsPutOff, "what_is_held_or_put_off_is_never_trimmed"),
    (Breaks::BringsSuspectsBackTogether, "what_was_held_in_a_crash_comes_back_apart"),
    (Breaks::RefusesHalfTheLimit, "an_event_of_the_largest_size_is_taken"),
    (Breaks::CountsEveryGroupForAnAction, "an_action_is_counted_in_the_groups_that_can_match_it"),
    (Breaks::CountsOneMember, "members_are_counted"),
    (Breaks::KeepsWhatTheDeadHeld, "what_a_dead_member_held_comes_back_after_its_lease"),
    (Breaks::ReplaysWhatIsNotThere, "a_replay_of_what_is_not_there_is_refused"),
    (Breaks::LeasesBroadcasts, "a_broadcast_has_no_leases_and_no_runs"),
    (Breaks::IgnoresTheStartOfABroadcast, "a_broadcast_starts_where_it_asks_to"),
];

#[derive(Clone)]
struct Broken(MemoryBroker, Breaks);

#[async_trait]
impl BrokerFixture for Broken {
    async fn new() -> Self {
        Self(MemoryBroker::new(), Breaks::Nothing)
    }

    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.clone())
    }

    async fn another(&self) -> Arc<dyn Broker> {
        Arc::new(Self(self.0.another(), self.1))
    }

    async fn limited(&self, mut limits: Limits) -> Arc<dyn Broker> {
        const FOR_EVER: Duration = Duration::from_secs(1_000_000);
        match self.1 {
            Breaks::KeepsWhatIsOld => limits.retention = FOR_EVER,
            Breaks::KeepsGroups => limits.group_retention = FOR_EVER,
            Breaks::KeepsDeadLetters => limits.dead_letters = 1_000_000,
            Breaks::NeverFull => limits.bytes = None,
            _ => {}
        }
        Arc::new(Self(MemoryBroker::with_limits(limits.in_memory()), self.1))
    }

    async fn inject(&self, bytes: &[u8]) {
        if self.1 != Breaks::DropsWhatCannotBeDecoded {
            assert!(self.0.publish_bytes(bytes).is_err());
        }
    }
}

#[async_trait]
impl Publisher for Broken {
    async fn publish(&self, mut events: Vec<Event>) -> Vec<Result<Published>> {
        for event in &mut events {
            match self.1 {
                Breaks::LosesTheDelay => event.deliver_at = None,
                Breaks::DropsHeaders => event.headers.clear(),
                Breaks::RewritesThePayload => {
                    let value: serde_json::Value = event.payload.parse_as().unwrap();
                    event.payload = Payload::from_value(&value).unwrap();
                }
                _ => {}
            }
        }
        match self.1 {
            Breaks::Reorders => {
                let mut answers = self.0.publish(events.into_iter().rev().collect()).await;
                answers.reverse();
                answers
            }
            Breaks::ForgetsDedupe => {
                let mut answers = Vec::new();
                for mut event in events {
                    let mut answer = self.0.publish_one(event.clone()).await;
                    if answer.as_ref().is_ok_and(|published| published.novelty == Novelty::Duplicate) {
                        event.id = EventId::generate();
                        answer = self.0.publish_one(event).await;
                    }
                    answers.push(answer);
                }
                answers
            }
            Breaks::RefusesTheWholeBatch => {
                let answers = self.0.another().publish(events).await;
                let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) else {
                    return answers;
                };
                answers.iter().map(|_| Err(pubsub_core::Error::new(error.kind(), "one is refused"))).collect()
            }
            Breaks::NamesNobodyWhenFull | Breaks::FullForWhatNeverFits => {
                let full = |_| pubsub_core::Error::new(ErrorKind::Full, "publish");
                let answers = self.0.publish(events).await;
                answers.into_iter().map(|answer| answer.map_err(full)).collect()
            }
            Breaks::RefusesHalfTheLimit => {
                let most = MEMORY_BROKER.max_event_bytes / 2;
                let too_large = events.iter().any(|event| event.payload.as_str().len() > most);
                let answers = self.0.publish(events).await;
                let refused = |_| Err(pubsub_core::Error::new(ErrorKind::TooLarge, "publish"));
                if too_large { answers.into_iter().map(refused).collect() } else { answers }
            }
            Breaks::TakesEventsAfterClose => self.0.another().publish(events).await,
            _ => self.0.publish(events).await,
        }
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[async_trait]
impl Subscriber for Broken {
    async fn subscribe(&self, mut subscription: Subscription) -> Result<Subscribed> {
        match self.1 {
            Breaks::StartsAtTheLatest => subscription = subscription.with_start(StartAt::Latest),
            Breaks::IgnoresTheStart => subscription = subscription.with_start(StartAt::Earliest),
            Breaks::IgnoresTheStartOfABroadcast if subscription.group().is_none() => {
                subscription = subscription.with_start(StartAt::Latest);
            }
            Breaks::KeepsWhatTheDeadHeld => {
                subscription = subscription.with_lease(Duration::from_secs(3600)).unwrap();
            }
            Breaks::TakesMoreThanAsked => {
                let more = subscription.prefetch() + 3;
                subscription = subscription.with_prefetch(more);
            }
            _ => {}
        }
        let has_stage = subscription.group().is_some_and(|group| group.stage.is_some());
        let subscribed = match self.0.subscribe(subscription.clone()).await {
            Err(error) if error.kind() == ErrorKind::Conflict && self.1 == Breaks::TakesOtherPatterns => {
                let name = GroupName::new(EventId::generate().as_str()).unwrap();
                self.0.subscribe(subscription.with_group_name(name)).await?
            }
            answer => answer?,
        };
        let entries = match self.1 {
            Breaks::DeliversTwice => subscribed
                .entries
                .flat_map(|entry| {
                    let again = entry.as_ref().ok().cloned().map(Ok);
                    stream::iter(std::iter::once(entry).chain(again))
                })
                .boxed(),
            Breaks::LeasesBroadcasts => {
                let leased = |mut leased: pubsub_core::Leased| {
                    let entry = leased.position.clone();
                    leased.lease.get_or_insert(LeaseId { entry, owner: Arc::from("me"), count: 1 });
                    leased
                };
                subscribed.entries.map(move |entry| entry.map(leased)).boxed()
            }
            // The rule has eight of them.
            Breaks::BringsSuspectsBackTogether => subscribed.entries.chunks(8).flat_map(stream::iter).boxed(),
            _ => subscribed.entries,
        };
        let member = Arc::new(BrokenMember {
            leases: subscribed.leases,
            claims: subscribed.claims,
            broker: self.clone(),
            has_stage,
            begun: AtomicU32::new(0),
        });
        Ok(Subscribed { entries, leases: Arc::clone(&member) as Arc<_>, claims: member })
    }
}

struct BrokenMember {
    leases: Arc<dyn Leases>,
    claims: Arc<dyn Claims>,
    broker: Broken,
    has_stage: bool,
    begun: AtomicU32,
}

impl BrokenMember {
    fn breaks(&self, what: Breaks) -> bool {
        self.broker.1 == what
    }

    fn other(&self, settlement: Settlement) -> Settlement {
        match (self.broker.1, settlement) {
            (Breaks::LosesOnRetry, Settlement::Retry { .. })
            | (Breaks::LosesOnRelease, Settlement::Release { .. })
            | (Breaks::LosesDeadLetters, Settlement::DeadLetter { .. }) => Settlement::Ack,
            (Breaks::TrimsWhatIsPutOff, Settlement::Retry { after } | Settlement::Release { after })
                if !after.is_zero() =>
            {
                Settlement::Ack
            }
            (Breaks::CountsARelease, Settlement::Release { after }) => Settlement::Retry { after },
            (Breaks::ForgetsFailures, Settlement::Retry { after }) => Settlement::Release { after },
            (Breaks::CutsTheReason, Settlement::DeadLetter { reason }) => {
                Settlement::DeadLetter { reason: reason.lines().next().unwrap_or_default().to_owned() }
            }
            (_, settlement) => settlement,
        }
    }
}

fn forgive<T>(answer: Result<T>, instead: T) -> Result<T> {
    match answer {
        Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(instead),
        answer => answer,
    }
}

#[async_trait]
impl Leases for BrokenMember {
    async fn renew(&self, leases: &[LeaseId]) -> Result<Vec<Renewal>> {
        if self.breaks(Breaks::LosesAnExpiredLease) {
            return Ok(vec![Renewal::Lost; leases.len()]);
        }
        let mut answers = self.leases.renew(leases).await?;
        for answer in &mut answers {
            if self.breaks(Breaks::RenewsALostLease) && *answer == Renewal::Lost {
                *answer = Renewal::Held;
            }
        }
        if self.breaks(Breaks::AnswersRenewalsInAnyOrder) {
            answers.reverse();
        }
        Ok(answers)
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        if self.breaks(Breaks::SharesAGroupsRetries) {
            let retries = settlements.iter().filter(|(_, how)| matches!(how, Settlement::Retry { .. }));
            let copies = retries.map(|_| pubsub_core::conformance::broker::event("t", "a")).collect();
            drop(self.broker.0.publish(copies).await);
        }
        if self.breaks(Breaks::PutsOffInItsOwnMemory)
            && settlements.iter().any(|(_, how)| matches!(how, Settlement::Retry { .. }))
        {
            return settlements.iter().map(|_| Ok(())).collect();
        }
        let settlements = settlements.into_iter().map(|(lease, how)| (lease, self.other(how))).collect();
        let answers = self.leases.settle(settlements).await;
        if !self.breaks(Breaks::LetsAFormerHolderSettle) {
            return answers;
        }
        answers.into_iter().map(|answer| forgive(answer, ())).collect()
    }

    async fn wake(&self) -> Result<()> {
        if self.breaks(Breaks::CancelsInSilence) {
            std::future::pending::<()>().await;
        }
        self.leases.wake().await
    }
}

#[async_trait]
impl Claims for BrokenMember {
    async fn begin(&self, lease: &LeaseId) -> Result<Begin> {
        let go = |attempt| Begin::Go(Try { attempt, failures: 0, crashes: 0 });
        if self.breaks(Breaks::ClaimsWithoutAStage) && !self.has_stage {
            return Ok(go(1));
        }
        if self.breaks(Breaks::BeginsAnewWhenAskedAgain) {
            return Ok(go(self.begun.fetch_add(1, Ordering::Relaxed) + 1));
        }
        Ok(match self.claims.begin(lease).await? {
            Begin::Elsewhere if self.breaks(Breaks::BeginsTwice) => go(1),
            Begin::Concluded(_) if self.breaks(Breaks::ForgetsTheConclusion) => go(2),
            Begin::Exhausted(numbers) if self.breaks(Breaks::NeverExhausts) => Begin::Go(numbers),
            answer => answer,
        })
    }

    async fn conclude(&self, lease: &LeaseId, conclusion: Conclusion) -> Result<()> {
        if self.breaks(Breaks::ConcludesWithoutABegin) {
            drop(self.claims.begin(lease).await);
        }
        let answer = self.claims.conclude(lease, conclusion).await;
        if self.breaks(Breaks::LetsAFormerHolderConclude) { forgive(answer, ()) } else { answer }
    }
}

#[async_trait]
impl BrokerAdmin for Broken {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let everywhere = Scope { action: None, ..scope.clone() };
        let scope = if self.1 == Breaks::CountsEveryGroupForAnAction { &everywhere } else { scope };
        let mut groups = self.0.groups(scope).await?;
        if self.1 == Breaks::DropsIdleGroups {
            groups.retain(|group| !group.depth.is_idle());
        }
        for group in &mut groups {
            if self.1 == Breaks::CountsOneMember {
                group.members = group.members.min(1);
            }
            if self.1 == Breaks::CountsNothingAsWaiting {
                group.depth = Depth { waiting: 0, ..group.depth };
            }
        }
        Ok(groups)
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        if self.1 == Breaks::ForgetsToCancel {
            return Ok(Position::new("0"));
        }
        self.0.cancel(action).await
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        match self.0.remove_group(group).await {
            Err(error) if error.kind() == ErrorKind::Conflict && self.1 == Breaks::CountsNoMembers => {
                Ok(true)
            }
            answer => answer,
        }
    }
}

#[async_trait]
impl DeadLetters for Broken {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        self.0.list(group, limit).await
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        let letters = self.0.list(group, usize::MAX).await?;
        if self.1 == Breaks::ReplaysWhatIsNotThere && letters.iter().all(|letter| letter.id != id) {
            return Ok(EventId::generate());
        }
        let id_of_replay = self.0.replay(id, group).await?;
        match self.1 {
            Breaks::ReplaysForEverybody => {
                let letter = letters.into_iter().find(|letter| letter.id == id).unwrap();
                let event = Event::from_cloud_event(&letter.bytes)?.with_id(EventId::generate());
                self.0.publish_one(event).await?;
                Ok(id_of_replay)
            }
            Breaks::ReplaysUnderTheSameId => EventId::new(id),
            _ => Ok(id_of_replay),
        }
    }
}

impl Broker for Broken {
    fn capabilities(&self) -> BrokerCapabilities {
        capabilities(self.1)
    }
}

fn capabilities(breaks: Breaks) -> BrokerCapabilities {
    let mut can = MEMORY_BROKER;
    if breaks == Breaks::ClaimsNoCancelAndCancels {
        can.cancel = Support::No;
    }
    can
}

/// Runs the rules of this name, or all, side by side, and answers the names of those that fail.
macro_rules! failing_rules {
    (($breaks:expr, $wanted:expr) $($module:ident :: $rule:ident),+ $(,)?) => {{
        let mut running = BTreeMap::new();
        $(
            if $wanted.is_none_or(|wanted| wanted == stringify!($rule)) {
                let broker = Broken(MemoryBroker::new(), $breaks);
                let rule = tokio::spawn(async move {
                    let rule = pubsub_core::conformance::broker::$module::$rule(&broker, capabilities($breaks));
                    tokio::time::timeout(Duration::from_secs(60), rule).await.unwrap();
                });
                running.insert(stringify!($rule), rule);
            }
        )+
        let mut failing = BTreeSet::new();
        for (name, rule) in running {
            match rule.await {
                Ok(()) => {}
                Err(error) if error.is_panic() => {
                    failing.insert(name);
                }
                Err(error) => panic!("{name} neither passed nor failed: {error:?}"),
            }
        }
        failing
    }};
}

async fn failing(breaks: Breaks, wanted: Option<&str>) -> BTreeSet<&'static str> {
    pubsub_core::broker_rules! { [failing_rules] breaks, wanted }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrapper_that_breaks_nothing_passes() {
    assert_eq!(failing(Breaks::Nothing, None).await, BTreeSet::new());
}

/// The clock is paused, so that waiting for what never comes costs nothing.
#[tokio::test(start_paused = true)]
async fn each_broken_broker_is_caught_by_the_rule_that_it_breaks() {
    for (breaks, rule) in CAUGHT_BY {
        assert_eq!(failing(breaks, Some(rule)).await, BTreeSet::from([rule]), "{breaks:?} is let through");
    }
}

/// Each rule that is to catch something passes, with the clock paused, where nothing is broken.
#[tokio::test(start_paused = true)]
async fn the_rules_that_catch_pass_where_nothing_is_broken() {
    let by_the_wall_clock = ["a_delayed_event_waits_for_its_time"];
    for (_, rule) in CAUGHT_BY {
        if !by_the_wall_clock.contains(&rule) {
            assert_eq!(failing(Breaks::Nothing, Some(rule)).await, BTreeSet::new());
        }
    }
}

/// The rules that stand in the files are the rules that the macro lists.
#[test]
fn no_rule_is_forgotten() {
    macro_rules! names {
        (() $($module:ident :: $rule:ident),+ $(,)?) => {
            [$(concat!(stringify!($module), "::", stringify!($rule))),+]
        };
    }
    let listed: BTreeSet<String> =
        pubsub_core::broker_rules! { [names] }.into_iter().map(str::to_owned).collect();
    assert_eq!(rules::written("broker"), listed);
}

/// The rules of these names, under stress, that a broken broker fails.
async fn failing_under_stress(breaks: Breaks, wanted: fn(&str) -> bool) -> Vec<&'static str> {
    let stress = Stress::rounds(2);
    let broken = Broken(MemoryBroker::new(), breaks);
    stress_broker(broken, capabilities(breaks), stress, wanted).await.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn broken_brokers_are_caught_under_stress_too() {
    let losing = failing_under_stress(Breaks::LosesOnRetry, |rule| rule.contains("retry")).await;
    assert_eq!(losing, ["a_retry_comes_back_to_its_group_alone_after_its_time"]);
    let twice = failing_under_stress(Breaks::BeginsTwice, |rule| rule.contains("at_a_time")).await;
    assert_eq!(twice, ["one_delivery_at_a_time_has_the_work"]);
    let whole = failing_under_stress(Breaks::Nothing, |rule| rule.contains("at_a_time")).await;
    assert!(whole.is_empty(), "{whole:?}");
}

/// A rule that needs a broker for itself is one of the suite.
#[test]
fn rules_that_run_alone_are_rules() {
    macro_rules! names {
        (() $($module:ident :: $rule:ident),+ $(,)?) => { [$(stringify!($rule)),+] };
    }
    let rules = pubsub_core::broker_rules! { [names] };
    assert!(BROKER_RULES_ALONE.iter().all(|alone| rules.contains(alone)));
}
