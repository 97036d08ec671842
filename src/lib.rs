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
#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod config;
mod connect;
mod pipeline;
mod place;
mod store;

pub use address::Address;
pub use config::{Backend, PipelineConfig, Retry};
pub use connect::{ConnectedStore, check_broker, connect_broker, connect_store};
pub use pipeline::Pipeline;
pub use place::{Place, Scheme};
#[cfg(feature = "fault-points")]
#[doc(hidden)]
pub use pubsub_core::fault;
pub use pubsub_core::name;
pub use pubsub_core::{
    ActionId, Appended, Attempt, Backoff, Begin, Broker, BrokerAdmin, BrokerCapabilities, ByPattern,
    CLOUD_EVENT_TYPE, CRASH_LIMIT, Cap, Capture, Cause, Chain, Claim, Claims, Command, Conclusion,
    CopyReport, Counts, DEFAULT_ANSWER_LIMIT, DEFAULT_BEAT, DEFAULT_CALL_LIMIT, DEFAULT_DRAIN, DEFAULT_GRACE,
    DEFAULT_LEASE, DEFAULT_QUEUE_BYTES, DEFAULT_SETTLE, DEFAULT_SINK_DELAY, DEFAULT_SOURCE,
    DEFAULT_STOP_LIMIT, DeadLetter, DeadLetters, Deliveries, Delivery, Depth, Difference, Digest, Durability,
    Ended, Environment, Error, ErrorKind, Escapes, Event, EventId, EventType, Executed, Execution, Exit,
    ExitClassification, ExitTable, FanOut, FanOutRun, Finality, FinishReport, Finished, Follow, FollowFrom,
    Followed, Gap, Group, GroupInfo, GroupName, Grouped, Handler, HandlerFn, Headers, Hit, Holder, InBatches,
    Judgement, Keep, LEASE_LIMITS, LeaseId, LeaseState, Leased, Leases, Line, LineBatch, LineEnd, LineNumber,
    LineRange, Lines, MASKED, MAX_BATCH_BYTES, MAX_GROUPED, MAX_HOLES, MAX_ID_BYTES, MAX_LINE_BYTES,
    MAX_LINKS, MAX_NOTES, MAX_PATTERN_BYTES, MAX_PATTERNS, MAX_PAYLOAD_VARIABLE_BYTES, MAX_PREFETCH,
    MAX_SEARCH_BYTES, MAX_SECRET_BYTES, MEMORY_BROKER, MEMORY_STORE, MIN_SECRET_BYTES, Mark, Masker,
    MemoryBroker, MemoryLimits, MemoryRefusedLines, MemoryStore, Need, NoLeases, Note, Novelty, OpenAttempt,
    Order, Origin, Outcome, Output, OutputItem, OutputReader, OutputSink, PART_AFTER, Pattern, Payload,
    Position, Published, Publisher, PublisherExt, RECORD_VERSION, RefusalLog, Refusals, Refused,
    RefusedLines, Renewal, Result, Retention, RetryPolicy, Retryable, Retrying, Role, RunContext, RunId,
    RunKey, RunOutput, RunQuery, RunRecord, RunStatus, Scope, Seal, SealBuilder, Search, Seldom, Settlement,
    SinkAccount, SinkConfig, Spanning, Stage, StartAt, StartFailure, Stdin, Stop, StopState, Stopper, Store,
    StoreCapabilities, Stream, Subscribed, Subscriber, Subscription, Support, Taken, Target, Timestamp, Try,
    Unanswered, Verdict, Verification, WITHHELD, Wait, Waited, WhenFull, Worker, async_trait, bring_tails,
    copy, copy_verified, current_run, follow, group_dropped, handler_fn, remove_tail, verify, verify_against,
    wait, wants,
};
#[cfg(feature = "file")]
pub use pubsub_file::{
    DEFAULT_KEEP_DAMAGED, DEFAULT_MAX_EVENT_BYTES, DEFAULT_REFUSED_BYTES, DEFAULT_SPOOL_BYTES, FILE_BROKER,
    FILE_STORE, FileBroker, FileBrokerConfig, FileDurability, FileRefusedLines, FileStore, FileStoreConfig,
    Repair, SpoolConfig, SpoolDepth, Spooled, SpooledRun, verify_spool,
};
#[cfg(feature = "redis")]
pub use pubsub_redis::{
    Deployment, REDIS_BROKER, REDIS_STORE, RedisBroker, RedisBrokerConfig, RedisConfig, RedisStore,
    RedisStoreConfig,
};
pub use store::PipelineStore;
#[cfg(feature = "file")]
pub use store::{spool_name, spooled_store};
#[cfg(feature = "elastic")]
pub use store_elastic::{ELASTIC_STORE, ElasticStore, ElasticStoreConfig, SearchIndex};

#[cfg(feature = "mongo")]
pub use store_mongo::{Acknowledge, Journal, MONGO_STORE, MongoStore, MongoStoreConfig, ReadLevel};

#[cfg(feature = "s3")]
pub use store_s3::{S3_STORE, S3_STORE_DELAY, S3Store, S3StoreConfig};

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
