//! What the help of each subcommand teaches: examples, what is not seen by its options, and the exit codes.

/// The exit codes, in every help text.
macro_rules! exit_codes {
    () => {
        "\
Exit codes:
  0        done; the pipeline goes on (`stream`, `wait`); `work` whatever its runs did; a closed pipe
  1        `stream`, `wait`: the pipeline stops; `search`: no hit; `verify`: a difference
  2        wrong usage, setting, pattern or payload
  3        what was asked for is not there
  4        the broker or a store is not available or refuses
  5        waited too long
  130 143  this program was ended by INT or TERM, whatever became of the run
  With --pass-code `stream` and `wait` give the command's own code: 128 + n for a signal, 124 for our \
timeout, 130 cancelled, 126 not executable, 127 not found. Whether the pipeline goes on is told by 0 and 1 \
without it, and by `continues` in the --json of get-status."
    };
}

macro_rules! help {
    ($($line:literal),+ $(,)?) => {
        concat!("Examples:\n", $("  ", $line, "\n",)+ "\n", exit_codes!())
    };
}

pub(crate) const EXIT_CODES: &str = exit_codes!();

pub(crate) const PUBLISH: &str = help!(
    "pipeline publish action-123 build-requested",
    "pipeline publish action-123 build-requested '{\"branch\":\"main\"}' --id build-7",
    "pipeline publish action-123 build-requested @payload.json --delay 10s",
);

pub(crate) const WORK: &str = help!(
    "pipeline work --on 'build-requested:*' --stage build --then build-done -- make",
    "pipeline work --on 'build-done:action-123' --stage deploy --until-idle -- ./deploy.sh",
    "",
    "A pattern is type:action. The first colon without a \\ before it splits the sides; * is any run of \
     characters (also none), ? is one, \\ takes the next one literally, and all else is literal: [ and { too. \
     What stages publish (--then, <stage>-completed) is taken where a part of its type is written: *-completed:*, \
     not *:*.",
    "",
    "Workers of one stage and the same patterns are a group; it keeps the lease of its first worker. What the stage has \
     done for an event it never does again, also in another group: such an event is settled and nothing is run.",
    "",
    "The command has the payload on its standard input and, up to 64 KiB, in PIPELINE_PAYLOAD. \
     PIPELINE_ACTION_ID, PIPELINE_STAGE, PIPELINE_RUN_ID, PIPELINE_ATTEMPT, PIPELINE_EVENT_TYPE and \
     PIPELINE_EVENT_ID name its run. Lines of key=value that it appends to the file $PIPELINE_OUTPUT are \
     values for the next stage.",
    "",
    "--then publishes where the pipeline goes on: after the command's own exit 0, 42, 124 or 130, and after \
     --timeout and --silence (for a chain that must stop there, the command has to keep its own time and fail). It \
     publishes nothing after any other code, a signal, or `pipeline cancel`. The payload of that event is:",
    "{\"payload\": what began the chain, \"values\": {\"key\": \"value\"}, \"outcome\": \"succeeded\"}",
    "",
    "--max-output keeps the first half of so many bytes and the last half, in whole lines. The last half is held back \
     on the disk and comes when the command has ended; what lies between is dropped and counted. Where this program is \
     killed, the next `work` or `stream` brings the last half.",
    "",
    "What fails is tried again, three times in all: --attempts N, --retry none.",
    "",
    "The first signal drains: nothing new is taken. The second cuts at once; a run that was cut is not final, its \
     event is given back.",
);

pub(crate) const STREAM: &str = help!(
    "pipeline stream action-123 build -- cargo build",
    "pipeline stream action-123 train --timeout 2h --silence 10m --mask-env TOKEN -- ./train.sh",
    "",
    "The command reads nothing; PIPELINE_ACTION_ID, PIPELINE_STAGE, PIPELINE_RUN_ID and PIPELINE_ATTEMPT name \
     its run. With --json the status of the run comes last, on standard error.",
    "",
    "--max-output keeps the first half of so many bytes and the last half, in whole lines. The last half is held back \
     on the disk and comes when the command has ended; what lies between is dropped and counted. Where this program is \
     killed, the next `work` or `stream` brings the last half.",
    "",
    "The first signal stops the command with its grace. The second cuts at once.",
);

pub(crate) const GET_STATUS: &str = help!(
    "pipeline get-status action-123 build",
    "pipeline get-status action-123 build --all --json",
    "",
    "Of a run that goes on or was lost, the lines are those that are stored by now, and the bytes in the \
     JSON those of its last sign of life, which comes every 10 seconds.",
);

pub(crate) const GET_LOGS: &str =
    help!("pipeline get-logs action-123 build", "pipeline get-logs action-123 build 100");

pub(crate) const STREAM_LOGS: &str = help!(
    "pipeline stream-logs action-123 build",
    "pipeline stream-logs action-123 build --last 20",
    "",
    "How each attempt ended comes on standard error: with --json as its status.",
);

pub(crate) const SEARCH: &str = help!(
    "pipeline search action-123 build 'error|warning'",
    "pipeline search action-123 build -F 'what?'",
    "pipeline search action-123 build -- '-begins with a dash'",
);

pub(crate) const VERIFY: &str =
    help!("pipeline verify action-123 build", "pipeline verify action-123 build --against file:archive");

pub(crate) const EXPORT: &str = help!(
    "pipeline export action-123 build > run.json",
    "",
    "Where lines are missing, `output_lines` has in their place: {\"gap\": {\"first\": 601, \"last\": 700}, \"lines\": 100, \
     \"bytes\": 4200, \"reason\": \"...\"}",
);

pub(crate) const COPY: &str = help!(
    "pipeline copy action-123 build --to file:archive",
    "pipeline --store file:archive copy action-123 build --to file:.pipeline",
    "",
    "Lines that the other store has already change nothing. What it lacks is filled in, also of a run that it sealed \
     with holes: afterwards `verify` agrees there.",
);

pub(crate) const REMOVE: &str = help!(
    "pipeline remove action-123",
    "pipeline remove action-123 build",
    "",
    "While one of the runs is running nothing is removed, unless with --force. Lines of the runs that a store refused \
     are removed as well.",
    "",
    "With --spool, what still waits there for a store is removed as well, also where another process ships it. Where a \
     store is out of reach, nothing is shipped to it any more, and what it has is removed by the next one that ships \
     this spool.",
);

pub(crate) const EXPIRE: &str = help!(
    "pipeline expire --older-than 30days",
    "pipeline expire --max-bytes 10GiB --max-runs 10000",
    "0 3 * * *  pipeline --dir /var/lib/pipeline expire --older-than 30days   # a line for cron",
    "",
    "At least one limit is needed; where several are given, what stays is within each of them. A run that is running \
     stays, and counts.",
    "",
    "This is about runs and their output. What the broker keeps (events, claims, dead letters) goes by itself: once \
     every group has settled it, after 7 days.",
);

pub(crate) const WAIT: &str = help!(
    "pipeline wait action-123",
    "pipeline wait action-123 deploy --timeout 10m --pass-code",
    "pipeline wait action-123 build --event \"$(pipeline publish action-123 build-requested)\"",
    "",
    "With a stage it waits for the end of its work, also where no worker runs or nothing was published yet: \
     --timeout bounds that. \
     Without one, groups without a worker are not waited for, and are named. With a stage and --event the work at that \
     event alone decides, whatever was there before it or comes after it.",
);

pub(crate) const LIST: &str =
    help!("pipeline list", "pipeline list --action action-123 --outcome failed --since 1day");

pub(crate) const CANCEL: &str = help!(
    "pipeline cancel action-123",
    "",
    "It reaches what workers run and what waits for them. What `stream` runs has no event: a signal to it stops that.",
);

pub(crate) const SPOOL: &str = help!(
    "pipeline --spool /var/spool/pipeline spool",
    "",
    "All stores that something waits for, whichever --store names. One line for each run that waits: the store, action, \
     stage, attempt, and how much. What is damaged is told as well, and the exit code is 1 then: the next one that opens the \
     spool repairs it, and lines that cannot be read become a hole.",
);

pub(crate) const DEAD_LETTERS: &str = help!(
    "pipeline dead-letters list",
    "pipeline dead-letters replay 4f1c0a",
    "pipeline --store file:archive copy action-123 build --run 5d0e --to file:.pipeline",
    "",
    "The list has events that will never be delivered again, and after them lines that a store refused for good: \
     `lines`, the time, the store, action, stage and run, their numbers, bytes, and the reason. The lines themselves are in \
     the folder `refused` of --dir, in a file for each run, up to 64 MiB in all; they stay until `remove` removes the run.",
    "",
    "Once the store takes them, `copy` sends the run again from another store that has it: what is there already \
     changes nothing, the holes are filled, and `verify` says whether the store agrees.",
);
