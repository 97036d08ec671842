//! Events that start long commands, and their output in stores that anyone can ask.
//!
//! This crate re-exports the family: `pubsub-core` always, each backend by its feature.
//!
//! ```
//! use pubsub_pipeline::{ActionId, EventType, Pattern};
//! let pattern: Pattern = "build-*:action-123".parse()?;
//! assert!(pattern.matches(&EventType::new("build-requested")?, &ActionId::new("action-123")?));
//! # Ok::<(), pubsub_pipeline::Error>(())
//! ```

pub use pubsub_core::name;
pub use pubsub_core::{
    ActionId, Appended, Attempt, Begin, Broker, BrokerAdmin, BrokerCapabilities, CLOUD_EVENT_TYPE,
    CRASH_LIMIT, Cause, Claim, Claims, Command, Conclusion, CopyReport, Counts, DEFAULT_BEAT, DEFAULT_GRACE,
    DEFAULT_LEASE, DEFAULT_SETTLE, DEFAULT_SOURCE, DeadLetter, DeadLetters, Depth, Difference, Digest,
    Durability, Environment, Error, ErrorKind, Escapes, Event, EventId, EventType, Exit, ExitClassification,
    ExitTable, Finished, Follow, FollowFrom, Followed, Gap, Group, GroupInfo, GroupName, Handler, HandlerFn,
    Headers, Hit, Holder, Judgement, LEASE_LIMITS, LeaseId, Leased, Leases, Line, LineBatch, LineEnd,
    LineNumber, LineRange, Lines, MAX_BATCH_BYTES, MAX_ID_BYTES, MAX_LINE_BYTES, MAX_LINKS, MAX_NOTES,
    MAX_PATTERN_BYTES, MAX_PATTERNS, MAX_PAYLOAD_VARIABLE_BYTES, MAX_PREFETCH, MAX_SEARCH_BYTES,
    MEMORY_STORE, Mark, MemoryStore, Note, Novelty, OpenAttempt, Order, Origin, Outcome, Output, OutputItem,
    OutputReader, OutputSink, Pattern, Payload, Pipeline, Position, Published, Publisher, PublisherExt,
    RECORD_VERSION, Renewal, Result, Retention, Retryable, Role, RunContext, RunId, RunKey, RunOutput,
    RunQuery, RunRecord, RunStatus, Scope, Seal, SealBuilder, Search, Settlement, Stage, StartAt,
    StartFailure, Stdin, Stop, StopState, Stopper, Store, StoreCapabilities, Stream, Subscribed, Subscriber,
    Subscription, Support, Target, Timestamp, Try, Verdict, Verification, WITHHELD, Wait, Waited, copy,
    current_run, follow, handler_fn, verify, verify_against, wait, wants,
};

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
