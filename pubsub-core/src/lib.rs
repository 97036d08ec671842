#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

#[cfg(not(unix))]
compile_error!("pubsub-core runs commands in Unix process groups: Linux and macOS are supported");

mod admin;
mod attributes;
mod by_pattern;
mod cap;
mod capabilities;
mod capture;
mod claim;
mod cloud_event;
mod command;
#[cfg(feature = "conformance")]
pub mod conformance;
mod copy;
mod current;
mod delivery;
mod error;
mod event;
mod execution;
mod exit;
mod fanout;
#[cfg(feature = "fault-points")]
#[doc(hidden)]
pub mod fault;
mod follow;
mod grouped;
mod handler;
mod ids;
mod in_batches;
mod keeper;
mod mask;
mod memory;
mod missing;
pub mod name;
mod no_leases;
mod output;
mod pattern;
mod payload;
mod publisher;
mod reader;
mod record;
mod refused;
mod retry;
mod run_output;
mod runner;
#[cfg(test)]
mod schedule_tests;
mod seal;
mod search;
mod seldom;
mod sink;
mod spanning;
mod stopping;
mod subscriber;
mod subscription;
mod sync;
mod time;
mod verify;
mod wait;
mod worker;

pub use admin::{Broker, BrokerAdmin, DeadLetter, DeadLetters, Depth, GroupInfo, Scope, group_dropped};
/// What implementing a trait of this crate needs.
pub use async_trait::async_trait;
pub use by_pattern::ByPattern;
pub use cap::{Cap, bring_tails, remove_tail};
pub use capabilities::{BrokerCapabilities, Durability, Order, StoreCapabilities, Support};
pub use capture::{Capture, PART_AFTER};
pub use claim::{Claim, Holder, Mark, OpenAttempt};
pub use cloud_event::CLOUD_EVENT_TYPE;
pub use command::{
    Command, DEFAULT_GRACE, DEFAULT_SETTLE, Environment, MAX_PAYLOAD_VARIABLE_BYTES, Stdin, WITHHELD,
};
pub use copy::{CopyReport, copy, copy_verified};
pub use current::current_run;
pub use delivery::{Deliveries, Delivery, LeaseState};
pub use error::{Error, ErrorKind, Result};
pub use event::{DEFAULT_SOURCE, Event, Headers, MAX_LINKS, Origin, Position, Role};
pub use execution::{DEFAULT_STOP_LIMIT, Ended, Executed, Execution, Finality};
pub use exit::{
    Cause, Chain, Escapes, Exit, ExitClassification, ExitTable, Outcome, Retryable, StartFailure, Verdict,
};
pub use fanout::{
    DEFAULT_QUEUE_BYTES, DEFAULT_SINK_DELAY, FanOut, FanOutRun, FinishReport, Need, SinkAccount, SinkConfig,
    WhenFull,
};
pub use follow::{Follow, FollowFrom, Followed, Target, follow};
pub use grouped::{Grouped, MAX_GROUPED};
pub use handler::{Finished, Handler, HandlerFn, RunContext, Stop, StopState, Stopper, handler_fn};
pub use ids::{ActionId, Attempt, EventId, EventType, GroupName, LineNumber, MAX_ID_BYTES, RunId, Stage};
pub use in_batches::{InBatches, Taken};
pub use mask::{MASKED, MAX_SECRET_BYTES, MIN_SECRET_BYTES, Masker};
pub use memory::{MEMORY_BROKER, MEMORY_STORE, MemoryBroker, MemoryLimits, MemoryRefusedLines, MemoryStore};
pub use missing::MAX_HOLES;
pub use no_leases::NoLeases;
pub use output::{Gap, Line, LineBatch, LineEnd, LineRange, MAX_BATCH_BYTES, MAX_LINE_BYTES, Stream};
pub use pattern::{MAX_PATTERN_BYTES, Pattern};
pub use payload::Payload;
pub use publisher::{Novelty, Published, Publisher, PublisherExt};
pub use reader::{Hit, Keep, Lines, Output, OutputItem, OutputReader, Retention, RunQuery, Store};
pub use record::{DEFAULT_BEAT, Judgement, MAX_NOTES, Note, RECORD_VERSION, RunKey, RunRecord, RunStatus};
pub use refused::{Refusals, Refused, RefusedLines};
pub use retry::{Backoff, DEFAULT_CALL_LIMIT, Retrying};
pub use run_output::RunOutput;
pub use seal::{Counts, Digest, Seal, SealBuilder};
pub use search::{MAX_SEARCH_BYTES, Search};
pub use seldom::{RefusalLog, Seldom};
pub use sink::{Appended, OutputSink};
pub use spanning::{DEFAULT_ANSWER_LIMIT, Spanning, Unanswered};
pub use subscriber::{
    Begin, CRASH_LIMIT, Claims, Conclusion, LeaseId, Leased, Leases, Renewal, Settlement, Subscribed,
    Subscriber, Try,
};
pub use subscription::{
    DEFAULT_LEASE, Group, LEASE_LIMITS, MAX_PATTERNS, MAX_PREFETCH, StartAt, Subscription, wants,
};
pub use time::Timestamp;
pub use verify::{Difference, Verification, verify, verify_against};
pub use wait::{Wait, Waited, wait};
pub use worker::{DEFAULT_DRAIN, RetryPolicy, Worker};

/// The traits are usable as `dyn`; these lines prove it.
const _: fn(&dyn Broker, &dyn Store, &dyn ExitClassification, &dyn Handler) = |_, _, _, _| ();
const _: fn(&dyn RefusedLines) = |_| ();
