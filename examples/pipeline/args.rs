//! The command line: fixed for people and scripts; it may grow, and never changes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pubsub_pipeline::{
    ActionId, EventId, EventType, GroupName, LineNumber, Outcome, Pattern, PipelineConfig, Place, Retry,
    RunId, Stage,
};

use crate::groups::Groups;
use crate::help;
use crate::values::{
    Entry, PayloadSource, Span, broker, config, entry, folder, lease, limit, line_number, number, retry,
    size, some, some_runs, span, store, variable,
};

/// Publish events, run commands at them, and ask for their output: while they run and after.
#[derive(Debug, Parser)]
#[command(name = "pipeline", version, after_help = help::EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// May stand anywhere before `--`.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A file broker and a file store in this folder; $PIPELINE_DIR, or .pipeline, by default
    #[arg(long, global = true, value_parser = folder, value_name = "D")]
    pub(crate) dir: Option<PathBuf>,
    /// An action_config: broker, stores, timeout, retries and the like as one JSON object, or @file. What the command line
    /// says goes before it, and the environment (MESSAGE_BROKER, DATASTORE_BACKENDS and so on) after it
    #[arg(long, global = true, value_parser = config, value_name = "JSON|@file")]
    pub(crate) config: Option<PipelineConfig>,
    /// The broker, in place of the folder's: file:///path, file:path, redis://host:port, rediss:// (TLS),
    /// redis+sentinel://, redis+cluster://, redis+unix:///path; options as ?prefix=ci&replicas=1
    #[arg(long, global = true, value_parser = broker, value_name = "URL")]
    pub(crate) broker: Option<Place>,
    /// A store, in place of the folder's: file:, redis:// as above, elastic+http://host:9200, elastic+https://,
    /// mongodb://host/database, s3://bucket/prefix, gs://, az://. May be given several times, the nearest first. Questions
    /// go to all as one. The first is required, others by ?required=true
    #[arg(long, global = true, value_parser = store, value_name = "URL")]
    pub(crate) store: Vec<Place>,
    /// A spool in this folder: `work` and `stream` keep output there until the stores have it, and ship what is left.
    /// Once it is full, lines for a store that is away are dropped, and told as holes
    #[arg(long, global = true, value_parser = folder, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// One JSON document a line, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish an event and print its id
    #[command(after_help = help::PUBLISH)]
    Publish(Publish),
    /// Take events and run a command at each
    #[command(after_help = help::WORK)]
    Work(Work),
    /// Run a command now, here; store its output and show it as printed; publish nothing
    #[command(after_help = help::STREAM)]
    Stream(Stream),
    /// How the current run stands, or ended
    #[command(after_help = help::GET_STATUS)]
    GetStatus(GetStatus),
    /// The output of the current run so far: all, or its last n lines
    #[command(after_help = help::GET_LOGS)]
    GetLogs(GetLogs),
    /// Follow the output to the end, across attempts; waits for a run that is not there yet
    #[command(after_help = help::STREAM_LOGS)]
    StreamLogs(StreamLogs),
    /// Lines that match a regular expression, as number:line
    #[command(after_help = help::SEARCH)]
    Search(Search),
    /// Read a run's output again and compare it with its seal, or with another store
    #[command(after_help = help::VERIFY)]
    Verify(Verify),
    /// A run as one JSON document
    #[command(after_help = help::EXPORT)]
    Export(Chosen),
    /// Copy a run into another store
    #[command(after_help = help::COPY)]
    Copy(Copy),
    /// Remove the runs of an action, or of one stage of it, from every store
    #[command(after_help = help::REMOVE)]
    Remove(Remove),
    /// Remove the oldest runs, past an age, a size or a number, from every store
    #[command(after_help = help::EXPIRE)]
    Expire(Expire),
    /// Wait until an action, or one stage of it, has ended for good
    #[command(after_help = help::WAIT)]
    Wait(Wait),
    /// The runs, newest first
    #[command(after_help = help::LIST)]
    List(List),
    /// Stop what workers run of an action, and what waits of it
    #[command(after_help = help::CANCEL)]
    Cancel(Cancel),
    /// What waits in the spool of --spool, and whether it is whole
    #[command(after_help = help::SPOOL)]
    Spool,
    /// Events that will never be delivered again, and lines that a store refused for good
    #[command(after_help = help::DEAD_LETTERS)]
    DeadLetters(DeadLetters),
    /// The groups of workers, and how much each has to do
    #[command(after_help = help::GROUPS)]
    Groups(Groups),
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// What it is about
    pub(crate) action_id: ActionId,
    /// What happened or is wanted
    pub(crate) event_type: EventType,
    /// JSON, @file, or - for standard input
    #[arg(default_value = "null", allow_negative_numbers = true, value_name = "JSON|@file|-")]
    pub(crate) payload: PayloadSource,
    /// Publishing the same id twice is one event; a new id by default
    #[arg(long)]
    pub(crate) id: Option<EventId>,
    /// Not to be delivered before so long from now
    #[arg(long, value_parser = span, value_name = "D")]
    pub(crate) delay: Option<Span>,
    /// A free text that travels with the event
    #[arg(long, value_parser = entry, value_name = "K=V")]
    pub(crate) meta: Vec<Entry>,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Longest time the command may take; the pipeline goes on after it, as after exit 124
    #[arg(long, value_parser = limit, value_name = "D")]
    pub(crate) timeout: Option<Span>,
    /// Longest time it may print nothing; the pipeline goes on after it, as after exit 124
    #[arg(long, value_parser = limit, value_name = "D")]
    pub(crate) silence: Option<Span>,
    /// Time between TERM and KILL when it is stopped
    #[arg(long, value_parser = span, default_value = "10s", value_name = "D")]
    pub(crate) grace: Span,
    /// Most bytes of output that are kept, as 500MB (millions) or 1GiB (2^30): half from its beginning, half from its end
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub(crate) max_output: Option<u64>,
    /// Mask the value of this environment variable, of 4 bytes at least, in all that is stored and shown
    #[arg(long, value_parser = variable, value_name = "NAME")]
    pub(crate) mask_env: Vec<String>,
    /// A free text in the run's record
    #[arg(long, value_parser = entry, value_name = "K=V")]
    pub(crate) meta: Vec<Entry>,
    /// Exit with the command's own code (`work` ends with 0 all the same)
    #[arg(long)]
    pub(crate) pass_code: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Work {
    /// Which events, as type:action; each side literal or with * and ?, and \\ before a literal one
    #[arg(long, required = true, value_name = "PATTERN")]
    pub(crate) on: Vec<Pattern>,
    /// The name of this piece of work
    #[arg(long)]
    pub(crate) stage: Stage,
    /// The group whose members share the events; made of stage and patterns by default
    #[arg(long)]
    pub(crate) group: Option<GroupName>,
    /// Publish this event where the pipeline goes on: after exit 0, 42, 124 and 130, and after our timeouts
    #[arg(long, value_name = "EVENT-TYPE")]
    pub(crate) then: Option<EventType>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// How long an event stays this worker's without a sign of life
    #[arg(long, value_parser = lease, default_value = "30s", value_name = "D")]
    pub(crate) lease: Span,
    /// When a failed command is tried again: none, fixed (after 1s), or exponential, which is the default (after longer and
    /// longer); at most as --attempts says
    #[arg(long, value_parser = retry, value_name = "POLICY")]
    pub(crate) retry: Option<Retry>,
    /// How often a command is tried, the first time included; 3 by default
    #[arg(long, value_parser = some::<{ u32::MAX }>, value_name = "N")]
    pub(crate) attempts: Option<u32>,
    /// How many commands run at once
    #[arg(long, default_value_t = 1, value_parser = some::<1000>, value_name = "N")]
    pub(crate) concurrency: u32,
    /// How long running commands may go on after the first signal
    #[arg(long, value_parser = span, default_value = "30s", value_name = "D")]
    pub(crate) drain: Span,
    /// End once the group has nothing waiting, delayed or leased
    #[arg(long)]
    pub(crate) until_idle: bool,
    /// What is run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// What it is about
    pub(crate) action_id: ActionId,
    /// The name of this piece of work
    pub(crate) stage: Stage,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// What is run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// A run: the current one of an action's stage, or the one that is named.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// What it is about
    pub(crate) action_id: ActionId,
    /// The name of the piece of work
    pub(crate) stage: Stage,
    /// This run, in place of the latest attempt at the latest event
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<RunId>,
}

#[derive(Debug, Args)]
pub(crate) struct GetStatus {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// All runs of the stage, newest first
    #[arg(long, conflicts_with = "run")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetLogs {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// The last so many lines; all by default
    #[arg(value_parser = number::<u64>, allow_negative_numbers = true)]
    pub(crate) n: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct StreamLogs {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Begin at this line
    #[arg(long, value_parser = line_number, value_name = "N", conflicts_with = "last")]
    pub(crate) from: Option<LineNumber>,
    /// Begin at the last so many lines
    #[arg(long, value_parser = number::<u64>, value_name = "N")]
    pub(crate) last: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// In the language of the regex crate; ^ and $ are the line's; a byte that is no text is U+FFFD
    pub(crate) regex: String,
    /// A plain text in place of a regular expression
    #[arg(short = 'F', long)]
    pub(crate) fixed_strings: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Compare line by line with the run in this store
    #[arg(long, value_parser = store, value_name = "STORE-URL")]
    pub(crate) against: Option<Place>,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Into this store
    #[arg(long, value_parser = store, value_name = "STORE-URL")]
    pub(crate) to: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// What it is about
    pub(crate) action_id: ActionId,
    /// This stage alone
    pub(crate) stage: Option<Stage>,
    /// Also runs that are running: what they print from now on is lost
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[group(id = "limits", required = true, multiple = true)]
pub(crate) struct Expire {
    /// Runs that began longer ago than this go
    #[arg(long, value_parser = limit, value_name = "D")]
    pub(crate) older_than: Option<Span>,
    /// The oldest go until the output of the others takes at most so many bytes in each store, as 500MB (millions) or 1GiB (2^30)
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub(crate) max_bytes: Option<u64>,
    /// The oldest go until at most so many runs are left in each store
    #[arg(long, value_parser = some_runs, value_name = "N")]
    pub(crate) max_runs: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// What it is about
    pub(crate) action_id: ActionId,
    /// This stage alone
    pub(crate) stage: Option<Stage>,
    /// The work at this event alone
    #[arg(long, value_name = "ID")]
    pub(crate) event: Option<EventId>,
    /// At most so long
    #[arg(long, value_parser = span, value_name = "D")]
    pub(crate) timeout: Option<Span>,
    /// Exit with the code of the command that decides
    #[arg(long)]
    pub(crate) pass_code: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Of this action
    #[arg(long)]
    pub(crate) action: Option<ActionId>,
    /// Of this stage
    #[arg(long)]
    pub(crate) stage: Option<Stage>,
    /// Ended with this outcome: succeeded, escaped, timed_out, interrupted, failed
    #[arg(long)]
    pub(crate) outcome: Option<Outcome>,
    /// Begun within so long
    #[arg(long, value_parser = span, value_name = "D")]
    pub(crate) since: Option<Span>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = number::<usize>, value_name = "N")]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// What it is about
    pub(crate) action_id: ActionId,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// What there is, oldest first
    #[command(after_help = help::DEAD_LETTERS_LIST)]
    List {
        /// Of this group alone
        #[arg(long)]
        group: Option<GroupName>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = number::<usize>, value_name = "N")]
        limit: usize,
    },
    /// Publish one again, for its group alone; prints the new event's id
    #[command(after_help = help::DEAD_LETTERS_REPLAY)]
    Replay {
        /// Its id
        id: String,
        /// Its group, where several have it
        #[arg(long)]
        group: Option<GroupName>,
    },
}
