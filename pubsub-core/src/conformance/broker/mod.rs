//! The rules of brokers.
//!
//! ```
//! use std::sync::Arc;
//! use pubsub_core::conformance::broker::{BrokerFixture, Limits};
//! use pubsub_core::{Broker, MEMORY_BROKER, MemoryBroker};
//!
//! struct InMemory(MemoryBroker);
//!
//! #[async_trait::async_trait]
//! impl BrokerFixture for InMemory {
//!     async fn new() -> Self {
//!         Self(MemoryBroker::new())
//!     }
//!     fn broker(&self) -> Arc<dyn Broker> {
//!         Arc::new(self.0.clone())
//!     }
//!     async fn another(&self) -> Arc<dyn Broker> {
//!         Arc::new(self.0.another())
//!     }
//!     async fn limited(&self, limits: Limits) -> Arc<dyn Broker> {
//!         Arc::new(MemoryBroker::with_limits(limits.in_memory()))
//!     }
//!     async fn inject(&self, bytes: &[u8]) {
//!         self.0.publish_bytes(bytes).expect_err("these bytes are no event");
//!     }
//! }
//!
//! pubsub_core::broker_conformance!(InMemory, MEMORY_BROKER);
//! # fn main() {}
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Broker, MemoryLimits};

pub mod broadcasts;
pub mod cancelling;
pub mod claiming;
pub mod counting;
pub mod dead_letters;
pub mod delaying;
pub mod groups;
pub mod leasing;
pub mod patterns;
pub mod publishing;
pub mod retention;
mod sample;
pub mod settling;
pub mod volume;

pub(super) use sample::PACE;
pub use sample::{Member, event, named, on};

/// Gives a rule a broker.
#[async_trait]
pub trait BrokerFixture: Send + Sync {
    /// An empty broker of its own.
    async fn new() -> Self
    where
        Self: Sized;

    /// A handle to the broker.
    fn broker(&self) -> Arc<dyn Broker>;

    /// Another handle to the same data, as another process would open it: closing one leaves the other open.
    async fn another(&self) -> Arc<dyn Broker>;

    /// Another empty broker, which keeps no more than this. It lives at least as long as the fixture.
    async fn limited(&self, limits: Limits) -> Arc<dyn Broker>;

    /// Puts bytes that cannot be decoded where the broker expects an event of type `t` and action `a`, as a damaged or
    /// foreign publisher would.
    async fn inject(&self, bytes: &[u8]);
}

/// How much a broker of a rule about retention keeps, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For what every group has settled, and dead letters.
    pub retention: Duration,
    /// For a group without members.
    pub group_retention: Duration,
    /// For all events together; of 1 MiB, at least half has to be room for events.
    pub bytes: Option<u64>,
    /// The number of dead letters.
    pub dead_letters: u64,
}

impl Default for Limits {
    /// What no rule meets. Things are looked after as often as a retention is long, which no rule can wait for: so
    /// groups without members go after a second.
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(3600),
            group_retention: Duration::from_secs(1),
            bytes: None,
            dead_letters: 1000,
        }
    }
}

impl Limits {
    /// As the broker in memory takes them.
    #[must_use]
    pub fn in_memory(self) -> MemoryLimits {
        let number = |n: u64| usize::try_from(n).unwrap();
        MemoryLimits {
            bytes: self.bytes.map_or(usize::MAX, number),
            retention: self.retention,
            group_retention: self.group_retention,
            dead_letters: number(self.dead_letters),
            ..MemoryLimits::default()
        }
    }
}

/// Makes one test of each rule: `broker_conformance!(Fixture, CAPABILITIES)`, where the fixture is a
/// [`BrokerFixture`](crate::conformance::broker::BrokerFixture) and the capabilities are the broker's
/// [`BrokerCapabilities`](crate::BrokerCapabilities).
///
/// Where they need a server, each test gets an attribute that says so:
/// `broker_conformance!(#[ignore = "needs a server"] Fixture, CAPABILITIES)`.
///
/// The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! broker_conformance {
    ($fixture:ty, $capabilities:expr) => {
        $crate::broker_rules! { [$crate::__rule_tests] broker::BrokerFixture, $fixture, $capabilities }
    };
    (#[$attribute:meta] $fixture:ty, $capabilities:expr) => {
        $crate::broker_rules! {
            [$crate::__rule_tests] [$attribute] broker::BrokerFixture, $fixture, $capabilities
        }
    };
}

/// Hands the list of all rules, as `module::rule`, to another macro, after the given arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! broker_rules {
    ([$($macro:tt)+] $($arguments:tt)*) => {
        $($macro)+! {
            ($($arguments)*)
            patterns::every_pattern_gives_the_answer_of_the_shared_table,
            patterns::two_patterns_that_match_are_one_delivery,
            patterns::every_id_can_be_subscribed_to_literally,
            patterns::what_the_library_made_reaches_only_who_names_its_type,
            publishing::an_event_reads_back_exactly,
            publishing::what_was_published_is_there_through_another_handle,
            publishing::an_id_published_twice_is_one_event,
            publishing::an_id_published_twice_at_once_is_one_event,
            publishing::a_batch_is_answered_event_by_event,
            publishing::an_event_of_the_largest_size_is_taken,
            publishing::what_is_published_meanwhile_wakes_a_waiting_member,
            publishing::a_closed_handle_refuses_and_its_streams_end,
            groups::each_event_goes_to_one_member_of_each_group,
            groups::a_group_is_what_it_was_made_as,
            groups::a_new_group_starts_where_it_asks_to,
            groups::the_start_counts_only_when_the_group_is_made,
            groups::a_group_outlives_its_members,
            groups::a_removed_group_is_gone_and_one_with_members_stays,
            groups::events_of_an_action_come_in_publish_order,
            groups::what_is_taken_is_at_most_the_prefetch,
            groups::a_group_for_one_action_finds_its_events_among_many,
            counting::waiting_delayed_and_leased_are_counted_of_matching_events,
            counting::an_action_is_counted_in_the_groups_that_can_match_it,
            counting::members_are_counted,
            leasing::a_lease_is_kept_while_its_delivery_lives,
            leasing::what_was_taken_in_advance_is_kept_as_well,
            leasing::a_dropped_delivery_comes_back_at_once,
            leasing::what_a_dead_member_held_comes_back_after_its_lease,
            leasing::what_was_held_in_a_crash_comes_back_apart,
            leasing::a_lease_that_expired_and_nobody_took_is_renewed,
            leasing::a_former_holder_can_do_nothing,
            leasing::each_lease_asked_for_is_answered,
            leasing::a_dropped_wait_loses_nothing,
            leasing::what_was_taken_in_advance_is_given_back_when_the_stream_goes,
            settling::what_is_acknowledged_never_comes_back,
            settling::settling_again_changes_nothing,
            settling::a_retry_comes_back_to_its_group_alone_after_its_time,
            settling::a_release_comes_back_at_once_or_after_its_time,
            settling::each_settlement_is_answered,
            settling::what_is_put_off_outlives_its_member_and_its_handle,
            delaying::a_delayed_event_waits_for_its_time,
            delaying::a_time_that_has_passed_delays_nothing,
            dead_letters::a_dead_letter_keeps_the_bytes_the_reason_and_the_counts,
            dead_letters::a_dead_letter_is_never_delivered_again,
            dead_letters::a_replay_is_a_new_event_for_its_group_alone,
            dead_letters::a_replay_of_what_is_not_there_is_refused,
            dead_letters::a_dead_letter_of_several_groups_is_replayed_by_name,
            dead_letters::what_cannot_be_decoded_becomes_one_and_stops_nobody,
            claiming::attempts_grow_and_each_end_has_its_own_count,
            claiming::beginning_again_with_the_same_lease_is_the_same_attempt,
            claiming::one_delivery_at_a_time_has_the_work,
            claiming::of_many_that_begin_at_once_one_goes,
            claiming::only_the_holder_concludes_and_only_once,
            claiming::a_conclusion_reads_back_exactly_in_every_group,
            claiming::what_is_concluded_stays_so_after_a_crash,
            claiming::an_event_that_kills_its_workers_is_exhausted,
            claiming::a_double_of_an_event_is_run_once_in_each_stage,
            claiming::stages_have_claims_of_their_own,
            claiming::without_a_stage_nothing_can_be_claimed,
            cancelling::a_cancel_covers_what_runs_waits_and_is_put_off,
            cancelling::a_cancel_does_not_cover_what_comes_after,
            cancelling::a_cancel_covers_the_whole_chain,
            cancelling::a_cancel_is_told_at_once,
            cancelling::a_cancel_is_one_of_its_action_alone,
            cancelling::what_was_cancelled_and_left_is_cancelled_for_the_next,
            broadcasts::each_subscriber_gets_each_event_from_now_on,
            broadcasts::a_broadcast_has_no_leases_and_no_runs,
            broadcasts::a_broadcast_starts_where_it_asks_to,
            broadcasts::a_delayed_event_is_broadcast_at_its_time,
            retention::what_every_group_has_settled_goes_once_it_is_old,
            retention::an_id_chosen_again_once_its_event_is_gone_is_run_again,
            retention::a_delayed_event_is_not_old_before_it_is_due,
            retention::what_is_held_or_put_off_is_never_trimmed,
            retention::a_full_broker_names_the_group_that_holds_it_back,
            retention::what_can_never_fit_is_refused_and_removes_nothing,
            retention::too_many_dead_letters_go_oldest_first,
            retention::old_dead_letters_go,
            retention::a_group_without_members_goes_and_one_with_an_idle_member_stays,
            volume::many_members_and_publishers_lose_and_repeat_nothing,
            volume::leases_of_a_thousand_are_renewed_in_one_call,
        }
    };
}
