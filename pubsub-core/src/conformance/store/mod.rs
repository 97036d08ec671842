//! The rules of output stores and of whatever wraps one.
//!
//! ```
//! use std::sync::Arc;
//! use pubsub_core::conformance::store::StoreFixture;
//! use pubsub_core::{MEMORY_STORE, MemoryStore, Store};
//!
//! struct InMemory(MemoryStore);
//!
//! #[async_trait::async_trait]
//! impl StoreFixture for InMemory {
//!     async fn new() -> Self {
//!         Self(MemoryStore::new())
//!     }
//!     fn store(&self) -> Arc<dyn Store> {
//!         Arc::new(self.0.clone())
//!     }
//!     async fn reopen(&self) -> Arc<dyn Store> {
//!         self.store()
//!     }
//! }
//!
//! pubsub_core::store_conformance!(InMemory, MEMORY_STORE);
//! # fn main() {}
//! ```

use std::sync::Arc;

use async_trait::async_trait;

use crate::Store;

pub mod appending;
mod awaited;
pub mod changes;
pub mod copying;
pub mod following;
pub mod listing;
pub mod names;
pub mod reading;
pub mod records;
pub mod retention;
mod sample;
pub mod searching;
mod spanned;
pub mod volume;

pub use awaited::Awaited;
pub use sample::{SampleRun, at, batch, lines, read, read_lines, shape, until};
pub use spanned::{Share, Spanned};

/// Gives a rule a store.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// An empty store of its own.
    async fn new() -> Self
    where
        Self: Sized;

    /// A handle to the store.
    fn store(&self) -> Arc<dyn Store>;

    /// Another handle to the same data, as another process would open it.
    async fn reopen(&self) -> Arc<dyn Store>;
}

/// Makes one test of each rule: `store_conformance!(Fixture, CAPABILITIES)`, where the fixture is a
/// [`StoreFixture`](crate::conformance::store::StoreFixture) and the capabilities are the store's
/// [`StoreCapabilities`](crate::StoreCapabilities).
///
/// Where they need a server, each test gets an attribute that says so:
/// `store_conformance!(#[ignore = "needs a server"] Fixture, CAPABILITIES)`.
///
/// The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! store_conformance {
    ($fixture:ty, $capabilities:expr) => {
        $crate::store_rules! { [$crate::__rule_tests] store::StoreFixture, $fixture, $capabilities }
    };
    (#[$attribute:meta] $fixture:ty, $capabilities:expr) => {
        $crate::store_rules! {
            [$crate::__rule_tests] [$attribute] store::StoreFixture, $fixture, $capabilities
        }
    };
}

/// Hands the list of all rules, as `module::rule`, to another macro, after the given arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! store_rules {
    ([$($macro:tt)+] $($arguments:tt)*) => {
        $($macro)+! {
            ($($arguments)*)
            appending::what_is_appended_is_read_back_exactly,
            appending::content_and_ends_rebuild_what_was_printed,
            appending::a_line_of_64_kib_is_kept_whole,
            appending::a_repeated_append_changes_nothing,
            appending::overlapping_appends_store_each_line_once,
            appending::two_handles_append_to_one_run,
            appending::lines_that_come_late_are_stored_or_refused_by_number,
            appending::nothing_appended_changes_nothing,
            appending::an_append_to_an_unknown_run_is_not_found,
            appending::runs_written_in_parallel_keep_apart,
            records::a_record_reads_back_exactly,
            records::an_earlier_record_changes_nothing,
            records::a_later_record_is_taken_while_it_runs,
            records::an_ended_run_never_runs_again,
            records::beginning_again_keeps_the_lines,
            records::a_later_finish_makes_it_final,
            records::holes_survive_a_later_finish_that_knows_none,
            records::finish_creates_a_run_that_never_began,
            records::a_newer_record_is_refused_by_name,
            reading::a_run_without_output_gives_an_empty_list,
            reading::an_unknown_run_is_not_found,
            reading::lines_are_found_from_a_number_in_a_range_and_from_the_end,
            reading::missing_lines_leave_a_gap_in_their_place,
            reading::lines_missing_at_both_ends_are_gaps,
            reading::lines_that_nobody_keeps_are_a_gap_with_its_reason,
            reading::the_last_n_lines_reach_across_gaps,
            reading::a_running_run_says_how_far_it_is_complete,
            reading::appended_lines_are_visible_within_the_declared_time,
            reading::the_seal_over_what_is_read_is_the_one_of_the_record,
            reading::a_seal_over_a_hole_says_so,
            reading::all_lines_are_visible_when_finish_returns,
            searching::patterns_are_those_of_the_regex_crate,
            searching::invalid_bytes_are_searched_as_they_are_shown,
            searching::what_is_no_pattern_is_refused_by_name,
            searching::anchors_and_flags_see_one_line,
            searching::a_plain_text_is_literal,
            searching::hits_carry_the_whole_line,
            searching::hits_come_by_begin_time_run_and_number,
            searching::only_runs_that_fit_are_searched,
            searching::a_running_run_is_searched,
            searching::a_search_past_its_time_limit_is_an_error,
            searching::nested_repeats_end_quickly,
            listing::runs_come_newest_first,
            listing::each_filter_holds,
            listing::a_limit_keeps_the_newest,
            listing::the_current_run_is_the_latest_attempt_of_the_latest_event,
            names::hostile_ids_are_kept_apart,
            names::hostile_event_ids_are_kept_apart,
            names::ids_that_differ_in_case_or_at_the_very_end_are_kept_apart,
            names::removing_one_action_leaves_its_look_alikes,
            changes::an_item_comes_at_once,
            changes::an_item_comes_after_each_kind_of_write,
            changes::an_item_comes_after_a_write_through_another_handle,
            changes::items_that_nobody_took_are_one,
            changes::an_item_comes_after_a_removal,
            following::followers_that_join_at_any_point_get_each_line_once,
            following::a_follower_goes_on_where_another_stopped,
            following::a_follower_that_comes_first_waits_for_the_run,
            following::a_follower_that_comes_last_gets_the_whole_run,
            following::a_follower_is_told_of_what_is_missing,
            copying::a_copy_into_the_store_and_out_of_it_agrees,
            copying::a_copy_takes_holes_along,
            copying::a_copy_fills_the_holes_of_a_sealed_run,
            retention::a_removed_run_is_gone,
            retention::removing_what_is_not_there_changes_nothing,
            retention::only_old_runs_that_have_ended_expire,
            retention::the_oldest_expire_until_so_many_are_left,
            retention::the_oldest_expire_until_their_bytes_fit,
            retention::limits_that_are_named_together_all_hold,
            volume::nothing_ends_at_ten_thousand_lines,
            volume::pages_of_equal_times_lose_and_repeat_nothing,
            volume::a_search_has_no_most_hits,
        }
    };
}
